//! Another program that writes the frame: it compacts cells, by the letter of the Delta protocol and without
//! a line of the engine's. What it cannot do at once it leaves; a crash may leave its cells behind. They
//! carry no checksums.

use super::rows;
use crate::checkers::reader;
use crate::clock;
use crate::object_store::{SimStore, StoreView};
use crate::rng::Rng;
use crate::trace::Trace;
use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use parquet::arrow::ArrowWriter;
use serde_json::json;
use std::error::Error;
use std::time::Duration;

/// Cells of one compaction.
const CELLS: (u64, u64) = (2, 6);
const PAUSE_US_MAX: u64 = 3_000_000;

/// Compacts the frame at a location now and then, for ever.
pub async fn run(store: SimStore, location: &str, trace: Trace, mut rng: Rng) {
    let view = store.view("outsider");
    loop {
        tokio::time::sleep(Duration::from_micros(rng.below(PAUSE_US_MAX))).await;
        match compact(&store, &view, location, &mut rng).await {
            Ok(()) => trace.count("compactions", 1),
            Err(error) => trace.event("outsider", format_args!("gave up: {error}")),
        }
    }
}

async fn compact(
    store: &SimStore,
    view: &StoreView,
    location: &str,
    rng: &mut Rng,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let objects = store.objects().await?;
    let frame = reader::read_log(&objects, location)?;
    let version = frame.versions.keys().last().ok_or("no version")? + 1;
    let (least, most) = CELLS;
    let first = rng.below(frame.cells.len() as u64) as usize;
    let cells = frame.cells.iter().skip(first);
    let cells: Vec<_> = cells.take(rng.between(least, most) as usize).collect();
    if cells.len() < least as usize {
        return Err("too few cells".into());
    }
    let mut merged = Vec::new();
    for (path, _) in &cells {
        merged.extend(reader::read_cell(&objects, location, path)?);
    }
    let batch = rows::to_arrow(&merged)?;
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None)?;
    writer.write(&batch)?;
    let body = writer.into_inner()?;
    let path = format!("compacted-{version}-{:016x}.parquet", rng.next());
    let now_ms = clock::EPOCH_SECONDS * 1_000 + clock::now().as_millis() as u64;
    let mut actions = vec![json!({"commitInfo": {
        "timestamp": now_ms, "operation": "OPTIMIZE", "operationParameters": {}, "isBlindAppend": false
    }})];
    actions.extend(cells.iter().map(|(path, cell)| {
        json!({"remove": {
            "path": path, "deletionTimestamp": now_ms, "dataChange": false,
            "extendedFileMetadata": true, "partitionValues": {}, "size": cell.named_bytes
        }})
    }));
    let statistics = json!({"numRecords": merged.len()}).to_string();
    actions.push(json!({"add": {
        "path": path, "partitionValues": {}, "size": body.len(), "modificationTime": now_ms,
        "dataChange": false, "stats": statistics
    }}));
    let lines: Vec<String> = actions.iter().map(ToString::to_string).collect();
    let cell = Path::parse(format!("{location}/{path}"))?;
    view.put(&cell, Bytes::from(body).into()).await?;
    let commit = Path::parse(format!("{location}/_delta_log/{version:020}.json"))?;
    let create = PutOptions {
        mode: PutMode::Create,
        ..PutOptions::default()
    };
    view.put_opts(&commit, Bytes::from(lines.join("\n")).into(), create)
        .await?;
    Ok(())
}
