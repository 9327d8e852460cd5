//! A large object in parts: all go to one staging file, which gets its name at the end.

use super::LocalStore;
use super::write::{Disk, How};
use async_trait::async_trait;
use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, MultipartUpload, PutPayload, PutResult, Result, UploadPart};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub(super) struct Upload {
    store: LocalStore,
    key: Path,
    staged: PathBuf,
    /// Where the next part goes: parts are placed when they are handed in, in whatever order they
    /// are written.
    offset: u64,
    /// Bytes that are in the file; a part that failed leaves a hole.
    written: Arc<AtomicU64>,
    ended: bool,
}

impl Upload {
    pub fn new(store: LocalStore, key: Path) -> Self {
        let staged = store.disk.stage_path();
        Self {
            store,
            key,
            staged,
            offset: 0,
            written: Arc::default(),
            ended: false,
        }
    }

    fn discard(&mut self) -> impl FnOnce() + Send + use<> {
        self.ended = true;
        let (disk, staged) = (Arc::clone(&self.store.disk), self.staged.clone());
        move || disk.discard(&staged)
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let offset = self.offset;
        self.offset += data.content_length() as u64;
        let (store, key, staged) = (self.store.clone(), self.key.clone(), self.staged.clone());
        let (written, size_bytes) = (Arc::clone(&self.written), data.content_length() as u64);
        let parts: Vec<Bytes> = data.into_iter().collect();
        Box::pin(async move {
            let job = move |disk: &Disk| {
                disk.stage(&key, &staged, offset, &parts)?;
                written.fetch_add(size_bytes, Ordering::SeqCst);
                Ok(())
            };
            store.run(job).await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        if self.ended {
            let source = format!("the upload of {} has ended", self.key).into();
            return Err(Error::NotSupported { source });
        }
        let size_bytes = self.offset;
        if self.written.load(Ordering::SeqCst) != size_bytes {
            let source = format!("not every part of {} was written", self.key).into();
            return Err(Error::NotSupported { source });
        }
        self.ended = true;
        let (key, staged) = (self.key.clone(), self.staged.clone());
        let complete = move |disk: &Disk| {
            if size_bytes == 0 {
                disk.stage(&key, &staged, 0, &[])?;
            }
            disk.land(&key, &staged, How::Overwrite, &[])
        };
        self.store.run(complete).await
    }

    async fn abort(&mut self) -> Result<()> {
        let discard = self.discard();
        self.store
            .run(move |_| {
                discard();
                Ok(())
            })
            .await
    }
}

/// A dropped upload leaves nothing behind.
impl Drop for Upload {
    fn drop(&mut self) {
        if !self.ended && self.offset > 0 {
            let discard = self.discard();
            self.store.blocking.run(Box::new(discard));
        }
    }
}
