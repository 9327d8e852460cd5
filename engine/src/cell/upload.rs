//! Carries the bytes of one cell to the meadow: one put when it is small, parts when it is not.
//!
//! At most one part is on its way while the next one fills. Parts run on the control runtime, beside
//! the work that makes the next one; a cell that is put whole has nothing beside it, and two threads
//! less to wake. Dropping an unfinished upload aborts it, so no parts stay behind.

use crate::error::{Error, Result};
use crate::host::Host;
use crate::store::{Meadow, cell_put};
use bytes::Bytes;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, PutMultipartOptions, PutPayload};
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

/// S3's least part size.
pub const PART_BYTES: usize = 5 << 20;

pub struct Upload {
    store: Arc<dyn ObjectStore>,
    control: Handle,
    key: String,
    path: Path,
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    multipart: Option<Box<dyn MultipartUpload>>,
    pending: Option<AbortOnDropHandle<object_store::Result<()>>>,
    pending_bytes: usize,
    total_bytes: u64,
}

impl Upload {
    /// Starts nothing yet.
    pub fn new(host: &Host, meadow: &Meadow, key: &str) -> Result<Self> {
        let path = Path::parse(key)
            .map_err(|error| Error::rejected(format!("{key:?} is no key of a cell: {error}")))?;
        Ok(Self {
            store: meadow.object_store().clone(),
            control: host.runtimes.control.clone(),
            key: key.to_string(),
            path,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            multipart: None,
            pending: None,
            pending_bytes: 0,
            total_bytes: 0,
        })
    }

    /// Bytes in memory: waiting or on their way.
    pub fn held_bytes(&self) -> usize {
        self.waiting_bytes + self.pending_bytes
    }

    pub async fn append(&mut self, bytes: Bytes) -> Result<()> {
        self.total_bytes += bytes.len() as u64;
        self.waiting_bytes += bytes.len();
        self.waiting.push_back(bytes);
        while self.waiting_bytes >= PART_BYTES {
            let part = self.take(PART_BYTES);
            self.send_part(part).await?;
        }
        Ok(())
    }

    /// The first bytes that wait, without copying them.
    fn take(&mut self, bytes: usize) -> PutPayload {
        let mut parts = Vec::new();
        let mut missing = bytes.min(self.waiting_bytes);
        self.waiting_bytes -= missing;
        while missing > 0
            && let Some(mut first) = self.waiting.pop_front()
        {
            let part = first.split_to(missing.min(first.len()));
            missing -= part.len();
            parts.push(part);
            if !first.is_empty() {
                self.waiting.push_front(first);
            }
        }
        parts.into_iter().collect()
    }

    /// Returns the size when all of it is there.
    pub async fn finish(mut self) -> Result<u64> {
        let rest = self.take(self.waiting_bytes);
        if self.multipart.is_none() {
            let put = self.store.put_opts(&self.path, rest, cell_put()).await;
            put.map_err(|source| self.failure(source))?;
            return Ok(self.total_bytes);
        }
        if rest.content_length() > 0 {
            self.send_part(rest).await?;
        }
        self.settle().await?;
        if let Some(mut multipart) = self.multipart.take() {
            self.on_control(async move { multipart.complete().await })
                .await?;
        }
        Ok(self.total_bytes)
    }

    async fn send_part(&mut self, part: PutPayload) -> Result<()> {
        self.settle().await?;
        if self.multipart.is_none() {
            let (store, path) = (self.store.clone(), self.path.clone());
            let started = self
                .on_control(async move {
                    store
                        .put_multipart_opts(&path, PutMultipartOptions::default())
                        .await
                })
                .await?;
            self.multipart = Some(started);
        }
        if let Some(multipart) = &mut self.multipart {
            self.pending_bytes = part.content_length();
            let sending = multipart.put_part(part);
            self.pending = Some(AbortOnDropHandle::new(self.control.spawn(sending)));
        }
        Ok(())
    }

    async fn settle(&mut self) -> Result<()> {
        if let Some(pending) = self.pending.take() {
            let outcome = pending.await;
            self.pending_bytes = 0;
            self.judge(outcome)?;
        }
        Ok(())
    }

    async fn on_control<T: Send + 'static>(
        &mut self,
        request: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Result<T> {
        let outcome = AbortOnDropHandle::new(self.control.spawn(request)).await;
        self.judge(outcome)
    }

    fn failure(&self, source: object_store::Error) -> Error {
        Error::Store {
            action: "writing",
            key: self.key.clone(),
            source,
        }
    }

    fn judge<T>(
        &self,
        outcome: std::result::Result<object_store::Result<T>, tokio::task::JoinError>,
    ) -> Result<T> {
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(source)) => Err(self.failure(source)),
            Err(join) => Err(Error::Bug(format!(
                "writing {} ended early: {join}",
                self.key
            ))),
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.pending = None;
        if let Some(mut multipart) = self.multipart.take() {
            self.control.spawn(async move {
                if let Err(error) = multipart.abort().await {
                    tracing::debug!(%error, "an unfinished upload was not aborted");
                }
            });
        }
    }
}
