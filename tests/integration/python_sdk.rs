//! The Python package: its own tests, run with the wheel of this build, and its types.

use apiary_tests::{BUCKET, Proxy, Server, pyright, repository, sdk_python};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

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
fn a_commit_whose_answer_is_lost_is_an_unknown_outcome() {
    let (server, directory) = (Server::s3(), tempfile::tempdir().expect("a directory"));
    let proxy = Proxy::to(&server.endpoint, 1);
    let endpoint = proxy.door("python");
    let mut child = python(directory.path())
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "sesame")
        .arg(repository().join("tests/python/sdk/unknown_outcome.py"))
        .arg(format!(
            "s3://{BUCKET}/home?region=us-east-1&endpoint={endpoint}"
        ))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python starts");
    let mut input = child.stdin.take().expect("piped");
    let output = child.stdout.take().expect("piped");
    let mut lines = BufReader::new(output).lines();
    let mut says = |what: &str| {
        let line = lines.next().map(|line| line.expect("text"));
        assert_eq!(line.as_deref(), Some(what));
    };
    says("made");
    proxy.unreachable_after_put("_delta_log/00000000000000000001.json");
    writeln!(input, "write").expect("it listens");
    says("unknown");
    proxy.set_unreachable(false);
    writeln!(input, "read").expect("it listens");
    says("3 rows");
    assert!(child.wait().expect("it ends").success());
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
