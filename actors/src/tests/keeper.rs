use super::{node, settings, sql};
use apiary_engine::settings::Settings;
use std::time::Duration;

/// By the requests that a node made in each of some minutes.
async fn requests_per_minute(node: &crate::Node, minutes: usize) -> Vec<u64> {
    let mut counts = Vec::new();
    let mut before = None;
    for _ in 0..=minutes {
        let made = node.status().await.expect("a status").requests;
        let made =
            made.get_count + made.head_count + made.put_count + made.list_count + made.delete_count;
        counts.extend(before.map(|before| made - before));
        before = Some(made);
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn an_idle_node_makes_few_requests_whatever_the_store_holds() {
    let long = Settings {
        checkpoint_interval: 1_000,
        ..settings(1)
    };
    let node = node(long).await.expect("a node");
    for frame in 0..8 {
        let text = format!("CREATE TABLE t{frame} (n BIGINT)");
        sql(&node, &text).await.expect("created");
    }
    // A log that takes many requests to read.
    for n in 0..100 {
        let text = format!("INSERT INTO t0 VALUES ({n})");
        sql(&node, &text).await.expect("inserted");
    }
    let counts = requests_per_minute(&node, 240).await;
    let most = counts.iter().max().expect("minutes");
    assert!(*most <= 20, "{counts:?}");
    // It did look after all frames, also the one with the long log.
    assert!(counts.iter().sum::<u64>() > 240 + 100, "{counts:?}");
    node.shutdown().await.expect("stopped");
}

#[tokio::test(start_paused = true)]
async fn a_sweep_age_that_a_write_could_outlive_is_refused() {
    let short = Settings {
        sweep_age_ms: 3_600_000,
        ..settings(1)
    };
    let refused = node(short).await.expect_err("refused");
    assert!(refused.to_string().contains("raise sweep_age"), "{refused}");
}
