//! The Python package as a user gets it: its wheel in a virtual environment of its own.
//!
//! The wheel is made by the command of README, with the profile of the tests.

use crate::{
    artefacts, forget_package, install_once, make_environment, node_binary, npm, repository,
};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// How README installs the package, in the repository and in an environment of the user's.
pub const INSTALL_COMMAND: &str = "pip install ./bindings/python";

/// Python with the wheel of this build, and what its tests need.
pub fn sdk_python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let requirements = repository().join("tests/python/sdk/requirements.txt");
        let environment = artefacts(node_binary()).join("python-sdk");
        install_once(&environment, &requirements, || {
            make_environment(&environment, &requirements);
        });
        let python = environment.join("bin/python");
        install_wheel(&environment);
        python
    })
}

fn install_wheel(environment: &Path) {
    let binaries = environment.join("bin");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut install = Command::new(binaries.join("pip"));
    forget_package(&mut install);
    let words = INSTALL_COMMAND.split(' ').skip(1);
    install
        .args(words)
        // Maturin and what the package needs are in the environment.
        .args(["--no-build-isolation", "--no-deps", "--force-reinstall"])
        .args(["--quiet", "--disable-pip-version-check"])
        .env("MATURIN_PEP517_ARGS", maturin_arguments())
        .env("CARGO", repository().join("tests/support/cargo_of_all.sh"))
        .env("CARGO_OF_ALL", env!("CARGO"))
        .env("VIRTUAL_ENV", environment)
        .env("PATH", format!("{}:{path}", binaries.display()))
        .current_dir(repository());
    crate::run(&mut install);
}

/// A wheel that is used once is not worth compressing.
fn maturin_arguments() -> &'static str {
    match cfg!(debug_assertions) {
        true => "--profile dev --compression-method stored",
        false => "--profile release --compression-method stored",
    }
}

/// Pyright, which checks types as editors do.
pub fn pyright() -> PathBuf {
    npm("pyright", "tests/python/sdk/package.json").join("node_modules/.bin/pyright")
}
