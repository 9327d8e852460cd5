//! Frames that are made together with their rows, and names that a stopping node no longer changes.

use super::{frame, node, number, numbers, numbers_schema, rows, settings, settle, slow_node, sql};
use super::{keys_under, stream, with_numbers};
use crate::{Node, WriteOptions, WriteReport};
use apiary_engine::error::{Error, ErrorKind, Result};
use apiary_engine::schema::FrameSchema;
use apiary_engine::sql::parse;
use apiary_protocol::names::Name;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::channel::mpsc;
use tokio::task::JoinHandle;

async fn count(node: &Node, name: &str) -> i64 {
    let text = format!("SELECT count(*) FROM {name}");
    number(node, &text).await.expect("an answer")
}

async fn is_missing(node: &Node, name: &str) -> bool {
    let text = format!("SELECT * FROM {name}");
    matches!(sql(node, &text).await.err(), Some(Error::NotFound { .. }))
}

fn schema() -> FrameSchema {
    FrameSchema::new(numbers_schema(), Vec::new()).expect("a schema")
}

type Rows = mpsc::UnboundedSender<Result<arrow::record_batch::RecordBatch, DataFusionError>>;

/// Rows that come when the test says so.
fn slow_rows() -> (Rows, SendableRecordBatchStream) {
    let (sender, rows) = mpsc::unbounded();
    let rows = RecordBatchStreamAdapter::new(numbers_schema(), rows);
    (sender, Box::pin(rows))
}

type Made = JoinHandle<Result<WriteReport>>;

/// A frame `t` in the making: ten rows have come, and more may.
async fn half_made(node: &Node) -> (Rows, Made) {
    let (sender, rows) = slow_rows();
    let maker = node.clone();
    let made = tokio::spawn(async move {
        let options = WriteOptions::default();
        maker
            .create_frame_from(&frame("t"), schema(), rows, options)
            .await
    });
    sender.unbounded_send(Ok(numbers(0..10))).expect("read");
    settle().await;
    (sender, made)
}

#[tokio::test(start_paused = true)]
async fn a_frame_made_from_a_query_has_its_rows_in_its_first_version() {
    let node = with_numbers(settings(2), 100).await;
    let made = sql(&node, "CREATE TABLE u AS SELECT n, n * 2 AS m FROM t").await;
    let report = made.expect("made").write.expect("a report");
    assert_eq!((report.version, report.rows_written), (0, 100));
    assert_eq!(count(&node, "u").await, 100);
    // Appended to like any other, also when there was nothing to begin with.
    rows(&node, "INSERT INTO u SELECT n, 0 FROM t")
        .await
        .expect("appended");
    assert_eq!(count(&node, "u").await, 200);
    rows(&node, "CREATE TABLE e AS SELECT n FROM t WHERE n < 0")
        .await
        .expect("made");
    rows(&node, "INSERT INTO e VALUES (1)")
        .await
        .expect("appended");
    assert_eq!(count(&node, "e").await, 1);
    let text = "CREATE TABLE p PARTITIONED BY (part) AS SELECT n, n % 3 AS part FROM t";
    rows(&node, text).await.expect("made");
    let third = number(&node, "SELECT count(*) FROM p WHERE part = 0").await;
    assert_eq!(third.expect("an answer"), 34);
}

#[tokio::test(start_paused = true)]
async fn nobody_sees_a_frame_before_its_rows_are_in_it() {
    let node = node(settings(2)).await.expect("a node");
    let (sender, made) = half_made(&node).await;
    assert!(is_missing(&node, "t").await);
    drop(sender);
    made.await.expect("no panic").expect("made");
    assert_eq!(count(&node, "t").await, 10);
}

