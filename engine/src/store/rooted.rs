//! The store that everybody reads and writes through: counts requests and retries what is safe.
//!
//! A ranged get is read whole inside its retry, because a body can break as a request can (see
//! `body`). A conditional write is attempted once.

use super::body::Read;
use super::retry::Retry;
use super::upload::{CountedUpload, RetriedUpload};
use super::{Names, RequestCounts};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    RenameOptions, Result, coalesce_ranges,
};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most objects that a store lists per request.
pub(super) const LIST_PAGE_OBJECTS: u64 = 1000;

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) get_count: AtomicU64,
    pub(super) head_count: AtomicU64,
    pub(super) put_count: AtomicU64,
    pub(super) list_count: AtomicU64,
    pub(super) delete_count: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    pub(super) written_bytes: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

impl Counters {
    pub fn read(&self) -> RequestCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RequestCounts {
            get_count: load(&self.get_count),
            head_count: load(&self.head_count),
            put_count: load(&self.put_count),
            list_count: load(&self.list_count),
            delete_count: load(&self.delete_count),
            read_bytes: load(&self.read_bytes),
            written_bytes: load(&self.written_bytes),
        }
    }
}

pub(super) struct Rooted {
    pub inner: Arc<dyn ObjectStore>,
    /// Set when parts of an upload have to be retried here.
    pub multipart: Option<Arc<dyn MultipartStore>>,
    pub counters: Arc<Counters>,
    pub retry: Retry,
    /// Ranges of one object that are closer than this are read with one request.
    pub gap_bytes: u64,
}

impl fmt::Debug for Rooted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rooted")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Rooted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Rooted {
    /// One attempt to create, counted and inside the deadline.
    pub async fn try_create(
        &self,
        path: &Path,
        body: PutPayload,
        named: Names,
    ) -> Result<PutResult> {
        self.count_put(&body);
        let mut options = PutOptions::from(PutMode::Create);
        options.extensions.insert(named);
        self.retry
            .once(self.inner.put_opts(path, body, options))
            .await
    }

    /// Objects under a prefix, sorted by key. However many pages there are, each has the deadline for
    /// itself; a listing that broke is begun anew as long as the deadline of the first has not passed.
    pub async fn list_sorted(
        &self,
        prefix: Option<&Path>,
        after: Option<&Path>,
    ) -> Result<Vec<ObjectMeta>> {
        let attempt = || async {
            let mut stream = match after {
                Some(after) => self.list_with_offset(prefix, after),
                None => self.list(prefix),
            };
            let mut found = Vec::new();
            while let Some(object) = self.retry.once(stream.try_next()).await? {
                found.push(object);
            }
            Ok(found)
        };
        let mut found: Vec<ObjectMeta> = self.retry.begin_within(attempt).await?;
        // Some stores know no offset and list from the beginning.
        found.retain(|meta| after.is_none_or(|after| meta.location > *after));
        found.sort_unstable_by(|a, b| a.location.cmp(&b.location));
        Ok(found)
    }

    pub async fn remove(&self, path: &Path) -> Result<()> {
        self.retry
            .run(|| async {
                add(&self.counters.delete_count, 1);
                match self.inner.delete(path).await {
                    Err(object_store::Error::NotFound { .. }) => Ok(()),
                    result => result,
                }
            })
            .await
    }

    /// An answer whose body, if there is one, the caller streams: it ends where it breaks.
    async fn begin(&self, location: &Path, options: &GetOptions) -> Result<GetResult> {
        let kind = match options.head {
            true => &self.counters.head_count,
            false => &self.counters.get_count,
        };
        let attempt = || {
            add(kind, 1);
            self.inner.get_opts(location, options.clone())
        };
        let result = self.retry.run(attempt).await?;
        Ok(self.count_body(result))
    }

    /// Counts the bytes of a body that the caller streams.
    fn count_body(&self, result: GetResult) -> GetResult {
        let (meta, range) = (result.meta.clone(), result.range.clone());
        let attributes = result.attributes.clone();
        let counters = Arc::clone(&self.counters);
        let body = result
            .into_stream()
            .inspect_ok(move |bytes| add(&counters.read_bytes, bytes.len() as u64));
        GetResult {
            payload: GetResultPayload::Stream(body.boxed()),
            meta,
            range,
            attributes,
        }
    }

    fn count_put(&self, payload: &PutPayload) {
        add(&self.counters.put_count, 1);
        add(
            &self.counters.written_bytes,
            payload.content_length() as u64,
        );
    }

    fn count_listed<'a>(
        &self,
        stream: BoxStream<'a, Result<ObjectMeta>>,
    ) -> BoxStream<'a, Result<ObjectMeta>> {
        let counters = Arc::clone(&self.counters);
        let mut listed = 0;
        add(&counters.list_count, 1);
        stream
            .inspect_ok(move |_| {
                if listed > 0 && listed % LIST_PAGE_OBJECTS == 0 {
                    add(&counters.list_count, 1);
                }
                listed += 1;
            })
            .boxed()
    }
}

#[async_trait]
impl ObjectStore for Rooted {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let attempt = || {
            self.count_put(&payload);
            self.inner.put_opts(location, payload.clone(), opts.clone())
        };
        match opts.mode {
            PutMode::Overwrite => self.retry.run(attempt).await,
            PutMode::Create | PutMode::Update(_) => self.retry.once(attempt()).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        if let Some(store) = &self.multipart {
            let upload =
                RetriedUpload::start(Arc::clone(store), location, &self.counters, &self.retry);
            return Ok(Box::new(upload.await?));
        }
        add(&self.counters.put_count, 1);
        let inner = self
            .retry
            .once(self.inner.put_multipart_opts(location, opts))
            .await?;
        Ok(Box::new(CountedUpload {
            inner,
            counters: Arc::clone(&self.counters),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.head || options.range.is_none() {
            return self.begin(location, &options).await;
        }
        match self.read(location, &options, u64::MAX).await? {
            Read::Whole(body) => Ok(GetResult {
                meta: body.meta.clone(),
                range: body.range.clone(),
                attributes: body.attributes.clone(),
                payload: GetResultPayload::Stream(
                    futures::stream::iter([Ok(body.into_bytes())]).boxed(),
                ),
            }),
            Read::TooLarge(size_bytes) => Err(object_store::Error::NotSupported {
                source: format!("{location} has {size_bytes} bytes").into(),
            }),
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        coalesce_ranges(
            ranges,
            |range| self.get_range(location, range),
            self.gap_bytes,
        )
        .await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let counters = Arc::clone(&self.counters);
        self.inner.delete_stream(
            locations
                .inspect_ok(move |_| add(&counters.delete_count, 1))
                .boxed(),
        )
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.count_listed(self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.count_listed(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.retry
            .run(|| {
                add(&self.counters.list_count, 1);
                self.inner.list_with_delimiter(prefix)
            })
            .await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        add(&self.counters.put_count, 1);
        self.retry
            .once(self.inner.copy_opts(from, to, options))
            .await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        add(&self.counters.put_count, 1);
        self.retry
            .once(self.inner.rename_opts(from, to, options))
            .await
    }
}
