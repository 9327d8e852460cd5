//! All rows of a statement, and how long they took: what other clients are measured against.
//!
//! `cargo run --release -p apiary --example rows [URI [STATEMENT [RUNS]]]`

use apiary::Apiary;
use futures::TryStreamExt;
use std::time::Instant;

#[tokio::main(flavor = "current_thread")]
async fn main() -> apiary::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let uri = arguments.next().unwrap_or_else(|| "memory://".into());
    let text = arguments
        .next()
        .unwrap_or_else(|| "SELECT value FROM generate_series(1, 1000)".into());
    let runs: usize = arguments
        .next()
        .and_then(|runs| runs.parse().ok())
        .unwrap_or(3);
    let apiary = Apiary::open(&uri).await?;
    for _ in 0..runs {
        let started = Instant::now();
        let batches: Vec<_> = apiary.sql(&text).await?.try_collect().await?;
        let rows: usize = batches.iter().map(|batch| batch.num_rows()).sum();
        println!("{rows} rows in {} us", started.elapsed().as_micros());
    }
    apiary.shutdown().await
}
