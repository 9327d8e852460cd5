//! An object store in memory that is slow and fails like a remote one.
//!
//! Per operation: latency by size before and after the effect, an error before the effect, an error
//! after it (the reply is lost), a refused create with nothing written (S3's 409), throttling, silence,
//! bodies that break off or come slowly, lists that are late or unordered. The content itself is
//! `object_store::memory::InMemory`, whose clock is the process's, so simulated.
//!
//! Each node holds a view of its own; the views share content and faults.

mod damage;
mod faults;
mod listing;
pub mod profiles;
mod request;
mod watch;

pub use faults::Faults;
use faults::{Body, Draw};
use request::{Kind, Request};

use crate::clock;
use crate::rng::Rng;
use crate::trace::{Trace, checksum};
use apiary_protocol::query::QueryPlan;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result, UploadPart,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use watch::Watch;

#[derive(Debug)]
struct Shared {
    content: InMemory,
    faults: Mutex<Faults>,
    rng: Mutex<Rng>,
    trace: Trace,
    /// When each key was written last, where the store minds.
    written_at: Mutex<BTreeMap<Path, Duration>>,
    watch: Watch,
}

/// The store; make a view for each node.
#[derive(Clone, Debug)]
pub struct SimStore(Arc<Shared>);

/// The store as one node reaches it.
#[derive(Clone, Debug)]
pub struct StoreView {
    node: String,
    shared: Arc<Shared>,
}

impl SimStore {
    pub fn new(rng: &Rng, trace: &Trace) -> Self {
        Self(Arc::new(Shared {
            content: InMemory::new(),
            faults: Mutex::new(Faults::NONE),
            rng: Mutex::new(rng.fork("object store")),
            trace: trace.clone(),
            written_at: Mutex::default(),
            watch: Watch::default(),
        }))
    }

    pub fn set_faults(&self, faults: Faults) {
        *self.0.faults.lock() = faults;
    }

    pub fn view(&self, node: &str) -> Arc<StoreView> {
        Arc::new(StoreView {
            node: node.to_string(),
            shared: self.0.clone(),
        })
    }

    /// The first violation that a write was.
    pub fn check(&self) -> std::result::Result<(), String> {
        self.0.watch.check()
    }

    /// How long ago each object was written. For checkers.
    pub async fn ages(&self) -> Result<BTreeMap<String, Duration>> {
        let listed: Vec<ObjectMeta> = self.0.content.list(None).try_collect().await?;
        let now = clock::EPOCH_SECONDS as i64 * 1_000 + clock::now().as_millis() as i64;
        let age = |meta: ObjectMeta| {
            let age_ms = now - meta.last_modified.timestamp_millis();
            let age = Duration::from_millis(u64::try_from(age_ms).unwrap_or(0));
            (meta.location.to_string(), age)
        };
        Ok(listed.into_iter().map(age).collect())
    }

    /// The plans of shared queries that were written since this was asked last, and when.
    pub fn take_plans(&self) -> Vec<(Duration, QueryPlan)> {
        self.0.watch.take_plans()
    }

    /// When each node first read one of them, since this was asked last.
    pub fn take_readers(&self) -> BTreeMap<String, Duration> {
        self.0.watch.take_readers()
    }

    /// All objects with their content. For checkers.
    pub async fn objects(&self) -> Result<BTreeMap<String, Bytes>> {
        let mut objects = BTreeMap::new();
        let listed: Vec<ObjectMeta> = self.0.content.list(None).try_collect().await?;
        for meta in listed {
            let body = self.0.content.get(&meta.location).await?.bytes().await?;
            objects.insert(meta.location.to_string(), body);
        }
        Ok(objects)
    }
}

/// A body in one piece.
fn whole(body: &PutPayload) -> Bytes {
    let mut parts = body.iter();
    match (parts.next(), parts.next()) {
        (Some(only), None) => only.clone(),
        _ => Bytes::from(body.iter().map(Bytes::as_ref).collect::<Vec<_>>().concat()),
    }
}

impl fmt::Display for StoreView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulated store as {} sees it", self.node)
    }
}

/// Parts in memory; the object appears at once on `complete`, as on S3.
#[derive(Debug)]
struct Upload {
    view: StoreView,
    key: Path,
    parts: Vec<PutPayload>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.parts.push(data);
        let (view, key) = (self.view.clone(), self.key.clone());
        Box::pin(async move {
            let request = Request::new("put-part", &key);
            view.request(request, async { Ok(()) }).await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let whole: PutPayload = self.parts.drain(..).flatten().collect();
        self.view
            .put_opts(&self.key, whole, PutOptions::default())
            .await
    }

    async fn abort(&mut self) -> Result<()> {
        self.parts.clear();
        Ok(())
    }
}

#[async_trait]
impl ObjectStore for StoreView {
    async fn put_opts(
        &self,
        key: &Path,
        body: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let is_create = matches!(options.mode, PutMode::Create);
        let verb = if is_create { "create" } else { "put" };
        let crc = checksum(body.iter().map(Bytes::as_ref));
        let bytes = body.content_length() as u64;
        let what = format!("{verb} {bytes} {crc:08x}");
        let kind = if is_create { Kind::Create } else { Kind::Put };
        let mut options = options;
        if self.faults().ignores_create {
            options.mode = PutMode::Overwrite;
        }
        let request = Request {
            kind,
            bytes,
            ..Request::new(&what, key)
        };
        let effect = async {
            let written = whole(&body);
            let put = self.shared.content.put_opts(key, body, options).await;
            if is_create {
                self.count_create(key, &put);
            }
            if put.is_ok() {
                let trace = &self.shared.trace;
                self.shared.watch.written(key.as_ref(), &written, trace);
            }
            put
        };
        self.request(request, effect).await
    }

