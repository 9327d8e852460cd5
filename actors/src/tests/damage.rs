//! A log that loses versions which a node knows already.

use super::{frame, memory_meadow, number, numbers, settings, sql, stream};
use crate::ledger::LOOK_INTERVAL;
use crate::node::{Node, Role};
use crate::{WriteOptions, WriteReport};
use apiary_engine::error::{Error, ErrorKind, Result};
use apiary_engine::host::Host;
use apiary_engine::host::testing::{SteppingClock, host};
use apiary_protocol::keys;
use std::sync::Arc;

async fn append(node: &Node, n: i64) -> Result<WriteReport> {
    let rows = stream(vec![numbers(n..n + 1)]);
    node.write(&frame("t"), rows, WriteOptions::default()).await
}

/// Without the look, a version in the middle is missed by nobody who knows a later one, and a commit
/// after the newest ones vanished is made over a gap.
#[tokio::test(start_paused = true)]
async fn a_version_that_vanished_stops_whoever_knows_a_later_one_until_it_is_back() {
    let clock = Arc::new(SteppingClock::default());
    let host = Host {
        clock: Arc::clone(&clock) as _,
        ..host()
    };
    let meadow = memory_meadow(&host, &settings(2));
    let node = Node::start(host, meadow, settings(2), Role::Brief).await;
    let node = node.expect("a node");
    sql(&node, "CREATE TABLE t (n BIGINT)")
        .await
        .expect("created");
    for n in 0..3 {
        append(&node, n).await.expect("written");
    }
    let meadow = &node.environment().meadow;
    for gone in [1, 3] {
        let key = keys::commit("default/default/t", gone);
        let commit = meadow.get(&key).await.expect("read").expect("a commit");
        meadow.delete(&key).await.expect("deleted");
        let names_it = |error: &Error| {
            let text = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{text}");
            assert!(text.contains(&key) && text.contains("restore it"), "{text}");
        };
        clock.advance(LOOK_INTERVAL);
        // Not only once: what is left is not the table.
        for _ in 0..2 {
            let read = number(&node, "SELECT count(*) FROM t").await;
            names_it(&read.expect_err("a gap"));
            names_it(&append(&node, 7).await.expect_err("a gap"));
        }
        meadow.put(&key, commit).await.expect("restored");
        let count = number(&node, "SELECT count(*) FROM t").await;
        assert_eq!(count.expect("an answer"), 3);
    }
    assert_eq!(append(&node, 3).await.expect("written").version, 4);
    node.shutdown().await.expect("a stop");
}

/// What a statement costs is not raised by the look.
#[tokio::test(start_paused = true)]
async fn a_log_in_use_is_looked_at_once_in_a_while() {
    let clock = Arc::new(SteppingClock::default());
    let host = Host {
        clock: Arc::clone(&clock) as _,
        ..host()
    };
    let meadow = memory_meadow(&host, &settings(2));
    let node = Node::start(host, meadow, settings(2), Role::Brief).await;
    let node = node.expect("a node");
    sql(&node, "CREATE TABLE t (n BIGINT)")
        .await
        .expect("created");
    append(&node, 0).await.expect("written");
    let meadow = &node.environment().meadow;
    let lists = async || {
        let before = meadow.requests().list_count;
        for n in 0..10 {
            append(&node, n).await.expect("written");
        }
        meadow.requests().list_count - before
    };
    assert_eq!(lists().await, 0);
    clock.advance(LOOK_INTERVAL);
    assert_eq!(lists().await, 1);
    node.shutdown().await.expect("a stop");
}
