//! Hives, boxes and frames as objects; a stream of batches in, some columns and rows out.
//!
//! `cargo run -p apiary --example frames [URI]`

use apiary::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use apiary::{Apiary, DropOptions, ReadOptions};
use futures::TryStreamExt;
use std::sync::Arc;

fn readings(day: i64) -> RecordBatch {
    let columns = [
        ("day", Arc::new(Int64Array::from(vec![day; 3])) as ArrayRef),
        (
            "sensor",
            Arc::new(StringArray::from(vec!["east", "west", "roof"])) as ArrayRef,
        ),
        (
            "celsius",
            Arc::new(Int64Array::from(vec![day + 10, day + 12, day + 15])) as ArrayRef,
        ),
    ];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> apiary::Result<()> {
    let uri = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "memory://".into());
    let apiary = Apiary::open(&uri).await?;
    let farm = apiary.create_hive("farm").await?;
    let sensors = farm.create_box("sensors").await?;
    let frame = sensors
        .create_frame("temperature", readings(0).schema(), &["day"])
        .await?;

    let week = futures::stream::iter((1..=7).map(|day| Ok::<_, apiary::Error>(readings(day))));
    let report = frame.write(week).await?;
    println!(
        "wrote {} rows in {} cells as version {}",
        report.rows_written, report.cells_written, report.version
    );

    let some = ReadOptions {
        columns: Some(vec!["sensor".into(), "celsius".into()]),
        filter: Some("day = 3".into()),
        ..ReadOptions::default()
    };
    let mut rows = frame.read_with(&some).await?;
    while let Some(batch) = rows.try_next().await? {
        println!("read {} rows", batch.num_rows());
    }
    let info = frame.info().await?;
    println!(
        "{}: {:?} rows, {} bytes in {}",
        frame.name(),
        info.row_count,
        info.total_bytes,
        info.location
    );

    apiary
        .drop_hive(
            "farm",
            DropOptions {
                cascade: true,
                purge: true,
            },
        )
        .await?;
    apiary.shutdown().await
}
