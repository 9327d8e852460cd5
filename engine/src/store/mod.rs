//! The meadow: `object_store`, rooted, with what it lacks.
//!
//! What it adds: every request has a deadline and is retried when that is safe, requests are
//! counted, a conditional create is decided by reading back, and a store that breaks
//! create-if-absent is refused. What it never does: list the whole store, trust `AlreadyExists`,
//! put a secret into a message.

mod create;
mod local;
mod prove;
mod retry;
mod rooted;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::settings::Settings;
use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use retry::Retry;
use rooted::{Counters, Rooted};
use std::sync::Arc;

/// Most bytes of an object that is read whole. Nothing of ours but a cell is near it, and cells are
/// read by ranges.
const WHOLE_OBJECT_BYTES_MAX: u64 = 1 << 30;

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
    rooted: Arc<Rooted>,
    store: Arc<dyn ObjectStore>,
    label: Arc<str>,
    host: Host,
}

impl Meadow {
    /// Opens the meadow that a URI names: a path, `file://`, `s3://`, `gs://`, `az://`, `memory://`.
    /// Does no I/O.
    pub fn open(uri: &str, host: &Host, settings: &Settings) -> Result<Self> {
        let _ = (uri, host, settings);
        todo!()
    }

    /// A meadow over a given store: simulations, tests.
    pub fn over(
        store: Arc<dyn ObjectStore>,
        label: &str,
        host: &Host,
        settings: &Settings,
    ) -> Self {
        let retry = Retry {
            deadline: settings.storage_deadline(),
            entropy: Arc::clone(&host.entropy),
        };
        let counters = Arc::new(Counters::default());
        let rooted = Arc::new(Rooted {
            inner: store,
            counters,
            retry,
            gap_bytes: 0,
        });
        let store = Arc::clone(&rooted) as Arc<dyn ObjectStore>;
        Self {
            rooted,
            store,
            label: label.into(),
            host: host.clone(),
        }
    }

    /// The rooted, counting store, for DataFusion and Parquet readers.
    pub fn object_store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The URI without anything secret, for messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The whole object; `None` only when the store says it is not there. Retries inside the deadline.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        match self
            .rooted
            .read_whole(&path_of(key)?, WHOLE_OBJECT_BYTES_MAX)
            .await
        {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(store_error("reading", key, error)),
        }
    }

    /// Writes a hint, a single-writer object or a reproducible one.
    pub async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        let result = self.store.put(&path_of(key)?, body.into()).await;
        result
            .map(drop)
            .map_err(|error| store_error("writing", key, error))
    }

    /// Objects under `prefix` whose key is greater than `after`, in key order. Keys are full keys.
    /// A prefix ends at a separator: `a/b` holds `a/b/c` and not `a/bc`.
    pub async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>> {
        let path = path_of(prefix)?;
        let after = after.map(path_of).transpose()?;
        let result = self.rooted.list_sorted(Some(&path), after.as_ref()).await;
        result.map_err(|error| store_error("listing", prefix, error))
    }

    /// Deletes; an absent object is no error.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let result = self.rooted.remove(&path_of(key)?).await;
        result.map_err(|error| store_error("deleting", key, error))
    }

    pub fn requests(&self) -> RequestCounts {
        self.rooted.counters.read()
    }
}

/// Keys reach the store as they are: nothing is encoded, and what would need it is refused.
fn path_of(key: &str) -> Result<Path> {
    Path::parse(key)
        .map_err(|error| Error::rejected(format!("{key:?} is no key of a meadow: {error}")))
}

fn store_error(action: &'static str, key: &str, error: object_store::Error) -> Error {
    Error::Store {
        action,
        key: key.into(),
        source: error,
    }
}
