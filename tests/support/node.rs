//! Nodes that stay: `apiary-node start`.

use crate::Bench;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a node that logs `apiary_actors=info` says when it runs a task of another one's query.
const HELPS: &str = "runs another node's task";

/// A running node; killed when it is dropped.
pub struct Node {
    process: Child,
    pub id: String,
    helped: Arc<AtomicU64>,
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
        let helped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&helped);
        // Whatever it says later is not waited for.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                counted.fetch_add(u64::from(line.contains(HELPS)), Ordering::Relaxed);
            }
        });
        Self {
            process: child,
            id,
            helped,
        }
    }

    /// How many tasks of others it said that it runs.
    pub fn helped(&self) -> u64 {
        self.helped.load(Ordering::Relaxed)
    }

    pub fn kill(mut self) {
        self.process.kill().expect("kill -9");
        self.process.wait().expect("it is dead");
    }

    pub fn signal(&self, signal: &str) {
        let signal = format!("-{signal}");
        let pid = self.process.id().to_string();
        let sent = Command::new("kill").args([&signal, &pid]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(mut self) {
        self.signal("TERM");
        assert!(self.process.wait().expect("it ends").code().is_some());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
