//! Writes whose query is shared: other nodes put cells into the frame, one commit names them, and what
//! no commit names is taken away, whoever dies.

use apiary_tests::{Bench, Finished, Node, send_signal, twelve_cells};
use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

fn started(bench: &Bench, name: &str) -> Node {
    let mut command = bench.command(["start", "--set", "sync=false"]);
    command.args(["--log", "warn,apiary_actors=info"]);
    Node::spawn(command, name)
}

/// A node that has taken part in a query, and listens closely from then on: one that rests hears of
/// queries every 20 seconds.
fn awake(bench: &Bench, name: &str) -> Node {
    let node = started(bench, name);
    wait_until("it takes part", || {
        shared(bench, "SELECT k, sum(v) FROM t GROUP BY k").success();
        node.helped() > 0
    });
    node
}

/// A node whose Keeper is quick.
fn quick_keeper(bench: &Bench) -> Node {
    let quick = [
        "keeper_interval=50ms",
        "keeper_requests=100000",
        "sync=false",
    ];
    let mut command = bench.command(["start"]);
    for setting in quick {
        command.args(["--set", setting]);
    }
    Node::spawn(command, "keeper")
}

/// A frame `t` of twelve cells.
fn with_frame() -> Bench {
    let bench = Bench::new();
    bench.sql(&twelve_cells());
    bench
}

