//! Statements about names, through the command line: what each one answers, exactly.

use apiary_tests::Bench;

/// Runs statements in one process; each is given with what it prints as CSV.
#[track_caller]
fn check(bench: &Bench, statements: &[(&str, &str)]) {
    // A marker behind each, so that what they print can be told apart.
    let text: String = statements
        .iter()
        .map(|(statement, _)| format!("{statement};\nSELECT '--' AS \"--\";\n"))
        .collect();
    let printed = bench
        .run_with_input(["sql", "--format", "csv"], &text)
        .success()
        .stdout;
    let answers: Vec<&str> = printed.split("--\n--\n").collect();
    for ((statement, wanted), answer) in statements.iter().zip(&answers) {
        assert_eq!(answer, wanted, "{statement}");
    }
    assert_eq!(answers.len(), statements.len() + 1, "{printed}");
}

/// Statements that are refused, each with a part of its message; nothing changes in the meadow.
#[track_caller]
fn check_refused(bench: &Bench, statements: &[(&str, &str)]) {
    let before = bench.objects();
    for (statement, wanted) in statements {
        let message = bench.refused(statement);
        assert!(message.contains(wanted), "{statement}: {message}");
    }
    assert_eq!(bench.objects(), before);
}

#[test]
fn hives_and_boxes_are_made_shown_used_and_dropped() {
    let bench = Bench::new();
    check(
        &bench,
        &[
            ("SHOW HIVES", "hive\ndefault\n"),
            ("CREATE HIVE Farm", ""),
            ("CREATE DATABASE IF NOT EXISTS FARM", ""),
            ("CREATE DATABASE \"My Hive\"", ""),
            ("SHOW DATABASES", "hive\ndefault\nfarm\nMy Hive\n"),
            ("SHOW HIVES LIKE '%ARM'", "hive\nfarm\n"),
            ("SHOW HIVES LIKE 'm_ hive'", "hive\nMy Hive\n"),
            ("SHOW HIVES LIKE 'arm'", "hive\n"),
            ("SHOW BOXES", "box\ndefault\n"),
            ("CREATE BOX farm.field", ""),
            ("USE HIVE farm", "message\nusing farm.default\n"),
            ("CREATE SCHEMA IF NOT EXISTS field", ""),
            ("CREATE SCHEMA barn", ""),
            ("SHOW SCHEMAS", "box\nbarn\ndefault\nfield\n"),
            ("SHOW BOXES LIKE 'b%'", "box\nbarn\n"),
            ("SHOW BOXES IN default", "box\ndefault\n"),
            ("SHOW BOXES FROM farm LIKE '%e%'", "box\ndefault\nfield\n"),
            ("USE BOX barn", "message\nusing farm.barn\n"),
            ("USE DATABASE default", "message\nusing default.default\n"),
            ("USE SCHEMA \"default\"", "message\nusing default.default\n"),
            ("USE farm", "message\nusing farm.default\n"),
            ("USE SCHEMA FIELD", "message\nusing farm.field\n"),
            ("DROP BOX barn RESTRICT", ""),
            ("DROP SCHEMA IF EXISTS farm.barn", ""),
            ("DROP DATABASE IF EXISTS nowhere", ""),
            ("DROP HIVE farm CASCADE", ""),
            ("DROP DATABASE \"my hive\"", ""),
            ("SHOW HIVES", "hive\ndefault\n"),
        ],
    );
    bench.sql("CREATE DATABASE d; USE d; CREATE TABLE t (a INT)");
    assert_eq!(bench.sql("SHOW TABLES IN d.default"), "frame\nt\n");
    bench.sql("CREATE HIVE h; CREATE BOX h.b; CREATE FRAME h.b.t (a INT)");
    check_refused(
        &bench,
        &[
            ("CREATE HIVE H", "hive h already exists"),
            ("CREATE BOX h.B", "box h.b already exists"),
            ("CREATE BOX nowhere.b", "hive nowhere not found"),
            ("DROP HIVE nowhere", "hive nowhere not found"),
            ("DROP BOX nowhere", "box default.nowhere not found"),
            ("DROP HIVE h", "box b"),
            ("DROP BOX h.b RESTRICT", "frame t"),
            ("DROP HIVE default CASCADE", "default"),
            ("DROP BOX default.default", "default"),
            ("USE HIVE nowhere", "hive nowhere not found"),
            ("USE BOX nowhere", "box default.nowhere not found"),
            ("SHOW BOXES IN nowhere", "hive nowhere not found"),
            ("SHOW FRAMES IN h.nowhere", "box h.nowhere not found"),
            ("SHOW HIVES LIKE", "SQL error"),
            ("SHOW HIVES LIKE 'a' 'b'", "SQL error"),
        ],
    );
    check(
        &bench,
        &[
            ("DROP BOX h.b CASCADE", ""),
            ("SHOW BOXES IN h", "box\ndefault\n"),
            ("DROP HIVE h RESTRICT", ""),
        ],
    );
}

