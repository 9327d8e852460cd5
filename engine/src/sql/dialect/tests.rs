use super::*;

fn one(text: &str) -> Statement {
    let mut statements = parse(text).unwrap();
    assert_eq!(statements.len(), 1, "{text}");
    statements.remove(0)
}

fn refusal(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn semicolons_in_literals_names_and_comments_separate_nothing() {
    let statements = parse("SELECT ';' AS \";\"; -- one; two\n /* ; */ SELECT 2;; ").unwrap();
    assert_eq!(statements.len(), 2);
    assert!(parse("").unwrap().is_empty());
    assert!(parse(" ; -- nothing\n;").unwrap().is_empty());
}

#[test]
fn words_of_our_own_are_found_only_where_they_begin_a_statement() {
    for text in [
        "SELECT 'DROP TABLE x', hive, box, frame FROM use WHERE show = 'USE HIVE y'",
        "WITH attach AS (SELECT 1) SELECT * FROM attach",
        "(SELECT 1) UNION (SELECT 2)",
        "VALUES (1), (2)",
        "EXPLAIN ANALYZE VERBOSE SELECT 1",
        "EXPLAIN SELECT 'DELETE FROM t'",
        "SHOW ALL",
    ] {
        assert!(matches!(one(text), Statement::Query(_)), "{text}");
    }
}

#[test]
fn both_vocabularies_mean_the_same() {
    let same = [
        ("USE HIVE h", "use database H"),
        ("USE BOX b", "USE SCHEMA b"),
        ("SHOW HIVES", "show databases"),
        ("SHOW BOXES IN h", "SHOW SCHEMAS FROM h"),
        ("SHOW FRAMES IN h.b", "SHOW TABLES FROM h.b"),
        ("DESCRIBE FRAME a.b.c", "DESC a.b.c"),
        (
            "CREATE HIVE IF NOT EXISTS h",
            "CREATE DATABASE IF NOT EXISTS h",
        ),
        ("CREATE BOX h.b", "CREATE SCHEMA h.b"),
        (
            "CREATE FRAME t (a INT NOT NULL)",
            "CREATE TABLE t (a INTEGER NOT NULL)",
        ),
        ("DROP HIVE h CASCADE", "DROP DATABASE h CASCADE"),
        ("DROP BOX IF EXISTS b", "DROP SCHEMA IF EXISTS b RESTRICT"),
        ("DROP FRAME t PURGE", "DROP TABLE t PURGE"),
        (
            "ATTACH FRAME t LOCATION 'x/y'",
            "ATTACH TABLE t LOCATION 'x/y'",
        ),
    ];
    for (bee, sql) in same {
        assert_eq!(format!("{:?}", one(bee)), format!("{:?}", one(sql)));
    }
}

#[test]
fn quoted_names_keep_their_case_and_may_hold_anything() {
    let Statement::Describe { frame } = one("DESCRIBE Hive.\"My Box\".\"select;from\"") else {
        panic!()
    };
    assert_eq!(frame, ["hive", "My Box", "select;from"]);
    let Statement::UseHive(hive) = one("USE HIVE \"HIVE\"") else {
        panic!()
    };
    assert_eq!(hive, "HIVE");
}

#[test]
fn a_frame_is_partitioned_before_or_behind_and_with_or_without_types() {
    let Statement::CreateFrame {
        frame,
        schema,
        partition_by,
        if_not_exists,
    } = one(
        "CREATE TABLE IF NOT EXISTS b.T (\"Id\" BIGINT NOT NULL, d DATE, p VARCHAR(10)) PARTITIONED BY (d, p)",
    )
    else {
        panic!()
    };
    assert!(if_not_exists);
    assert_eq!(frame, ["b", "t"]);
    assert_eq!(partition_by, ["d", "p"]);
    assert_eq!(schema.field(0).name(), "Id");
    assert!(!schema.field(0).is_nullable() && schema.field(1).is_nullable());

    let Statement::CreateFrame {
        schema,
        partition_by,
        ..
    } = one("CREATE TABLE t (a INT) PARTITIONED BY (day DATE, kind TEXT)")
    else {
        panic!()
    };
    assert_eq!(partition_by, ["day", "kind"]);
    assert_eq!(schema.fields().len(), 3);

    for text in [
        "CREATE TABLE t PARTITIONED BY (a) AS SELECT 1 AS a, 'PARTITIONED BY (b)' AS b",
        "CREATE TABLE t AS SELECT 1 AS a, 2 AS b PARTITIONED BY (a)",
    ] {
        let Statement::CreateFrameAs { partition_by, .. } = one(text) else {
            panic!()
        };
        assert_eq!(partition_by, ["a"], "{text}");
    }
}

#[test]
fn column_types_of_sql_and_of_arrow_are_understood() {
    use arrow::datatypes::{DataType, TimeUnit};
    let Statement::CreateFrame { schema, .. } = one(
        "CREATE TABLE t (a DECIMAL(12,2), b TIMESTAMP, c TIMESTAMP WITH TIME ZONE, d INT[], \
         e STRUCT<x INT, y TEXT>, f uint32, g DOUBLE PRECISION, h BYTEA, i timestamp_ns, \
         j BIGINT UNSIGNED, k MAP(TEXT, INT), l ARRAY<DOUBLE>, m int64, n TIMESTAMP(9))",
    ) else {
        panic!()
    };
    let types: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| field.data_type().clone())
        .collect();
    assert_eq!(types[0], DataType::Decimal128(12, 2));
    assert_eq!(types[1], DataType::Timestamp(TimeUnit::Microsecond, None));
    assert_eq!(
        types[2],
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
    );
    assert!(matches!(&types[3], DataType::List(item) if *item.data_type() == DataType::Int32));
    assert!(matches!(&types[4], DataType::Struct(fields) if fields.len() == 2));
    assert_eq!(types[5], DataType::UInt32);
    assert_eq!(types[7], DataType::Binary);
    assert_eq!(types[8], DataType::Timestamp(TimeUnit::Nanosecond, None));
    assert_eq!(types[9], DataType::UInt64);
    assert!(matches!(&types[10], DataType::Map(..)));
    assert!(refusal("CREATE TABLE t (a INTERVAL)").contains("INTERVAL of column a"));
    assert!(refusal("CREATE TABLE t (a DECIMAL(39,2))").contains("DECIMAL(39,2)"));
}