fn sharing(bench: &Bench, text: &str) -> Command {
    let mut command = bench.command(["--set", "distribute=on", "--set", "sync=false"]);
    // Many cells, so that some are there in the middle of a write.
    command
        .args(["--set", "target_cell=64KiB", "--set", "codec=none"])
        .args(["--log", "warn,apiary_actors=info", "sql", text])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[track_caller]
fn shared(bench: &Bench, text: &str) -> Finished {
    let finished = Finished::of(sharing(bench, text).output());
    let is_shared = finished.stderr.contains("the query is shared");
    assert!(is_shared, "{text}: {finished:?}");
    finished
}

/// Cells of a frame that lie in the storage, and those that its log names.
fn cells(bench: &Bench, frame: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let home = format!("default/default/{frame}/");
    let (mut there, mut named) = (BTreeSet::new(), BTreeSet::new());
    let mut log = String::new();
    for (key, _) in bench.objects() {
        let Some(path) = key.strip_prefix(&home) else {
            continue;
        };
        if path.starts_with("_delta_log/") {
            log += &std::fs::read_to_string(bench.meadow().join(&key)).unwrap_or_default();
        } else if path.ends_with(".parquet") {
            there.insert(path.to_string());
        }
    }
    for path in &there {
        let name = path.rsplit('/').next().expect("a name");
        if log.contains(name) {
            named.insert(path.clone());
        }
    }
    (there, named)
}

/// Objects of queries that are left.
fn left_over(bench: &Bench) -> Vec<String> {
    let keys = bench.objects().into_iter().map(|(key, _)| key);
    keys.filter(|key| key.starts_with("_swarm/queries"))
        .collect()
}

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(180), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether nothing is in the frame's place but what its log names.
fn is_tidy(bench: &Bench, frame: &str) -> bool {
    let (there, named) = cells(bench, frame);
    there == named
}

fn grow_old(bench: &Bench, frame: &str) {
    let then = SystemTime::now() - Duration::from_secs(8 * 24 * 3_600);
    for cell in cells(bench, frame).0 {
        let path = bench
            .meadow()
            .join("default/default")
            .join(frame)
            .join(cell);
        let file = std::fs::File::options().write(true).open(path);
        file.and_then(|file| file.set_modified(then))
            .expect("an older file");
    }
}

#[test]
fn a_shared_write_is_in_one_version_and_has_the_rows_that_one_node_writes() {
    let bench = with_frame();
    let nodes = [started(&bench, "a"), started(&bench, "b")];
    let check = |frame: &str, select: &str, version: u64| {
        let all = |from: &str| {
            bench.sql(&format!(
                "SELECT count(*) AS n, sum(k) AS k, sum(v) AS v, sum(k * v % 1009) AS kv FROM ({from})"
            ))
        };
        let written = all(&format!("SELECT k, v FROM {frame}"));
        assert_eq!(written, all(select), "{frame}: {select}");
        let described = bench.sql(&format!("DESCRIBE {frame}"));
        assert!(
            described.contains(&format!("version,{version}\n")),
            "{described}"
        );
    };
    bench.sql("CREATE TABLE o (k BIGINT, v BIGINT)");
    let select = "SELECT k, v FROM t WHERE k < 60";
    let report = shared(&bench, &format!("INSERT INTO o {select}")).success();
    check("o", select, 1);
    let (there, named) = cells(&bench, "o");
    assert_eq!(there, named);
    let wrote = format!("rows in {} cells", there.len());
    let said = report.stdout.contains(&wrote) || report.stderr.contains(&wrote);
    assert!(said, "{wrote}: {report:?}");
    // Every cell of it was written by a task.
    let of_tasks = |cell: &String| cell.split('.').count() == 3;
    assert!(there.iter().all(of_tasks), "{there:?}");

    // What it replaces stays for those who read it; into its own frame it sees one snapshot.
    let select = "SELECT k, v + 1 AS v FROM t";
    shared(&bench, &format!("INSERT OVERWRITE o {select}")).success();
    check("o", select, 2);
    shared(&bench, "INSERT INTO o SELECT k, v FROM o WHERE k > 90").success();
    let twice = format!("{select} UNION ALL SELECT k, v FROM ({select}) WHERE k > 90");
    check("o", &twice, 3);

    let select = "SELECT k % 3 AS k, v FROM t";
    let made = format!("CREATE TABLE p PARTITIONED BY (k) AS {select}");
    shared(&bench, &made).success();
    check("p", select, 0);
    let (there, named) = cells(&bench, "p");
    assert_eq!(there, named);
    assert!(
        there
            .iter()
            .all(|cell| cell.starts_with("k=") && of_tasks(cell))
    );

    // In an order: the rows come together on the node that was asked.
    let select = "SELECT k, v FROM t ORDER BY v DESC";
    shared(&bench, &format!("CREATE TABLE s AS {select}")).success();
    check("s", select, 0);
    let (there, _) = cells(&bench, "s");
    assert!(!there.iter().any(of_tasks), "{there:?}");

    // Into somebody else's table, where nobody would sweep: this node writes.
    let log = "default/default/o/_delta_log/00000000000000000000.json";
    std::fs::create_dir_all(bench.meadow().join("lake/x/_delta_log")).expect("a directory");
    let copied = bench
        .meadow()
        .join(log.replace("default/default/o", "lake/x"));
    std::fs::copy(bench.meadow().join(log), copied).expect("a copy");
    bench.sql("ATTACH FRAME x LOCATION 'lake/x'");
    let select = "SELECT k, v FROM t WHERE k < 60";
    shared(&bench, &format!("INSERT INTO x {select}")).success();
    check("x", select, 1);
    let keys = bench.objects().into_iter().map(|(key, _)| key);
    let keys: BTreeSet<String> = keys.filter(|key| key.starts_with("lake/x/part-")).collect();
    assert!(!keys.is_empty() && !keys.iter().any(of_tasks), "{keys:?}");

    nodes.into_iter().for_each(Node::stop);
    let left = |prefix: &str| {
        let keys = bench.objects().into_iter().map(|(key, _)| key);
        let keys = keys.filter(|key| key.starts_with(prefix));
        keys.collect::<Vec<_>>()
    };
    assert_eq!(left("_swarm/"), ["_swarm/bell"]);
    assert_eq!(left("_making/"), Vec::<String>::new());
}

#[test]
fn a_shared_write_whose_source_fails_or_whose_rows_do_not_fit_leaves_nothing() {
    let bench = with_frame();
    bench.sql("CREATE TABLE o (k INT, v BIGINT NOT NULL)");
    let _nodes = [started(&bench, "a"), started(&bench, "b")];
    for (text, reason) in [
        (
            "INSERT INTO o SELECT k, 1 / (v - 30000) FROM t",
            "divide by zero",
        ),
        ("INSERT OVERWRITE o SELECT v * 100000, v FROM t", "\"k\""),
        ("INSERT INTO o SELECT k, nullif(v, 30000) FROM t", "\"v\""),
    ] {
        let finished = shared(&bench, text);
        assert_eq!(finished.code, Some(1), "{finished:?}");
        let said = finished.stderr.to_lowercase();
        assert!(said.contains(reason), "{text}: {said}");
        wait_until("its cells are gone", || cells(&bench, "o").0.is_empty());
        wait_until("its objects are gone", || left_over(&bench).is_empty());
    }
    assert_eq!(bench.sql("SELECT count(*) AS n FROM o"), "n\n0\n");
    // A frame that was not made is none, and its mark stays for the Keeper.
    let finished = shared(
        &bench,
        "CREATE TABLE m AS SELECT k, 1 / (v - 30000) AS v FROM t",
    );
    assert_eq!(finished.code, Some(1), "{finished:?}");
    wait_until("its cells are gone", || cells(&bench, "m").0.is_empty());
    assert_eq!(bench.sql("SHOW TABLES LIKE 'm'"), "frame\n");
}

/// Takes a while, and writes all the time.
const LONG: &str = "SELECT a.v AS k, b.v AS v FROM t a JOIN t b ON a.k = b.k \
                    WHERE a.k < 20 AND (a.v * b.v) % 101 = 0";

/// The rows of [`LONG`], and of a frame.
fn sums(bench: &Bench, from: &str) -> String {
    bench.sql(&format!(
        "SELECT count(*) AS n, sum(k) AS k, sum(v) AS v FROM ({from})"
    ))
}

/// A long shared write into `o`, in the background.
fn long_write(bench: &Bench) -> Child {
    sharing(bench, &format!("INSERT INTO o {LONG}"))
        .spawn()
        .expect("apiary-node starts")
}

/// Waits until a node has claimed a task, of which all write, and cells are there; false when the write
/// ended before.
fn is_writing(bench: &Bench, node: Option<&Node>, write: &mut Child) -> bool {
    let before = cells(bench, "o").1.len();
    loop {
        let holds = |node: &Node| {
            let is_claim = |key: &str| key.contains("/claims/");
            left_over(bench).iter().any(|key| {
                let bytes = is_claim(key).then(|| std::fs::read(bench.meadow().join(key)));
                bytes.is_some_and(|bytes| bytes.is_ok_and(|bytes| node.is_named_in(&bytes)))
            })
        };
        if cells(bench, "o").0.len() > before && node.is_none_or(holds) {
            return true;
        }
        if write.try_wait().expect("it can be asked").is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn rows_are_written_once_when_a_node_that_writes_some_is_killed() {
    let bench = with_frame();
    bench.sql("CREATE TABLE o (k BIGINT, v BIGINT)");
    let expected = sums(&bench, LONG);
    let other = started(&bench, "other");
    let mut killed = false;
    for _ in 0..5 {
        let victim = awake(&bench, "victim");
        let mut write = long_write(&bench);
        killed = is_writing(&bench, Some(&victim), &mut write);
        victim.kill();
        Finished::of(write.wait_with_output()).success();
        assert_eq!(sums(&bench, "SELECT k, v FROM o"), expected);
        if killed {
            break;
        }
        bench.sql("INSERT OVERWRITE o SELECT k, v FROM t WHERE false");
    }
    assert!(killed, "a node that held a task of the write was killed");
    other.stop();
    let (there, named) = cells(&bench, "o");
    assert!(named.is_subset(&there));
    // What the dead node left is swept when it is old, and nothing else.
    grow_old(&bench, "o");
    let keeper = quick_keeper(&bench);
    wait_until("the orphans are swept", || is_tidy(&bench, "o"));
    keeper.stop();
    assert_eq!(cells(&bench, "o").1, named);
    assert_eq!(sums(&bench, "SELECT k, v FROM o"), expected);
}

#[test]
fn a_node_that_stops_or_sleeps_in_the_middle_of_a_write_takes_its_cells_away_itself() {
    let bench = with_frame();
    bench.sql("CREATE TABLE o (k BIGINT, v BIGINT)");
    let expected = sums(&bench, LONG);
    for sleeps in [false, true] {
        let mut held = false;
        for _ in 0..5 {
            let mut victim = awake(&bench, "victim");
            let mut write = long_write(&bench);
            held = is_writing(&bench, Some(&victim), &mut write);
            victim.signal(if sleeps { "STOP" } else { "TERM" });
            Finished::of(write.wait_with_output()).success();
            match sleeps {
                true => victim.signal("CONT"),
                false => victim.end(),
            }
            let is_done = || is_tidy(&bench, "o") && left_over(&bench).is_empty();
            // On a machine with much else to do a node that stops does not wait for ever.
            let gave_up = || !sleeps && victim.said().contains("still ran");
            wait_until("nothing is left but what is committed", || {
                is_done() || gave_up()
            });
            assert_eq!(sums(&bench, "SELECT k, v FROM o"), expected);
            bench.sql("INSERT OVERWRITE o SELECT k, v FROM t WHERE false");
            if held {
                break;
            }
        }
        assert!(
            held,
            "a node that held a task of the write was stopped: {sleeps}"
        );
    }
}

/// It slept so long that the others ended its query.
#[test]
fn a_coordinator_that_was_taken_for_dead_commits_once_what_is_there() {
    let bench = with_frame();
    bench.sql("CREATE TABLE o (k BIGINT, v BIGINT)");
    let nodes = [started(&bench, "a"), started(&bench, "b")];
    let mut write = long_write(&bench);
    assert!(is_writing(&bench, None, &mut write), "it was too quick");
    send_signal(&write, "STOP");
    wait_until("the query is ended", || left_over(&bench).is_empty());
    send_signal(&write, "CONT");
    let finished = Finished::of(write.wait_with_output()).success();
    assert_eq!(
        sums(&bench, "SELECT k, v FROM o"),
        sums(&bench, LONG),
        "{finished:?}"
    );
    let described = bench.sql("DESCRIBE o");
    assert!(described.contains("version,1\n"), "{described}");
    wait_until("its objects are gone", || left_over(&bench).is_empty());
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn a_killed_coordinator_commits_nothing_or_all_and_what_it_leaves_is_taken_away() {
    let bench = with_frame();
    bench.sql("CREATE TABLE o (k BIGINT, v BIGINT)");
    let nodes = [started(&bench, "a"), started(&bench, "b")];
    let mut write = long_write(&bench);
    assert!(is_writing(&bench, None, &mut write), "it was too quick");
    write.kill().expect("kill -9");
    write.wait().expect("it is dead");
    let found = sums(&bench, "SELECT k, v FROM o");
    assert!(
        found.starts_with("n,k,v\n0,") || found == sums(&bench, LONG),
        "{found}"
    );
    wait_until("the query is ended", || left_over(&bench).is_empty());
    assert_eq!(sums(&bench, "SELECT k, v FROM o"), found);
    nodes.into_iter().for_each(Node::stop);
    let (there, named) = cells(&bench, "o");
    assert_ne!(there, named, "it was killed in the middle");
    grow_old(&bench, "o");
    let keeper = quick_keeper(&bench);
    wait_until("the orphans are swept", || is_tidy(&bench, "o"));
    keeper.stop();
    assert_eq!(sums(&bench, "SELECT k, v FROM o"), found);
}

#[test]
fn a_cancelled_write_takes_its_cells_away_on_every_node() {
    let bench = with_frame();
    bench.sql("CREATE TABLE o (k BIGINT, v BIGINT)");
    let nodes = [started(&bench, "a"), started(&bench, "b")];
    let mut write = long_write(&bench);
    assert!(is_writing(&bench, None, &mut write), "it was too quick");
    send_signal(&write, "INT");
    let finished = Finished::of(write.wait_with_output());
    assert_eq!(finished.code, Some(130), "{finished:?}");
    wait_until("its cells are gone", || cells(&bench, "o").0.is_empty());
    wait_until("its objects are gone", || left_over(&bench).is_empty());
    assert_eq!(bench.sql("SELECT count(*) AS n FROM o"), "n\n0\n");
    // One that is not shared does so, too.
    let mut write = bench
        .command(["--set", "target_cell=64KiB", "--set", "codec=none", "sql"])
        .arg(format!("INSERT INTO o {LONG}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("apiary-node starts");
    assert!(is_writing(&bench, None, &mut write), "it was too quick");
    send_signal(&write, "INT");
    assert_eq!(Finished::of(write.wait_with_output()).code, Some(130));
    assert_eq!(cells(&bench, "o").0.len(), 0);
    nodes.into_iter().for_each(Node::stop);
}
