//! The crate as a program uses it, on `memory://` and in temporary directories.

use crate::{
    Apiary, DropOptions, Error, ErrorKind, Parameter, Parameters, QueryOptions, ReadOptions, bind,
    parse,
};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::error::ArrowError;
use futures::executor::block_on;
use futures::stream;
use std::sync::Arc;
use std::time::Duration;

fn batch(ids: &[i64]) -> RecordBatch {
    let names: Vec<String> = ids.iter().map(|id| format!("n{id}")).collect();
    RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from(ids.to_vec())) as ArrayRef),
        ("name", Arc::new(StringArray::from(names)) as ArrayRef),
    ])
    .unwrap()
}

/// A meadow in memory is shared by its name: each test has its own.
fn memory(name: &str) -> Apiary {
    Apiary::builder(&format!("memory://{name}"))
        .bees(2)
        .open_blocking()
        .unwrap()
}

async fn rows(apiary: &Apiary, text: &str) -> usize {
    let batches = apiary.sql(text).await.unwrap().collect().await.unwrap();
    batches.iter().map(RecordBatch::num_rows).sum()
}

#[test]
fn it_works_on_an_executor_that_is_not_tokios() {
    block_on(async {
        let apiary = Apiary::open("memory://").await.unwrap();
        assert_eq!(rows(&apiary, "SELECT 1").await, 1);
        apiary.shutdown().await.unwrap();
        apiary.shutdown().await.unwrap();
        let error = apiary.sql("SELECT 1").await.unwrap_err();
        assert!(!error.to_string().is_empty());
    });
}

#[tokio::test(flavor = "current_thread")]
async fn it_may_be_dropped_without_a_shutdown_inside_another_runtime() {
    let apiary = Apiary::open("memory://").await.unwrap();
    let answer = apiary
        .sql("SELECT * FROM generate_series(1, 100000000)")
        .await
        .unwrap();
    drop(apiary);
    // The answer keeps the node alive; dropping it half read ends both.
    drop(answer);
}

#[test]
fn after_its_shutdown_a_node_makes_drops_and_shows_no_names() {
    let apiary = memory("stopped");
    block_on(async {
        let hive = apiary.create_hive("h").await.unwrap();
        let box_ns = hive.create_box("b").await.unwrap();
        let schema = batch(&[]).schema();
        let frame = box_ns.create_frame("f", schema.clone(), &[]).await.unwrap();
        apiary.shutdown().await.unwrap();
        let all = DropOptions {
            cascade: true,
            purge: true,
        };
        let rows = stream::iter([Ok::<_, Error>(batch(&[1]))]);
        let made = box_ns.create_frame_from("m", schema.clone(), &[], rows, Default::default());
        let refusals = [
            ("create_hive", apiary.create_hive("x").await.err()),
            ("drop_hive", apiary.drop_hive("h", all).await.err()),
            ("hives", apiary.hives().await.err()),
            ("create_box", hive.create_box("x").await.err()),
            ("drop_box", hive.drop_box("b", all).await.err()),
            (
                "create_frame",
                box_ns.create_frame("x", schema, &[]).await.err(),
            ),
            ("create_frame_from", made.await.err()),
            (
                "attach_frame",
                box_ns.attach_frame("x", "lake/x").await.err(),
            ),
            ("drop_frame", box_ns.drop_frame("f", true).await.err()),
            ("info", frame.info().await.err()),
            ("write", frame.write_batches(vec![batch(&[1])]).await.err()),
        ];
        for (door, refusal) in refusals {
            let refusal = refusal.map(|error| error.to_string()).unwrap_or_default();
            assert!(refusal.contains("shut down"), "{door}: {refusal:?}");
        }
    });
}

#[test]
fn several_statements_run_in_order_and_use_is_remembered() {
    let apiary = memory("statements");
    block_on(async {
        apiary
            .create_hive("farm")
            .await
            .unwrap()
            .create_box("east")
            .await
            .unwrap();
        let text = "USE HIVE farm; USE BOX east; CREATE TABLE t AS SELECT 1 AS x; SELECT * FROM t";
        assert_eq!(rows(&apiary, text).await, 1);
        assert_eq!(rows(&apiary, "SELECT * FROM t").await, 1);
        assert_eq!(apiary.resolve("t").unwrap().to_string(), "farm.east.t");
        let error = apiary.sql("  ").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rejected);
        apiary.shutdown().await.unwrap();
    });
}