#[test]
fn frames_are_made_described_filled_and_dropped() {
    let bench = Bench::new();
    check(
        &bench,
        &[
            (
                "CREATE TABLE sales (id BIGINT NOT NULL, name VARCHAR, price DECIMAL(9,2), day DATE) \
                 PARTITIONED BY (day)",
                "",
            ),
            ("CREATE FRAME IF NOT EXISTS Sales (other INT)", ""),
            (
                "CREATE FRAME by_type (a INT) PARTITIONED BY (region VARCHAR)",
                "",
            ),
            ("SHOW FRAMES", "frame\nby_type\nsales\n"),
            ("SHOW TABLES LIKE 'S%'", "frame\nsales\n"),
            ("SHOW TABLES IN default", "frame\nby_type\nsales\n"),
            (
                "SHOW FRAMES FROM default.default LIKE '%\\_%'",
                "frame\nby_type\n",
            ),
            (
                "SHOW COLUMNS FROM sales",
                "column,type,nullable,partition\n\
                 id,Int64,NO,NO\n\
                 name,Utf8,YES,NO\n\
                 price,\"Decimal128(9, 2)\",YES,NO\n\
                 day,Date32,YES,YES\n",
            ),
            (
                "SHOW COLUMNS IN default.default.by_type LIKE 'r%'",
                "column,type,nullable,partition\nregion,Utf8,YES,YES\n",
            ),
            (
                "INSERT INTO sales VALUES (1, 'a', 1.50, DATE '2026-01-01'), (2, NULL, NULL, DATE '2026-01-02')",
                "",
            ),
            (
                "INSERT INTO sales (day, id) SELECT DATE '2026-01-03', 3",
                "",
            ),
            (
                "SELECT id, name, price, day FROM sales ORDER BY id",
                "id,name,price,day\n1,a,1.50,2026-01-01\n2,,,2026-01-02\n3,,,2026-01-03\n",
            ),
            (
                "CREATE TABLE copy PARTITIONED BY (day) AS SELECT day, id * 10 AS tens FROM sales",
                "",
            ),
            ("CREATE TABLE IF NOT EXISTS copy AS SELECT 1 AS one", ""),
            (
                "SELECT tens, day FROM copy WHERE day > DATE '2026-01-01' ORDER BY tens",
                "tens,day\n20,2026-01-02\n30,2026-01-03\n",
            ),
            (
                "INSERT OVERWRITE copy SELECT day, id FROM sales WHERE id = 1",
                "",
            ),
            ("SELECT tens FROM copy", "tens\n1\n"),
            (
                "INSERT OVERWRITE TABLE copy SELECT day, tens FROM copy WHERE false",
                "",
            ),
            ("SELECT count(*) AS n FROM copy", "n\n0\n"),
            ("DROP TABLE copy", ""),
            ("DROP FRAME IF EXISTS copy", ""),
            ("DROP TABLE by_type PURGE", ""),
            ("CREATE TABLE by_type (b BOOLEAN)", ""),
            (
                "SHOW COLUMNS FROM by_type",
                "column,type,nullable,partition\nb,Boolean,YES,NO\n",
            ),
        ],
    );
    check_refused(
        &bench,
        &[
            ("CREATE TABLE SALES (a INT)", "already exists"),
            ("CREATE TABLE sales AS SELECT 1 AS a", "already exists"),
            (
                "CREATE TABLE nowhere.t (a INT)",
                "box default.nowhere not found",
            ),
            ("CREATE TABLE nowhere.b.t (a INT)", "hive nowhere not found"),
            ("CREATE TABLE u (a INT) PARTITIONED BY (b)", "\"b\""),
            ("CREATE TABLE u (a INT) PARTITIONED BY (a)", "a"),
            (
                "DROP TABLE nowhere",
                "frame default.default.nowhere not found",
            ),
            (
                "DESCRIBE nowhere",
                "frame default.default.nowhere not found",
            ),
            (
                "SHOW COLUMNS FROM nowhere",
                "frame default.default.nowhere not found",
            ),
            (
                "INSERT INTO nowhere VALUES (1)",
                "frame default.default.nowhere not found",
            ),
            ("INSERT INTO sales VALUES (1)", "column"),
            ("INSERT INTO sales (id, nothing) VALUES (1, 2)", "nothing"),
            ("INSERT OVERWRITE sales SELECT 1, 'x', 2, NULL", "day"),
        ],
    );
    assert_eq!(bench.sql("SELECT count(*) AS n FROM sales"), "n\n3\n");
}

