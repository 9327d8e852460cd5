//! The meadow: `object_store`, rooted, with what it lacks.
//!
//! What it adds: every request has a deadline and is retried when that is safe, requests are
//! counted, a conditional create is decided by reading back, and a store that breaks
//! create-if-absent is refused. What it never does: list the whole store, trust `AlreadyExists`,
//! put a secret into a message.

mod cloud;
mod create;
mod local;
mod open;
mod pace;
mod prove;
mod retry;
mod rooted;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod upload;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::settings::Settings;
use bytes::Bytes;
use local::{LocalFailure, LocalStore};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    OBJECT_STORE_COALESCE_DEFAULT, ObjectMeta, ObjectStore, ObjectStoreExt, PutOptions,
};
use open::Place;
use pace::Pace;
use parking_lot::Mutex;
use retry::Retry;
use rooted::{Counters, Rooted, Whole};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

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

/// With a put: the name is nobody else's, and nobody reads the object before another one names it.
#[derive(Clone, Copy, Debug)]
struct OwnName;

/// With a create: the objects that the new one names.
#[derive(Clone, Debug, Default)]
struct Names(Arc<[Path]>);

/// How a cell is put whole: a local meadow may acknowledge it before it is durable, and
/// [`Meadow::create_naming`] waits for that.
pub fn cell_put() -> PutOptions {
    let mut options = PutOptions::default();
    options.extensions.insert(OwnName);
    options
}

/// An opened object store under one root. All keys are relative to the root. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Meadow {
    rooted: Arc<Rooted>,
    store: Arc<dyn ObjectStore>,
    label: Arc<str>,
    host: Host,
    /// Set for a directory: its staging is swept.
    local: Option<LocalStore>,
    /// See [`Settings::sweep_age`].
    sweep_age: Duration,
    /// Set when whoever holds this one must not make many requests at once.
    pace: Option<Arc<Pace>>,
}

impl Meadow {
    /// Opens the meadow that a URI names: a path, `file://`, `s3://`, `gs://`, `az://`, `memory://`.
    /// Does no I/O. Credentials come from [`Settings::storage`]; a URI that holds some is refused.
    pub fn open(uri: &str, host: &Host, settings: &Settings) -> Result<Self> {
        match open::plan_place(uri, &settings.storage)? {
            Place::Local(root) => {
                let label = root.display().to_string();
                let local = LocalStore::new(root, host, settings.sync);
                let rooted = rooted(Arc::new(local.clone()), host, settings);
                let rooted = Rooted {
                    gap_bytes: 0,
                    ..rooted
                };
                Ok(Self::assemble(rooted, label, host, settings, Some(local)))
            }
            Place::Memory(name) => {
                let store = memory(&name);
                Ok(Self::over(
                    store,
                    &format!("memory://{name}"),
                    host,
                    settings,
                ))
            }
            Place::Bucket(bucket) => {
                let opened = cloud::open(&bucket, host, settings)?;
                let rooted = rooted(opened.store, host, settings);
                let rooted = Rooted {
                    multipart: Some(opened.multipart),
                    ..rooted
                };
                let scheme = uri.split("://").next().unwrap_or_default();
                let label = format!("{scheme}://{}/{}", bucket.name, bucket.prefix);
                Ok(Self::assemble(rooted, label, host, settings, None))
            }
        }
    }

    /// A meadow over a given store: simulations, tests.
    pub fn over(
        store: Arc<dyn ObjectStore>,
        label: &str,
        host: &Host,
        settings: &Settings,
    ) -> Self {
        let rooted = rooted(store, host, settings);
        Self::assemble(rooted, label.into(), host, settings, None)
    }

    fn assemble(
        rooted: Rooted,
        label: String,
        host: &Host,
        settings: &Settings,
        local: Option<LocalStore>,
    ) -> Self {
        let rooted = Arc::new(rooted);
        let store = Arc::clone(&rooted) as Arc<dyn ObjectStore>;
        Self {
            rooted,
            store,
            label: label.into(),
            host: host.clone(),
            local,
            sweep_age: settings.sweep_age(),
            pace: None,
        }
    }

    /// The same meadow for work that must not be noticed: its requests come at most so often, however
    /// many there are, and wait for their turn outside of their deadline.
    pub fn paced(&self, per_minute: u32) -> Self {
        Self {
            pace: Some(Arc::new(Pace::new(per_minute))),
            ..self.clone()
        }
    }

    async fn turn(&self) {
        if let Some(pace) = &self.pace {
            pace.turn().await;
        }
    }

    /// Removes what killed writers left where a local meadow stages its objects.
    pub async fn sweep_staging(&self) -> Result<()> {
        match &self.local {
            Some(local) => {
                let swept = local.sweep(self.sweep_age).await;
                swept.map_err(|error| store_error("sweeping", "", error))
            }
            None => Ok(()),
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
    /// `Corrupt` when it has more than a gigabyte.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        self.turn().await;
        match self
            .rooted
            .read_whole(&path_of(key)?, WHOLE_OBJECT_BYTES_MAX)
            .await
        {
            Ok(Whole::Bytes(bytes)) => Ok(Some(bytes)),
            Ok(Whole::TooLarge(size_bytes)) => Err(Error::corrupt(
                key,
                format!(
                    "it has {size_bytes} bytes, and nothing that is read whole has more than \
                     {WHOLE_OBJECT_BYTES_MAX}"
                ),
            )),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(store_error("reading", key, error)),
        }
    }

    /// Writes a hint, a single-writer object or a reproducible one.
    pub async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.turn().await;
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
        self.turn().await;
        let result = self.rooted.list_sorted(Some(&path), after.as_ref()).await;
        if let (Some(pace), Ok(listed)) = (&self.pace, &result) {
            pace.count(listed.len() as u64 / rooted::LIST_PAGE_OBJECTS);
        }
        result.map_err(|error| store_error("listing", prefix, error))
    }

    /// Deletes; an absent object is no error.
    pub async fn delete(&self, key: &str) -> Result<()> {
        self.turn().await;
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

fn rooted(store: Arc<dyn ObjectStore>, host: &Host, settings: &Settings) -> Rooted {
    Rooted {
        inner: store,
        multipart: None,
        counters: Arc::new(Counters::default()),
        retry: Retry {
            deadline: settings.storage_deadline(),
            entropy: Arc::clone(&host.entropy),
        },
        gap_bytes: OBJECT_STORE_COALESCE_DEFAULT,
    }
}

/// The store of a `memory://` name: one per process, so that two nodes in it can share a meadow.
fn memory(name: &str) -> Arc<dyn ObjectStore> {
    static STORES: Mutex<BTreeMap<String, Arc<InMemory>>> = Mutex::new(BTreeMap::new());
    Arc::clone(STORES.lock().entry(name.into()).or_default()) as _
}

fn store_error(action: &'static str, key: &str, error: object_store::Error) -> Error {
    let object_store::Error::Generic { store, source } = error else {
        return Error::Store {
            action,
            key: key.into(),
            source: error,
        };
    };
    match source.downcast::<LocalFailure>() {
        Ok(failure) if failure.may_have_landed => Error::OutcomeUnknown {
            what: format!("{action} {key}"),
            reason: failure.to_string(),
        },
        Ok(failure) => Error::Io {
            path: failure.path,
            source: failure.source,
        },
        Err(source) => {
            let source = object_store::Error::Generic { store, source };
            Error::Store {
                action,
                key: key.into(),
                source,
            }
        }
    }
}
