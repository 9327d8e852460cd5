//! The meadow: `object_store`, rooted, with what it lacks.

use crate::error::Result;
use crate::host::Host;
use crate::settings::Settings;
use bytes::Bytes;
use object_store::{ObjectMeta, ObjectStore};
use std::sync::Arc;

/// Requests made to the meadow since the process started, by kind. A LIST counts one per page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RequestCounts {
    pub get_count: u64,
    pub head_count: u64,
    pub put_count: u64,
    pub list_count: u64,
    pub delete_count: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
}

/// What became of a conditional create, decided by reading back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// The object holds our bytes.
    Ours,
    /// Somebody else's bytes were there first.
    Theirs(Bytes),
}

/// An opened object store under one root. All keys are relative to the root. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Meadow {
    store: Arc<dyn ObjectStore>,
}

impl Meadow {
    /// Opens the meadow that a URI names: a path, `file://`, `s3://`, `gs://`, `az://`, `memory://`.
    /// Does no I/O.
    pub fn open(uri: &str, host: &Host, settings: &Settings) -> Result<Self> {
        let _ = (uri, host, settings);
        todo!()
    }

    /// A meadow over a given store: simulations, tests.
    pub fn over(store: Arc<dyn ObjectStore>, label: &str, host: &Host, settings: &Settings) -> Self {
        let _ = (label, host, settings);
        Self { store }
    }

    /// The rooted, counting store, for DataFusion and Parquet readers.
    pub fn object_store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The URI without anything secret, for messages.
    pub fn label(&self) -> &str {
        todo!()
    }

    /// Proves the store with concurrent creates of one key and checks or makes `apiary.json`.
    pub async fn prove(&self) -> Result<()> {
        todo!()
    }

    /// The whole object; `None` only when the store says it is not there. Retries inside the deadline.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let _ = key;
        todo!()
    }

    /// Creates an object that must not exist yet. `body` must carry a unique id: after a refusal or
    /// an unknown outcome the object is read back and compared byte for byte.
    pub async fn create(&self, key: &str, body: Bytes) -> Result<Created> {
        let _ = (key, body);
        todo!()
    }

    /// Writes a hint, a single-writer object or a reproducible one.
    pub async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        let _ = (key, body);
        todo!()
    }

    /// Objects under `prefix` whose key is greater than `after`, in key order. Keys are full keys.
    pub async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>> {
        let _ = (prefix, after);
        todo!()
    }

    /// Deletes; an absent object is no error.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let _ = key;
        todo!()
    }

    pub fn requests(&self) -> RequestCounts {
        todo!()
    }
}
