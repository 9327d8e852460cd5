//! All queries of TPC-H and TPC-DS, shared among three nodes on cells that are small: each is really
//! cut, and its answer is DuckDB's. On a directory, and in a bucket that is spoken to over a socket.
//!
//! `APIARY_TEST_TPC_SCALE` is another scale than that of the suite; then all queries run everywhere.

use apiary_tests::{BUCKET, Bench, Finished, Node, Server, run_python};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

const SCALE: &str = "APIARY_TEST_TPC_SCALE";
/// A request takes a Python server some hundredths of a second: one query of so many.
const OF_TPCDS_IN_A_BUCKET: usize = 9;
/// An idle node shows once a minute that it lives.
const HELP_DEADLINE: Duration = Duration::from_secs(180);

/// A storage, and what the environment has to say about it.
struct Ground {
    bench: Bench,
    storage: Option<String>,
    _server: Option<Server>,
}

impl Ground {
    fn directory() -> Self {
        Self {
            bench: Bench::new(),
            storage: None,
            _server: None,
        }
    }

    fn bucket() -> Self {
        let server = Server::s3();
        let endpoint = &server.endpoint;
        let uri = format!("s3://{BUCKET}/home?region=us-east-1&endpoint={endpoint}");
        Self {
            bench: Bench::new(),
            storage: Some(uri),
            _server: Some(server),
        }
    }

    fn command<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut command = self.bench.command(arguments);
        command
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test");
        if let Some(storage) = &self.storage {
            command.env("APIARY_STORAGE", storage);
        }
        command
    }

    /// One frame of each table, in cells of some ten thousand rows.
    fn load(&self, tables: &Path) {
        for path in files(tables) {
            let mut load = self.command(["load", &name(&path)]);
            load.arg(&path)
                .args(["--set", "target_cell=64KiB", "--set", "row_group_rows=8000"])
                .args(["--set", "sync=false"]);
            Finished::of(load.stdin(Stdio::null()).output()).success();
        }
    }

    /// What nodes say while they help.
    fn node(&self, name: &str) -> Node {
        Node::spawn(
            self.command(["start", "--log", "warn,apiary_actors=info"]),
            name,
        )
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a file").path()).collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_stem().expect("a name").display().to_string()
}

/// A node that shares what it is asked, query after query in one process. It ends with its input.
struct Asking {
    process: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    log: PathBuf,
    log_read: usize,
}

/// How a query went: what kept it from being right and shared, if anything did.
type Account = Result<(), String>;

impl Asking {
    fn start(ground: &Ground) -> Self {
        let settings = json!({"distribute": "on", "bees": 1, "memory_bytes": 256 << 20});
        let log = ground.bench.file("asking.log", "");
        let mut process = ground
            .command(["bench-worker", "--engine", "apiary", "--settings"])
            .arg(settings.to_string())
            .args(["--log", "warn,apiary_actors=debug"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("apiary-node starts");
        let orders = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().expect("piped"));
        let mut asking = Self {
            process,
            orders,
            answers,
            log,
            log_read: 0,
        };
        assert_eq!(asking.answer()["ready"], true);
        asking
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("no answer, but {}", self.logged()))
    }

    fn ask(&mut self, sql: &str, to: &Path) -> Account {
        let order = json!({"run": {"sql": sql, "to": to}});
        let orders = self.orders.as_mut().expect("its input");
        writeln!(orders, "{order}").expect("it listens");
        let answer = self.answer();
        // What it logged of the query it has written before the answer.
        let logged = self.logged();
        match answer["error"].as_str() {
            Some(error) => Err(error.into()),
            None if logged.contains("the query is shared") => Ok(()),
            None => Err(format!("it is not shared: {logged}")),
        }
    }

    /// What it logged since it was asked last.
    fn logged(&mut self) -> String {
        let text = std::fs::read_to_string(&self.log).expect("its log");
        let new = text[self.log_read..].to_string();
        self.log_read = text.len();
        new
    }

    fn end(mut self) {
        drop(self.orders.take());
        assert!(self.process.wait().expect("it ends").success());
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs every `step`th query of a suite, of which there are `count`.
fn all_are_shared_and_right(ground: &Ground, suite: &str, scale: &str, step: usize, count: usize) {
    let given = std::env::var(SCALE).ok();
    let (scale, step) = given.as_deref().map_or((scale, step), |given| (given, 1));
    let (made, answers) = (ground.bench.path("made"), ground.bench.path("answers"));
    let directory = made.display().to_string();
    run_python("tpc.py", ["make", suite, scale, &directory]);
    ground.load(&made.join("tables"));
    std::fs::create_dir(&answers).expect("a directory");

    let nodes = ["a", "b", "c"].map(|name| ground.node(name));
    let mut asking = Asking::start(ground);
    let queries = files(&made.join("queries"));
    assert_eq!(queries.len(), count);
    let mut wrong = BTreeMap::new();
    for path in queries.iter().step_by(step) {
        let (sql, name) = (std::fs::read_to_string(path).expect("a query"), name(path));
        let to = answers.join(format!("{name}.arrow"));
        if let Err(reason) = asking.ask(&sql, &to) {
            // What it has written so far is no answer.
            let _ = std::fs::remove_file(&to);
            wrong.insert(name, reason);
        }
    }
    // A node that others were faster than gets its share when it is seen to be alive.
    let first = std::fs::read_to_string(&queries[0]).expect("a query");
    let asked_at = Instant::now();
    while nodes.iter().any(|node| node.helped() == 0) {
        assert!(asked_at.elapsed() < HELP_DEADLINE, "a node ran no task");
        asking
            .ask(&first, &ground.bench.path("again"))
            .expect("an answer");
    }
    asking.end();
    nodes.into_iter().for_each(Node::stop);
    let compared = ["compare", &directory, &answers.display().to_string()];
    let differences: BTreeMap<String, String> =
        serde_json::from_str(&run_python("tpc.py", compared)).expect("JSON");
    wrong.extend(differences);
    assert!(wrong.is_empty(), "{} of {count}: {wrong:#?}", wrong.len());
}

#[test]
fn every_query_of_tpch_is_shared_and_right_in_a_directory() {
    all_are_shared_and_right(&Ground::directory(), "tpch", "0.05", 1, 22);
}

#[test]
fn every_query_of_tpch_is_shared_and_right_in_a_bucket() {
    all_are_shared_and_right(&Ground::bucket(), "tpch", "0.01", 1, 22);
}

#[test]
fn every_query_of_tpcds_is_shared_and_right_in_a_directory() {
    all_are_shared_and_right(&Ground::directory(), "tpcds", "0.1", 1, 99);
}

#[test]
fn queries_of_tpcds_are_shared_and_right_in_a_bucket() {
    let step = OF_TPCDS_IN_A_BUCKET;
    all_are_shared_and_right(&Ground::bucket(), "tpcds", "0.1", step, 99);
}
