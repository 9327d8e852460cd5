//! The ledger over an in-memory store that misbehaves on request.

mod damage;
mod faults;
mod foreign;
mod keep;
mod model;
mod rules;
mod vectors;

use super::{Committed, Intent, Ledger, Snapshot};
use crate::error::{Error, Result};
use crate::host::testing::host_with_seed;
use crate::settings::Settings;
use crate::store::Meadow;
use apiary_protocol::delta::{Action, Add, Format, Metadata, Protocol, StringMap};
use apiary_protocol::ids::CommitId;
use bytes::Bytes;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use std::sync::Arc;

const LOCATION: &str = "hive/box/frame";

fn ledger_over(store: Arc<dyn ObjectStore>, seed: u64) -> Ledger {
    let settings = Settings {
        checkpoint_interval: 5,
        ..Settings::default()
    };
    let host = host_with_seed(seed);
    let meadow = Meadow::over(store, "memory://test", &host, &settings);
    Ledger::new(host, meadow, LOCATION.into(), &settings)
}

fn ledger() -> Ledger {
    ledger_over(Arc::new(InMemory::new()), 1)
}

fn id(ledger: &Ledger) -> CommitId {
    CommitId::from_random(ledger.host.entropy.bytes())
}

fn metadata(frame_id: &str) -> Metadata {
    Metadata {
        id: frame_id.into(),
        name: None,
        description: None,
        format: Format { provider: "parquet".into(), options: StringMap::new() },
        schema_string: r#"{"type":"struct","fields":[{"name":"a","type":"long","nullable":true,"metadata":{}}]}"#.into(),
        partition_columns: vec![],
        configuration: StringMap::new(),
        created_time: Some(1),
    }
}

fn protocol() -> Protocol {
    Protocol {
        min_reader_version: 1,
        min_writer_version: 2,
        reader_features: None,
        writer_features: None,
    }
}

async fn create(ledger: &Ledger) -> Arc<Snapshot> {
    ledger
        .create(id(ledger), metadata("frame"), protocol())
        .await
        .unwrap()
}

fn add(path: &str, rows: u64) -> Add {
    Add {
        path: path.into(),
        partition_values: StringMap::new(),
        size: 100,
        modification_time: 5,
        data_change: true,
        stats: Some(format!(r#"{{"numRecords":{rows}}}"#)),
        ..Add::default()
    }
}

/// The remove of a live cell.
fn remove(snapshot: &Snapshot, path: &str, data_change: bool) -> Action {
    let cell = snapshot.cell(path, None).expect("a live cell");
    Action::Remove(cell.remove(None, data_change))
}

fn append(ledger: &Ledger, paths: &[&str]) -> Intent {
    Intent::append(id(ledger), paths.iter().map(|path| add(path, 10)).collect())
}

async fn commit_one(ledger: &Ledger, base: &Arc<Snapshot>, intent: Intent) -> Result<Committed> {
    let (mut results, newest) = ledger.commit(Arc::clone(base), vec![intent]).await;
    assert_eq!(results.len(), 1);
    let result = results.remove(0);
    if let Ok(committed) = &result {
        assert!(newest.version >= committed.version);
    }
    result
}

fn paths(snapshot: &Snapshot) -> Vec<String> {
    snapshot
        .cells()
        .map(|cell| cell.add_path().to_string())
        .collect()
}

async fn put(ledger: &Ledger, key: &str, body: impl Into<Bytes>) {
    ledger.meadow.put(key, body.into()).await.unwrap();
}

fn corrupt_key(error: &Error) -> Option<&str> {
    match error {
        Error::Corrupt { key, .. } => Some(key),
        Error::Shared(error) => corrupt_key(error),
        _ => None,
    }
}
