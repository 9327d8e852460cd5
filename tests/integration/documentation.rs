//! The documentation works: what README and docs show is run.
//!
//! `console` blocks: a line that starts with `$ ` is a command (continued by lines that start with
//! `> `), what follows is what it prints; a line of `…` stands for lines that are left out. `sh`
//! blocks and indented `cargo` lines are commands that are started with `cargo run`; they are run
//! with less data or fewer seeds. `toml` blocks are settings files, a `rust` block is an example of the crate.
//! `python` and `pycon` blocks (what a prompt shows) are one program, which is run where the first of them
//! stands. An indented `pip` line is the command that the tests of the Python package install it with.
//! All of one page is run in order, in one fresh directory, with `apiary-node` on the path.

use apiary_tests::{INSTALL_COMMAND, binary, node_binary, repository, sdk_python};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The example whose text README shows.
const README_EXAMPLE: &str = "tour";
/// What `apiary-simulations` exits with where the system does not let it repeat itself.
const CANNOT_SIMULATE: i32 = 77;

enum Step {
    Console {
        command: String,
        expected: Vec<String>,
    },
    /// `cargo run -p PACKAGE -- ARGUMENTS`
    Cargo(String),
    Settings(String),
    Rust(String),
    Install(String),
    /// All of the page's Python.
    Python,
}

fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let indented = line.strip_prefix("    ");
        if let Some(command) = indented.filter(|text| text.starts_with("cargo ")) {
            steps.push(Step::Cargo(command.to_string()));
        }
        if let Some(command) = indented.filter(|text| text.starts_with("pip ")) {
            steps.push(Step::Install(command.to_string()));
        }
        let Some(language) = line.strip_prefix("```") else {
            continue;
        };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let text = || -> String { block.iter().flat_map(|line| [*line, "\n"]).collect() };
        match language {
            "console" => steps.extend(console(&block)),
            "sh" => steps.extend(block.iter().map(|line| Step::Cargo((*line).to_string()))),
            "toml" => steps.push(Step::Settings(text())),
            "rust" => steps.push(Step::Rust(text())),
            "python" | "pycon" if steps.iter().any(|step| matches!(step, Step::Python)) => {}
            "python" | "pycon" => steps.push(Step::Python),
            // A picture, or what a stored object looks like: its format has tests of its own.
            "" | "json" => {}
            other => panic!("a block of {other:?}, which nobody runs"),
        }
    }
    steps
}

fn console(block: &[&str]) -> Vec<Step> {
    let mut steps = Vec::new();
    for line in block {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step::Console {
                command: command.to_string(),
                expected: Vec::new(),
            });
        } else if let Some(Step::Console { command, expected }) = steps.last_mut() {
            match line.strip_prefix("> ") {
                Some(more) if expected.is_empty() => {
                    command.push('\n');
                    command.push_str(more);
                }
                _ => expected.push(line.trim_end().to_string()),
            }
        }
    }
    steps
}

/// Whether `printed` holds the expected lines in order, with nothing between them but where `…` says.
fn matches(expected: &[String], printed: &[&str]) -> bool {
    match expected.split_first() {
        None => printed.iter().all(|line| line.trim().is_empty()),
        Some((first, rest)) if first.trim() == "…" => {
            (0..=printed.len()).any(|skip| matches(rest, &printed[skip..]))
        }
        Some((first, rest)) => {
            printed.first().is_some_and(|line| line.trim_end() == first)
                && matches(rest, &printed[1..])
        }
    }
}

/// A command in the page's directory, with little in its environment.
fn command(program: impl AsRef<std::ffi::OsStr>, directory: &Path) -> Command {
    let binaries = node_binary().parent().expect("a directory");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", format!("{}:{path}", binaries.display()))
        .env("HOME", directory)
        .current_dir(directory);
    command
}

