//! The meadow: `object_store`, rooted, with what it lacks.
//!
//! What it adds: every request has a deadline and is retried when that is safe, requests are
//! counted, a conditional create is decided by reading back, and a store that breaks
//! create-if-absent is refused. What it never does: list the whole store, trust `AlreadyExists`,
//! put a secret into a message.

mod body;
mod cloud;
mod create;
mod discard;
mod local;
mod open;
mod pace;
mod prove;
mod retry;
mod rooted;
mod speed;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod upload;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::settings::Settings;
use apiary_protocol::ids::MeadowId;
use body::{Body, Read};
use bytes::Bytes;
use local::{LocalFailure, LocalStore};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, OBJECT_STORE_COALESCE_DEFAULT, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutOptions,
};
use open::Place;
use pace::Pace;
use parking_lot::Mutex;
use retry::Retry;
use rooted::{Counters, Rooted};
use speed::Speed;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_util::task::TaskTracker;

/// Most bytes of an object that is read whole. Nothing of ours but a cell is near it, and cells are
/// read by ranges.
const WHOLE_OBJECT_BYTES_MAX: u64 = 1 << 30;

/// Most bytes of an object that is read with its tag: heartbeats and the bell.
const TAGGED_BYTES_MAX: u64 = 16 << 20;

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

/// The store's own clock, as it stood when something had just been written there. Ages of objects are
/// told by it: no clock of another machine takes part, and none of this one but the steady one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreTime {
    /// Modification time of what was written.
    modified_ms: i64,
    /// When the write had returned, on this process's monotonic clock.
    written_at: Duration,
}

