//! Uploads in parts, counted and, where the store has ids for parts, retried part by part.

use super::retry::Retry;
use super::rooted::{Counters, add};
use async_trait::async_trait;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{MultipartId, MultipartUpload, PutPayload, PutResult, Result, UploadPart};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Over a store that keeps parts in order itself; a part that fails ends the upload.
#[derive(Debug)]
pub(super) struct CountedUpload {
    pub inner: Box<dyn MultipartUpload>,
    pub counters: Arc<Counters>,
}

#[async_trait]
impl MultipartUpload for CountedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        add(&self.counters.put_count, 1);
        add(&self.counters.written_bytes, data.content_length() as u64);
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        add(&self.counters.put_count, 1);
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        add(&self.counters.delete_count, 1);
        self.inner.abort().await
    }
}

/// Over a bucket: a part that fails for the moment is sent again under its own number.
pub(super) struct RetriedUpload {
    store: Arc<dyn MultipartStore>,
    path: Path,
    id: MultipartId,
    counters: Arc<Counters>,
    retry: Retry,
    parts_begun: usize,
    parts_done: Arc<Mutex<BTreeMap<usize, PartId>>>,
}

impl fmt::Debug for RetriedUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetriedUpload")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl RetriedUpload {
    pub async fn start(
        store: Arc<dyn MultipartStore>,
        path: &Path,
        counters: &Arc<Counters>,
        retry: &Retry,
    ) -> Result<Self> {
        let id = retry
            .run(|| {
                add(&counters.put_count, 1);
                store.create_multipart(path)
            })
            .await?;
        Ok(Self {
            store,
            path: path.clone(),
            id,
            counters: Arc::clone(counters),
            retry: retry.clone(),
            parts_begun: 0,
            parts_done: Arc::default(),
        })
    }
}

#[async_trait]
impl MultipartUpload for RetriedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let index = self.parts_begun;
        self.parts_begun += 1;
        let (store, path, id) = (Arc::clone(&self.store), self.path.clone(), self.id.clone());
        let (counters, retry) = (Arc::clone(&self.counters), self.retry.clone());
        let done = Arc::clone(&self.parts_done);
        Box::pin(async move {
            let attempt = || {
                add(&counters.put_count, 1);
                add(&counters.written_bytes, data.content_length() as u64);
                store.put_part(&path, &id, index, data.clone())
            };
            let part = retry.run(attempt).await?;
            done.lock().insert(index, part);
            Ok(())
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let parts: Vec<PartId> = self.parts_done.lock().values().cloned().collect();
        if parts.len() != self.parts_begun {
            let missing = self.parts_begun - parts.len();
            let source = format!("{missing} parts of {} were not uploaded", self.path).into();
            return Err(object_store::Error::NotSupported { source });
        }
        add(&self.counters.put_count, 1);
        // A second completion of one upload finds no upload, so it is not repeated.
        self.retry
            .once(self.store.complete_multipart(&self.path, &self.id, parts))
            .await
    }

    async fn abort(&mut self) -> Result<()> {
        self.retry
            .run(|| {
                add(&self.counters.delete_count, 1);
                self.store.abort_multipart(&self.path, &self.id)
            })
            .await
    }
}