#[track_caller]
fn check(page: &Path, what: &str, output: &Output, is_right: bool) {
    assert!(
        is_right,
        "{}: {what}: {}\n--- printed\n{}--- errors\n{}",
        page.display(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn run_page(path: &Path) -> usize {
    let page = std::fs::read_to_string(path).expect("the page");
    let directory = tempfile::tempdir().expect("a directory");
    let steps = steps(&page);
    for step in &steps {
        match step {
            Step::Console { command, expected } => {
                run_console(path, directory.path(), command, expected);
            }
            Step::Cargo(command) => run_cargo(path, directory.path(), command),
            Step::Settings(text) => {
                let file = directory.path().join("settings.toml");
                std::fs::write(&file, text).expect("the settings");
                let mut status = command("apiary-node", directory.path());
                status.args(["status", "--storage", "memory://", "--config"]);
                let output = status.arg(&file).output().expect("apiary-node");
                check(path, text, &output, output.status.success());
            }
            Step::Install(text) => assert_eq!(text, INSTALL_COMMAND, "{}", path.display()),
            Step::Python => {
                let mut python = command(sdk_python(), directory.path());
                let script = repository().join("tests/python/sdk/run_page.py");
                let output = python.arg(script).arg(path).output().expect("Python");
                check(path, "its Python", &output, output.status.success());
            }
            Step::Rust(text) => {
                let example = format!("bindings/rust/examples/{README_EXAMPLE}.rs");
                let source = std::fs::read_to_string(repository().join(&example));
                assert_eq!(&source.expect("the example"), text, "{example} differs");
                let output = command(binary(README_EXAMPLE), directory.path()).output();
                let output = output.expect("the example");
                check(path, README_EXAMPLE, &output, output.status.success());
            }
        }
    }
    steps.len()
}

fn run_console(page: &Path, directory: &Path, text: &str, expected: &[String]) {
    let mut bash = command("bash", directory);
    let output = bash.args(["-c", text]).output().expect("bash");
    check(page, text, &output, output.status.success());
    if !expected.is_empty() {
        let printed = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<&str> = printed.lines().collect();
        check(page, text, &output, matches(expected, &lines));
    }
}

/// Runs what `cargo run` would, with less to do.
fn run_cargo(page: &Path, directory: &Path, text: &str) {
    if text == "cargo test --workspace" {
        return; // That is what runs this test.
    }
    let run = text.strip_prefix("cargo run ").and_then(|rest| {
        let rest = rest.strip_prefix("--release ").unwrap_or(rest);
        rest.strip_prefix("-p ")?.split_once(" -- ")
    });
    let Some((package, arguments)) = run else {
        panic!("{}: {text:?} is a command that nobody runs", page.display());
    };
    let arguments = arguments
        .replace("--seeds 100", "--seeds 2")
        .replace("--minutes 1", "--minutes 0");
    let mut run = command(binary(package), directory);
    if arguments.starts_with("lab ") {
        run.args(["lab", "--seeds", "1", "--nodes", "2", "--cells", "16"]);
    }
    let arguments = arguments.strip_prefix("lab ").unwrap_or(&arguments);
    run.args(arguments.split_whitespace());
    if arguments == "demo" {
        run.args(["--scale", "0.001"]);
    }
    let output = run.output().expect("the program");
    let may_not = package == "apiary-simulations" && output.status.code() == Some(CANNOT_SIMULATE);
    check(page, text, &output, output.status.success() || may_not);
}

/// The simulations plant mistakes in builds of their own.
#[test]
fn no_mistake_can_be_switched_on_in_the_program() {
    const MARK: &[u8] = b"this build has planted mistakes";
    let program = std::fs::read(binary("apiary-node")).expect("apiary-node");
    assert!(!program.windows(MARK.len()).any(|bytes| bytes == MARK));
}

#[test]
fn every_command_in_readme_and_docs_does_what_the_page_says() {
    fn pages(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).expect("docs").flatten() {
            let path = entry.path();
            if path.is_dir() {
                pages(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    let mut found = vec![repository().join("README.md")];
    pages(&repository().join("docs"), &mut found);
    found.sort();
    let commands: usize = found.iter().map(|page| run_page(page)).sum();
    assert!(commands > 0, "no page has a command");
}

#[test]
fn every_example_of_the_crate_runs() {
    let directory = tempfile::tempdir().expect("a directory");
    let examples = repository().join("bindings/rust/examples");
    for entry in std::fs::read_dir(examples).expect("the examples").flatten() {
        let name = entry.path();
        let name = name.file_stem().expect("a name").to_string_lossy();
        // That one stands in README and wants what README has made before.
        if name != README_EXAMPLE {
            let output = command(binary(&name), directory.path()).output();
            let output = output.expect("the example");
            check(&entry.path(), &name, &output, output.status.success());
        }
    }
}

#[test]
fn relative_links_in_readme_and_docs_lead_somewhere() {
    fn check(path: &Path) {
        let page = std::fs::read_to_string(path).expect("the page");
        for target in page
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let target = path.parent().expect("a directory").join(file);
            assert!(target.exists(), "{}: {}", path.display(), target.display());
        }
    }
    fn walk(directory: &Path) {
        for entry in std::fs::read_dir(directory).expect("docs").flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                check(&path);
            }
        }
    }
    check(&repository().join("README.md"));
    walk(&repository().join("docs"));
}

#[test]
fn crates_depend_on_each_other_only_downwards() {
    let allowed = [
        ("protocol", vec![]),
        ("engine", vec!["apiary-protocol"]),
        ("actors", vec!["apiary-protocol", "apiary-engine"]),
        (
            "bindings/rust",
            vec!["apiary-protocol", "apiary-engine", "apiary-actors"],
        ),
        ("bindings/node", vec!["apiary"]),
        ("bindings/python", vec!["apiary", "apiary-node"]),
        ("tests", vec!["apiary"]),
        (
            "simulations",
            vec!["apiary-protocol", "apiary-engine", "apiary-actors"],
        ),
    ];
    for (folder, allowed) in allowed {
        let manifest = std::fs::read_to_string(repository().join(folder).join("Cargo.toml"))
            .expect("a manifest");
        let (_, dependencies) = manifest.split_once("[dependencies]").expect("dependencies");
        let dependencies = dependencies.split("\n[").next().unwrap_or_default();
        for line in dependencies
            .lines()
            .filter(|line| line.starts_with("apiary"))
        {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            assert!(allowed.contains(&name), "{folder} may not know {name}");
        }
    }
}
