//! Several nodes on one meadow: they find each other, share queries, and survive each other's deaths.

use apiary_tests::{Bench, Finished, Random};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

/// A running `apiary-node start`; killed when it is dropped.
struct Node(Child);

impl Node {
    fn start(bench: &Bench, name: &str) -> Self {
        let mut child = bench
            .command(["start", "--bees", "1", "--memory", "256MiB", "--set"])
            .arg(format!("name={name}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a node starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let ready = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("ready")));
        assert!(ready.is_some(), "{name} is ready");
        // Whatever it says later is not waited for.
        std::thread::spawn(move || lines.for_each(drop));
        Self(child)
    }

    fn kill(mut self) {
        self.0.kill().expect("kill -9");
        self.0.wait().expect("it is dead");
    }

    /// SIGTERM, and waits for the end.
    fn stop(mut self) {
        let pid = self.0.id().to_string();
        let killed = std::process::Command::new("kill")
            .args(["-TERM", &pid])
            .status();
        assert!(killed.expect("kill runs").success());
        assert!(self.0.wait().expect("it ends").code().is_some());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const AGGREGATE: &str = "SELECT k, count(*) AS n, sum(v) AS s FROM t GROUP BY k ORDER BY k";

/// A frame of twelve cells; the answer that one node gives.
fn with_frame(bench: &Bench) -> String {
    bench.sql("CREATE TABLE t (k BIGINT, v BIGINT)");
    for part in 0..12_i64 {
        let rows = format!(
            "INSERT INTO t SELECT value % 97, value FROM generate_series({}, {})",
            part * 20_000,
            part * 20_000 + 19_999
        );
        bench.run(["sql", &rows]).success();
    }
    bench.sql(AGGREGATE)
}

fn shared(bench: &Bench, text: &str) -> Finished {
    bench.run([
        "--set",
        "distribute=on",
        "--log",
        "warn,apiary_actors=info",
        "sql",
        "--format",
        "csv",
        text,
    ])
}

/// Objects under `_swarm/`, without heartbeats and the bell.
fn left_over(bench: &Bench) -> Vec<String> {
    let objects = bench.objects();
    objects
        .into_iter()
        .map(|(key, _)| key)
        .filter(|key| key.starts_with("_swarm/queries"))
        .collect()
}

#[test]
fn a_query_is_shared_with_running_nodes_and_leaves_nothing() {
    let bench = Bench::new();
    let expected = with_frame(&bench);
    let nodes = [Node::start(&bench, "a"), Node::start(&bench, "b")];
    for _ in 0..3 {
        let finished = shared(&bench, AGGREGATE).success();
        assert_eq!(finished.stdout, expected);
        assert!(
            finished.stderr.contains("the query is shared"),
            "{}",
            finished.stderr
        );
    }
    nodes.into_iter().for_each(Node::stop);
    let left: Vec<_> = bench
        .objects()
        .into_iter()
        .filter(|(key, _)| key.starts_with("_swarm/"))
        .collect();
    assert!(left.iter().all(|(key, _)| key == "_swarm/bell"), "{left:?}");
}

#[test]
fn one_node_alone_answers_what_is_to_be_shared() {
    let bench = Bench::new();
    let expected = with_frame(&bench);
    let finished = shared(&bench, AGGREGATE).success();
    assert_eq!(finished.stdout, expected);
    assert!(finished.stderr.contains("the query is shared"));
    assert_eq!(left_over(&bench), Vec::<String>::new());
}

#[test]
fn an_answer_is_right_whoever_is_killed() {
    let bench = Bench::new();
    let expected = with_frame(&bench);
    let mut random = Random(0xbee5);
    for _ in 0..4 {
        let (victim, other) = (Node::start(&bench, "victim"), Node::start(&bench, "other"));
        // The first makes them look closely, so that both take part in the second.
        assert_eq!(shared(&bench, AGGREGATE).success().stdout, expected);
        let pause = Duration::from_millis(random.below(400));
        let killer = std::thread::spawn(move || {
            // The moment is what is random here; the outcome is not judged by time.
            std::thread::sleep(pause);
            victim.kill();
        });
        assert_eq!(shared(&bench, AGGREGATE).success().stdout, expected);
        killer.join().expect("killed");
        drop(other);
    }
}

#[test]
fn an_error_in_a_task_is_the_error_of_the_query() {
    let bench = Bench::new();
    with_frame(&bench);
    let _nodes = [Node::start(&bench, "a"), Node::start(&bench, "b")];
    let text = "SELECT k, sum(1 / (v - 30000)) FROM t GROUP BY k";
    let alone = bench.refused(text);
    let finished = shared(&bench, text);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(alone.to_lowercase().contains("divide by zero"), "{alone}");
    assert!(
        finished.stderr.to_lowercase().contains("divide by zero"),
        "{}",
        finished.stderr
    );
    assert_eq!(left_over(&bench), Vec::<String>::new());
}

#[test]
fn explain_shows_stages_and_who_is_meant_to_run_their_tasks() {
    let bench = Bench::new();
    with_frame(&bench);
    let _node = Node::start(&bench, "a");
    let text = shared(&bench, &format!("EXPLAIN {AGGREGATE}"))
        .success()
        .stdout;
    assert!(text.contains("shared: "), "{text}");
    assert!(
        text.contains("stage 1") && text.contains("task 0 on "),
        "{text}"
    );
    assert!(text.contains("FrameScanExec"), "{text}");
    let whole = shared(&bench, "EXPLAIN SELECT 1").success().stdout;
    assert!(whole.contains("runs on this node"), "{whole}");
}
