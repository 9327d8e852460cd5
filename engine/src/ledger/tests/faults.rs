//! A store whose conditional puts go wrong in the four ways that stores have.

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::host::testing::SeededEntropy;

#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    entropy: SeededEntropy,
    /// One create in this many goes wrong, and one get in twice as many.
    one_in: u64,
    pub faults: AtomicU64,
}

impl FaultyStore {
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64, one_in: u64) -> Self {
        Self {
            inner,
            entropy: SeededEntropy::new(seed),
            one_in,
            faults: AtomicU64::new(0),
        }
    }

    /// Every request takes a turn, so that writers interleave.
    async fn turn(&self) {
        for _ in 0..self.entropy.below(4) {
            tokio::task::yield_now().await;
        }
    }

    fn strikes(&self, one_in: u64) -> bool {
        let strikes = self.entropy.below(one_in) == 0;
        if strikes {
            self.faults.fetch_add(1, Ordering::Relaxed);
        }
        strikes
    }
}

fn lost() -> Error {
    Error::Generic {
        store: "faulty",
        source: "the connection was lost".into(),
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.turn().await;
        if options.mode != PutMode::Create || !self.strikes(self.one_in) {
            return self.inner.put_opts(location, payload, options).await;
        }
        match self.entropy.below(4) {
            // Failed before the effect.
            0 => Err(lost()),
            // 409 with nothing written.
            1 => Err(Error::AlreadyExists {
                path: location.to_string(),
                source: "conflicting operation".into(),
            }),
            // Landed, and the answer was lost.
            2 => {
                self.inner.put_opts(location, payload, options).await?;
                self.turn().await;
                Err(lost())
            }
            // Landed, sent again below us, and met itself.
            _ => {
                self.inner
                    .put_opts(location, payload.clone(), options.clone())
                    .await?;
                self.turn().await;
                self.inner.put_opts(location, payload, options).await
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.turn().await;
        if self.strikes(self.one_in * 2) {
            return Err(lost());
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
