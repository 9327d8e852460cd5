#!/bin/sh
# Cargo for maturin, in tests: builds all packages with all their targets, as the tests did before, and
# not the one that maturin asks for. That one alone would select other features of the dependencies, and
# build DataFusion a second time. What maturin says of Python would make Python's crates anew, too.
[ "$1" = rustc ] || exec "$CARGO_OF_ALL" "$@"
unset CARGO PYO3_PYTHON PYO3_ENVIRONMENT_SIGNATURE PYO3_CONFIG_FILE PYTHON_SYS_EXECUTABLE
unset CARGO_ENCODED_RUSTFLAGS
case " $* " in
*" release "* | *" --release "* | *" --profile=release "*) release=--release ;;
esac
exec "$CARGO_OF_ALL" build --quiet --workspace --lib --bins --examples --tests $release \
    --message-format json-render-diagnostics
