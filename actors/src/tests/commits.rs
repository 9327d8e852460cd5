//! Writes that are dropped, cancelled or lost while they commit.

use super::stream;
use super::{cell_count, frame, number, numbers, numbers_schema, rows, settle, slow_node, sql};
use crate::{Node, QueryOptions, WriteOptions, WriteReport};
use apiary_engine::error::{Error, ErrorKind, Result};
use apiary_engine::sql::{Session, parse};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

async fn in_flight(node: &Node) -> usize {
    node.status().await.expect("a status").commits_in_flight
}

/// A write of ten rows whose commit is on its way.
async fn committing(node: &Node, options: WriteOptions) -> JoinHandle<Result<WriteReport>> {
    let writer = node.clone();
    let rows = stream(vec![numbers(0..10)]);
    let write = tokio::spawn(async move { writer.write(&frame("t"), rows, options).await });
    while in_flight(node).await == 0 && !write.is_finished() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!write.is_finished(), "the commit is in flight");
    write
}

/// The frame's rows once nothing is in flight; that they can be read is the point.
async fn rows_in_the_end(node: &Node) -> i64 {
    while in_flight(node).await > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    settle().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    number(node, "SELECT count(DISTINCT n) FROM t")
        .await
        .expect("every cell that the frame names is there")
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_dropped_while_it_commits_leaves_a_frame_that_can_be_read() {
    let node = slow_node().await;
    let write = committing(&node, WriteOptions::default()).await;
    write.abort();
    assert!(write.await.is_err(), "dropped");
    assert_eq!(rows_in_the_end(&node).await, 10);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_cancelled_while_it_commits_is_told_its_outcome() {
    let node = slow_node().await;
    let cancel = CancellationToken::new();
    let options = WriteOptions {
        cancel: Some(cancel.clone()),
        ..WriteOptions::default()
    };
    let write = committing(&node, options).await;
    cancel.cancel();
    let report = write.await.expect("no panic").expect("it landed");
    assert_eq!(report.rows_written, 10);
    assert_eq!(rows_in_the_end(&node).await, 10);
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_driver_dies_while_it_commits_is_unknown_and_its_cells_stay() {
    let node = slow_node().await;
    let write = committing(&node, WriteOptions::default()).await;
    node.kill_statements();
    let error = write.await.expect("no panic").expect_err("nobody knows");
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
    assert_eq!(rows_in_the_end(&node).await, 10);
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_ledger_dies_while_it_commits_leaves_a_frame_that_can_be_read() {
    let node = slow_node().await;
    let write = committing(&node, WriteOptions::default()).await;
    node.kill_ledger();
    let error = write.await.expect("no panic").expect_err("nobody knows");
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
    let count = rows_in_the_end(&node).await;
    assert!(count == 0 || count == 10, "{count}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_a_commit_whose_caller_has_gone() {
    let node = slow_node().await;
    let meadow = node.environment().meadow.clone();
    committing(&node, WriteOptions::default()).await.abort();
    node.shutdown().await.expect("stopped");
    let commit = "default/default/t/_delta_log/00000000000000000001.json";
    assert!(meadow.get(commit).await.expect("a read").is_some());
    assert_eq!(cell_count(&node).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_cancelled_before_it_commits_leaves_nothing() {
    let node = slow_node().await;
    let cancel = CancellationToken::new();
    let options = WriteOptions {
        cancel: Some(cancel.clone()),
        ..WriteOptions::default()
    };
    let rows = futures::stream::iter([Ok(numbers(0..10))]).chain(futures::stream::pending());
    let rows = Box::pin(RecordBatchStreamAdapter::new(numbers_schema(), rows));
    let writer = node.clone();
    let write = tokio::spawn(async move { writer.write(&frame("t"), rows, options).await });
    settle().await;
    cancel.cancel();
    let error = write.await.expect("no panic").expect_err("cancelled");
    assert!(matches!(error, Error::Cancelled), "{error}");
    assert_eq!(rows_in_the_end(&node).await, 0);
    assert_eq!(cell_count(&node).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_query_that_is_cancelled_before_its_answer_says_so() {
    let node = slow_node().await;
    let cancel = CancellationToken::new();
    cancel.cancel();
    for text in ["SELECT * FROM t", "INSERT INTO t VALUES (1)"] {
        let options = QueryOptions {
            cancel: Some(cancel.clone()),
            ..QueryOptions::default()
        };
        let statement = parse(text).expect("SQL").remove(0);
        let session = Session::new().expect("names");
        let error = node.execute(statement, &session, options).await.err();
        assert!(matches!(error, Some(Error::Cancelled)), "{text}: {error:?}");
    }
    assert_eq!(rows_in_the_end(&node).await, 0);
}

#[tokio::test(start_paused = true)]
async fn only_a_statement_that_changes_names_can_have_an_unknown_outcome() {
    let node = slow_node().await;
    let texts = [
        ("SHOW TABLES", ErrorKind::Retry),
        ("DESCRIBE t", ErrorKind::Retry),
        ("USE HIVE default", ErrorKind::Retry),
        ("DROP TABLE t", ErrorKind::OutcomeUnknown),
    ];
    for (text, expected) in texts {
        let asker = node.clone();
        let asked = tokio::spawn(async move { sql(&asker, text).await.map(drop) });
        // Started, and not at its end: the registry is asked first.
        while node.status().await.expect("a status").running_queries == 0 {
            assert!(!asked.is_finished(), "{text}");
        }
        node.kill_statements();
        let error = asked.await.expect("no panic").expect_err("lost");
        assert_eq!(error.kind(), expected, "{text}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_overwrite_with_a_frames_own_rows_loses_no_append_that_comes_meanwhile() {
    let mut refused = 0;
    for pause_ms in 0..80 {
        let node = slow_node().await;
        rows(&node, "INSERT INTO t VALUES (1)").await.expect("put");
        let other = node.clone();
        let overwriting = tokio::spawn(async move {
            sql(&other, "INSERT OVERWRITE t SELECT n FROM t")
                .await
                .err()
        });
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        rows(&node, "INSERT INTO t VALUES (77)").await.expect("put");
        let error = overwriting.await.expect("no panic");
        if let Some(error) = &error {
            assert!(matches!(error, Error::Conflict(_)), "{error}");
            refused += 1;
        }
        let found = number(&node, "SELECT count(*) FROM t WHERE n = 77").await;
        assert_eq!(
            found.expect("an answer"),
            1,
            "after {pause_ms} ms, {error:?}"
        );
    }
    assert!((1..80).contains(&refused), "{refused} were refused");
}
