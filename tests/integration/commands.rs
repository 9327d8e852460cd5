//! Every command of the command line does its work.

use apiary_tests::{Bench, Finished, node_binary, run_python};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

fn tables(finished: &Finished) -> Vec<&str> {
    let lines = finished.stdout.lines();
    lines.filter(|line| line.starts_with('|')).collect()
}

fn demo(bench: &Bench, storage: &str, scale: &str) -> Finished {
    let arguments = ["demo", "--storage", storage, "--scale", scale];
    bench.run(arguments).success()
}

#[test]
fn the_demo_gives_the_same_answers_when_it_runs_again_and_those_of_another_scale_after_it() {
    let bench = Bench::new();
    let first = demo(&bench, "a", "0.002");
    assert!(first.stdout.contains("Data lies in a"), "{first:?}");
    assert!(tables(&first).len() > 10, "{first:?}");
    let again = demo(&bench, "a", "0.002");
    assert_eq!(tables(&first), tables(&again));
    assert!(
        again.stdout.contains("all rows are there already"),
        "{again:?}"
    );
    let other = demo(&bench, "a", "0.001");
    assert_eq!(tables(&other), tables(&demo(&bench, "b", "0.001")));
    assert_ne!(tables(&other), tables(&first));
}

/// A line of a running command's standard error that has some text in it.
fn line_with(output: &mut impl BufRead, text: &str) -> String {
    loop {
        let mut line = String::new();
        let count = output.read_line(&mut line).expect("a line");
        assert!(count > 0, "the output ended without {text:?}");
        if line.contains(text) {
            return line;
        }
    }
}

fn stop(mut child: Child, signal: &str) -> Option<i32> {
    let kill = Command::new("kill")
        .args(["-s", signal, &child.id().to_string()])
        .status();
    assert!(kill.expect("kill").success());
    child.wait().expect("it ends").code()
}

#[test]
fn a_node_says_when_it_is_ready_beats_and_leaves_nothing_behind() {
    let bench = Bench::new();
    for signal in ["TERM", "INT"] {
        let mut child = bench
            .command(["start", "--set", "name=coop"])
            .args(["--log", "debug", "--set", "log_format=json"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut said = BufReader::new(child.stderr.take().expect("piped"));
        let (mut is_ready, mut has_beaten) = (false, false);
        while !(is_ready && has_beaten) {
            let mut line = String::new();
            assert!(said.read_line(&mut line).expect("a line") > 0, "it ended");
            if line.starts_with("ready: node coop") {
                is_ready = true;
            } else if line.contains("the heartbeat was written") {
                has_beaten = true;
                let event: Value = serde_json::from_str(&line).expect("JSON");
                assert_eq!(field(&event, "actor"), Some("heartbeat"), "{event}");
                assert!(field(&event, "node").is_some(), "{event}");
            }
        }
        let beats = |bench: &Bench| {
            let keys = bench.objects().into_iter().map(|(key, _)| key);
            keys.filter(|key| key.starts_with("_swarm/"))
                .collect::<Vec<_>>()
        };
        assert!(
            beats(&bench)
                .iter()
                .any(|key| key.starts_with("_swarm/nodes/"))
        );
        let reader = std::thread::spawn(move || line_with(&mut said, "stopping"));
        assert_eq!(stop(child, signal), Some(0));
        reader.join().expect("it says that it stops");
        assert!(
            beats(&bench).iter().all(|key| key == "_swarm/bell"),
            "{:?}",
            beats(&bench)
        );
    }
}

/// A field of an event in the log, from its innermost span outwards.
fn field<'a>(event: &'a Value, name: &str) -> Option<&'a str> {
    let spans = event["spans"].as_array().map_or(&[][..], Vec::as_slice);
    let places = std::iter::once(&event["fields"]).chain(spans.iter().rev());
    places.filter_map(|place| place[name].as_str()).next()
}

#[test]
fn the_log_of_a_statement_names_the_node_the_actor_and_the_query() {
    let bench = Bench::new();
    let text = "CREATE TABLE t (a INT); INSERT INTO t VALUES (1), (2); SELECT * FROM t";
    let finished = bench
        .run(["sql", text, "--log", "debug", "--set", "log_format=json"])
        .success();
    let events: Vec<Value> = finished
        .stderr
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let ours: Vec<&Value> = events
        .iter()
        .filter(|event| {
            let target = event["target"].as_str().unwrap_or_default();
            target.starts_with("apiary_actors")
        })
        .collect();
    assert!(!ours.is_empty(), "{finished:?}");
    for event in &ours {
        assert!(field(event, "node").is_some(), "{event}");
        assert!(field(event, "actor").is_some(), "{event}");
    }
    let of = |actor: &str| {
        let found = ours
            .iter()
            .find(|event| field(event, "actor") == Some(actor));
        found.unwrap_or_else(|| panic!("no line of {actor}: {}", finished.stderr))
    };
    for actor in ["query", "ledger"] {
        assert!(field(of(actor), "query").is_some(), "{}", of(actor));
    }
    let nodes: std::collections::BTreeSet<_> =
        ours.iter().map(|event| field(event, "node")).collect();
    assert_eq!(nodes.len(), 1, "{nodes:?}");
}

