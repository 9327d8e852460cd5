//! A store that one node sees: it can be slow, and it can stop for ever at a given request.

use super::Store;
use crate::host::testing::SeededEntropy;
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

#[derive(Debug)]
pub struct Reins {
    inner: Store,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    requests: AtomicU64,
    /// The request that never comes back, counted from 0; without its effect, or with it.
    stop_at: Option<(u64, bool)>,
    stopped: Notify,
    /// Upper bound of the pause before and after each request.
    delay_ms: u64,
    entropy: SeededEntropy,
}

impl Reins {
    fn new(inner: &Store, stop_at: Option<(u64, bool)>, delay_ms: u64, seed: u64) -> Arc<Self> {
        let state = State {
            requests: AtomicU64::new(0),
            stop_at,
            stopped: Notify::new(),
            delay_ms,
            entropy: SeededEntropy::new(seed),
        };
        Arc::new(Self {
            inner: Arc::clone(inner),
            state: Arc::new(state),
        })
    }

    /// Each request takes a random time.
    pub fn slow(inner: &Store, delay_ms: u64, seed: u64) -> Store {
        Self::new(inner, None, delay_ms, seed)
    }

    /// The `request`-th request (from 0) and all after it never come back.
    pub fn stopping(inner: &Store, request: u64, with_effect: bool) -> Arc<Self> {
        Self::new(inner, Some((request, with_effect)), 0, 0)
    }

    /// Returns when the store has stopped.
    pub async fn stopped(&self) {
        self.state.stopped.notified().await;
    }
}

impl State {
    /// Before the effect of a request; gives its number.
    async fn enter(&self) -> u64 {
        let request = self.requests.fetch_add(1, Ordering::SeqCst);
        match self.stop_at {
            Some((at, with_effect)) if request > at || (request == at && !with_effect) => {
                self.stop().await;
            }
            _ => self.delay().await,
        }
        request
    }

    /// After its effect.
    async fn leave(&self, request: u64) {
        if self.stop_at == Some((request, true)) {
            self.stop().await;
        }
        self.delay().await;
    }

    async fn stop(&self) {
        self.stopped.notify_one();
        futures::future::pending::<()>().await;
    }

    async fn delay(&self) {
        if self.delay_ms > 0 {
            let pause_ms = self.entropy.below(self.delay_ms);
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
    }

    async fn around<T>(&self, effect: impl Future<Output = T>) -> T {
        let request = self.enter().await;
        let result = effect.await;
        self.leave(request).await;
        result
    }
}

impl fmt::Display for Reins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reins({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Reins {
    async fn put_opts(
        &self,
        path: &Path,
        body: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.state
            .around(self.inner.put_opts(path, body, options))
            .await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.state.around(self.inner.get_opts(path, options)).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (inner, state) = (Arc::clone(&self.inner), Arc::clone(&self.state));
        paths
            .then(move |path| {
                let (inner, state) = (Arc::clone(&inner), Arc::clone(&state));
                async move {
                    let one = futures::stream::once(async move { path }).boxed();
                    let mut deleted = inner.delete_stream(one);
                    match state.around(deleted.next()).await {
                        Some(result) => result,
                        None => unreachable!("a delete without a result"),
                    }
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, state) = (Arc::clone(&self.inner), Arc::clone(&self.state));
        let prefix = prefix.cloned();
        let listed = async move {
            let list = async { inner.list(prefix.as_ref()).collect::<Vec<_>>().await };
            futures::stream::iter(state.around(list).await)
        };
        futures::stream::once(listed).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.state
            .around(self.inner.list_with_delimiter(prefix))
            .await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.state
            .around(self.inner.copy_opts(from, to, options))
            .await
    }
}
