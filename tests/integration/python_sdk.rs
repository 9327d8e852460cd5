//! The Python package: its own tests, run with the wheel of this build, and its types.

use apiary_tests::{pyright, repository, sdk_python};
use std::path::Path;
use std::process::{Command, Output};

/// Python with little in its environment, in a directory of the test's.
fn python(directory: &Path) -> Command {
    let python = sdk_python();
    let binaries = python.parent().expect("a directory");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(python);
    command
        .env_clear()
        .env("PATH", format!("{}:{path}", binaries.display()))
        .env("HOME", directory)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(directory);
    command
}

#[track_caller]
fn check(what: &str, output: &Output) {
    assert!(
        output.status.success(),
        "{what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_package_passes_its_tests() {
    let directory = tempfile::tempdir().expect("a directory");
    let tests = repository().join("tests/python/sdk");
    let mut pytest = python(directory.path());
    pytest
        .args([
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--strict-markers",
        ])
        .args(["-W", "error::pytest.PytestUnhandledThreadExceptionWarning"])
        .arg(&tests);
    let output = pytest.output().expect("pytest");
    check("pytest", &output);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains(" passed"), "{printed}");
}

#[test]
fn its_types_are_right_for_mypy_and_pyright() {
    let directory = tempfile::tempdir().expect("a directory");
    let users = repository().join("tests/python/sdk/typing_users.py");
    let mut mypy = python(directory.path());
    mypy.args(["-m", "mypy", "--strict", "--no-error-summary"])
        .args(["--cache-dir", "mypy-cache", "-p", "apiary"]);
    check("mypy", &mypy.output().expect("mypy"));
    let mut mypy = python(directory.path());
    mypy.args(["-m", "mypy", "--strict", "--no-error-summary"])
        .args(["--cache-dir", "mypy-cache"])
        .arg(&users);
    check("mypy", &mypy.output().expect("mypy"));
    let path = std::env::var("PATH").unwrap_or_default();
    let mut pyright = Command::new(pyright());
    pyright
        .env_clear()
        .env("PATH", path)
        .env("HOME", directory.path())
        .current_dir(directory.path())
        .arg("--pythonpath")
        .arg(sdk_python())
        .arg(&users);
    check("pyright", &pyright.output().expect("pyright"));
}
