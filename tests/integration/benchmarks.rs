//! The benchmarks run, and their peers agree with the answers. Figures are not judged here: a loaded
//! machine and a build without optimisation say nothing about speed.

use apiary_tests::{Bench, node_binary, python, repository, run_python};
use serde_json::Value;

fn figures(bench: &Bench, name: &str) -> Value {
    let text = std::fs::read_to_string(bench.path(name)).expect("the figures");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn duckdb_and_datafusion_give_the_same_22_tpch_answers() {
    let bench = Bench::new();
    let script = repository().join("tests/python/duckdb_worker.py");
    let peer = format!("{} {}", python().display(), script.display());
    let arguments = ["bench", "tpch", "--scale", "0.02", "--runs", "1"];
    let finished = bench
        .run(
            arguments
                .into_iter()
                .chain(["-o", "tpch.json", "--peer", &peer]),
        )
        .success();
    assert!(
        finished.stdout.contains("answers equal: 22 of 22"),
        "{finished:?}"
    );
    let figures = figures(&bench, "tpch.json");
    for place in [&figures["cold"], &figures["warm"]["interleaved"]] {
        assert!(place["ratio_to_peer"].as_f64() > Some(0.0), "{figures}");
        assert!(
            place["ratio_to_datafusion"].as_f64() > Some(0.0),
            "{figures}"
        );
    }
}

#[test]
fn the_same_rows_in_another_order_are_another_answer() {
    let bench = Bench::new();
    let peer = bench.file(
        "peer.sh",
        format!(
            r"sed -u 's/order by\\n\\tl_returnflag/& desc/' | {} {}",
            python().display(),
            repository().join("tests/python/duckdb_worker.py").display()
        ),
    );
    let arguments = ["bench", "tpch", "--scale", "0.01", "--runs", "1"];
    let peer = format!("bash {}", peer.display());
    let more = ["--queries", "1,3", "--peer", &peer];
    let finished = bench.run(arguments.into_iter().chain(more));
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(
        finished.stdout.contains("answers equal: 1 of 2")
            && finished
                .stderr
                .contains("query 1 differs from peer: in the columns of ORDER BY"),
        "{finished:?}"
    );
}

#[test]
fn a_peer_that_cannot_start_or_fails_is_named() {
    let bench = Bench::new();
    let arguments = [
        "bench",
        "tpch",
        "--scale",
        "0.01",
        "--runs",
        "1",
        "--queries",
        "1",
    ];
    let missing = bench.run(arguments.into_iter().chain(["--peer", "./no-such-peer"]));
    assert_ne!(missing.code, Some(0));
    assert!(missing.stderr.contains("no-such-peer"), "{missing:?}");
}

#[test]
fn loads_and_commits_are_compared_with_deltalake() {
    let bench = Bench::new();
    let node = node_binary().display().to_string();
    for (benchmark, size) in [
        ("load", ["--scale", "0.01"]),
        ("commits", ["--appends", "8"]),
    ] {
        let out = bench.path(benchmark).display().to_string();
        let here = bench.path("").display().to_string();
        let arguments = [
            benchmark,
            &node,
            "--runs",
            "1",
            "--output",
            &out,
            "--directory",
            &here,
        ];
        run_python("bench_peers.py", arguments.into_iter().chain(size));
        let figures = figures(&bench, benchmark);
        assert!(
            figures["medians"]["ratio"].as_f64() > Some(0.0),
            "{figures}"
        );
        if benchmark == "commits" {
            assert_eq!(figures["medians"]["apiary_failures"], 0, "{figures}");
        }
    }
}
