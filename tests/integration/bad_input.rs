//! Bad input gets an error that names the thing, and the store stays as it was.

use apiary_tests::Bench;

/// Runs something that must be refused and must not change one object.
#[track_caller]
fn refused_and_unchanged(bench: &Bench, arguments: &[&str], words: &[&str]) {
    let before = bench.objects();
    let finished = bench.run(arguments);
    assert_eq!(finished.code, Some(1), "{arguments:?}: {finished:?}");
    for word in words {
        assert!(
            finished.stderr.contains(word),
            "{word:?} is not in {}",
            finished.stderr
        );
    }
    assert_eq!(bench.objects(), before, "{arguments:?} changed the store");
}

#[test]
fn names_that_could_leave_the_store_or_confuse_a_person_are_refused() {
    let bench = Bench::new();
    bench.sql("CREATE TABLE kept (x INT)");
    let long = "n".repeat(300);
    for name in [
        "a/b",
        "a\\b",
        "..",
        ".",
        "../up",
        "a.b",
        "bell\u{7}",
        "",
        "_hidden",
        &long,
        "a\u{202e}b",
    ] {
        for sql in [
            format!("CREATE TABLE \"{name}\" (x INT)"),
            format!("CREATE HIVE \"{name}\""),
        ] {
            let before = bench.objects();
            let finished = bench.run(["sql", &sql]);
            assert_eq!(finished.code, Some(1), "{sql}: {finished:?}");
            assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
            assert_eq!(bench.objects(), before, "{sql} changed the store");
        }
    }
    assert!(!bench.directory.path().join("up").exists());
}

/// A partition's directories are a part of its cells' keys, and a key has an end in every store.
#[test]
fn partition_values_that_make_too_long_a_key_are_refused() {
    let bench = Bench::new();
    bench.sql(
        "CREATE TABLE t (n BIGINT, a VARCHAR, b VARCHAR, c VARCHAR, d VARCHAR, e VARCHAR) \
         PARTITIONED BY (a, b, c, d, e)",
    );
    let insert = |length: usize| {
        let value = format!("repeat('x', {length})");
        format!("INSERT INTO t VALUES (1, {value}, {value}, {value}, {value}, {value})")
    };
    refused_and_unchanged(
        &bench,
        &["sql", &insert(240)],
        &["a=xxx", "more than 1024 bytes", "shorter values"],
    );
    bench.sql(&insert(150));
    assert_eq!(bench.sql("SELECT length(e) AS l FROM t"), "l\n150\n");
}

#[test]
fn names_are_unique_ignoring_case_and_unicode_composition() {
    let bench = Bench::new();
    bench.sql("CREATE TABLE \"Größe\" (x INT); INSERT INTO \"Größe\" VALUES (7)");
    refused_and_unchanged(
        &bench,
        &["sql", "CREATE TABLE \"größe\" (x INT)"],
        &["already exists"],
    );
    refused_and_unchanged(
        &bench,
        &["sql", "CREATE TABLE \"gro\u{308}ße\" (x INT)"],
        &["already exists"],
    );
    assert_eq!(bench.sql("SELECT x FROM \"gro\u{308}ße\""), "x\n7\n");
}

#[test]
fn sql_mistakes_are_explained() {
    let bench = Bench::new();
    bench.sql("CREATE TABLE t (x INT)");
    refused_and_unchanged(&bench, &["sql", "SELEC 1"], &["SQL error"]);
    refused_and_unchanged(&bench, &["sql", "SELECT y FROM t"], &["y"]);
    refused_and_unchanged(
        &bench,
        &["sql", "SELECT * FROM missing"],
        &["missing", "not found"],
    );
    refused_and_unchanged(&bench, &["sql", "SELECT 'unclosed"], &["SQL error"]);
    refused_and_unchanged(
        &bench,
        &["sql", "DELETE FROM t"],
        &["DELETE", "not supported"],
    );
    refused_and_unchanged(
        &bench,
        &["sql", "UPDATE t SET x = 1"],
        &["UPDATE", "not supported"],
    );
    refused_and_unchanged(
        &bench,
        &["sql", "ALTER TABLE t ADD COLUMN y INT"],
        &["ALTER", "not supported"],
    );
    refused_and_unchanged(
        &bench,
        &["sql", "COPY t TO 'out.csv'"],
        &["COPY", "not supported"],
    );
    refused_and_unchanged(
        &bench,
        &["sql", "SELECT * FROM '/etc/passwd'"],
        &["/etc/passwd", "separator"],
    );
    refused_and_unchanged(
        &bench,
        &[
            "sql",
            "CREATE EXTERNAL TABLE e STORED AS CSV LOCATION '/etc/passwd'",
        ],
        &["not supported"],
    );
}

