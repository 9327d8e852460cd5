use super::{
    frame, nobody, node, number, numbers, rows, settings, settle, slow_node, sql, stream,
    with_numbers,
};
use crate::node::Role;
use crate::{Node, NodeState, QueryOptions, WriteOptions};
use apiary_engine::error::{Error, ErrorKind};
use apiary_engine::settings::Settings;
use apiary_engine::sql::{Session, parse};
use apiary_engine::store::Meadow;
use apiary_protocol::keys;
use futures::StreamExt;
use object_store::memory::InMemory;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn a_node_creates_writes_and_answers() {
    let node = with_numbers(settings(2), 1000).await;
    assert_eq!(
        number(&node, "SELECT sum(n) FROM t")
            .await
            .expect("an answer"),
        499_500
    );
    let answer = sql(&node, "INSERT INTO t SELECT n + 1000 FROM t")
        .await
        .expect("inserted");
    assert!(!answer.has_rows);
    let report = answer.write.expect("a report");
    assert_eq!((report.rows_written, report.version), (1000, 2));
    assert_eq!(
        number(&node, "SELECT count(*) FROM t")
            .await
            .expect("an answer"),
        2000
    );
    sql(&node, "INSERT OVERWRITE t SELECT n FROM t WHERE n < 10")
        .await
        .expect("overwritten");
    assert_eq!(
        number(&node, "SELECT count(*) FROM t")
            .await
            .expect("an answer"),
        10
    );
    sql(&node, "CREATE TABLE u AS SELECT n * 2 AS m FROM t")
        .await
        .expect("created");
    assert_eq!(
        number(&node, "SELECT max(m) FROM u")
            .await
            .expect("an answer"),
        18
    );
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_cannot_be_filled_is_not_left_behind() {
    let node = with_numbers(settings(2), 10).await;
    let failed = sql(&node, "CREATE TABLE u AS SELECT 10 / (n - n) AS x FROM t").await;
    assert!(failed.is_err());
    let missing = sql(&node, "SELECT * FROM u").await.err().expect("no frame");
    assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
}

#[tokio::test(start_paused = true)]
async fn fifty_concurrent_appends_share_versions_and_none_is_lost() {
    let node = slow_node().await;
    let before = node
        .write(
            &frame("t"),
            stream(vec![numbers(0..1)]),
            WriteOptions::default(),
        )
        .await;
    let before = before.expect("written").version;
    let writes = (0..50).map(|index| {
        let node = node.clone();
        tokio::spawn(async move {
            let rows = stream(vec![numbers(index * 10..index * 10 + 10)]);
            node.write(&frame("t"), rows, WriteOptions::default()).await
        })
    });
    let mut last = before;
    for write in futures::future::join_all(writes).await {
        last = last.max(write.expect("no panic").expect("written").version);
    }
    assert!(last - before < 50, "{} versions", last - before);
    assert_eq!(
        number(&node, "SELECT count(*) FROM t")
            .await
            .expect("an answer"),
        501
    );
    assert_eq!(
        number(&node, "SELECT count(DISTINCT n) FROM t")
            .await
            .expect("an answer"),
        500
    );
}

#[tokio::test(start_paused = true)]
async fn one_transaction_commits_once() {
    let node = with_numbers(settings(1), 0).await;
    let options = WriteOptions {
        txn: Some(("loader".into(), 7)),
        ..WriteOptions::default()
    };
    for _ in 0..3 {
        let report = node
            .write(&frame("t"), stream(vec![numbers(0..5)]), options.clone())
            .await;
        report.expect("written, or written before");
    }
    assert_eq!(
        number(&node, "SELECT count(*) FROM t")
            .await
            .expect("an answer"),
        5
    );
}

#[tokio::test(start_paused = true)]
async fn a_query_for_each_batch_of_a_query_runs_on_one_core() {
    let node = with_numbers(settings(1), 100_000).await;
    let mut outer = sql(&node, "SELECT n FROM t").await.expect("an answer");
    let mut batches = 0;
    while let Some(batch) = outer.batches.next().await {
        batch.expect("rows");
        batches += 1;
        assert_eq!(
            number(&node, "SELECT count(*) FROM t")
                .await
                .expect("an answer"),
            100_000
        );
    }
    assert!(batches > 1);
}

#[tokio::test(start_paused = true)]
async fn a_result_that_nobody_reads_holds_no_bee() {
    let node = with_numbers(settings(1), 400_000).await;
    let mut unread = sql(&node, "SELECT n, n * 2, n * 3 FROM t")
        .await
        .expect("an answer");
    while node.status().await.expect("a status").running_queries > 0 {
        settle().await;
    }
    let status = node.status().await.expect("a status");
    assert_eq!(status.bees[0].state, "idle");
    let mut count = 0;
    while let Some(batch) = unread.batches.next().await {
        count += batch.expect("rows").num_rows();
    }
    assert_eq!(count, 400_000);
}

/// Never ends by itself.
const ENDLESS: &str = "SELECT sum(value) FROM generate_series(1, 1000000000000000)";

#[tokio::test(start_paused = true)]
async fn dropping_an_answer_ends_the_query_and_frees_everything() {
    let node = with_numbers(settings(2), 3000).await;
    let answer = sql(&node, ENDLESS).await.expect("an answer");
    settle().await;
    assert_eq!(node.status().await.expect("a status").running_queries, 1);
    drop(answer);
    settle().await;
    let status = node.status().await.expect("a status");
    assert_eq!(status.running_queries, 0);
    assert!(
        status
            .bees
            .iter()
            .all(|bee| bee.state == "idle" && bee.memory_used_bytes == 0),
        "{status:?}"
    );
    assert_eq!(
        number(&node, "SELECT count(*) FROM t")
            .await
            .expect("an answer"),
        3000
    );
}

#[tokio::test]
async fn a_deadline_ends_a_query() {
    let node = with_numbers(settings(1), 3000).await;
    let options = QueryOptions {
        deadline: Some(Duration::from_millis(200)),
        ..QueryOptions::default()
    };
    let statement = parse(ENDLESS).expect("SQL").remove(0);
    let mut answer = node
        .execute(statement, &Session::new().expect("names"), options)
        .await
        .expect("an answer");
    let error = answer
        .batches
        .next()
        .await
        .expect("an end")
        .expect_err("too late");
    assert!(matches!(error, Error::Deadline(_)), "{error}");
    settle().await;
    assert_eq!(node.status().await.expect("a status").bees[0].state, "idle");
}

#[tokio::test(start_paused = true)]
async fn a_hash_join_that_exceeds_its_memory_completes_on_the_second_attempt() {
    let tight = Settings {
        memory_bytes: Some(64 << 20),
        ..settings(1)
    };
    let node = with_numbers(tight, 0).await;
    for part in 0..10 {
        let rows = stream(vec![numbers(part * 200_000..(part + 1) * 200_000)]);
        node.write(&frame("t"), rows, WriteOptions::default())
            .await
            .expect("written");
    }
    let join = "SELECT count(*) FROM t a JOIN t b ON a.n = b.n AND a.n % 7 <> 8";
    assert_eq!(number(&node, join).await.expect("an answer"), 2_000_000);
    assert_eq!(node.status().await.expect("a status").abandoned_tasks, 1);
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_dies_with_a_commit_leaves_the_outcome_unknown_and_the_node_working() {
    let node = slow_node().await;
    let writer = node.clone();
    let write = tokio::spawn(async move {
        writer
            .write(
                &frame("t"),
                stream(vec![numbers(0..10)]),
                WriteOptions::default(),
            )
            .await
    });
    while node.status().await.expect("a status").commits_in_flight == 0 && !write.is_finished() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!write.is_finished(), "the commit is in flight");
    node.kill_ledger();
    let error = write.await.expect("no panic").expect_err("unknown");
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
    let count = number(&node, "SELECT count(*) FROM t")
        .await
        .expect("an answer");
    assert!(count == 0 || count == 10, "{count}");
    node.write(
        &frame("t"),
        stream(vec![numbers(0..1)]),
        WriteOptions::default(),
    )
    .await
    .expect("written");
    assert_eq!(
        number(&node, "SELECT count(*) FROM t")
            .await
            .expect("an answer"),
        count + 1
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_heartbeats_from_its_start_and_takes_it_back_at_its_end() {
    let node = node(settings(2)).await.expect("a node");
    settle().await;
    let key = keys::heartbeat(node.node_id());
    let meadow = node.environment().meadow.clone();
    assert!(meadow.get(&key).await.expect("a read").is_some());
    node.shutdown().await.expect("stopped");
    assert!(meadow.get(&key).await.expect("a read").is_none());
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(
        meadow.get(&key).await.expect("a read").is_none(),
        "no beat after the farewell"
    );
}

#[tokio::test(start_paused = true)]
async fn an_idle_node_makes_few_requests() {
    let node = node(settings(2)).await.expect("a node");
    settle().await;
    let sum = |node: &Node| {
        let counts = node.environment().meadow.requests();
        counts.get_count
            + counts.head_count
            + counts.put_count
            + counts.list_count
            + counts.delete_count
    };
    let before = sum(&node);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(sum(&node) - before <= 20 * 60);
}

#[tokio::test(start_paused = true)]
async fn no_actor_outlives_its_node_and_a_stopped_node_says_so() {
    let node = with_numbers(settings(2), 10).await;
    assert!(!nobody(node.census()));
    let mut unread = sql(&node, "SELECT n FROM t").await.expect("an answer");
    node.shutdown().await.expect("stopped");
    assert!(nobody(node.census()));
    node.shutdown().await.expect("a second stop does nothing");
    assert_eq!(
        unread
            .batches
            .next()
            .await
            .expect("rows")
            .expect("rows")
            .num_rows(),
        10
    );
    let refused = sql(&node, "SELECT 1").await.err().expect("refused");
    assert!(refused.to_string().contains("shut down"), "{refused}");
    assert!(node.status().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_until_what_an_aborted_task_started_has_let_go_of_its_scratch() {
    let node = node(settings(1)).await.expect("a node");
    let context = node.context().clone();
    let (sender, mut let_go) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        let work = move |chamber: crate::chamber::Chamber| async move {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(2)).await;
                drop(chamber);
                let _ = sender.send(());
            });
            std::future::pending::<apiary_engine::error::Result<()>>().await
        };
        context.bees.run("task".into(), 1, 1, work).await;
    });
    settle().await;
    task.abort();
    node.shutdown().await.expect("stopped");
    assert!(let_go.try_recv().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_brief_node_leaves_nothing_in_the_swarm() {
    let host = apiary_engine::host::testing::host();
    let meadow = super::memory_meadow(&host, &settings(1));
    let node = Node::start(host, meadow.clone(), settings(1), Role::Brief)
        .await
        .expect("a node");
    assert_eq!(number(&node, "SELECT 41 + 1").await.expect("an answer"), 42);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(
        meadow
            .list("_swarm", None)
            .await
            .expect("a list")
            .is_empty()
    );
    node.shutdown().await.expect("stopped");
}

#[tokio::test(start_paused = true)]
async fn a_resident_node_learns_who_is_alive_and_a_brief_one_sees_it_at_one_look() {
    let store = Arc::new(InMemory::new());
    let start = async |seed, role| {
        let host = apiary_engine::host::testing::host_with_seed(seed);
        let meadow = Meadow::over(store.clone(), "memory://tests", &host, &settings(1));
        let node = Node::start(host, meadow, settings(1), role).await;
        node.expect("a node")
    };
    let states = async |node: &Node| {
        let nodes = node.swarm().await.expect("the swarm").into_iter();
        nodes.map(|node| node.state).collect::<Vec<_>>()
    };
    let (first, second) = (
        start(1, Role::Resident).await,
        start(2, Role::Resident).await,
    );
    settle().await;
    assert_eq!(states(&first).await, [NodeState::Unknown], "it just met it");

    let brief = start(3, Role::Brief).await;
    let counts = |node: &Node| node.environment().meadow.requests();
    let before = counts(&brief);
    assert_eq!(states(&brief).await, [NodeState::Alive; 2]);
    let after = counts(&brief);
    assert_eq!(after.list_count - before.list_count, 1);
    assert_eq!(after.get_count - before.get_count, 2);
    assert_eq!(after.put_count, before.put_count);
    brief.shutdown().await.expect("stopped");

    tokio::time::sleep(Duration::from_secs(130)).await;
    let seen = first.swarm().await.expect("the swarm");
    assert_eq!(seen[0].state, NodeState::Alive, "it saw it change");
    assert_eq!(seen[0].node_id, second.node_id().to_string());
    assert_eq!(seen[0].beat.as_ref().expect("its beat").bees, 1);
    second.shutdown().await.expect("stopped");
    assert_eq!(states(&first).await, []);
    first.shutdown().await.expect("stopped");
}

#[tokio::test(start_paused = true)]
async fn a_killed_driver_ends_its_answer_with_an_error() {
    let node = with_numbers(settings(1), 3000).await;
    let mut answer = sql(&node, ENDLESS).await.expect("an answer");
    settle().await;
    node.kill_statements();
    let error = answer
        .batches
        .next()
        .await
        .expect("an end")
        .expect_err("lost");
    assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
    assert_eq!(rows(&node, "SELECT 1").await.expect("rows").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn explain_analyze_shows_what_the_run_cost() {
    let node = with_numbers(settings(1), 1000).await;
    let batches = rows(&node, "EXPLAIN ANALYZE SELECT sum(n) FROM t")
        .await
        .expect("rows");
    let text = arrow::util::pretty::pretty_format_batches(&batches)
        .expect("text")
        .to_string();
    for part in ["memory_peak_bytes", "spilled_bytes", "requests"] {
        assert!(text.contains(part), "{text}");
    }
}
