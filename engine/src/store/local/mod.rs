//! Objects as files under one directory, durable before they are acknowledged.
//!
//! An object is written to a staging file, synced, and then given its name in one step (link to
//! create, rename to overwrite), and the directory that holds the name is synced. So a reader sees
//! a whole object or none, and what was acknowledged survives a power cut. Objects under `_swarm/`
//! are coordination that dies with the machine: they are not synced.
//!
//! A small cell is written in place and acknowledged before it is durable: nobody reads it before a
//! commit names it, and a commit gets its name only when the cells that it names are durable.
//!
//! Never lists what a crash left in staging, never writes or deletes through a symbolic link that
//! leaves the root, never overwrites through create. Attributes, versions and compare-and-swap are
//! refused by name. Directories outside `_swarm/` stay when they become empty: removing one races
//! with a writer that has made it durable.
//!
//! Blocking: every method hands one job to [`Blocking`]; the steps of a job are in `write`.

mod directories;
mod list;
mod settle;
#[cfg(test)]
mod tests;
mod upload;
mod write;

use super::{Names, OwnName};
use crate::host::{Blocking, FileStatus, Host, OpenFile};
use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use write::{Disk, How};

/// Where objects are written before they get their name.
const STAGING: &str = ".apiary-staging";
/// Under it nothing is synced.
const UNSYNCED: &str = "_swarm";
/// Most bytes that one blocking job reads of a body that is streamed.
const CHUNK_BYTES: u64 = 4 << 20;
pub(super) const STORE: &str = "local";

/// A step of the local store that the system refused.
#[derive(Debug, thiserror::Error)]
#[error("{step} {path}: {source}")]
pub(super) struct LocalFailure {
    pub step: &'static str,
    pub path: String,
    /// True when the object may be there although it is not durable.
    pub may_have_landed: bool,
    pub source: io::Error,
}

impl From<LocalFailure> for Error {
    fn from(failure: LocalFailure) -> Self {
        Error::Generic {
            store: STORE,
            source: Box::new(failure),
        }
    }
}

/// The store over one directory. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct LocalStore {
    disk: Arc<Disk>,
    blocking: Arc<dyn Blocking>,
}

impl LocalStore {
    /// `root` is absolute. Does no I/O: the directory is made by the first write.
    pub fn new(root: PathBuf, host: &Host, sync: bool) -> Self {
        let disk = Disk::new(
            root,
            Arc::clone(&host.files),
            Arc::clone(&host.entropy),
            sync,
        );
        Self {
            disk: Arc::new(disk),
            blocking: Arc::clone(&host.blocking),
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Disk) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let disk = Arc::clone(&self.disk);
        let joined = self.blocking.call(move || job(&disk)).await;
        // A job that ended without a result may have done anything: not one of our own failures.
        joined.map_err(|source| Error::Generic {
            store: "blocking",
            source: Box::new(source),
        })?
    }

    /// Makes deletions below a prefix durable.
    pub async fn sync_deletions(&self, prefix: &Path) -> Result<()> {
        let prefix = prefix.clone();
        self.run(move |disk| disk.sync_tree(&prefix)).await
    }

    /// Answers when the object can be read, and has it made durable meanwhile.
    async fn put_in_place(&self, key: Path, parts: Vec<Bytes>) -> Result<PutResult> {
        let written = key.clone();
        let put = self.run(move |disk| disk.put_in_place(&written, &parts));
        if put.await? {
            let disk = Arc::clone(&self.disk);
            self.blocking.run(Box::new(move || {
                // Whoever names the object is told of a failure.
                if let Err(error) = disk.settle(&key) {
                    tracing::warn!(%key, %error, "a cell was not made durable");
                }
            }));
        }
        Ok(PutResult {
            e_tag: None,
            version: None,
        })
    }

