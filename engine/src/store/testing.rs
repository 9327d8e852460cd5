//! A store that fails on demand, for tests of everything above it.

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use std::collections::VecDeque;
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
    /// A refusal as if the object existed, with nothing written.
    Conflict,
    /// Access denied.
    Denied,
}

/// Faults are taken in order, one per request of a kind; when none is left, requests go through.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    puts: Mutex<VecDeque<Fault>>,
    gets: Mutex<VecDeque<Fault>>,
    ignores_condition: bool,
}

impl FaultyStore {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            puts: Mutex::default(),
            gets: Mutex::default(),
            ignores_condition: false,
        }
    }

    /// A store that takes a create for an overwrite.
    pub fn without_conditions(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            ignores_condition: true,
            ..Self::new(inner)
        }
    }

    pub fn fail_puts(&self, faults: impl IntoIterator<Item = Fault>) {
        self.puts.lock().extend(faults);
    }

    pub fn fail_gets(&self, faults: impl IntoIterator<Item = Fault>) {
        self.gets.lock().extend(faults);
    }
}

fn failure(fault: Fault, path: &Path) -> Error {
    let (path, source) = (path.to_string(), format!("injected: {fault:?}").into());
    match fault {
        Fault::Conflict => Error::AlreadyExists { path, source },
        Fault::Denied => Error::PermissionDenied { path, source },
        Fault::None | Fault::Before | Fault::After => Error::Generic {
            store: "faulty",
            source,
        },
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
        mut opts: PutOptions,
    ) -> Result<PutResult> {
        let fault = self.puts.lock().pop_front().unwrap_or(Fault::None);
        if self.ignores_condition {
            opts.mode = PutMode::Overwrite;
        }
        match fault {
            Fault::None => self.inner.put_opts(location, payload, opts).await,
            Fault::After => {
                self.inner.put_opts(location, payload, opts).await?;
                Err(failure(fault, location))
            }
            Fault::Before | Fault::Conflict | Fault::Denied => Err(failure(fault, location)),
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
        let fault = self.gets.lock().pop_front().unwrap_or(Fault::None);
        match fault {
            Fault::None => self.inner.get_opts(location, options).await,
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
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