#[test]
fn a_frame_describes_itself() {
    let bench = Bench::new();
    bench.sql("CREATE TABLE t (a BIGINT NOT NULL, p VARCHAR) PARTITIONED BY (p)");
    bench.sql("INSERT INTO t VALUES (1, 'x'), (2, 'y'), (3, 'y')");
    let described = bench.sql("DESCRIBE t");
    let value = |property: &str| {
        let line = described
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{property},")));
        line.unwrap_or_else(|| panic!("{property} in {described}"))
            .to_string()
    };
    assert_eq!(value("schema"), "\"a Int64 NOT NULL, p Utf8\"");
    assert_eq!(value("partition_by"), "p");
    assert_eq!(value("cells"), "2");
    assert_eq!(value("total_rows"), "3");
    assert_eq!(value("name"), "default.default.t");
    assert_eq!(value("location"), "default/default/t");
    assert_eq!(value("version"), "1");
    assert_eq!(value("attached"), "false");
    assert_eq!(bench.sql("DESC FRAME default.t"), described);
    assert_eq!(bench.sql("DESCRIBE TABLE \"T\""), described);
    let bytes: u64 = bench
        .objects()
        .iter()
        .filter(|(key, _)| key.ends_with(".parquet"))
        .map(|(_, size)| size)
        .sum();
    assert_eq!(value("total_bytes"), bytes.to_string());
}

#[test]
fn a_delta_table_is_attached_read_written_and_only_detached() {
    let bench = Bench::new();
    bench.sql("CREATE TABLE t AS SELECT 1 AS n; DROP TABLE t");
    // A dropped frame's ledger says so; this one is a plain table.
    bench.sql("CREATE TABLE u AS SELECT 7 AS n");
    let meadow = bench.meadow();
    std::fs::create_dir_all(meadow.join("lake")).expect("a directory");
    std::fs::rename(meadow.join("default/default/u"), meadow.join("lake/u")).expect("moved");
    check_refused(
        &bench,
        &[
            (
                "ATTACH FRAME x LOCATION 'lake/nothing'",
                "Delta table lake/nothing not found",
            ),
            ("ATTACH FRAME x LOCATION '../u'", ".."),
            ("ATTACH FRAME x LOCATION '_registry'", "reserved"),
            ("ATTACH FRAME x LOCATION 'default/default/t'", "was dropped"),
            ("ATTACH FRAME x", "LOCATION"),
        ],
    );
    check(
        &bench,
        &[
            ("ATTACH FRAME x LOCATION 'lake/u/'", ""),
            ("ATTACH TABLE IF NOT EXISTS x LOCATION 'lake/u'", ""),
            ("SELECT n FROM x", "n\n7\n"),
            ("INSERT INTO x VALUES (8)", ""),
            ("SELECT sum(n) AS n FROM x", "n\n15\n"),
        ],
    );
    check_refused(
        &bench,
        &[
            ("ATTACH FRAME x LOCATION 'lake/u'", "already exists"),
            ("ATTACH FRAME y LOCATION 'lake/u'", "lake/u"),
            ("DROP TABLE x PURGE", "without PURGE"),
        ],
    );
    check(
        &bench,
        &[
            ("DROP TABLE x", ""),
            ("ATTACH FRAME y LOCATION 'lake/u'", ""),
            ("SELECT sum(n) AS n FROM y", "n\n15\n"),
        ],
    );
}
