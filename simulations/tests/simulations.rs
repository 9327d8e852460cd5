//! Runs the simulation binary: same seed, same trace; power cuts; the seeds that once failed; and a
//! sabotaged run, which must be found out.
//!
//! Where address randomisation cannot be switched off, the binary says so and these tests pass unrun.

use std::process::{Command, Output};

const EXIT_FORBIDDEN: i32 = 77;

/// The output of the binary; `None` where simulations are forbidden.
fn simulate(arguments: &[&str]) -> Option<Output> {
    let output = Command::new(env!("CARGO_BIN_EXE_apiary-simulations"))
        .args(arguments)
        .output();
    let output = output.expect("the simulation binary starts");
    if output.status.code() == Some(EXIT_FORBIDDEN) {
        eprintln!("skipped: {}", String::from_utf8_lossy(&output.stdout));
        return None;
    }
    Some(output)
}

fn must_pass(arguments: &[&str]) {
    let Some(output) = simulate(arguments) else {
        return;
    };
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{arguments:?}\n{stdout}\n{stderr}");
}

/// Names of the scenarios that must hold.
fn scenarios() -> Vec<String> {
    let Some(output) = simulate(&["list"]) else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let honest = text.lines().filter(|line| !line.ends_with("(sabotaged)"));
    honest
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_string)
        .collect()
}

#[test]
fn the_same_seed_gives_the_same_trace_in_two_processes() {
    for scenario in scenarios() {
        must_pass(&["meta", &scenario, "--seed", "1", "--seeds", "2"]);
    }
}

#[test]
fn a_hundred_power_cuts_lose_and_double_nothing_acknowledged() {
    must_pass(&["run", "power-cuts", "--seed", "1000", "--seeds", "10"]);
}

#[test]
fn frames_survive_power_cuts_in_the_middle_of_ddl() {
    must_pass(&["run", "ddl-crash", "--seed", "1000", "--seeds", "8"]);
}

#[test]
fn commits_of_three_nodes_on_a_failing_store_are_there_once() {
    must_pass(&["run", "commit-faults", "--seed", "1000", "--seeds", "6"]);
}

#[test]
fn a_swarm_that_crashes_freezes_and_stops_gives_right_answers_and_ends_every_query() {
    must_pass(&["run", "swarm", "--seed", "1000", "--seeds", "6"]);
}

#[test]
fn whatever_is_damaged_under_swarm_queries_end_with_the_right_answer_or_an_error_that_names_it() {
    must_pass(&["run", "swarm-damage", "--seed", "1000", "--seeds", "6"]);
}

#[test]
fn damage_to_what_is_kept_is_told_as_damage_or_harms_nothing() {
    must_pass(&["run", "ledger-damage", "--seed", "1000", "--seeds", "10"]);
}

#[test]
fn seeds_that_once_failed_pass() {
    must_pass(&["seeds"]);
}

/// What is planted hangs on a feature that nobody asks for by default.
#[test]
fn no_mistake_can_be_switched_on_in_this_build() {
    const MARK: &[u8] = b"this build has planted mistakes";
    let program = env!("CARGO_BIN_EXE_apiary-simulations");
    let program = std::fs::read(program).expect("the simulation binary");
    assert!(!program.windows(MARK.len()).any(|bytes| bytes == MARK));
}

#[test]
fn a_node_that_does_not_sync_is_found_out() {
    let Some(output) = simulate(&["run", "unsynced", "--seeds", "5"]) else {
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("FAILED unsynced seed"), "{text}");
    let replay = "replay: cargo run -p apiary-simulations -- run unsynced --seed";
    assert!(text.contains(replay), "{text}");
}
