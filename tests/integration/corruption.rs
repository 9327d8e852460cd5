//! Torn, truncated, corrupt or missing objects give an error that names them: never a wrong or an
//! empty answer.

use apiary_tests::{Bench, Random};
use std::path::{Path, PathBuf};

/// Twelve commits of one row each, a checkpoint every five.
fn frame(bench: &Bench) -> PathBuf {
    bench.file("apiary.toml", "checkpoint_interval = 5\n");
    let inserts: String = (1..=12)
        .map(|i| format!("INSERT INTO t VALUES ({i});"))
        .collect();
    let sql = format!("CREATE TABLE t (x INT); {inserts}");
    bench
        .run(["--config", "apiary.toml", "sql", &sql])
        .success();
    assert_eq!(
        bench.sql("SELECT count(*) AS n, sum(x) AS s FROM t"),
        "n,s\n12,78\n"
    );
    bench.meadow().join("default/default/t")
}

#[track_caller]
fn unreadable(bench: &Bench, named: &str) {
    let finished = bench.run([
        "sql",
        "SELECT count(*) AS n, sum(x) AS s FROM t WHERE x >= 0",
    ]);
    assert_eq!(finished.code, Some(3), "{finished:?}");
    assert!(
        finished.stderr.contains(named),
        "{named} is not in {}",
        finished.stderr
    );
    assert_eq!(finished.stdout, "");
}

fn a_cell(table: &Path) -> PathBuf {
    let mut files = std::fs::read_dir(table).expect("the frame").flatten();
    files
        .find_map(|entry| {
            let path = entry.path();
            path.extension()
                .is_some_and(|extension| extension == "parquet")
                .then_some(path)
        })
        .expect("a cell")
}

fn commit(version: u64) -> String {
    format!("_delta_log/{version:020}.json")
}

#[test]
fn a_torn_newest_commit_is_named() {
    for keep in ["nothing", "one line", "half"] {
        let bench = Bench::new();
        let table = frame(&bench);
        let path = table.join(commit(12));
        let body = std::fs::read_to_string(&path).expect("the commit");
        let cut = match keep {
            "nothing" => 0,
            "one line" => body.find('\n').expect("lines") + 1,
            _ => body.len() / 2,
        };
        std::fs::write(&path, &body[..cut]).expect("torn");
        unreadable(&bench, "00000000000000000012.json");
    }
}

#[test]
fn a_changed_byte_in_a_commit_is_named() {
    let bench = Bench::new();
    let table = frame(&bench);
    let path = table.join(commit(11));
    let body = std::fs::read_to_string(&path).expect("the commit");
    std::fs::write(&path, body.replace("\"size\":", "\"size\":1")).expect("changed");
    unreadable(&bench, "00000000000000000011.json");
}

#[test]
fn a_commit_missing_from_the_middle_is_named() {
    let bench = Bench::new();
    let table = frame(&bench);
    std::fs::remove_file(table.join(commit(11))).expect("removed");
    unreadable(&bench, "00000000000000000011.json");
}

#[test]
fn a_broken_checkpoint_never_changes_the_answer() {
    for broken in ["truncated", "empty", "garbage", "hint"] {
        let bench = Bench::new();
        let table = frame(&bench);
        let checkpoint = table.join("_delta_log/00000000000000000010.checkpoint.parquet");
        let body = std::fs::read(&checkpoint).expect("a checkpoint of version 10");
        match broken {
            "truncated" => std::fs::write(&checkpoint, &body[..body.len() / 2]),
            "empty" => std::fs::write(&checkpoint, b""),
            "garbage" => std::fs::write(&checkpoint, vec![7; body.len()]),
            _ => std::fs::write(table.join("_delta_log/_last_checkpoint"), b"{\"version\":"),
        }
        .expect("broken");
        let finished = bench.run([
            "sql",
            "--format",
            "csv",
            "SELECT count(*) AS n, sum(x) AS s FROM t",
        ]);
        // All commits are still there, so the answer can be had without the checkpoint.
        assert_eq!(
            (finished.code, finished.stdout.as_str()),
            (Some(0), "n,s\n12,78\n"),
            "{broken}: {finished:?}"
        );
    }
}