impl StoreTime {
    /// How old an object is, at `now` on the monotonic clock. Too low by as long as the write took, and
    /// by a second where the store counts in seconds; never below nought.
    pub fn age(&self, modified_ms: i64, now: Duration) -> Duration {
        let since = now.saturating_sub(self.written_at).as_millis() as i64;
        let age_ms = self
            .modified_ms
            .saturating_add(since)
            .saturating_sub(modified_ms);
        Duration::from_millis(age_ms.max(0) as u64)
    }
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
    /// Whether requests leave this machine.
    is_remote: bool,
    /// Known once it was proved.
    id: Arc<OnceLock<MeadowId>>,
    /// See [`Settings::sweep_age`].
    sweep_age: Duration,
    /// Set when whoever holds this one must not make many requests at once.
    pace: Option<Arc<Pace>>,
    speed: Arc<Speed>,
    /// See [`Meadow::aside`].
    aside: TaskTracker,
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
                Ok(Self::assemble(rooted, label, host, settings, None).as_remote())
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
            is_remote: false,
            id: Arc::default(),
            sweep_age: settings.sweep_age(),
            pace: None,
            speed: Arc::default(),
            aside: TaskTracker::new(),
        }
    }

    /// Whether it lately took objects faster than they can be compressed.
    pub fn is_fast(&self) -> bool {
        self.speed.is_fast()
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

    /// The same meadow, taken for one whose requests leave this machine.
    pub fn as_remote(self) -> Self {
        Self {
            is_remote: true,
            ..self
        }
    }

    /// Whether requests leave this machine, so that parts of cells are worth keeping on its disk.
    pub fn is_remote(&self) -> bool {
        self.is_remote
    }

    /// Tells this meadow from every other one, however it is reached; `None` before [`Self::prove`].
    pub fn id(&self) -> Option<MeadowId> {
        self.id.get().copied()
    }

    /// The URI without anything secret, for messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The whole object; `None` only when the store says it is not there. Retries inside the deadline.
    /// `Corrupt` when it has more than a gigabyte.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        self.get_at_most(key, WHOLE_OBJECT_BYTES_MAX).await
    }

    /// As [`Self::get`]; `Corrupt` when it has more bytes, which are not read then.
    pub async fn get_at_most(&self, key: &str, bytes_max: u64) -> Result<Option<Bytes>> {
        let body = self.get_body(key, bytes_max).await?;
        Ok(body.map(Body::into_bytes))
    }

    async fn get_body(&self, key: &str, bytes_max: u64) -> Result<Option<Body>> {
        self.turn().await;
        let (path, whole) = (path_of(key)?, GetOptions::default());
        match self.rooted.read(&path, &whole, bytes_max).await {
            Ok(Read::Whole(body)) => Ok(Some(body)),
            Ok(Read::TooLarge(size_bytes)) => Err(Error::corrupt(
                key,
                format!(
                    "it has {size_bytes} bytes, and nothing of its kind has more than {bytes_max}"
                ),
            )),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(store_error("reading", key, error)),
        }
    }

    /// A small object that is overwritten, with what tells this version of it from others, as a listing
    /// shows it too.
    pub async fn get_tagged(&self, key: &str) -> Result<Option<(Bytes, String)>> {
        self.turn().await;
        let read = async {
            let path = path_of(key)?;
            let result = self.store.get_opts(&path, GetOptions::default()).await;
            let result = result.map_err(|error| store_error("reading", key, error))?;
            let tag = tag_of(&result.meta);
            if result.meta.size > TAGGED_BYTES_MAX {
                return Err(Error::corrupt(
                    key,
                    format!("it has {} bytes", result.meta.size),
                ));
            }
            let bytes = result.bytes().await;
            Ok((
                bytes.map_err(|error| store_error("reading", key, error))?,
                tag,
            ))
        };
        match read.await {
            Ok(found) => Ok(Some(found)),
            Err(Error::Store {
                source: object_store::Error::NotFound { .. },
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The parts that come next after `prefix` in keys, as directories do: `a` holds `a/b` for the
    /// object `a/b/c`.
    pub async fn list_directories(&self, prefix: &str) -> Result<Vec<String>> {
        self.turn().await;
        let listed = self
            .store
            .list_with_delimiter(Some(&path_of(prefix)?))
            .await;
        let listed = listed.map_err(|error| store_error("listing", prefix, error))?;
        Ok(listed
            .common_prefixes
            .iter()
            .map(ToString::to_string)
            .collect())
    }

    /// The first bytes of an object, at most `bytes_max`, and how many it has in all; `None` only when
    /// the store says it is not there.
    pub async fn get_start(&self, key: &str, bytes_max: u64) -> Result<Option<(Bytes, u64)>> {
        self.turn().await;
        match self.read_range(key, 0..bytes_max.max(1)).await {
            Ok(read) => Ok(Some(read)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => match self.size(key).await {
                // An empty object has no range that a store would give.
                Some(0) => Ok(Some((Bytes::new(), 0))),
                _ => Err(store_error("reading", key, error)),
            },
        }
    }

    /// Whether an object is there.
    pub async fn has(&self, key: &str) -> Result<bool> {
        Ok(self.get_start(key, 1).await?.is_some())
    }

    /// A range of an object that must be there: `Corrupt` when it is not, or is shorter.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.turn().await;
        let length = range.end.saturating_sub(range.start);
        match self.read_range(key, range.clone()).await {
            Ok((bytes, _)) if bytes.len() as u64 == length => Ok(bytes),
            Ok((bytes, size_bytes)) => Err(Error::corrupt(
                key,
                format!(
                    "{} bytes came back for {range:?} of {size_bytes}",
                    bytes.len()
                ),
            )),
            Err(object_store::Error::NotFound { .. }) => {
                Err(Error::corrupt(key, "it is not there any more"))
            }
            Err(error) => match self.size(key).await {
                // A range behind the end is refused in as many ways as there are stores.
                Some(size_bytes) if size_bytes < range.end => Err(Error::corrupt(
                    key,
                    format!("it has {size_bytes} bytes, and {range:?} were asked for"),
                )),
                _ => Err(store_error("reading", key, error)),
            },
        }
    }

    /// The size of an object, when the store says it.
    async fn size(&self, key: &str) -> Option<u64> {
        let meta = self.store.head(&path_of(key).ok()?).await;
        meta.ok().map(|meta| meta.size)
    }

    async fn read_range(&self, key: &str, range: Range<u64>) -> object_store::Result<(Bytes, u64)> {
        let path = path_of(key).map_err(|error| object_store::Error::Generic {
            store: "meadow",
            source: Box::new(error),
        })?;
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            ..GetOptions::default()
        };
        let result = self.store.get_opts(&path, options).await?;
        let size_bytes = result.meta.size;
        Ok((result.bytes().await?, size_bytes))
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

    /// Makes deletions under a prefix survive a power cut, where they do not by themselves: for those
    /// that something else is going to rely on.
    pub async fn sync_deletions(&self, prefix: &str) -> Result<()> {
        let Some(local) = &self.local else {
            return Ok(());
        };
        let synced = local.sync_deletions(&path_of(prefix)?).await;
        synced.map_err(|error| store_error("syncing", prefix, error))
    }

    pub fn requests(&self) -> RequestCounts {
        self.rooted.counters.read()
    }
}

/// Tells one version of an object from another: its e-tag, or its time where a store has none.
pub fn tag_of(meta: &ObjectMeta) -> String {
    match &meta.e_tag {
        // Some stores answer a weak tag to one kind of request and a strong one to another.
        Some(tag) => tag.trim_start_matches("W/").trim_matches('"').to_string(),
        None => meta.last_modified.timestamp().to_string(),
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
