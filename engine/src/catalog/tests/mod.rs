mod crashes;
mod frames;
mod heads;
mod making;
mod races;
mod reins;

use super::*;
use crate::host::testing::host_with_seed;
use crate::schema::FrameSchema;
use apiary_protocol::delta::Add;
use apiary_protocol::ids::FrameId;
use apiary_protocol::keys;
use apiary_protocol::names::FrameName;
use apiary_protocol::registry::{FrameState, Registry};
use arrow::datatypes::{DataType, Field, Schema};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use std::collections::{BTreeMap, BTreeSet};

type Store = Arc<dyn ObjectStore>;

/// A node's catalog over a store; the seed is that of its entropy.
fn catalog(store: &Store, seed: u64) -> Catalog {
    let host = host_with_seed(seed);
    let meadow = Meadow::over(Arc::clone(store), "memory:///", &host, &Settings::default());
    Catalog::new(host, meadow)
}

fn memory() -> Store {
    Arc::new(InMemory::new())
}

fn name(text: &str) -> Name {
    Name::new("hive", text).expect("a good name")
}

/// A frame of `default.default`, or a three-part name.
fn frame(text: &str) -> FrameName {
    let parts: Vec<&str> = text.split('.').collect();
    match parts[..] {
        [hive, box_name, frame] => FrameName::parse(hive, box_name, frame),
        _ => FrameName::parse("default", "default", text),
    }
    .expect("a good name")
}

fn schema() -> FrameSchema {
    let fields = vec![Field::new("id", DataType::Int64, true)];
    FrameSchema::new(Arc::new(Schema::new(fields)), Vec::new()).expect("a good schema")
}

/// The frames of `default.default`, by name.
async fn frames(catalog: &Catalog) -> Result<Vec<String>> {
    let view = catalog.view().await?;
    let frames = view.frames(&name("default"), &name("default"))?;
    Ok(frames
        .iter()
        .map(|entry| entry.name.frame.to_string())
        .collect())
}

/// Checks the invariants of the module in all that a store holds, read with a fresh eye. Gives the
/// newest version.
async fn check_invariants(store: &Store) -> Result<u64> {
    let observer = catalog(store, 0);
    let listed = observer.meadow.list(keys::REGISTRY_PREFIX, None).await?;
    let versions: Vec<u64> = listed
        .iter()
        .filter_map(|object| keys::registry_version(object.location.as_ref()))
        .collect();
    let newest = versions.len() as u64;
    assert_eq!(versions, (1..=newest).collect::<Vec<_>>(), "not dense");

    let mut owners: BTreeMap<String, FrameId> = BTreeMap::new();
    let mut changes = BTreeSet::new();
    for version in versions {
        let body = observer.meadow.get(&keys::registry(version)).await?;
        let registry = Registry::from_bytes(&body.unwrap_or_default()).expect("a sound version");
        assert!(
            changes.insert(registry.change),
            "one change made two versions"
        );
        for (name, record) in registry.frames().filter(|(_, record)| !record.attached) {
            let owner = owners.entry(record.location.clone()).or_insert(record.id);
            assert_eq!(
                *owner, record.id,
                "{name}: location {} used twice",
                record.location
            );
        }
    }
    let view = observer.view().await?;
    assert_eq!(view.version, newest);
    for hive in view.hives() {
        for box_name in view.boxes(&hive)? {
            for entry in view.frames(&hive, &box_name)? {
                let snapshot = observer.ledger(&entry.location).load().await?;
                assert!(!snapshot.is_dropped(), "{} is live and dropped", entry.name);
                if !entry.attached {
                    assert_eq!(snapshot.metadata.id, entry.id.to_string());
                }
            }
        }
    }
    Ok(newest)
}

/// The newest registry document.
async fn newest(catalog: &Catalog) -> Result<Registry> {
    Ok(catalog.head().await?.registry.clone())
}

/// All keys that begin with a text.
async fn keys_under(catalog: &Catalog, location: &str) -> Result<Vec<String>> {
    let listed = catalog.meadow.list(location, None).await?;
    Ok(listed
        .iter()
        .map(|object| object.location.to_string())
        .collect())
}

/// Whether nothing but fences lies at a location: commits that are all the same.
async fn is_purged(catalog: &Catalog, location: &str) -> Result<bool> {
    let mut bodies = BTreeSet::new();
    for key in keys_under(catalog, location).await? {
        if !key.starts_with(&keys::log_prefix(location)) || !key.ends_with(".json") {
            return Ok(false);
        }
        bodies.insert(catalog.meadow.get(&key).await?);
    }
    Ok(bodies.len() == 1 && catalog.ledger(location).load().await?.is_dropped())
}
