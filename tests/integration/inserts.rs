//! INSERT keeps DESIGN's promise for every source: no value is changed silently.

use apiary_tests::Bench;

#[test]
fn values_of_other_columns_are_never_rounded() {
    let bench = Bench::new();
    bench.sql(
        "CREATE TABLE s (d DECIMAL(12, 4), i BIGINT, f DOUBLE, t VARCHAR);
         INSERT INTO s VALUES (1.2345, 9007199254740993, 2.5, '7');
         CREATE TABLE cents (d DECIMAL(10, 2)); CREATE TABLE floats (f DOUBLE)",
    );
    for (statement, wanted) in [
        ("INSERT INTO cents SELECT d FROM s", "1.2345"),
        ("INSERT INTO cents SELECT f FROM s", "cast it"),
        ("INSERT INTO cents SELECT t FROM s", "cast it"),
        ("INSERT INTO floats SELECT i FROM s", "9007199254740993"),
        ("INSERT INTO floats SELECT d FROM s", "cast it"),
    ] {
        let message = bench.refused(statement);
        assert!(message.contains(wanted), "{statement}: {message}");
    }
    // What is exact comes along, and so does what the statement rounds itself.
    bench.sql(
        "INSERT INTO cents SELECT d - CAST('0.0045' AS DECIMAL(12, 4)) FROM s;
         INSERT INTO cents SELECT CAST(d AS DECIMAL(10, 2)) FROM s;
         INSERT INTO cents SELECT 1.5 FROM s UNION ALL SELECT 2;
         INSERT INTO cents VALUES (3), ('4.25'), (5.5e0);
         INSERT INTO floats SELECT i - 9007199254740992 FROM s;
         INSERT INTO floats SELECT 1.25 FROM s",
    );
    let printed = bench
        .run(["sql", "--format", "csv", "SELECT d FROM cents ORDER BY d"])
        .success()
        .stdout;
    assert_eq!(printed, "d\n1.23\n1.23\n1.50\n2.00\n3.00\n4.25\n5.50\n");
}

#[test]
fn nested_values_are_checked_and_matched_by_name() {
    let bench = Bench::new();
    bench.sql(
        "CREATE TABLE s AS SELECT [1.5, 2.0] AS l, named_struct('b', 2, 'a', 1) AS ab;
         CREATE TABLE lists AS SELECT [1] AS l WHERE false;
         CREATE TABLE structs AS SELECT named_struct('a', 0, 'b', 0) AS ab WHERE false",
    );
    let message = bench.refused("INSERT INTO lists SELECT l FROM s");
    assert!(message.contains("l.element"), "{message}");
    let message = bench.refused("INSERT INTO lists VALUES ([1.5])");
    assert!(message.contains("l.element"), "{message}");
    let message = bench.refused("INSERT INTO structs VALUES (struct(8, 9))");
    assert!(message.contains("named_struct"), "{message}");
    bench.sql(
        "INSERT INTO structs SELECT ab FROM s;
         INSERT INTO lists VALUES ([3, 4]), (NULL)",
    );
    let printed = bench
        .run([
            "sql",
            "--format",
            "csv",
            "SELECT ab['a'] AS a, ab['b'] AS b FROM structs",
        ])
        .success()
        .stdout;
    assert_eq!(printed, "a,b\n1,2\n");
}

#[test]
fn partition_values_that_would_read_as_others_are_refused() {
    let bench = Bench::new();
    bench.sql(
        "CREATE TABLE texts (p VARCHAR, v INT) PARTITIONED BY (p);
         CREATE TABLE days (p DATE, v INT) PARTITIONED BY (p);
         CREATE TABLE times (p TIMESTAMP, v INT) PARTITIONED BY (p)",
    );
    let before = bench.objects();
    for (statement, wanted) in [
        (
            "INSERT INTO texts VALUES ('__HIVE_DEFAULT_PARTITION__', 1)",
            "null",
        ),
        (
            "INSERT INTO days SELECT arrow_cast(3000000, 'Date32'), 1",
            "years 1 to 9999",
        ),
        (
            "INSERT INTO days SELECT arrow_cast(-800000, 'Date32'), 1",
            "years 1 to 9999",
        ),
        (
            "INSERT INTO times SELECT arrow_cast(300000000000000000, 'Timestamp(Microsecond, None)'), 1",
            "years 1 to 9999",
        ),
        (
            "INSERT INTO times SELECT arrow_cast(-63000000000000000, 'Timestamp(Microsecond, None)'), 1",
            "years 1 to 9999",
        ),
    ] {
        let message = bench.refused(statement);
        assert!(message.contains(wanted), "{statement}: {message}");
    }
    assert_eq!(bench.objects(), before);
    for (table, value) in [
        ("days", "DATE '0001-01-01'"),
        ("days", "DATE '9999-12-31'"),
        ("times", "TIMESTAMP '1677-12-31 23:59:59.999999'"),
    ] {
        bench.sql(&format!("INSERT INTO {table} VALUES ({value}, 1)"));
        let found = format!("SELECT count(*) AS n FROM {table} WHERE p = {value}");
        let printed = bench
            .run(["sql", "--format", "csv", &found])
            .success()
            .stdout;
        assert_eq!(printed, "n\n1\n", "{value}");
    }
}

#[test]
fn an_unreadable_frame_is_missing_in_lists_and_named_by_its_own_query() {
    let bench = Bench::new();
    bench.sql("CREATE TABLE good (a INT); CREATE TABLE bad (b INT)");
    let commit = bench
        .meadow()
        .join("default/default/bad/_delta_log/00000000000000000000.json");
    std::fs::write(commit, "{\"commitInfo\":").unwrap();
    let printed = bench
        .run([
            "sql",
            "--format",
            "csv",
            "SELECT table_name, column_name FROM information_schema.columns",
        ])
        .success();
    assert_eq!(printed.stdout, "table_name,column_name\ngood,a\n");
    for text in [
        "SELECT * FROM bad",
        "SELECT count(*) FROM information_schema.columns c JOIN bad ON c.column_name = 'a'",
    ] {
        let finished = bench.run(["sql", text]);
        assert_eq!(finished.code, Some(3), "{finished:?}");
        let message = finished.stderr;
        assert!(message.contains("default/bad/_delta_log"), "{message}");
    }
}