    async fn put_multipart_opts(
        &self,
        key: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = Upload {
            view: self.clone(),
            key: key.clone(),
            parts: Vec::new(),
        };
        let request = Request::new("put-multipart", key);
        self.request(request, async { Ok(Box::new(upload) as Box<_>) })
            .await
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        let verb = if options.head { "head" } else { "get" };
        let what = match &options.range {
            Some(range) => format!("{verb} {range}"),
            None => verb.to_string(),
        };
        let found = self.shared.content.head(key).await;
        let size = found.map_or(0, |meta| meta.size);
        let read = match &options.range {
            _ if options.head => 0..0,
            Some(range) => range.as_range(size).unwrap_or_default(),
            None => 0..size,
        };
        let bytes = read.end - read.start;
        // What is read up to the end of a cell is read for its footer, and a footer is no larger for
        // standing for that of a larger cell.
        let is_footer = options.range.is_some() && read.end == size;
        let faults = self.faults();
        // A checkpoint of a log is no cell.
        let is_cell = key.as_ref().ends_with(".parquet") && !key.as_ref().contains("_delta_log");
        let bytes = match is_cell {
            true if !is_footer => bytes * faults.cell_factor,
            _ => bytes,
        };
        let draw = faults.draw(false, bytes, &mut self.shared.rng.lock());
        let request = Request {
            bytes,
            draw: Some(draw),
            ..Request::new(&what, key)
        };
        self.request(request, async {
            let mut result = self.shared.content.get_opts(key, options).await?;
            self.shared.watch.read(key.as_ref(), &self.node);
            // The body is what it was at this moment; a stream would see later ones.
            if let GetResultPayload::Stream(body) = result.payload {
                let parts: Vec<Bytes> = body.try_collect().await?;
                result.payload = GetResultPayload::Stream(self.delivered(parts.concat(), draw));
            }
            Ok(result)
        })
        .await
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let view = self.clone();
        keys.then(move |key| {
            let view = view.clone();
            async move {
                let key = key?;
                let delete = async {
                    view.shared.watch.deleted(key.as_ref());
                    view.shared.content.delete(&key).await
                };
                view.request(Request::new("delete", &key), delete).await?;
                Ok(key)
            }
        })
        .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix.cloned(), None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix.cloned(), Some(offset.clone()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let key = prefix.cloned().unwrap_or_default();
        let listed = self.listed_shallow(prefix);
        let request = Request::new("list-delimited", &key);
        self.request(request, listed).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let copied = self.shared.content.copy_opts(from, to, options);
        self.request(Request::new("copy", to), copied).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{self, SimRuntime};
    use object_store::Error;

    fn run<T>(faults: Faults, seed: u64, work: impl AsyncFnOnce(SimStore) -> T) -> T {
        crate::process::enroll(seed);
        let store = SimStore::new(&Rng::new(seed), &Trace::discard());
        store.set_faults(faults);
        SimRuntime::new().unwrap().block_on(work(store))
    }

    #[test]
    fn without_faults_it_is_a_store_that_takes_time() {
        run(Faults::NONE, 1, async |store| {
            let view = store.view("n");
            let key = Path::from("a/b");
            let start = clock::now();
            view.put(&key, PutPayload::from_static(b"x")).await.unwrap();
            assert!(clock::now() - start >= Duration::from_millis(5));
            let body = view.get(&key).await.unwrap().bytes().await.unwrap();
            assert_eq!(body, Bytes::from_static(b"x"));
            let listed: Vec<ObjectMeta> = view.list(None).try_collect().await.unwrap();
            assert_eq!(listed.len(), 1);
            let options = PutOptions {
                mode: PutMode::Create,
                ..PutOptions::default()
            };
            let again = view
                .put_opts(&key, PutPayload::from_static(b"y"), options)
                .await;
            assert!(matches!(again, Err(Error::AlreadyExists { .. })));
        });
    }

    #[test]
    fn a_lost_reply_leaves_its_effect_and_a_refusal_leaves_none() {
        let only = |after_effect, refused_create| Faults {
            after_effect,
            refused_create,
            ..Faults::NONE
        };
        for (faults, is_there) in [(only(1000, 0), true), (only(0, 1000), false)] {
            run(faults, 2, async |store| {
                let options = PutOptions {
                    mode: PutMode::Create,
                    ..PutOptions::default()
                };
                let body = PutPayload::from_static(b"x");
                store
                    .view("n")
                    .put_opts(&Path::from("k"), body, options)
                    .await
                    .unwrap_err();
                assert_eq!(store.objects().await.unwrap().contains_key("k"), is_there);
            });
        }
    }
}
