//! What the integration tests stand on: the real binary, real Python clients, storage servers, a bad
//! link to them, seeded randomness.

mod bad_link;
mod node;
mod proxy;
mod sdk;
mod servers;
#[path = "../../bindings/node/src/tpch.rs"]
#[allow(dead_code)] // The program fills tables with it, too.
mod tpch;

pub use bad_link::BadLink;
pub use node::{Node, send_signal};
pub use proxy::{Logged, Outcome, Proxy};
pub use sdk::{INSTALL_COMMAND, pyright, sdk_python};
pub use servers::{BUCKET, Server};
pub use tpch::query as tpch_query;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ has a parent")
}

/// The `apiary-node` binary of this profile.
pub fn node_binary() -> &'static Path {
    binary("apiary-node")
}

/// A program or example of this profile, built when it is not.
///
/// Cargo gives a package's tests the path of its own binaries only, so the build is asked here. All
/// packages and their tests are selected, as by the test command: one package alone would select
/// other features of the dependencies and build them a second time.
pub fn binary(name: &str) -> &'static Path {
    static BINARIES: OnceLock<BTreeMap<String, PathBuf>> = OnceLock::new();
    let found = BINARIES.get_or_init(built).get(name);
    found.unwrap_or_else(|| panic!("cargo builds no {name}"))
}

/// Takes out of a command's environment what cargo tells a test of its package: it would tell build
/// scripts that they are outdated.
fn forget_package(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let kept = ["CARGO_HOME", "CARGO_TARGET_DIR", "CARGO_TERM_COLOR"];
        if text.starts_with("CARGO_") && !kept.contains(&&*text) {
            command.env_remove(&name);
        }
    }
}

fn built() -> BTreeMap<String, PathBuf> {
    let mut build = Command::new(env!("CARGO"));
    forget_package(&mut build);
    build.args(["build", "--quiet", "--workspace"]);
    build.args(["--lib", "--bins", "--examples", "--tests"]);
    build.args(["--message-format", "json"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let output = build
        .current_dir(repository())
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo can be started");
    assert!(output.status.success(), "the workspace does not build");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["profile"]["test"] == false)
        .filter_map(|message| {
            let name = message["target"]["name"].as_str()?.to_string();
            Some((name, PathBuf::from(message["executable"].as_str()?)))
        })
        .collect()
}

/// Statements that make a frame `t` of twelve cells and 240,000 rows, for tests that share queries.
pub fn twelve_cells() -> String {
    let cells = (0..12).map(|part| {
        let (first, last) = (part * 20_000, part * 20_000 + 19_999);
        format!("; INSERT INTO t SELECT value % 97, value FROM generate_series({first}, {last})")
    });
    "CREATE TABLE t (k BIGINT, v BIGINT)".to_string() + &cells.collect::<String>()
}

/// A fresh meadow in a temporary directory, and the binary pointed at it.
pub struct Bench {
    pub directory: tempfile::TempDir,
}

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}