#[test]
fn columns_that_do_not_fit_are_refused_with_column_and_row() {
    let bench = Bench::new();
    bench.sql("CREATE TABLE t (id INT NOT NULL, small SMALLINT, name VARCHAR)");
    let arrow = |name: &str, text: &str| bench.file(name, text).display().to_string();

    let wide = arrow("wide.csv", "id,small,name\n1,2,a\n2,70000,b\n");
    refused_and_unchanged(
        &bench,
        &["load", "default.default.t", &wide],
        &["wide.csv", "line 2", "70000"],
    );
    let text = arrow("text.csv", "id,small,name\n1,x,a\n");
    refused_and_unchanged(&bench, &["load", "default.default.t", &text], &["text.csv"]);
    let missing = arrow("missing.csv", "small,name\n1,a\n");
    refused_and_unchanged(&bench, &["load", "default.default.t", &missing], &["id"]);
    let null = arrow("null.csv", "id,small,name\n1,1,a\n,1,b\n");
    refused_and_unchanged(
        &bench,
        &["load", "default.default.t", &null],
        &["id", "row 1", "null"],
    );

    let fits = arrow("fits.csv", "name,extra,id\nz,9,5\n");
    let loaded = bench.run(["load", "default.default.t", &fits]).success();
    assert!(
        loaded.stderr.contains("extra"),
        "the dropped column is named: {}",
        loaded.stderr
    );
    assert_eq!(
        bench.sql("SELECT id, small, name FROM t"),
        "id,small,name\n5,,z\n"
    );
}

#[test]
fn null_partition_values_and_too_many_partitions_are_refused() {
    let bench = Bench::new();
    bench.sql("CREATE TABLE p (k INT, v INT) PARTITIONED BY (k)");
    refused_and_unchanged(
        &bench,
        &["sql", "INSERT INTO p VALUES (1, 1), (NULL, 2)"],
        &["null", "k"],
    );
    bench.file("few.toml", "max_partitions = 3\n");
    refused_and_unchanged(
        &bench,
        &[
            "--config",
            "few.toml",
            "sql",
            "INSERT INTO p SELECT value AS k, 1 AS v FROM generate_series(1, 9)",
        ],
        &["max_partitions", "3"],
    );
}

#[test]
fn no_rows_are_a_result_and_a_write() {
    let bench = Bench::new();
    bench.sql("CREATE TABLE t (x INT, s VARCHAR)");
    assert_eq!(bench.sql("SELECT * FROM t"), "x,s\n");
    bench.sql("INSERT INTO t SELECT 1, 'a' WHERE false");
    assert_eq!(bench.sql("SELECT count(*) AS n FROM t"), "n\n0\n");
    let empty = bench.file("empty.csv", "x,s\n").display().to_string();
    bench.run(["load", "default.default.t", &empty]).success();
    assert_eq!(bench.sql("SELECT count(*) AS n FROM t"), "n\n0\n");
}

#[test]
fn a_string_of_64_mib_goes_in_and_comes_out() {
    let bench = Bench::new();
    let length = 64 << 20;
    let line = format!("{{\"id\": 1, \"s\": \"{}\"}}\n", "x".repeat(length));
    let file = bench.file("long.jsonl", line).display().to_string();
    bench.run(["load", "default.default.long", &file]).success();
    assert_eq!(
        bench.sql("SELECT length(s) AS n, count(*) AS c FROM long GROUP BY s"),
        format!("n,c\n{length},1\n")
    );
}

#[test]
fn corrupt_files_are_named_and_leave_nothing() {
    let bench = Bench::new();
    bench.sql("CREATE TABLE t (x INT)");
    for (name, content) in [
        ("bad.parquet", &b"PAR1 this is not parquet PAR1"[..]),
        ("short.parquet", b"PAR1"),
        ("empty.parquet", b""),
        ("bad.csv", b"x\n1\n2,3,4\n"),
        ("bad.jsonl", b"{\"x\": 1}\n{\"x\": \n"),
        ("bad.arrow", b"ARROW1\0\0 broken"),
    ] {
        let file = bench.file(name, content).display().to_string();
        refused_and_unchanged(&bench, &["load", "default.default.t", &file], &[name]);
        refused_and_unchanged(&bench, &["load", "default.default.fresh", &file], &[name]);
    }
    refused_and_unchanged(
        &bench,
        &["load", "default.default.t", "nowhere.csv"],
        &["nowhere.csv"],
    );
    assert!(bench.refused("SELECT * FROM fresh").contains("not found"));
}

#[test]
fn unknown_settings_and_stores_are_refused_by_name() {
    let bench = Bench::new();
    bench.file("apiary.toml", "no_such_setting = 1\n");
    let finished = bench.run(["--config", "apiary.toml", "sql", "SELECT 1"]);
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(
        finished.stderr.contains("no_such_setting"),
        "{}",
        finished.stderr
    );
    let finished = bench.run(["--storage", "ftp://host/x", "sql", "SELECT 1"]);
    assert_ne!(finished.code, Some(0));
    assert!(finished.stderr.contains("ftp"), "{}", finished.stderr);
}