#[tokio::test(start_paused = true)]
async fn making_a_frame_that_fails_leaves_what_others_made_under_its_name() {
    let node = node(settings(2)).await.expect("a node");
    for is_cancelled in [false, true] {
        let (sender, made) = half_made(&node).await;
        sql(&node, "CREATE TABLE t (n BIGINT)").await.expect("made");
        sql(&node, "INSERT INTO t VALUES (77)")
            .await
            .expect("acknowledged");
        if is_cancelled {
            made.abort();
            let _ = made.await;
        } else {
            let torn = DataFusionError::Execution("the input is torn".into());
            sender.unbounded_send(Err(torn)).expect("read");
            made.await.expect("no panic").expect_err("failed");
        }
        settle().await;
        let found = number(&node, "SELECT sum(n) FROM t").await;
        assert_eq!(found.expect("an answer"), 77, "{is_cancelled}");
        sql(&node, "DROP TABLE t").await.expect("dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rival_that_made_the_name_first_keeps_it_and_the_loser_leaves_nothing() {
    let node = node(settings(2)).await.expect("a node");
    let (sender, made) = half_made(&node).await;
    sql(&node, "CREATE TABLE t AS SELECT 5 AS n")
        .await
        .expect("made");
    drop(sender);
    let error = made.await.expect("no panic").expect_err("too late");
    assert!(matches!(error, Error::AlreadyExists { .. }), "{error}");
    settle().await;
    assert_eq!(count(&node, "t").await, 1);
    let keys = keys_under(&node, "default/default/t").await;
    assert_eq!(keys.len(), 2, "{keys:?}");
}

#[tokio::test(start_paused = true)]
async fn six_who_create_a_frame_if_it_does_not_exist_all_succeed_and_it_has_one_answer() {
    let node = slow_node().await;
    let text = "CREATE TABLE IF NOT EXISTS u AS SELECT value FROM generate_series(1, 50)";
    let created = (0..6).map(|_| rows(&node, text));
    for created in futures::future::join_all(created).await {
        created.expect("it exists");
    }
    assert_eq!(count(&node, "u").await, 50);
    let made = sql(&node, "CREATE TABLE u AS SELECT 1 AS x").await.err();
    assert!(
        matches!(made, Some(Error::AlreadyExists { .. })),
        "{made:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_is_lost_at_any_moment_leaves_no_empty_frame() {
    const ROWS: i64 = 50;
    let text = format!("CREATE TABLE u AS SELECT value FROM generate_series(1, {ROWS})");
    let statement = || parse(&text).expect("SQL").remove(0);
    let mut seen = std::collections::BTreeSet::new();
    for pause_ms in 0..120 {
        let node = slow_node().await;
        let creator = node.clone();
        let statement = statement();
        let created = tokio::spawn(async move {
            let session = apiary_engine::sql::Session::new().expect("names");
            let made = creator.execute(statement, &session, Default::default());
            made.await.map(drop)
        });
        tokio::time::sleep(std::time::Duration::from_millis(pause_ms)).await;
        node.kill_statements();
        let outcome = created.await.expect("no panic");
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let found = match is_missing(&node, "u").await {
            true => None,
            false => Some(count(&node, "u").await),
        };
        match outcome {
            Ok(()) => assert_eq!(found, Some(ROWS)),
            Err(error) if error.kind() == ErrorKind::OutcomeUnknown => {
                assert!(found.is_none_or(|rows| rows == ROWS), "{found:?}");
            }
            Err(error) => {
                assert_eq!(found, None, "{error}");
                // Its cells went, and its mark after them.
                for prefix in ["default/default/u", "_making"] {
                    let left = keys_under(&node, prefix).await;
                    assert_eq!(left, Vec::<String>::new(), "{pause_ms}");
                }
            }
        }
        seen.insert(found.is_some());
    }
    assert_eq!(seen.len(), 2, "too early and late enough were both tried");
}

#[tokio::test(start_paused = true)]
async fn a_stopped_node_changes_no_names_and_a_stop_waits_for_those_who_do() {
    let node = slow_node().await;
    let changer = node.clone();
    let name = || Name::new("hive", "farm").expect("a name");
    let made = tokio::spawn(async move {
        let work = |catalog: std::sync::Arc<apiary_engine::catalog::Catalog>| async move {
            catalog.create_hive(&name(), false).await
        };
        changer.change_names("making a hive", work).await
    });
    while node.status().await.expect("a status").running_queries == 0 {
        assert!(!made.is_finished());
    }
    made.abort();
    let _ = made.await;
    let catalog = node.environment().catalog.clone();
    node.shutdown().await.expect("stopped");
    let hives = catalog.view().await.expect("a view").hives();
    assert!(hives.contains(&name()), "{hives:?}");
    let refused = node.change_names("dropping a hive", |catalog| async move {
        catalog.drop_hive(&name(), true, true, true).await
    });
    let refused = refused.await.expect_err("stopped");
    assert!(refused.to_string().contains("shut down"), "{refused}");
    assert!(node.view().await.is_err());
    let rows = stream(vec![numbers(0..1)]);
    let options = WriteOptions::default();
    let name = frame("x");
    let refused = node.create_frame_from(&name, schema(), rows, options);
    assert!(refused.await.is_err());
}