    /// Removes what crashed writers left in staging. A file that was written to within the sweep age
    /// may belong to a running upload of another process and stays.
    pub async fn sweep(&self, sweep_age: Duration) -> Result<()> {
        self.run(move |disk| disk.sweep(sweep_age).map_err(Error::from))
            .await
    }
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local({})", self.disk.root.display())
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        if !opts.attributes.is_empty() {
            return Err(unsupported("attributes"));
        }
        let how = match opts.mode {
            object_store::PutMode::Create => How::Create,
            object_store::PutMode::Overwrite => How::Overwrite,
            object_store::PutMode::Update(_) => return Err(unsupported("conditional update")),
        };
        let key = location.clone();
        let parts: Vec<Bytes> = payload.into_iter().collect();
        if how == How::Overwrite && opts.extensions.get::<OwnName>().is_some() {
            return self.put_in_place(key, parts).await;
        }
        let named = opts.extensions.get::<Names>().cloned().unwrap_or_default();
        self.run(move |disk| disk.put(&key, &parts, how, &named.0))
            .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        if !opts.attributes.is_empty() {
            return Err(unsupported("attributes"));
        }
        self.disk.file_of(location)?;
        Ok(Box::new(upload::Upload::new(
            self.clone(),
            location.clone(),
        )))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.version.is_some() {
            return Err(unsupported("object versions"));
        }
        let key = location.clone();
        let (meta, range, body) = self.run(move |disk| disk.begin_get(&key, &options)).await?;
        let payload = match body {
            Body::Whole(bytes) => stream::iter([Ok(bytes)]).boxed(),
            Body::Open(file) => self.stream(location, file, range.clone()),
        };
        let payload = GetResultPayload::Stream(payload);
        Ok(GetResult {
            payload,
            meta,
            range,
            attributes: Default::default(),
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .and_then(move |key| {
                let store = store.clone();
                async move { store.run(move |disk| disk.delete(&key).map(|()| key)).await }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_from(prefix, None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_from(prefix, Some(offset.clone()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned().unwrap_or_default();
        self.run(move |disk| disk.list_level(&prefix)).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(unsupported("copying objects"))
    }
}

impl LocalStore {
    fn list_from(
        &self,
        prefix: Option<&Path>,
        after: Option<Path>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned().unwrap_or_default();
        let store = self.clone();
        let listed = async move {
            let found = store
                .run(move |disk| disk.list_tree(&prefix, after.as_ref()))
                .await?;
            Ok::<_, Error>(stream::iter(found).map(Ok))
        };
        stream::once(listed).try_flatten().boxed()
    }

    /// The body of a large object, a chunk per blocking job, all from the one opened file.
    fn stream(
        &self,
        key: &Path,
        file: Arc<dyn OpenFile>,
        range: Range<u64>,
    ) -> BoxStream<'static, Result<Bytes>> {
        let (store, key) = (self.clone(), key.clone());
        stream::try_unfold(range, move |rest| {
            let (store, key, file) = (store.clone(), key.clone(), Arc::clone(&file));
            async move {
                if rest.is_empty() {
                    return Ok(None);
                }
                let end = rest.end.min(rest.start + CHUNK_BYTES);
                let chunk = rest.start..end;
                let job = move |disk: &Disk| {
                    let read = file.read(chunk);
                    read.map_err(|error| disk.failure("reading", &key, error).into())
                };
                Ok(Some((store.run(job).await?, end..rest.end)))
            }
        })
        .boxed()
    }
}

/// What a get has when its first blocking job is done.
enum Body {
    Whole(Bytes),
    Open(Arc<dyn OpenFile>),
}

impl Disk {
    fn begin_get(
        &self,
        key: &Path,
        options: &GetOptions,
    ) -> Result<(ObjectMeta, Range<u64>, Body)> {
        let failed = |error| self.read_failure(key, error);
        let file: Arc<dyn OpenFile> = self.files.open(&self.file_of(key)?).map_err(failed)?.into();
        let status = file.status().map_err(failed)?;
        if status.is_directory {
            return Err(failed(io::ErrorKind::NotFound.into()));
        }
        let meta = meta_of(key.clone(), &status)?;
        options.check_preconditions(&meta)?;
        if options.head {
            return Ok((meta, 0..0, Body::Whole(Bytes::new())));
        }
        let range = match &options.range {
            Some(range) => range.as_range(meta.size).map_err(|error| Error::Generic {
                store: STORE,
                source: format!("reading {key}: {error}").into(),
            })?,
            None => 0..meta.size,
        };
        if options.range.is_none() && meta.size > CHUNK_BYTES {
            return Ok((meta, range, Body::Open(file)));
        }
        let bytes = file.read(range.clone()).map_err(failed)?;
        Ok((meta, range, Body::Whole(bytes)))
    }

    fn read_failure(&self, key: &Path, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Error::NotFound {
                path: key.to_string(),
                source: Box::new(error),
            },
            _ => self.failure("reading", key, error).into(),
        }
    }
}

fn meta_of(location: Path, status: &FileStatus) -> Result<ObjectMeta> {
    let last_modified = DateTime::from_timestamp_micros(status.modified_us).ok_or_else(|| {
        let text = format!(
            "{location} has the modification time {} us",
            status.modified_us
        );
        Error::Generic {
            store: STORE,
            source: text.into(),
        }
    })?;
    let tag = format!(
        "{:x}-{:x}-{:x}",
        status.identity, status.modified_us, status.size_bytes
    );
    Ok(ObjectMeta {
        location,
        last_modified,
        size: status.size_bytes,
        e_tag: Some(tag),
        version: None,
    })
}

fn unsupported(what: &str) -> Error {
    Error::NotImplemented {
        operation: what.into(),
        implementer: "a local meadow".into(),
    }
}