#[test]
fn status_shows_every_frame_as_text_and_as_json_and_why_one_cannot_be_read() {
    let bench = Bench::new();
    bench.sql("CREATE TABLE t (a INT); INSERT INTO t VALUES (1), (2); CREATE TABLE broken (a INT)");
    let text = bench.run(["status", "--set", "name=coop"]).success().stdout;
    assert!(text.contains("node      coop"), "{text}");
    let line = text
        .lines()
        .find(|line| line.starts_with("default.default.t "));
    let words: Vec<&str> = line.expect("the frame").split_whitespace().collect();
    assert_eq!(&words[1..4], &["1", "2", "1"], "{text}");
    let key = "default/default/broken/_delta_log/00000000000000000000.json";
    std::fs::write(bench.meadow().join(key), "{\"torn").expect("the commit");
    let json = bench.run(["status", "--json"]).success().stdout;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let frames = json["storage"]["frames"].as_array().expect("frames");
    let frame = |name: &str| {
        let found = frames.iter().find(|frame| frame["frame"] == name);
        found.unwrap_or_else(|| panic!("{name}: {json}"))
    };
    assert_eq!(frame("default.default.t")["rows"], 2);
    assert_eq!(frame("default.default.t")["version"], 1);
    let error = frame("default.default.broken")["error"].as_str();
    assert!(error.is_some_and(|error| error.contains(key)), "{json}");
    assert!(json["node"]["memory_bytes"].as_u64() > Some(0), "{json}");
}

#[test]
fn the_small_benchmarks_run_and_write_their_figures() {
    let bench = Bench::new();
    let figures = |arguments: &[&str]| -> Value {
        let out = bench.path("figures.json").display().to_string();
        let more = ["--runs", "1", "-o", &out];
        bench
            .run(["bench"].iter().chain(arguments).copied().chain(more))
            .success();
        let text = std::fs::read_to_string(&out).expect("the figures");
        serde_json::from_str(&text).expect("JSON")
    };
    // A named storage stays; the others leave nothing.
    let cells = figures(&["cells", "--cells", "50"]);
    assert_eq!(cells["failures"], serde_json::json!([]));
    assert!(cells["reads_per_query"].as_f64() > Some(0.0), "{cells}");
    let idle = figures(&["idle", "--seconds", "1"]);
    assert!(idle["resident_mib"].as_f64() > Some(0.0), "{idle}");
    let commits = figures(&["commits", "--appends", "8", "--processes", "2"]);
    assert_eq!(commits["failures"], serde_json::json!([]));
    assert!(commits["bare_loop_ms"].as_f64() > Some(0.0), "{commits}");
    let left = std::fs::read_dir(bench.directory.path()).expect("the directory");
    let left: Vec<_> = left
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("apiary-bench-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_shell_takes_statements_over_several_lines_and_commands_from_a_pipe() {
    let bench = Bench::new();
    let script = "CREATE TABLE t (a INT,\n b VARCHAR);\nINSERT INTO t\nVALUES (1, 'x;y');\n\
                  \\format csv\nSELECT nothing;\nSELECT *\n-- a semicolon; in a comment\nFROM t;\n\
                  SELECT 2 AS rest";
    let finished = bench.run_with_input(["shell"], script);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("nothing"), "{finished:?}");
    assert_eq!(finished.stdout, "a,b\n1,x;y\nrest\n2\n");
    let left = bench.run_with_input(["shell"], "SELECT 1 AS a;\n\\q\nSELECT 2 AS b;\n");
    assert!(!left.success().stdout.contains('b'));
}

#[test]
fn the_shell_on_a_terminal_keeps_its_history_and_forgets_an_idle_interrupt() {
    let bench = Bench::new();
    let arguments = [
        node_binary().display().to_string(),
        bench.meadow().display().to_string(),
        bench.path("history").display().to_string(),
    ];
    run_python("shell_session.py", arguments);
    let history = std::fs::read_to_string(bench.path("history")).expect("the history");
    assert!(history.contains("SELECT 40 +"), "{history}");
}

#[test]
fn an_unknown_variable_of_ours_is_refused_and_the_nearest_setting_named() {
    let bench = Bench::new();
    let run = |name: &str, value: &str| {
        let mut command = bench.command(["sql", "SELECT 1"]);
        Finished::of(command.env(name, value).stdin(Stdio::null()).output())
    };
    let finished = run("APIARY_MEMROY", "1GiB");
    assert_eq!(finished.code, Some(2), "{finished:?}");
    for word in ["APIARY_MEMROY", "nearest", "\"memory\""] {
        assert!(finished.stderr.contains(word), "{finished:?}");
    }
    run("APIARY_MEMORY", "1GiB").success();
    run("APIARY_HISTORY", "somewhere").success();
}
