//! Where a swarm lives: a directory, or a bucket behind the proxy; its nodes and their queries.

use super::{seen, wait_for};
use apiary_tests::{BUCKET, Bench, Finished, Logged, Node, Outcome, Proxy, Server, send_signal};
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Where in the bucket all lies.
pub const ROOT: &str = "home";

pub struct Ground {
    pub bench: Bench,
    bucket: Option<(Server, Proxy)>,
}

impl Ground {
    pub fn directory() -> Self {
        Self {
            bench: Bench::new(),
            bucket: None,
        }
    }

    /// S3 on a socket; the seed says which requests meet a fault.
    pub fn bucket(seed: u64) -> Self {
        let server = Server::s3();
        let proxy = Proxy::to(&server.endpoint, seed);
        Self {
            bench: Bench::new(),
            bucket: Some((server, proxy)),
        }
    }

    pub fn proxy(&self) -> &Proxy {
        let (_, proxy) = self.bucket.as_ref().expect("a bucket");
        proxy
    }

    /// A command of the node, which the proxy's log knows as `client`.
    pub fn command(&self, client: &str, arguments: &[&str]) -> Command {
        let mut command = self.bench.command(arguments);
        if let Some((_, proxy)) = &self.bucket {
            let endpoint = proxy.door(client);
            let uri = format!("s3://{BUCKET}/{ROOT}?region=us-east-1&endpoint={endpoint}");
            command
                .env("APIARY_STORAGE", uri)
                .env("AWS_ACCESS_KEY_ID", "test")
                .env("AWS_SECRET_ACCESS_KEY", "sesame");
        }
        command
    }

    /// Runs a command on a node of its own, without sharing.
    pub fn run(&self, arguments: &[&str]) -> Finished {
        let mut command = self.command("alone", arguments);
        Finished::of(command.stdin(Stdio::null()).output())
    }

    pub fn sql(&self, text: &str) -> String {
        let finished = self.run(&["sql", "--format", "csv", text]);
        finished.success().stdout
    }

    /// A node that stays.
    pub fn start(&self, name: &str) -> Node {
        let command = self.command(name, &["start", "--log", "warn,apiary_actors=info"]);
        Node::spawn(command, name)
    }

    /// A query of a brief node that shares it.
    pub fn share(&self, text: &str) -> Query {
        self.share_with(text, &[])
    }

