//! Ctrl-C and SIGTERM end every command, whatever it waits for, and a second one ends it at once.

use apiary_tests::{Bench, Finished};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

const INTERRUPT: &str = "INT";
const TERMINATE: &str = "TERM";
/// The bit of SIGINT in a mask of signals.
const INTERRUPT_BIT: u64 = 1 << 1;

/// Starts a command whose input stays open, and waits until it takes signals.
fn start(bench: &Bench, arguments: &[&str]) -> Child {
    let child = bench
        .command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("apiary-node starts");
    while !takes_signals(child.id()) {
        std::thread::yield_now();
    }
    child
}

fn takes_signals(process: u32) -> bool {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(path).expect("the process lives");
    assert!(!status.contains("State:\tZ"), "the command has ended");
    let blocked = status
        .lines()
        .find_map(|line| line.strip_prefix("SigBlk:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    blocked.is_some_and(|mask| mask & INTERRUPT_BIT != 0)
}

fn send(child: &Child, signal: &str) -> bool {
    let kill = std::process::Command::new("kill")
        .args(["-s", signal, &child.id().to_string()])
        .stderr(Stdio::null())
        .status();
    kill.expect("kill").success()
}

/// The end of a command; its input is open until then.
fn finish(mut child: Child) -> Finished {
    let input = child.stdin.take();
    let finished = Finished::of(child.wait_with_output());
    drop(input);
    finished
}

fn fifo(bench: &Bench, name: &str) -> String {
    let path = bench.path(name);
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.expect("mkfifo").success());
    path.display().to_string()
}

/// A statement that runs for hours.
const LONG: &str = "SELECT max(a.i * b.i) AS m FROM t a, t b";

fn with_rows() -> Bench {
    let bench = Bench::new();
    let lines: String = (0..300_000).map(|i| format!("{i}\n")).collect();
    let file = bench.file("t.csv", format!("i\n{lines}"));
    bench
        .run(["load", "t", &file.display().to_string()])
        .success();
    bench
}

#[test]
fn a_long_query_is_cancelled_and_the_next_one_is_not_disturbed() {
    let bench = with_rows();
    for signal in [INTERRUPT, TERMINATE] {
        let mut child = start(&bench, &["sql", "--format", "csv", "SELECT 1 AS n", LONG]);
        // The first statement's row says that the second one begins.
        let mut printed = BufReader::new(child.stdout.take().expect("piped"));
        for expected in ["n\n", "1\n"] {
            let mut line = String::new();
            printed.read_line(&mut line).expect("a line");
            assert_eq!(line, expected);
        }
        assert!(send(&child, signal));
        let finished = finish(child);
        assert_eq!(finished.code, Some(130), "{finished:?}");
        assert!(finished.stderr.contains("cancelled"), "{finished:?}");
    }
    assert_eq!(bench.sql("SELECT count(*) AS n FROM t"), "n\n300000\n");
}

#[test]
fn commands_that_wait_for_input_or_files_are_cancelled() {
    let bench = with_rows();
    // A node that is interrupted while it starts leaves what a killed one would: the Keeper's work.
    let objects = || {
        let is_data =
            |key: &str| !key.starts_with(".apiary-staging/") && !key.starts_with("_swarm/");
        let objects = bench.objects().into_iter();
        objects.filter(|(key, _)| is_data(key)).collect::<Vec<_>>()
    };
    let before = objects();
    let (csv, text) = (fifo(&bench, "slow.csv"), fifo(&bench, "slow.sql"));
    for arguments in [
        vec!["sql"],
        vec!["sql", "--file", &text],
        vec!["shell"],
        vec!["load", "t", &csv],
        vec!["load", "made", &csv],
    ] {
        for signal in [INTERRUPT, TERMINATE] {
            let child = start(&bench, &arguments);
            assert!(send(&child, signal));
            let finished = finish(child);
            assert_eq!(finished.code, Some(130), "{arguments:?}: {finished:?}");
        }
    }
    assert_eq!(objects(), before);
}

/// Storage that never answers: a ledger whose first commit is a pipe that nobody writes to.
#[test]
fn commands_that_wait_for_storage_are_cancelled_and_a_second_signal_does_not_wait() {
    let bench = with_rows();
    let key = "default/default/t/_delta_log/00000000000000000000.json";
    std::fs::remove_file(bench.meadow().join(key)).expect("version 0");
    let _ = fifo(&bench, &format!("meadow/{key}"));
    let child = start(&bench, &["inspect", key]);
    assert!(send(&child, INTERRUPT));
    assert_eq!(finish(child).code, Some(130));
    for arguments in [vec!["status"], vec!["sql", "SELECT * FROM t"]] {
        let child = start(&bench, &arguments);
        assert!(send(&child, INTERRUPT));
        // Unless the first one has ended it already.
        send(&child, INTERRUPT);
        let finished = finish(child);
        assert_eq!(finished.code, Some(130), "{arguments:?}: {finished:?}");
    }
}
