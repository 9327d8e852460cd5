//! Storage that is spoken to over a socket: a server per test, on a free loopback port.

use crate::{python, repository};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

/// The name of the one bucket or container that each server has.
pub const BUCKET: &str = "hives";

/// A server that ends with its standard input, so also when the test is killed.
pub struct Server {
    child: Child,
    output: BufReader<ChildStdout>,
    pub endpoint: String,
}

impl Server {
    /// Amazon's protocol, spoken by moto.
    pub fn s3() -> Self {
        Self::start("s3_server.py", [BUCKET.as_ref()])
    }

    /// The same, so many milliseconds away. [`Server::finish`] gives what it was asked: pairs of method
    /// and path.
    pub fn far_s3(latency_ms: u32) -> Self {
        let latency = latency_ms.to_string();
        Self::start("s3_server.py", [BUCKET.as_ref(), latency.as_ref()])
    }

    /// Google's protocol, spoken by a server of our own.
    pub fn gcs() -> Self {
        Self::start("gcs_server.py", [BUCKET.as_ref()])
    }

    /// The same, ignoring the conditions of writes.
    pub fn careless_gcs() -> Self {
        Self::start("gcs_server.py", [BUCKET.as_ref(), "--careless".as_ref()])
    }

    /// Azure's protocol, spoken by Azurite.
    pub fn azure() -> Self {
        Self::start("azure_server.py", [azurite(), BUCKET.as_ref()])
    }

    fn start<const N: usize>(script: &str, arguments: [&Path; N]) -> Self {
        let mut child = Command::new(python())
            .arg(repository().join("tests/python").join(script))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the server starts");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("its address");
        assert!(line.starts_with("http://"), "{script} did not start");
        Self {
            child,
            output,
            endpoint: line.trim().to_string(),
        }
    }

    /// Ends it; what it says that it was asked.
    pub fn finish(mut self) -> serde_json::Value {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.output.read_to_string(&mut text).expect("its account");
        serde_json::from_str(&text).expect("JSON")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Its account may be more than a pipe holds.
        let _ = std::io::copy(&mut self.output, &mut std::io::sink());
        let _ = self.child.wait();
    }
}

/// Azurite's blob service, installed beside the build artefacts as [`python`]'s packages are.
fn azurite() -> &'static Path {
    static AZURITE: OnceLock<PathBuf> = OnceLock::new();
    AZURITE.get_or_init(|| {
        let directory = crate::npm("azure-server", "tests/azure/package.json");
        directory.join("node_modules/.bin/azurite-blob")
    })
}