#[test]
fn frames_are_made_written_overwritten_read_and_dropped_as_objects() {
    let apiary = memory("frames");
    block_on(async {
        let hive = apiary.create_hive("h").await.unwrap();
        let box_ns = hive.create_box("b").await.unwrap();
        let frame = box_ns
            .create_frame("f", batch(&[]).schema(), &["name"])
            .await
            .unwrap();
        let report = frame
            .write_batches(vec![batch(&[1, 2]), batch(&[3])])
            .await
            .unwrap();
        assert_eq!(
            (report.version, report.rows_written, report.cells_written),
            (1, 3, 3)
        );
        assert_eq!(frame.cell_keys().await.unwrap().len(), 3);
        let options = ReadOptions {
            columns: Some(vec!["id".into()]),
            filter: Some("name = 'n2' -- and no more".into()),
            ..ReadOptions::default()
        };
        let read = frame
            .read_with(&options)
            .await
            .unwrap()
            .collect()
            .await
            .unwrap();
        assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
        let several = ReadOptions {
            filter: Some("true); DROP TABLE t; SELECT (1".into()),
            ..ReadOptions::default()
        };
        let refused = frame.read_with(&several).await.map(drop).unwrap_err();
        assert!(refused.to_string().contains("one predicate"), "{refused}");
        frame
            .overwrite(stream::iter([Ok::<_, Error>(batch(&[9]))]))
            .await
            .unwrap();
        let info = frame.info().await.unwrap();
        assert_eq!((info.version, info.row_count), (2, Some(1)));
        assert_eq!(info.partition_by, ["name"]);
        let error = apiary
            .drop_hive("h", DropOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rejected);
        let all = DropOptions {
            cascade: true,
            purge: true,
        };
        assert!(apiary.drop_hive("h", all).await.unwrap());
        assert!(!apiary.drop_hive("h", all).await.unwrap());
        assert!(matches!(
            apiary.hive("h").await,
            Err(Error::NotFound { .. })
        ));
        assert!(matches!(frame.info().await, Err(Error::NotFound { .. })));
        apiary.shutdown().await.unwrap();
    });
}

#[test]
fn a_read_ends_at_its_deadline() {
    let apiary = memory("slow-read");
    block_on(async {
        let made = "CREATE TABLE t AS SELECT 1 AS id";
        apiary.sql(made).await.unwrap();
        let frame = apiary.frame("t").await.unwrap();
        let endless = "SELECT value FROM generate_series(1, 1000000000000) WHERE value % 7 = 11";
        let options = ReadOptions {
            filter: Some(format!("id IN ({endless})")),
            query: QueryOptions {
                deadline: Some(Duration::from_millis(50)),
                ..QueryOptions::default()
            },
            ..ReadOptions::default()
        };
        let read = async { frame.read_with(&options).await?.collect().await };
        let error = read.await.unwrap_err();
        assert!(matches!(error, Error::Deadline(_)), "{error}");
        apiary.shutdown().await.unwrap();
    });
}

#[test]
fn a_stream_that_fails_leaves_the_frame_as_it_was() {
    let apiary = memory("failing");
    block_on(async {
        apiary
            .sql("CREATE TABLE t (id BIGINT, name VARCHAR)")
            .await
            .unwrap();
        let frame = apiary.frame("t").await.unwrap();
        let broken = [
            Ok(batch(&[1])),
            Err(ArrowError::CsvError("line 7 is torn".into())),
        ];
        let error = frame.write(stream::iter(broken)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rejected);
        assert!(error.to_string().contains("line 7 is torn"), "{error}");
        assert_eq!(frame.info().await.unwrap().version, 0);
        let nothing = stream::iter(Vec::<Result<RecordBatch, Error>>::new());
        assert_eq!(frame.write(nothing).await.unwrap().rows_written, 0);
        apiary.shutdown().await.unwrap();
    });
}

#[test]
fn what_was_written_is_there_after_a_restart_and_can_be_inspected() {
    let directory = tempfile::TempDir::new().unwrap();
    let uri = directory.path().display().to_string();
    for expected in 1..=2 {
        let apiary = Apiary::open_blocking(&uri).unwrap();
        block_on(async {
            apiary
                .sql("CREATE TABLE IF NOT EXISTS t (x INT)")
                .await
                .unwrap();
            apiary
                .sql("INSERT INTO t VALUES (1)")
                .await
                .unwrap()
                .collect()
                .await
                .unwrap();
            assert_eq!(rows(&apiary, "SELECT * FROM t").await, expected);
            apiary.shutdown().await.unwrap();
        });
    }
    let key = "default/default/t/_delta_log/00000000000000000000.json";
    let shown = block_on(Apiary::builder(&uri).inspect(key)).unwrap();
    assert_eq!(shown["kind"], "commit");
    let error = block_on(Apiary::builder(&uri).inspect("default/none")).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

#[test]
fn whoever_saw_the_swarm_has_left_a_heartbeat() {
    for _ in 0..5 {
        let directory = tempfile::TempDir::new().unwrap();
        let apiary = Apiary::open_blocking(&directory.path().display().to_string()).unwrap();
        block_on(async {
            assert!(apiary.swarm().await.unwrap().is_empty());
            let beats = std::fs::read_dir(directory.path().join("_swarm/nodes")).unwrap();
            assert_eq!(beats.count(), 1);
            apiary.shutdown().await.unwrap();
        });
    }
}

#[test]
fn parameters_reach_queries_and_writes() {
    let apiary = memory("parameters");
    block_on(async {
        let given =
            Parameters::Positional(vec![Parameter::Integer(7), Parameter::Text("x".into())]);
        let text = "CREATE TABLE t AS SELECT ? AS n; INSERT INTO t SELECT $1 WHERE $2 = 'x'; \
                    SELECT n FROM t WHERE n = $1";
        let mut session = apiary.session();
        let mut rows = 0;
        for statement in bind(parse(text).unwrap(), &given).unwrap() {
            let answer = apiary
                .execute(statement, &session, QueryOptions::default())
                .await
                .unwrap();
            session = answer.session().clone();
            let batches = answer.collect().await.unwrap();
            rows = batches.iter().map(RecordBatch::num_rows).sum();
        }
        assert_eq!(rows, 2);
        apiary.shutdown().await.unwrap();
    });
}

#[test]
fn no_bees_are_refused() {
    let error = Apiary::builder("memory://")
        .bees(0)
        .open_blocking()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
}
