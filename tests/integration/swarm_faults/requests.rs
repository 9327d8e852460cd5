//! How many requests a swarm makes, by what the proxy in front of its bucket counted.

use super::ground::{Ground, ROOT};
use super::{JOINED, SUMS, number, with_frame};
use apiary_tests::{Logged, Node, Outcome};
use std::collections::BTreeMap;
use std::time::Duration;

/// The first minutes may be busier.
const SETTLED: Duration = Duration::from_secs(300);

/// What a request is for: the kind, and the first parts of the key.
fn purpose(logged: &Logged) -> String {
    let key = logged.key(ROOT).unwrap_or_default();
    let key = match key.split('/').collect::<Vec<_>>().as_slice() {
        ["_swarm", what, ..] => format!("_swarm/{what}"),
        [first, ..] if first.starts_with('_') => first.to_string(),
        parts => match parts.iter().position(|part| *part == "_delta_log") {
            Some(_) => "_delta_log".into(),
            None => "other".into(),
        },
    };
    format!("{} {key}", logged.kind())
}

/// With `APIARY_TEST_MINUTES=7` all of it is watched, and the figure is of the last two minutes. The
/// suite takes one minute from the start, which is not quieter than any later one.
#[test]
fn an_idle_swarm_of_three_makes_at_most_twenty_requests_a_minute_and_node() {
    let ground = Ground::bucket(0);
    with_frame(&ground);
    let names = ["a", "b", "c"];
    let nodes = names.map(|name| ground.start(name));
    let began_at = ground.proxy().now();
    let minutes = number("APIARY_TEST_MINUTES", 1);
    std::thread::sleep(Duration::from_secs(60 * minutes));
    let now = ground.proxy().now();
    let from = match now - began_at > SETTLED {
        true => began_at + SETTLED,
        false => began_at,
    };
    let log: Vec<Logged> = ground.proxy().log();
    let log = log.iter().filter(|logged| (from..now).contains(&logged.at));
    let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
    for logged in log.filter(|logged| names.contains(&logged.client.as_str())) {
        *counts
            .entry((logged.client.clone(), purpose(logged)))
            .or_default() += 1;
    }
    let watched = (now - from).as_secs_f64() / 60.0;
    println!("requests in {watched:.1} minutes: {counts:#?}");
    for name in names {
        let own = counts.iter().filter(|((client, _), _)| client == name);
        let count: u64 = own.map(|(_, count)| count).sum();
        let per_minute = count as f64 / watched;
        println!("{name}: {per_minute:.1} a minute");
        assert!(per_minute <= 20.0, "{name}: {counts:#?}");
    }
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn queries_that_were_over_before_others_heard_of_them_are_not_looked_for_again_and_again() {
    const QUERIES: usize = 6;
    let ground = Ground::bucket(0);
    with_frame(&ground);
    let nodes = [ground.start("a"), ground.start("b")];
    // Nodes at rest hear the bell every 20 seconds.
    let from = ground.proxy().now();
    for _ in 0..QUERIES {
        ground.share(SUMS).finish().success();
    }
    std::thread::sleep(Duration::from_secs(30));
    let mut looks: BTreeMap<(String, String), u64> = BTreeMap::new();
    for logged in ground.proxy().log() {
        let key = logged.key(ROOT).unwrap_or_default();
        let is_worker = logged.client != "coordinator" && logged.at >= from;
        if is_worker && logged.kind() == "get" && key.ends_with("/plan") {
            *looks.entry((logged.client, key)).or_default() += 1;
        }
    }
    assert!(looks.len() >= QUERIES, "they were heard of: {looks:#?}");
    assert!(looks.values().all(|count| *count <= 16), "{looks:#?}");
    nodes.into_iter().for_each(Node::stop);
}

/// The number before " requests" in a line, and the name of the node.
fn counted(line: &str) -> Option<(String, u64)> {
    let (before, _) = line.split_once(" requests")?;
    let count = before.rsplit(' ').next()?.parse().ok()?;
    let (_, place) = line.split_once(" on ")?;
    Some((place.split(' ').next()?.to_string(), count))
}

/// An attempt that came second is not told of, and has read its cells all the same: so it is enough when
/// the two are equal once. One-shot coordinators place no tasks, so each is claimed.
#[test]
fn explain_analyze_counts_the_reads_of_each_node_as_the_bucket_does() {
    let ground = Ground::bucket(0);
    with_frame(&ground);
    ground.proxy().set_latency(Duration::from_millis(20));
    let nodes = [ground.start("a"), ground.start("b")];
    ground.warm_up(&nodes, JOINED);
    for run in 0.. {
        ground.nothing_is_left();
        let from = ground.proxy().now();
        let explained = format!("EXPLAIN ANALYZE {SUMS}");
        let finished = ground.share_with(&explained, &["name=coordinator"]);
        let text = finished.finish().success().stdout;
        let log = ground.proxy().log();
        let log: Vec<&Logged> = log.iter().filter(|logged| logged.at >= from).collect();
        if std::env::var_os("APIARY_TEST_SHOW").is_some() {
            show(&text, from, &log);
        }
        // Both plans of a query, for this node and for all, see what was looked for once.
        let looks = ledger_reads_seen(&log);
        assert!(looks.values().all(|count| *count == 1), "{looks:#?}");
        let (told, seen) = (cell_reads_told(&text), cell_reads_seen(&log));
        for (node, count) in &told {
            let seen = seen.get(node).copied().unwrap_or_default();
            assert!(seen >= *count, "{node}: {seen}, {text}");
        }
        let (path, passed) = (path_told(&text), path_seen(&log));
        // A task that was claimed twice takes a look and a claim more.
        if told == seen && path == passed && path <= 6 {
            break;
        }
        assert!(run < 5, "{told:?} {seen:?} {path} {passed} {text}");
    }
    nodes.into_iter().for_each(Node::stop);
}

/// Storage operations that had to follow each other, as they are printed.
fn path_told(text: &str) -> usize {
    let line = text.lines().find_map(|line| {
        let (count, _) = line.split_once(" storage operations after each other")?;
        count.rsplit([',', '"', '|', ' ']).next()?.parse().ok()
    });
    line.expect("a critical path")
}

/// The same out of what passed the proxy: the longest way from the put of the plan to an output that the
/// coordinator has. All outputs are of one stage.
fn path_seen(log: &[&Logged]) -> usize {
    let is_done = |logged: &Logged| matches!(logged.outcome, Outcome::Answered(200..=299));
    let of = |client: &str, kind: &str, end: &str| {
        let mut found = log.iter().filter(|logged| {
            let key = logged.key(ROOT).unwrap_or_default();
            logged.client == client && logged.kind() == kind && key.contains(end)
        });
        found.find(|logged| is_done(logged)).is_some()
    };
    let outputs = log
        .iter()
        .filter(|logged| logged.kind() == "put" && is_done(logged));
    let paths = outputs.filter_map(|put| {
        let key = put.key(ROOT)?;
        let (_, task) = key.split_once("/outputs/")?;
        let is_elsewhere = put.client != "coordinator";
        let claimed = of(&put.client, "put", &format!("/claims/{task}-"));
        let steps = [
            true, // the plan is put
            is_elsewhere && of(&put.client, "get", "_swarm/bell"),
            is_elsewhere && of(&put.client, "get", "/plan"),
            claimed,
            true, // the output is put
            is_elsewhere && of("coordinator", "get", &key),
        ];
        Some(steps.into_iter().filter(|step| *step).count())
    });
    paths.max().expect("an output")
}

/// Requests of the tasks, which read nothing but cells here, by node.
fn cell_reads_told(text: &str) -> BTreeMap<String, u64> {
    let mut told = BTreeMap::new();
    let tasks = text.lines().filter(|line| line.starts_with("task "));
    for (node, count) in tasks.filter_map(counted) {
        *told.entry(node).or_default() += count;
    }
    told
}

fn cell_reads_seen(log: &[&Logged]) -> BTreeMap<String, u64> {
    let mut seen = BTreeMap::new();
    let is_cell = |logged: &&&Logged| logged.kind() == "get" && logged.target.ends_with(".parquet");
    for logged in log.iter().filter(is_cell) {
        *seen.entry(logged.client.clone()).or_default() += 1;
    }
    seen
}

/// What the coordinator asked of the log of a frame, by key.
fn ledger_reads_seen(log: &[&Logged]) -> BTreeMap<String, u64> {
    let mut seen = BTreeMap::new();
    let reads = log
        .iter()
        .filter(|logged| logged.client == "coordinator" && logged.kind() == "get");
    for key in reads.filter_map(|logged| logged.key(ROOT)) {
        if key.contains("/_delta_log/") {
            *seen.entry(key).or_default() += 1;
        }
    }
    seen
}

/// For whoever wants to see what waited for what.
fn show(text: &str, from: Duration, log: &[&Logged]) {
    println!("{text}");
    for logged in log {
        let (at, until) = (logged.at - from, logged.until - from);
        let (at, until) = (at.as_millis(), until.as_millis());
        let (kind, key) = (logged.kind(), logged.key(ROOT).unwrap_or_default());
        let (client, outcome) = (&logged.client, logged.outcome);
        println!("{at:>6} {until:>6} {client:<11} {kind:<6} {key} {outcome:?}");
    }
}