    pub fn share_with(&self, text: &str, settings: &[&str]) -> Query {
        let mut command = self.command("coordinator", &["--set", "distribute=on"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        command.args(["--log", "warn,apiary_actors=info"]);
        command.args(["sql", "--format", "csv", text]);
        // Into files: nobody reads a pipe while the query is watched.
        let file = || tempfile::tempfile().expect("a temporary file");
        let (stdout, stderr) = (file(), file());
        let copy = |file: &File| file.try_clone().expect("a second handle");
        let process = command
            .stdin(Stdio::null())
            .stdout(copy(&stdout))
            .stderr(copy(&stderr))
            .spawn()
            .expect("apiary-node starts");
        Query {
            process,
            stdout,
            stderr,
        }
    }

    /// Shares a query until each of the nodes has run a task of it. Nodes at rest hear the bell every 20
    /// seconds; from then on they listen closely.
    #[track_caller]
    pub fn warm_up(&self, nodes: &[Node], text: &str) {
        let has_worked = |node: &Node| node.helped() > 0;
        wait_for("help", Duration::from_secs(120), || {
            self.share(text).finish().success();
            nodes.iter().all(has_worked).then_some(())
        });
    }

    /// What is left of queries.
    pub fn left_over(&self) -> Vec<String> {
        let objects = match &self.bucket {
            None => self
                .bench
                .objects()
                .into_iter()
                .map(|(key, _)| key)
                .collect(),
            Some((server, _)) => listed(server),
        };
        objects
            .into_iter()
            .filter(|key: &String| key.starts_with("_swarm/queries/"))
            .collect()
    }

    /// Waits until whoever comes late has taken away what came after a query's end. Idle nodes list the
    /// queries once a minute, and make sure that a coordinator is dead.
    #[track_caller]
    pub fn nothing_is_left(&self) {
        wait_for("the end of what is left", Duration::from_secs(240), || {
            std::thread::sleep(Duration::from_millis(100));
            self.left_over().is_empty().then_some(())
        });
    }

    /// Waits until `status` shows these nodes as alive and with nothing in hand: what a beat says is some
    /// seconds old. The beats of nodes that were killed stay for an hour.
    #[track_caller]
    pub fn all_are_well(&self, names: &[&str]) {
        let mut shown = String::new();
        let well = || {
            shown = self.run(&["status", "--json"]).success().stdout;
            let json: Value = serde_json::from_str(&shown).expect("JSON");
            let nodes = json["nodes"].as_array().expect("nodes");
            let is_well = |name: &&str| {
                nodes.iter().any(|node| {
                    let claims = node["claims"].as_array();
                    let is_idle = claims.is_some_and(Vec::is_empty);
                    node["name"] == **name && node["state"] == "alive" && is_idle
                })
            };
            names.iter().all(is_well).then_some(())
        };
        let at_most = Duration::from_secs(20);
        assert!(seen(at_most, well).is_some(), "not {names:?} but {shown}");
    }

    /// Whether a node has a claim now of a task that has no output, of a query that began then by the
    /// proxy's time.
    pub fn holds(&self, node: &Node, then: Duration) -> bool {
        match &self.bucket {
            None => self.holds_here(node),
            Some((_, proxy)) => holds_by_log(node, &proxy.log_since(then)),
        }
    }

    fn holds_here(&self, node: &Node) -> bool {
        let queries = self.bench.meadow().join("_swarm/queries");
        let mut queries = std::fs::read_dir(queries).into_iter().flatten().flatten();
        queries.any(|query| {
            let claims = std::fs::read_dir(query.path().join("claims"));
            claims.into_iter().flatten().flatten().any(|claim| {
                let name = claim.file_name().to_string_lossy().into_owned();
                let Some((task, _)) = name.rsplit_once('-') else {
                    return false;
                };
                let bytes = std::fs::read(claim.path()).unwrap_or_default();
                let is_done = query.path().join("outputs").join(task).exists();
                !is_done && node.is_named_in(&bytes)
            })
        })
    }

    /// Now, by the proxy's time where there is one.
    pub fn now(&self) -> Duration {
        let proxy = self.bucket.as_ref().map(|(_, proxy)| proxy.now());
        proxy.unwrap_or_default()
    }

    /// Whether a query that is there has a claim or an output of a node. Of a directory only.
    pub fn has_worked(&self, node: &Node) -> bool {
        let meadow = self.bench.meadow();
        let work = self.left_over().into_iter();
        let mut work = work.filter(|key| key.contains("/claims/") || key.contains("/outputs/"));
        work.any(|key| {
            let bytes = std::fs::read(meadow.join(key)).unwrap_or_default();
            node.is_named_in(&bytes)
        })
    }

    pub fn is_published(&self) -> bool {
        self.left_over().iter().any(|key| key.ends_with("/plan"))
    }
}

/// What a bucket cannot be asked every millisecond.
fn holds_by_log(node: &Node, log: &[Logged]) -> bool {
    let done =
        |logged: &&Logged| logged.kind() == "put" && logged.outcome == Outcome::Answered(200);
    let keys = |kind: &str, of: &dyn Fn(&Logged) -> bool| -> Vec<String> {
        let put = log.iter().filter(done).filter(|logged| of(logged));
        let keys = put.filter_map(|logged| logged.key(ROOT));
        let directory = format!("/{kind}/");
        keys.filter(|key| key.contains(&directory)).collect()
    };
    let outputs = keys("outputs", &|_| true);
    let claims = keys("claims", &|logged| logged.client == node.name());
    claims.iter().any(|claim| {
        let task = claim.rsplit_once('-').map_or("", |(task, _)| task);
        let output = task.replace("/claims/", "/outputs/");
        !outputs.contains(&output)
    })
}

/// All keys of the bucket, past the proxy.
fn listed(server: &Server) -> Vec<String> {
    apiary_tests::run_python("s3_keys.py", [server.endpoint.as_str(), BUCKET, "home/"])
        .lines()
        .map(str::to_string)
        .collect()
}

/// A shared query under way.
pub struct Query {
    process: Child,
    stdout: File,
    stderr: File,
}

impl Query {
    pub fn signal(&self, signal: &str) {
        send_signal(&self.process, signal);
    }

    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().expect("a status").is_some()
    }

    pub fn kill(mut self) {
        self.process.kill().expect("kill -9");
        self.process.wait().expect("it is dead");
    }

    pub fn finish(mut self) -> Finished {
        let code = self.process.wait().expect("it ends").code();
        Finished {
            code,
            stdout: written(self.stdout),
            stderr: written(self.stderr),
        }
    }
}

fn written(mut file: File) -> String {
    let mut text = String::new();
    file.rewind().expect("a file");
    file.read_to_string(&mut text).expect("text");
    text
}
