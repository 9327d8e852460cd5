//! Nodes that stay: `apiary-node start`.

use crate::Bench;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

/// What a node that logs `apiary_actors=info` says when it runs a task of another one's query.
const HELPS: &str = "runs another node's task";

/// A running node; killed when it is dropped.
pub struct Node {
    process: Child,
    pub id: String,
    pub name: String,
    said: Arc<Mutex<Vec<String>>>,
}

impl Node {
    pub fn start(bench: &Bench, name: &str) -> Self {
        Self::spawn(bench.command(["start"]), name)
    }

    /// Starts what a command of [`Bench::command`] says, with a bee and little memory.
    pub fn spawn(command: Command, name: &str) -> Self {
        Self::with_memory(command, name, "256MiB")
    }

    pub fn with_memory(mut command: Command, name: &str, memory: &str) -> Self {
        let mut child = command
            .args(["--bees", "1", "--memory", memory, "--set"])
            .arg(format!("name={name}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a node starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let ready = lines
            .by_ref()
            .map_while(Result::ok)
            .find(|line| line.starts_with("ready"))
            .unwrap_or_else(|| panic!("{name} is not ready"));
        let id = ready.split(['(', ')']).nth(1).expect("its id").to_string();
        let said = Arc::<Mutex<Vec<String>>>::default();
        let says = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                says.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(line);
            }
        });
        Self {
            process: child,
            id,
            name: name.to_string(),
            said,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it has logged so far.
    pub fn said(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.join("\n")
    }

    /// How many tasks of others it said that it runs.
    pub fn helped(&self) -> usize {
        self.said().matches(HELPS).count()
    }

    /// Whether an object names it: a claim, an output.
    pub fn is_named_in(&self, bytes: &[u8]) -> bool {
        let id = self.id.as_bytes();
        bytes.windows(id.len()).any(|text| text == id)
    }

    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().expect("a status").is_none()
    }

    pub fn kill(mut self) {
        self.process.kill().expect("kill -9");
        self.process.wait().expect("it is dead");
    }

    pub fn signal(&self, signal: &str) {
        send_signal(&self.process, signal);
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(mut self) {
        self.end();
    }

    /// The same of one that is asked afterwards what it has logged.
    pub fn end(&mut self) {
        self.signal("TERM");
        let code = self.process.wait().expect("it ends").code();
        assert!(code.is_some(), "{}: {}", self.name, self.said());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn send_signal(process: &Child, signal: &str) {
    let sent = Command::new("kill")
        .args([format!("-{signal}"), process.id().to_string()])
        .status();
    assert!(sent.expect("kill runs").success());
}
