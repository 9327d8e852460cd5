//! An object store in memory that is slow and fails like a remote one.
//!
//! Per operation: latency before and after the effect, an error before the effect, an error after it
//! (the reply is lost), a refused create with nothing written (S3's 409), throttling. The content
//! itself is `object_store::memory::InMemory`, whose clock is the process's, so simulated.
//!
//! Each node holds a view of its own; the views share content and faults.

use crate::clock;
use crate::rng::Rng;
use crate::trace::{Trace, checksum};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, UploadPart,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How often, in a thousand requests, what goes wrong; and how slow it is.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    pub before_effect: u64,
    pub after_effect: u64,
    /// Creates only: 409, nothing written.
    pub refused_create: u64,
    pub throttled: u64,
    /// Ordinary latency in microseconds, before and after the effect each.
    pub latency_us: (u64, u64),
    /// Requests that take fifty times as long.
    pub slow: u64,
}

impl Faults {
    /// Slow as a remote store, never wrong.
    pub const NONE: Self = Self {
        before_effect: 0,
        after_effect: 0,
        refused_create: 0,
        throttled: 0,
        latency_us: (5_000, 40_000),
        slow: 0,
    };
    /// Far worse than any store one would use; how much worse is drawn.
    pub fn many(rng: &mut Rng) -> Self {
        Self {
            before_effect: rng.between(20, 200),
            after_effect: rng.between(20, 200),
            refused_create: rng.between(20, 200),
            throttled: rng.between(20, 100),
            latency_us: (2_000, rng.between(10_000, 100_000)),
            slow: 20,
        }
    }
}

#[derive(Debug)]
struct Shared {
    content: InMemory,
    faults: Mutex<Faults>,
    rng: Mutex<Rng>,
    trace: Trace,
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

/// What befalls one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Good,
    Before,
    After,
    Refused,
    Throttled,
}

impl SimStore {
    pub fn new(rng: &Rng, trace: &Trace) -> Self {
        Self(Arc::new(Shared {
            content: InMemory::new(),
            faults: Mutex::new(Faults::NONE),
            rng: Mutex::new(rng.fork("object store")),
            trace: trace.clone(),
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

impl StoreView {
    fn draw(&self, is_create: bool) -> (Fate, Duration, Duration) {
        let faults = *self.shared.faults.lock();
        let mut rng = self.shared.rng.lock();
        let (low, high) = faults.latency_us;
        let factor = if rng.chance(faults.slow) { 50 } else { 1 };
        let before = Duration::from_micros(rng.between(low, high) * factor / 2);
        let after = Duration::from_micros(rng.between(low, high) * factor / 2);
        let roll = rng.below(1000);
        let mut bound = 0;
        let mut falls = |chance: u64| {
            bound += chance;
            roll < bound
        };
        let fate = if falls(faults.before_effect) {
            Fate::Before
        } else if falls(faults.after_effect) {
            Fate::After
        } else if falls(faults.throttled) {
            Fate::Throttled
        } else if is_create && falls(faults.refused_create) {
            Fate::Refused
        } else {
            Fate::Good
        };
        (fate, before, after)
    }

    /// One request: time passes, it may fail, its effect happens, time passes, its reply may be lost.
    async fn request<T>(
        &self,
        what: &str,
        key: &Path,
        is_create: bool,
        effect: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let (fate, before, after) = self.draw(is_create);
        tokio::time::sleep(before).await;
        let trace = &self.shared.trace;
        let failed = |reason: &str| {
            trace.event(&self.node, format_args!("{what} {key} {reason}"));
            Error::Generic {
                store: "simulated",
                source: reason.to_string().into(),
            }
        };
        match fate {
            Fate::Before => {
                trace.count("errors_before_effect", 1);
                return Err(failed("error-before-effect"));
            }
            Fate::Throttled => {
                trace.count("throttled", 1);
                return Err(failed("503-slow-down"));
            }
            Fate::Refused => {
                trace.count("creates_refused_with_nothing_written", 1);
                failed("409-nothing-written");
                let (path, source) = (key.to_string(), "409 conflict".into());
                return Err(Error::AlreadyExists { path, source });
            }
            Fate::Good | Fate::After => {}
        }
        let result = effect.await;
        let outcome = match &result {
            Ok(_) => "ok",
            Err(Error::NotFound { .. }) => "not-found",
            Err(Error::AlreadyExists { .. }) => "already-exists",
            Err(Error::NotModified { .. }) => "not-modified",
            Err(_) => "error",
        };
        trace.event(&self.node, format_args!("{what} {key} {outcome}"));
        tokio::time::sleep(after).await;
        if fate == Fate::After {
            trace.count("replies_lost", 1);
            return Err(failed("reply-lost"));
        }
        result
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
            view.request("put-part", &key, false, async { Ok(()) })
                .await
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
        let what = format!("{verb} {} {crc:08x}", body.content_length());
        self.request(
            &what,
            key,
            is_create,
            self.shared.content.put_opts(key, body, options),
        )
        .await
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
        self.request("put-multipart", key, false, async {
            Ok(Box::new(upload) as Box<_>)
        })
        .await
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        let verb = if options.head { "head" } else { "get" };
        let what = match &options.range {
            Some(range) => format!("{verb} {range}"),
            None => verb.to_string(),
        };
        self.request(&what, key, false, async {
            let mut result = self.shared.content.get_opts(key, options).await?;
            // The body is part of this request; a stream would outlive it.
            if let GetResultPayload::Stream(body) = result.payload {
                let parts: Vec<Bytes> = body.try_collect().await?;
                let parts = stream::iter(parts.into_iter().map(Ok)).boxed();
                result.payload = GetResultPayload::Stream(parts);
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
                let delete = async { view.shared.content.delete(&key).await };
                view.request("delete", &key, false, delete).await?;
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
        let listed = self.shared.content.list_with_delimiter(prefix);
        self.request("list-delimited", &key, false, listed).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.request(
            "copy",
            to,
            false,
            self.shared.content.copy_opts(from, to, options),
        )
        .await
    }
}

impl StoreView {
    fn listed(
        &self,
        prefix: Option<Path>,
        after: Option<Path>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let view = self.clone();
        let page = async move {
            let key = prefix.clone().unwrap_or_default();
            let what = match &after {
                Some(after) => format!("list-after {after}"),
                None => "list".to_string(),
            };
            let page = async {
                let content = &view.shared.content;
                let all: Vec<ObjectMeta> = content.list(prefix.as_ref()).try_collect().await?;
                let wanted = all
                    .into_iter()
                    .filter(|meta| after.as_ref().is_none_or(|a| meta.location > *a));
                Ok(wanted.map(Ok).collect::<Vec<_>>())
            };
            match view.request(&what, &key, false, page).await {
                Ok(page) => page,
                Err(error) => vec![Err(error)],
            }
        };
        stream::once(page).flat_map(stream::iter).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{self, SimRuntime};

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
