//! Callers that stop sending in the middle of a write.

use super::{cell_count, node, number, numbers, numbers_schema, settings, settle, sql};
use crate::{Node, WriteOptions, WriteReport};
use apiary_engine::error::Result;
use apiary_engine::settings::Settings;
use apiary_protocol::names::FrameName;
use arrow::record_batch::RecordBatch;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// More than is gathered before a bee is taken.
const MANY: i64 = 300_000;

/// A node with one bee and a write to `t` whose rows come when they are sent.
async fn slow_write(
    settings: Settings,
    create: &str,
) -> (
    Node,
    mpsc::UnboundedSender<RecordBatch>,
    JoinHandle<Result<WriteReport>>,
) {
    let node = node(settings).await.expect("a node");
    sql(&node, create).await.expect("created");
    let (send, receive) = mpsc::unbounded_channel();
    let rows = futures::stream::unfold(receive, |mut receive| async move {
        receive.recv().await.map(|batch| (Ok(batch), receive))
    });
    let rows = Box::pin(RecordBatchStreamAdapter::new(
        numbers_schema(),
        rows.boxed(),
    ));
    let frame = FrameName::parse("default", "default", "t").expect("a name");
    let writer = node.clone();
    let write =
        tokio::spawn(async move { writer.write(&frame, rows, WriteOptions::default()).await });
    (node, send, write)
}

async fn until_busy(node: &Node) {
    while node.status().await.expect("a status").bees[0].state == "idle" {
        settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_stops_sending_keeps_no_query_from_the_only_bee() {
    let (node, send, write) = slow_write(settings(1), "CREATE TABLE t (n BIGINT)").await;
    send.send(numbers(0..MANY)).expect("sent");
    until_busy(&node).await;
    // It stalls now. The answer comes while it does, and shows none of its rows.
    let answer = number(&node, "SELECT count(*) + 1 FROM t WHERE n >= 0").await;
    assert_eq!(answer.expect("an answer"), 1);
    assert!(!write.is_finished());
    let status = node.status().await.expect("a status");
    assert_eq!(
        (
            status.bees[0].state.as_str(),
            status.bees[0].memory_used_bytes
        ),
        ("idle", 0)
    );
    for part in 1..4 {
        send.send(numbers(part * MANY..(part + 1) * MANY))
            .expect("sent");
        let answer = number(&node, "SELECT count(*) + 1 FROM t WHERE n >= 0").await;
        assert_eq!(answer.expect("an answer"), 1);
    }
    drop(send);
    let report = write.await.expect("no panic").expect("written");
    assert_eq!((report.version, report.rows_written), (1, 4 * MANY as u64));
    assert_eq!(report.cells_written as usize, cell_count(&node).await);
    let sum = number(&node, "SELECT sum(n) FROM t")
        .await
        .expect("an answer");
    assert_eq!(sum, 4 * MANY * (4 * MANY - 1) / 2);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_after_a_pause_names_the_row_and_leaves_nothing() {
    let create = "CREATE TABLE t (n INT)";
    let (node, send, write) = slow_write(settings(1), create).await;
    send.send(numbers(0..MANY)).expect("sent");
    until_busy(&node).await;
    number(&node, "SELECT count(*) + 1 FROM t WHERE n >= 0")
        .await
        .expect("an answer");
    assert_eq!(cell_count(&node).await, 1, "the first stretch is uploaded");
    let wide = i64::from(i32::MAX);
    send.send(numbers(wide - 1..wide + 3)).expect("sent");
    drop(send);
    let error = write.await.expect("no panic").expect_err("too wide");
    let row = format!("row {} ", MANY + 2);
    assert!(error.to_string().contains(&row), "{error}");
    settle().await;
    assert_eq!(cell_count(&node).await, 0);
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_partitions_holds_over_all_of_a_write() {
    let few = Settings {
        max_partitions: 3,
        ..settings(1)
    };
    let create = "CREATE TABLE t (x BIGINT, n BIGINT) PARTITIONED BY (n)";
    let (node, send, write) = slow_write(few, create).await;
    for first in [0, 2] {
        let half = numbers(first..first + 2);
        let many: Vec<RecordBatch> = std::iter::repeat_n(half, 40_000).collect();
        let batch = arrow::compute::concat_batches(&numbers_schema(), &many).expect("one batch");
        send.send(batch.clone()).expect("sent");
        send.send(batch).expect("sent");
        until_busy(&node).await;
        number(&node, "SELECT count(*) + 1 FROM t WHERE n >= 0")
            .await
            .expect("an answer");
    }
    drop(send);
    let error = write.await.expect("no panic").expect_err("too many");
    assert!(
        error.to_string().contains("more than 3 partitions"),
        "{error}"
    );
    settle().await;
    assert_eq!(cell_count(&node).await, 0);
}