#[test]
fn an_insert_knows_its_columns_and_whether_it_replaces() {
    let Statement::Insert {
        frame,
        columns,
        overwrite,
        ..
    } = one("INSERT INTO a.b.c (x, \"Y\") SELECT 1, 2 FROM s")
    else {
        panic!()
    };
    assert_eq!(
        (frame.len(), columns, overwrite),
        (3, vec!["x".to_string(), "Y".to_string()], false)
    );
    for text in [
        "INSERT OVERWRITE t VALUES (1)",
        "INSERT OVERWRITE TABLE t SELECT 1",
    ] {
        assert!(
            matches!(
                one(text),
                Statement::Insert {
                    overwrite: true,
                    ..
                }
            ),
            "{text}"
        );
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (text, name) in [
        ("DELETE FROM t", "DELETE"),
        ("UPDATE t SET a = 1", "UPDATE"),
        (
            "MERGE INTO t USING s ON a = b WHEN MATCHED THEN DELETE",
            "MERGE",
        ),
        ("ALTER TABLE t ADD COLUMN a INT", "ALTER"),
        ("COPY t TO 'x'", "COPY"),
        ("CREATE VIEW v AS SELECT 1", "CREATE VIEW"),
        ("CREATE OR REPLACE TABLE t (a INT)", "CREATE OR REPLACE"),
        (
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'x'",
            "CREATE EXTERNAL TABLE",
        ),
        ("CREATE INDEX i ON t (a)", "CREATE INDEX"),
        (
            "CREATE FUNCTION f() RETURNS INT RETURN 1",
            "CREATE FUNCTION",
        ),
        ("CREATE TABLE t (a INT PRIMARY KEY)", "PRIMARY KEY"),
        ("CREATE TABLE t LIKE s", "LIKE"),
        ("SET datafusion.execution.batch_size = 1", "SET"),
        ("TRUNCATE TABLE t", "TRUNCATE"),
        ("DROP VIEW v", "DROP VIEW"),
        ("EXPLAIN DELETE FROM t", "DELETE"),
        ("EXPLAIN INSERT INTO t SELECT 1", "INSERT"),
        (
            "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING",
            "ON CONFLICT",
        ),
    ] {
        let message = refusal(text);
        assert!(
            message.contains(name) && message.contains("not supported"),
            "{text}: {message}"
        );
    }
    assert!(parse("WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a").is_err());
    assert!(parse("WITH a AS (SELECT 1) DELETE FROM t").is_err());
}

#[test]
fn a_syntax_error_says_where() {
    let message = refusal("SELECT 1;\nSELEC 2");
    assert!(
        message.starts_with("SQL error: ") && message.contains("Line: 2, Column: 1"),
        "{message}"
    );
    let message = refusal("SELECT\n (a FROM t");
    assert!(message.contains("Line: 2"), "{message}");
    assert!(refusal("SHOW BOXES IN").starts_with("SQL error: "));
    assert!(refusal("SHOW HIVES NOW").contains("NOW"));
    assert!(refusal("SELECT 'open").starts_with("SQL error: "));
    assert!(refusal("DESCRIBE a.b.c.d").contains("more than 3 parts"));
    let deep = format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000));
    assert!(refusal(&deep).contains("nests deeper"));
}
