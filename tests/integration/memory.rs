//! Queries of much more than their memory, through the command line: they spill, or say why not.

use apiary_tests::{Bench, Finished};

const ROWS: i64 = 600_000;

/// A meadow with a frame of [`ROWS`] rows, some sixty bytes each.
fn filled() -> Bench {
    let bench = Bench::new();
    bench.sql(&format!(
        "CREATE TABLE t AS SELECT value AS id, (value * 7919) % 1000003 AS k, value % 100 AS g, \
         'a name of some length-' || ((value * 31337) % 999983) AS s \
         FROM generate_series(1, {ROWS})"
    ));
    bench
}

/// Two bees with the least memory that a bee can have: 32 MiB together.
fn run(bench: &Bench, text: &str) -> Finished {
    bench.run([
        "sql", "--memory", "32MiB", "--bees", "2", "--format", "csv", text,
    ])
}

#[track_caller]
fn check(bench: &Bench, text: &str, wanted: &str) {
    let finished = run(bench, text).success();
    assert_eq!(
        finished.stdout.lines().last(),
        Some(wanted),
        "{text}: {finished:?}"
    );
}

#[test]
fn sorts_limits_windows_joins_and_distincts_of_more_than_memory_finish() {
    let bench = filled();
    for (text, wanted) in [
        // Keys that are wider than the rows, and in none of their columns.
        (
            "SELECT max(n) FROM (SELECT id, row_number() OVER \
             (ORDER BY concat(s, '-', s, '-', s, '-', id)) n FROM t)",
            "600000",
        ),
        (
            "SELECT count(*), max(n) FROM (SELECT *, row_number() OVER (ORDER BY s, k) n FROM t)",
            "600000,600000",
        ),
        // More first rows than a heap may hold.
        (
            "SELECT count(*), min(id), max(id) FROM (SELECT * FROM t ORDER BY id DESC LIMIT 500000)",
            "500000,100001,600000",
        ),
        (
            "SELECT count(*), min(m) FROM \
             (SELECT id, max(k) m FROM t GROUP BY id ORDER BY m DESC LIMIT 599999)",
            "599999,5",
        ),
        // Windows that see all of their partition, and frames of everything partition by partition.
        (
            "SELECT count(*), min(c), max(c) FROM \
             (SELECT *, count(s) OVER (PARTITION BY g) c FROM t)",
            "600000,6000,6000",
        ),
        (
            "SELECT count(*), max(a.s) = max(b.s) FROM t a JOIN t b ON a.id = b.id",
            "600000,true",
        ),
        (
            "SELECT count(DISTINCT s), count(*), count(DISTINCT k), sum(id), count(DISTINCT id) \
             FROM t",
            "600000,600000,600000,180000300000,600000",
        ),
        (
            "SELECT count(*), max(n) FROM (SELECT s, k, count(*) n FROM t GROUP BY s, k)",
            "600000,1",
        ),
        // The side that is collected does not fit.
        (
            "SELECT count(*), count(DISTINCT a.s || b.s) FROM (SELECT s FROM t WHERE g >= 0) a \
             CROSS JOIN (SELECT s FROM t WHERE id <= 2) b",
            "1200000,1200000",
        ),
    ] {
        check(&bench, text, wanted);
    }
}

#[test]
fn a_nested_loop_join_gives_each_row_once_when_its_memory_runs_out() {
    let bench = filled();
    // Ids 1 to 10 have one partner each, in both partitions of the right side.
    let sides = "(SELECT id, s FROM t WHERE g % 200 >= 0) a {} JOIN \
        (SELECT id, s FROM t WHERE id % 60000 = 0) b \
        ON abs(a.id - b.id / 60000) < 1 AND length(a.s) + length(b.s) > 0";
    for (kind, counted, wanted) in [
        ("LEFT", "count(*), count(b.id)", "600000,10"),
        ("LEFT SEMI", "count(*), max(a.id)", "10,10"),
        ("LEFT ANTI", "count(*), min(a.id)", "599990,11"),
        ("FULL", "count(*), count(b.id)", "600000,10"),
    ] {
        let text = format!("SELECT {counted} FROM {}", sides.replace("{}", kind));
        check(&bench, &text, wanted);
    }
}

#[test]
fn what_cannot_spill_ends_with_a_report_that_says_what_to_change() {
    let bench = filled();
    for (text, advice) in [
        (
            "SELECT length(string_agg(s || s || s, ',')) FROM t",
            "an aggregate without GROUP BY",
        ),
        (
            "SELECT max(c) FROM (SELECT *, count(s) OVER () c FROM t)",
            "PARTITION BY",
        ),
    ] {
        let finished = run(&bench, text);
        assert_eq!(finished.code, Some(4), "{text}: {finished:?}");
        assert!(
            finished.stderr.contains("abandoned after 4 attempts")
                && finished.stderr.contains(advice),
            "{text}: {finished:?}"
        );
    }
}
