//! Several nodes on one meadow: they find each other, share queries, and survive each other's deaths.

use apiary_tests::{Bench, Finished, Node, twelve_cells};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime};

const AGGREGATE: &str = "SELECT k, count(*) AS n, sum(v) AS s FROM t GROUP BY k ORDER BY k";

/// A frame of twelve cells; the answer that one node gives.
fn with_frame(bench: &Bench) -> String {
    bench.sql(&twelve_cells());
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

/// Waits until the last late worker has taken away what came after a query's end.
fn nothing_is_left(bench: &Bench) {
    // Idle nodes list the queries once a minute, and make sure that a coordinator is dead.
    for _ in 0..1_800 {
        if left_over(bench).is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("left for three minutes: {:?}", left_over(bench));
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

/// Takes seconds, and gives one row.
const HEAVY: &str = "SELECT count(*) AS n, sum(abs(a.v - b.v)) AS s FROM t a JOIN t b ON a.k = b.k \
                     WHERE a.k < 60";

/// A shared query in the background.
fn shared_later(bench: &Bench, text: &str) -> Child {
    bench
        .command(["--set", "distribute=on", "sql", "--format", "csv", text])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("apiary-node starts")
}

/// Waits until a node has claimed a task; false when the query ended before.
fn has_claimed(bench: &Bench, node: &Node, query: &mut Child) -> bool {
    loop {
        for (key, _) in bench.objects() {
            let is_claim = key.starts_with("_swarm/queries/") && key.contains("/claims/");
            let bytes = is_claim.then(|| std::fs::read(bench.meadow().join(&key)));
            if let Some(Ok(bytes)) = bytes
                && node.is_named_in(&bytes)
            {
                return true;
            }
        }
        if query.try_wait().expect("it can be asked").is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a query's plan is there; false when the query ended before.
fn is_published(bench: &Bench, query: &mut Child) -> bool {
    while !left_over(bench).iter().any(|key| key.ends_with("/plan")) {
        if query.try_wait().expect("it can be asked").is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// How many times a node with a claim is killed.
const KILLS: usize = 3;

#[test]
fn an_answer_is_right_when_a_node_with_a_claim_is_killed_or_stopped() {
    let bench = Bench::new();
    with_frame(&bench);
    let expected = bench.sql(HEAVY);
    let _other = Node::start(&bench, "other");
    let mut killed = 0;
    for round in 0..KILLS * 3 {
        if killed == KILLS {
            break;
        }
        // A node that comes in the middle takes part at once.
        let mut query = shared_later(&bench, HEAVY);
        is_published(&bench, &mut query);
        let victim = Node::start(&bench, "victim");
        let holds = has_claimed(&bench, &victim, &mut query);
        match round % 2 {
            0 => victim.kill(),
            // A lid that is closed, and opened again when all is over.
            _ => {
                victim.signal("STOP");
                let finished = Finished::of(query.wait_with_output()).success();
                assert_eq!(finished.stdout, expected);
                victim.signal("CONT");
                victim.stop();
                killed += usize::from(holds);
                continue;
            }
        }
        let finished = Finished::of(query.wait_with_output()).success();
        assert_eq!(finished.stdout, expected);
        killed += usize::from(holds);
    }
    assert_eq!(killed, KILLS, "a node with a claim was killed");
}

#[test]
fn what_a_killed_coordinator_leaves_is_taken_away_and_the_others_live_on() {
    let bench = Bench::new();
    let expected = with_frame(&bench);
    let nodes = [Node::start(&bench, "a"), Node::start(&bench, "b")];
    let mut query = shared_later(&bench, HEAVY);
    assert!(is_published(&bench, &mut query));
    query.kill().expect("kill -9");
    query.wait().expect("it is dead");
    assert!(!left_over(&bench).is_empty(), "it was killed in the middle");
    nothing_is_left(&bench);
    assert_eq!(shared(&bench, AGGREGATE).success().stdout, expected);
    nodes.into_iter().for_each(Node::stop);
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
    nothing_is_left(&bench);
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

/// The nodes that `status --json` shows, by name.
fn nodes_of(bench: &Bench) -> BTreeMap<String, Value> {
    let json = bench.run(["status", "--json"]).success().stdout;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let nodes = json["nodes"].as_array().expect("nodes").iter();
    nodes
        .map(|node| {
            let name = node["name"].as_str().unwrap_or_default();
            (name.to_string(), node.clone())
        })
        .collect()
}

#[test]
fn status_lists_the_running_nodes_and_what_they_run() {
    let bench = Bench::new();
    with_frame(&bench);
    assert!(nodes_of(&bench).is_empty());
    let nodes = [Node::start(&bench, "a"), Node::start(&bench, "b")];
    let seen = nodes_of(&bench);
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["a", "b"]);
    for (node, name) in nodes.iter().zip(["a", "b"]) {
        let shown = &seen[name];
        assert!(
            shown["node_id"]
                .as_str()
                .expect("id")
                .starts_with(&node.id[..8])
        );
        assert_eq!(shown["state"], "alive", "{shown}");
        assert_eq!(shown["bees"], 1);
        assert_eq!(shown["claims"], serde_json::json!([]));
        assert!(shown["seconds_since_change"].as_u64() < Some(60), "{shown}");
        assert!(shown["temperature"].is_number() && shown["memory_pressure"].is_number());
        assert!(
            shown["build"]
                .as_str()
                .expect("build")
                .starts_with("apiary")
        );
    }
    let text = bench.run(["status"]).success().stdout;
    assert!(text.contains("others    2"), "{text}");
    let line = text
        .lines()
        .find(|line| line.starts_with(&nodes[0].id[..8]));
    let words: Vec<&str> = line.expect("a line").split_whitespace().collect();
    assert_eq!(words[1..3], ["a", "alive"], "{text}");

    // One whose promise has passed, without waiting for it: its beat is old by the store's own clock.
    let [killed, stays] = nodes;
    let id = killed.id.clone();
    killed.kill();
    let beats = bench.objects().into_iter().map(|(key, _)| key);
    let mut beats = beats.filter(|key| key.starts_with("_swarm/nodes/"));
    let beat = beats.find(|key| key.contains(&id)).expect("its beat stays");
    let path = bench.meadow().join(beat);
    for (seconds, state) in [(130, "suspect"), (250, "dead")] {
        let file = std::fs::File::options()
            .write(true)
            .open(&path)
            .expect("the beat");
        let written_at = SystemTime::now() - Duration::from_secs(seconds);
        file.set_modified(written_at).expect("it grows old");
        let seen = nodes_of(&bench);
        assert_eq!(seen["a"]["state"], state, "{seen:?}");
        assert_eq!(seen["b"]["state"], "alive", "{seen:?}");
    }
    std::fs::write(&path, "torn").expect("the beat");
    let seen = nodes_of(&bench);
    assert_eq!(seen[""]["state"], "unknown", "it cannot be read: {seen:?}");
    let text = bench.run(["status"]).success().stdout;
    assert!(text.contains("its heartbeat cannot be read"), "{text}");
    stays.stop();
}

#[test]
fn explain_analyze_of_a_shared_query_tells_what_each_task_took() {
    let bench = Bench::new();
    with_frame(&bench);
    let nodes = [Node::start(&bench, "a"), Node::start(&bench, "b")];
    let explained = format!("EXPLAIN ANALYZE {AGGREGATE}");
    let finished = shared(&bench, &explained).success();
    assert!(finished.stderr.contains("the query is shared"));
    let text = finished.stdout;
    for part in [
        "Plan with Metrics",
        "ExchangeReadExec",
        "output_rows=97",
        "shared: ",
        "storage operations after each other",
        "stage 1",
        "task 0 on ",
        "attempt 0: waited ",
        "FrameScanExec",
        "0 attempts failed",
        "head,",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(!text.contains("has no output"), "{text}");
    let verbose = shared(&bench, &format!("EXPLAIN ANALYZE VERBOSE {AGGREGATE}")).success();
    assert!(
        verbose.stdout.contains("Plan with Full Metrics"),
        "{}",
        verbose.stdout
    );
    nodes.into_iter().for_each(Node::stop);
    assert_eq!(left_over(&bench), Vec::<String>::new());

    // What runs on one node is explained as ever.
    let alone = bench.sql(&explained);
    assert!(alone.contains("memory_peak_bytes"), "{alone}");
    assert!(!alone.contains("storage operations"), "{alone}");
    let constant = shared(&bench, "EXPLAIN ANALYZE SELECT 1").success().stdout;
    assert!(constant.contains("memory_peak_bytes"), "{constant}");
}

#[test]
fn a_task_that_is_too_large_for_one_node_is_done_by_a_larger_one() {
    let bench = Bench::new();
    with_frame(&bench);
    // A window holds the rows of its largest partition at once.
    let text = "SELECT sum(m) AS s, count(*) AS n FROM (SELECT max(x) OVER (PARTITION BY g) AS m FROM \
                (SELECT a.v * b.v AS x, a.k % 2 AS g FROM t a JOIN t b ON a.k = b.k AND b.v < 2500))";
    let expected = bench.sql(text);
    let small = [
        "--bees",
        "1",
        "--memory",
        "96MiB",
        "--set",
        "distribute=on",
        "sql",
        "--format",
        "csv",
        text,
    ];
    let alone = bench.run(small);
    assert_eq!(alone.code, Some(4), "{alone:?}");
    assert!(alone.stderr.contains("abandoned after"), "{alone:?}");
    let _large = Node::with_memory(bench.command(["start"]), "large", "2GiB");
    // Its beat comes a moment after it is ready.
    while nodes_of(&bench)
        .get("large")
        .is_none_or(|node| node["state"] != "alive")
    {
        std::thread::sleep(Duration::from_millis(10));
    }
    let finished = bench.run(small).success();
    assert_eq!(finished.stdout, expected);
    nothing_is_left(&bench);
}

#[test]
fn a_large_query_is_shared_when_somebody_is_there_to_help() {
    let bench = Bench::new();
    // Above 64 MiB of cells, without a setting.
    bench.sql("CREATE TABLE big (v BIGINT)");
    bench
        .sql("INSERT INTO big SELECT value * 48271 % 2147483647 FROM generate_series(1, 18000000)");
    let text = "SELECT count(*), sum(v), max(v) FROM big";
    let ask = || bench.run(["--log", "warn,apiary_actors=info", "sql", text]);
    let alone = ask().success();
    assert!(!alone.stderr.contains("the query is shared"), "{alone:?}");
    // What a node left that died long ago is no help.
    let node = Node::start(&bench, "a");
    let beat = loop {
        let beats = bench.objects().into_iter().map(|(key, _)| key);
        let mut beats = beats.filter(|key| key.starts_with("_swarm/nodes/"));
        if let Some(beat) = beats.next() {
            break bench.meadow().join(beat);
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    node.kill();
    let file = std::fs::File::options().write(true).open(&beat);
    let long_ago = SystemTime::now() - Duration::from_secs(3_600);
    file.and_then(|file| file.set_modified(long_ago))
        .expect("it grows old");
    let alone = ask().success();
    assert!(!alone.stderr.contains("the query is shared"), "{alone:?}");

    let _node = Node::start(&bench, "b");
    // Its beat comes a moment after it is ready.
    while nodes_of(&bench)
        .get("b")
        .is_none_or(|node| node["state"] != "alive")
    {
        std::thread::sleep(Duration::from_millis(10));
    }
    let shared = ask().success();
    assert_eq!(shared.stdout, alone.stdout);
    assert!(shared.stderr.contains("the query is shared"), "{shared:?}");
}