impl Bench {
    pub fn new() -> Self {
        Self {
            directory: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    pub fn meadow(&self) -> PathBuf {
        self.directory.path().join("meadow")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file beside the meadow.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).expect("a file in the temporary directory");
        path
    }

    /// A command of the node on this meadow, with an environment that only holds what is needed.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(node_binary());
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.directory.path())
            .env("APIARY_STORAGE", self.meadow())
            .current_dir(self.directory.path())
            .args(arguments);
        command
    }

    /// Runs a command to its end.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Finished {
        Finished::of(self.command(arguments).stdin(Stdio::null()).output())
    }

    /// Runs a command with a text on its standard input.
    pub fn run_with_input<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
        input: &str,
    ) -> Finished {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("apiary-node starts");
        child
            .stdin
            .take()
            .expect("piped")
            .write_all(input.as_bytes())
            .expect("input is read");
        Finished::of(child.wait_with_output())
    }

    /// Runs SQL that must succeed; the rows as CSV with a header line.
    pub fn sql(&self, text: &str) -> String {
        self.run(["sql", "--format", "csv", text]).success().stdout
    }

    /// Runs SQL that must be refused with exit code 1; its message.
    pub fn refused(&self, text: &str) -> String {
        let finished = self.run(["sql", text]);
        assert_eq!(finished.code, Some(1), "{text}: {finished:?}");
        finished.stderr
    }

    /// Every object key under the meadow with its size, in order: two equal ones mean nothing changed.
    pub fn objects(&self) -> Vec<(String, u64)> {
        fn walk(root: &Path, directory: &Path, found: &mut Vec<(String, u64)>) {
            let Ok(entries) = std::fs::read_dir(directory) else {
                return;
            };
            for entry in entries.flatten() {
                let path = entry.path();
                match entry.metadata() {
                    Ok(status) if status.is_dir() => walk(root, &path, found),
                    Ok(status) => {
                        let key = path.strip_prefix(root).unwrap_or(&path);
                        found.push((key.display().to_string(), status.len()));
                    }
                    Err(_) => {}
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.meadow(), &self.meadow(), &mut found);
        found.sort();
        found
    }
}

/// A process that has ended.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    pub fn of(output: std::io::Result<Output>) -> Self {
        let output = output.expect("the process starts");
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }
}

/// Python with the clients that read and write Delta tables, in a virtual environment beside the
/// build artefacts.
pub fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let requirements = repository().join("tests/python/requirements.txt");
        let environment = artefacts(node_binary()).join("python-clients");
        let python = environment.join("bin/python");
        install_once(&environment, &requirements, || {
            make_environment(&environment, &requirements);
        });
        python
    })
}

/// A virtual environment with the packages of a requirements file.
fn make_environment(environment: &Path, requirements: &Path) {
    run(Command::new("python3")
        .args(["-m", "venv"])
        .arg(environment));
    run(Command::new(environment.join("bin/python"))
        .args(["-m", "pip", "install", "--quiet"])
        .args(["--disable-pip-version-check", "-r"])
        .arg(requirements));
}

/// The directory above that of a profile: what is in it does not go by the profile.
fn artefacts(binary: &Path) -> &Path {
    let found = binary.parent().and_then(Path::parent);
    found.expect("a target directory")
}

/// Fills a directory with what a file asks for, unless that has been done. Tests of several processes
/// wait for each other at a lock file.
fn install_once(directory: &Path, wanted: &Path, install: impl FnOnce()) {
    let wanted = std::fs::read_to_string(wanted).expect("what to install");
    let lock = std::fs::File::create(directory.with_extension("lock")).expect("a lock file");
    lock.lock().expect("the lock");
    let marker = directory.join("installed.txt");
    if std::fs::read_to_string(&marker).ok().as_deref() != Some(wanted.as_str()) {
        let _ = std::fs::remove_dir_all(directory);
        install();
        std::fs::write(&marker, wanted).expect("the marker");
    }
}

/// A directory beside the build artefacts with the packages of a `package.json`.
fn npm(name: &str, wanted: &str) -> PathBuf {
    let wanted = repository().join(wanted);
    let directory = artefacts(node_binary()).join(name);
    install_once(&directory, &wanted, || {
        std::fs::create_dir_all(&directory).expect("a directory");
        std::fs::copy(&wanted, directory.join("package.json")).expect("a copy");
        run(Command::new("npm")
            .args(["install", "--ignore-scripts", "--no-audit", "--no-fund"])
            .args(["--no-package-lock", "--silent"])
            .current_dir(&directory));
    });
    directory
}

fn run(command: &mut Command) {
    let status = command
        .status()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// Runs a script under `tests/python` that must succeed; its standard output.
#[track_caller]
pub fn run_python<S: AsRef<OsStr>>(script: &str, arguments: impl IntoIterator<Item = S>) -> String {
    let output = Command::new(python())
        .arg(repository().join("tests/python").join(script))
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    Finished::of(output).success().stdout
}

/// SplitMix64: small, seeded, the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound.max(1)
    }
}
