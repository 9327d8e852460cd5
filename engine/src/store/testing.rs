//! A store that fails on demand, for tests of everything above it.

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result,
};
use parking_lot::Mutex;
use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: the request goes through.
    None,
    /// An error, and nothing happened.
    Before,
    /// An error, although it happened.
    After,
    /// It happened, was sent again below us, and met itself.
    Twice,
    /// A refusal as if the object existed, with nothing written.
    Conflict,
    /// Access denied.
    Denied,
    /// The answer of a get breaks off in the middle.
    Broken,
    /// A bit in the middle of the answer of a get is another.
    Flipped,
    /// The object of a get claims to have two gigabytes.
    Huge,
}

/// Decides what happens to each request.
pub trait Faults: fmt::Debug + Send + Sync + 'static {
    fn on_put(&self, path: &Path, mode: &PutMode) -> Fault;

    fn on_get(&self, path: &Path) -> Fault;

    /// Whether listings leave the object out, as if it had just been written.
    fn hides(&self, _path: &Path) -> bool {
        false
    }

    /// Times that a request lets others go first.
    fn turns(&self) -> u64 {
        0
    }
}

/// Faults in order, one per request of a kind; when none is left, requests go through.
#[derive(Debug, Default)]
pub struct Script {
    puts: Mutex<VecDeque<Fault>>,
    gets: Mutex<VecDeque<Fault>>,
    hidden: Mutex<BTreeSet<Path>>,
}

impl Faults for Script {
    fn on_put(&self, _path: &Path, _mode: &PutMode) -> Fault {
        self.puts.lock().pop_front().unwrap_or(Fault::None)
    }

    fn on_get(&self, _path: &Path) -> Fault {
        self.gets.lock().pop_front().unwrap_or(Fault::None)
    }

    fn hides(&self, path: &Path) -> bool {
        self.hidden.lock().contains(path)
    }
}

/// A store with faults.
#[derive(Debug)]
pub struct FaultyStore<F = Script> {
    inner: Arc<dyn ObjectStore>,
    pub faults: Arc<F>,
    ignores_condition: bool,
}

impl FaultyStore {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self::with(inner, Script::default())
    }

    /// A store that takes a create for an overwrite.
    pub fn without_conditions(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            ignores_condition: true,
            ..Self::new(inner)
        }
    }

    pub fn fail_puts(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.puts.lock().extend(faults);
    }

    pub fn fail_gets(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.gets.lock().extend(faults);
    }

    /// Leaves an object out of listings from now on.
    pub fn hide(&self, key: &str) {
        self.faults.hidden.lock().insert(Path::from(key));
    }
}

impl<F: Faults> FaultyStore<F> {
    pub fn with(inner: Arc<dyn ObjectStore>, faults: F) -> Self {
        Self {
            inner,
            faults: Arc::new(faults),
            ignores_condition: false,
        }
    }

    async fn turn(&self) {
        for _ in 0..self.faults.turns() {
            tokio::task::yield_now().await;
        }
    }
}

fn failure(fault: Fault, path: &Path) -> Error {
    let (path, source) = (path.to_string(), format!("injected: {fault:?}").into());
    match fault {
        Fault::Conflict => Error::AlreadyExists { path, source },
        Fault::Denied => Error::PermissionDenied { path, source },
        _ => Error::Generic {
            store: "faulty",
            source,
        },
    }
}

/// The first half of an answer, then an error.
async fn broken(result: GetResult, path: &Path) -> Result<GetResult> {
    let (meta, range) = (result.meta.clone(), result.range.clone());
    let attributes = result.attributes.clone();
    let bytes = result.bytes().await?;
    let half = bytes.slice(..bytes.len() / 2);
    let body = [Ok(half), Err(failure(Fault::Broken, path))];
    Ok(GetResult {
        payload: GetResultPayload::Stream(futures::stream::iter(body).boxed()),
        meta,
        range,
        attributes,
    })
}

async fn flipped(result: GetResult) -> Result<GetResult> {
    let (meta, range) = (result.meta.clone(), result.range.clone());
    let attributes = result.attributes.clone();
    let mut bytes = result.bytes().await?.to_vec();
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    Ok(GetResult {
        payload: GetResultPayload::Stream(futures::stream::iter([Ok(bytes.into())]).boxed()),
        meta,
        range,
        attributes,
    })
}

impl<F> fmt::Display for FaultyStore<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty({})", self.inner)
    }
}

#[async_trait]
impl<F: Faults> ObjectStore for FaultyStore<F> {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut opts: PutOptions,
    ) -> Result<PutResult> {
        self.turn().await;
        let fault = self.faults.on_put(location, &opts.mode);
        if self.ignores_condition {
            opts.mode = PutMode::Overwrite;
        }
        if let Fault::Before | Fault::Conflict | Fault::Denied = fault {
            return Err(failure(fault, location));
        }
        let put = || self.inner.put_opts(location, payload.clone(), opts.clone());
        let done = put().await?;
        match fault {
            Fault::After => {
                self.turn().await;
                Err(failure(fault, location))
            }
            Fault::Twice => {
                self.turn().await;
                put().await
            }
            _ => Ok(done),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.turn().await;
        match self.faults.on_get(location) {
            Fault::None => self.inner.get_opts(location, options).await,
            Fault::Broken => broken(self.inner.get_opts(location, options).await?, location).await,
            Fault::Flipped => flipped(self.inner.get_opts(location, options).await?).await,
            Fault::Huge => {
                let mut result = self.inner.get_opts(location, options).await?;
                result.meta.size = 2 << 30;
                Ok(result)
            }
            fault => Err(failure(fault, location)),
        }
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let faults = Arc::clone(&self.faults);
        let listed = self.inner.list(prefix);
        listed
            .try_filter(move |meta| std::future::ready(!faults.hides(&meta.location)))
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