#[test]
fn a_missing_truncated_or_foreign_cell_is_named() {
    for broken in ["missing", "truncated", "longer"] {
        let bench = Bench::new();
        let table = frame(&bench);
        let cell = a_cell(&table);
        let name = cell
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        match broken {
            "missing" => std::fs::remove_file(&cell),
            "truncated" => {
                let body = std::fs::read(&cell).expect("the cell");
                std::fs::write(&cell, &body[..body.len() - 20])
            }
            _ => {
                let mut body = std::fs::read(&cell).expect("the cell");
                body.extend_from_slice(b"more");
                std::fs::write(&cell, body)
            }
        }
        .expect("broken");
        unreadable(&bench, &name);
    }
}

#[test]
fn a_corrupt_registry_is_named_quickly_and_other_objects_are_not_taken_for_it() {
    let bench = Bench::new();
    frame(&bench);
    let registry = bench.meadow().join("_registry");
    let newest = std::fs::read_dir(&registry)
        .expect("the registry")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .max()
        .expect("a version");
    let name = newest
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    let body = std::fs::read(&newest).expect("the newest version");
    for torn in [&body[..0], &body[..body.len() / 2]] {
        std::fs::write(&newest, torn).expect("torn");
        unreadable(&bench, &name);
    }
}

/// Flips one bit after another in the only cell of a frame: each query has the right answer or an
/// error that names the cell.
fn flip_bits(make: &str, row_group_rows: &str, flips: u32, seed: u64) {
    let bench = Bench::new();
    bench.run(["sql", "--set", row_group_rows, make]).success();
    let table = bench.meadow().join("default/default/t");
    let cell = a_cell(&table);
    let name = cell.file_name().expect("a name").to_string_lossy();
    let whole = std::fs::read(&cell).expect("the cell");
    let queries = [
        "SELECT sum(id), sum(k), max(text), min(text), count(text) FROM t",
        "SELECT id, k, text FROM t WHERE id BETWEEN 1500 AND 1510 ORDER BY id",
    ];
    let answers = queries.map(|query| bench.sql(query));
    let mut random = Random(seed);
    let mut errors = 0;
    // Anywhere, and the length of the footer at its highest bits.
    let mut changes: Vec<(usize, u64)> = (0..flips)
        .map(|_| (random.below(whole.len() as u64) as usize, random.below(8)))
        .collect();
    changes.extend((5..8).map(|from_end| (whole.len() - from_end, 7)));
    for (place, bit) in changes {
        let mut body = whole.clone();
        body[place] ^= 1 << bit;
        std::fs::write(&cell, &body).expect("a changed cell");
        for (query, answer) in queries.iter().zip(&answers) {
            let finished = bench.run(["sql", "--format", "csv", query]);
            if finished.code == Some(0) {
                assert_eq!(&finished.stdout, answer, "byte {place}, bit {bit}: {query}");
            } else {
                assert!(finished.stderr.contains(&*name), "{finished:?}");
                assert_eq!(finished.code, Some(3), "{finished:?}");
                errors += 1;
            }
        }
    }
    assert!(errors >= flips / 2, "{errors} errors of {flips} changes");
}

#[test]
fn a_changed_bit_in_a_small_cell_is_named() {
    let make = "CREATE TABLE t AS SELECT value AS id, value * 7919 % 1000 AS k, \
                'text ' || (value % 97) AS text FROM generate_series(0, 2999)";
    flip_bits(make, "row_group_rows=700", 40, 7);
}

#[test]
fn a_changed_bit_in_a_cell_of_many_blocks_is_named() {
    let make = "CREATE TABLE t AS SELECT value AS id, value * 7919 % 1000003 AS k, \
                md5(value::VARCHAR) AS text FROM generate_series(0, 149999)";
    flip_bits(make, "row_group_rows=100000", 20, 8);
}
