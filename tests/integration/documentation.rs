//! The documentation's commands work: every `console` block of README and docs is run.
//!
//! A line that starts with `$ ` is a command (continued by lines that start with `> `), what follows
//! is what it prints; a line of `…` stands for lines that are left out. The blocks of one page run in
//! order, in one fresh directory, with `apiary-node` on the path. `cargo` commands are left to CI.

use apiary_tests::{node_binary, repository};
use std::path::{Path, PathBuf};
use std::process::Command;

struct Step {
    command: String,
    expected: Vec<String>,
}

fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line {
            "```console" => inside = true,
            "```" => inside = false,
            _ if !inside => {}
            _ => {
                if let Some(command) = line.strip_prefix("$ ") {
                    steps.push(Step {
                        command: command.to_string(),
                        expected: Vec::new(),
                    });
                } else if let Some(step) = steps.last_mut() {
                    match line.strip_prefix("> ") {
                        Some(more) if step.expected.is_empty() => {
                            step.command.push('\n');
                            step.command.push_str(more);
                        }
                        _ => step.expected.push(line.trim_end().to_string()),
                    }
                }
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

fn run_page(path: &Path) -> usize {
    let page = std::fs::read_to_string(path).expect("the page");
    let directory = tempfile::tempdir().expect("a directory");
    let binaries = node_binary().parent().expect("a directory");
    let search = format!(
        "{}:{}",
        binaries.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut count = 0;
    for step in steps(&page)
        .iter()
        .filter(|step| !step.command.starts_with("cargo "))
    {
        let output = Command::new("bash")
            .args(["-c", &step.command])
            .env_clear()
            .env("PATH", &search)
            .env("HOME", directory.path())
            .current_dir(directory.path())
            .output()
            .expect("bash");
        let printed = String::from_utf8_lossy(&output.stdout);
        let context = format!(
            "{}: {}\n--- printed\n{printed}--- errors\n{}",
            path.display(),
            step.command,
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "{context}");
        if !step.expected.is_empty() {
            let lines: Vec<&str> = printed.lines().collect();
            assert!(matches(&step.expected, &lines), "{context}");
        }
        count += 1;
    }
    count
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
