//! Scratch: the spill files of one chamber, counted and bounded.
//!
//! The directory is made when the first operator spills and is cleared when the chamber and all that
//! reads from it are gone. A file holds a descriptor only while it is written or read: a repartition
//! that spills makes one for every batch, and small machines allow a thousand descriptors.
//!
//! Invariants: the files of one chamber never exceed its bound; a write that failed is told to the
//! chamber, because an operator may wait for ever for the bytes that are missing.

use apiary_engine::error::Error;
use apiary_engine::host::SpillFactory;
use bytes::Bytes;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::disk_manager::{DiskManager, DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::{SpillFile, SpillWriter, TempFileFactory};
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

const READ_BYTES: usize = 128 << 10;

/// The spill files of one chamber.
pub(crate) struct Scratch {
    files: FileSource,
    account: Arc<Account>,
}

enum FileSource {
    Host(Arc<dyn TempFileFactory>),
    /// A directory of this chamber's own; removed with its last file.
    Disk {
        parent: Option<PathBuf>,
        directory: Mutex<Option<Arc<Directory>>>,
    },
}

#[derive(Debug, Default)]
struct Account {
    bytes_max: u64,
    written_bytes: AtomicU64,
    held_bytes: AtomicU64,
    failure: OnceLock<Arc<Error>>,
    failed: Notify,
}

impl Account {
    /// Notes a failure, and gives what the operator that met it is told.
    fn fail(&self, error: Error) -> DataFusionError {
        let error = Arc::new(error);
        let first = self.failure.set(error.clone()).is_ok();
        if first {
            self.failed.notify_waiters();
        }
        DataFusionError::External(Box::new(Error::Shared(error)))
    }

    fn io_failed(&self, source: std::io::Error) -> DataFusionError {
        self.fail(Error::Io {
            path: "scratch".into(),
            source,
        })
    }
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.account.fmt(f)
    }
}

impl Scratch {
    /// Files of the host's factory, or on disk: in a new directory below `parent`, or below the
    /// system's temporary one. Together at most `bytes_max`.
    pub(crate) fn new(
        host: Option<&dyn SpillFactory>,
        parent: Option<&Path>,
        bytes_max: u64,
    ) -> Self {
        let files = match host {
            Some(factory) => FileSource::Host(factory.chamber()),
            None => FileSource::Disk {
                parent: parent.map(Path::to_path_buf),
                directory: Mutex::new(None),
            },
        };
        let account = Account {
            bytes_max,
            ..Account::default()
        };
        Self {
            files,
            account: Arc::new(account),
        }
    }

    /// Bytes written so far, whether or not they are still there.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.account.written_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that are there now.
    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> u64 {
        self.account.held_bytes.load(Ordering::Relaxed)
    }

    /// The first failure, once there is one.
    pub(crate) async fn failed(&self) -> Error {
        loop {
            let told = self.account.failed.notified();
            if let Some(error) = self.account.failure.get() {
                return Error::Shared(error.clone());
            }
            told.await;
        }
    }
}

impl TempFileFactory for Scratch {
    fn create_temp_file(&self, description: &str) -> DataFusionResult<Arc<dyn SpillFile>> {
        let inner = match &self.files {
            FileSource::Host(factory) => factory.create_temp_file(description)?,
            FileSource::Disk { parent, directory } => {
                let mut directory = directory.lock();
                let directory = match &*directory {
                    Some(directory) => directory.clone(),
                    None => {
                        let made = Arc::new(Directory::make(parent.as_deref())?);
                        directory.insert(made).clone()
                    }
                };
                directory.create_file()
            }
        };
        let held = Arc::new(Held {
            bytes: AtomicU64::new(0),
            account: self.account.clone(),
        });
        Ok(Arc::new(CountedFile { inner, held }))
    }
}

/// A directory that is there as long as one of its files is.
struct Directory {
    path: PathBuf,
    next_file: AtomicU64,
    /// DataFusion's own file, which keeps its directory.
    _anchor: Arc<dyn SpillFile>,
}

impl Directory {
    fn make(parent: Option<&Path>) -> DataFusionResult<Self> {
        let mode = match parent {
            Some(parent) => DiskManagerMode::Directories(vec![parent.to_path_buf()]),
            None => DiskManagerMode::OsTmpDirectory,
        };
        let manager: Arc<DiskManager> = Arc::new(
            DiskManagerBuilder::default()
                .with_mode(mode)
                // The bound is kept by the account, in simulations too.
                .with_max_temp_directory_size(u64::MAX)
                .build()?,
        );
        let anchor = manager.create_tmp_file("the scratch of a chamber")?;
        let path = anchor.path().and_then(Path::parent).map(Path::to_path_buf);
        let path = path.ok_or_else(|| {
            DataFusionError::Internal("a scratch file without a directory".into())
        })?;
        Ok(Self {
            path,
            next_file: AtomicU64::new(0),
            _anchor: anchor,
        })
    }

    fn create_file(self: Arc<Self>) -> Arc<dyn SpillFile> {
        let number = self.next_file.fetch_add(1, Ordering::Relaxed);
        Arc::new(PathFile(Arc::new(OwnedPath {
            path: self.path.join(number.to_string()),
            _directory: self,
        })))
    }
}

/// Removes its file, which may not be there yet.
struct OwnedPath {
    path: PathBuf,
    _directory: Arc<Directory>,
}

impl Drop for OwnedPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

struct PathFile(Arc<OwnedPath>);

impl SpillFile for PathFile {
    fn path(&self) -> Option<&Path> {
        Some(&self.0.path)
    }

    fn size(&self) -> Option<u64> {
        None
    }

    fn read_stream(&self) -> DataFusionResult<BoxStream<'static, DataFusionResult<Bytes>>> {
        // The path goes with the stream: who reads may outlive the file's other owners.
        let start = Some((self.0.clone(), None::<File>));
        Ok(futures::stream::unfold(start, |state| async {
            let (path, file) = state?;
            let read = tokio::task::spawn_blocking(move || {
                let mut file = match file {
                    Some(file) => file,
                    None => File::open(&path.path)?,
                };
                let mut bytes = Vec::with_capacity(READ_BYTES);
                let read = (&mut file)
                    .take(READ_BYTES as u64)
                    .read_to_end(&mut bytes)?;
                Ok((read > 0).then(|| (Bytes::from(bytes), (path, Some(file)))))
            });
            match read.await {
                Ok(Ok(None)) => None,
                Ok(Ok(Some((bytes, next)))) => Some((Ok(bytes), Some(next))),
                Ok(Err(error)) => Some((Err(DataFusionError::IoError(error)), None)),
                Err(error) => Some((Err(DataFusionError::External(Box::new(error))), None)),
            }
        })
        .boxed())
    }

    fn open_writer(&self) -> DataFusionResult<Box<dyn SpillWriter>> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(&self.0.path)
            .map_err(DataFusionError::IoError)?;
        Ok(Box::new(PathWriter(file)))
    }
}

struct PathWriter(File);

impl Write for PathWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl SpillWriter for PathWriter {
    fn finish(&mut self) -> DataFusionResult<()> {
        Ok(())
    }
}

/// What one spill file holds; gives it back when the file goes.
struct Held {
    bytes: AtomicU64,
    account: Arc<Account>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.account
            .held_bytes
            .fetch_sub(self.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

struct CountedFile {
    inner: Arc<dyn SpillFile>,
    held: Arc<Held>,
}

impl SpillFile for CountedFile {
    fn path(&self) -> Option<&Path> {
        self.inner.path()
    }

    fn size(&self) -> Option<u64> {
        Some(self.held.bytes.load(Ordering::Relaxed))
    }

    fn read_stream(&self) -> DataFusionResult<BoxStream<'static, DataFusionResult<Bytes>>> {
        self.inner.read_stream()
    }

    fn open_writer(&self) -> DataFusionResult<Box<dyn SpillWriter>> {
        let opened = self.inner.open_writer();
        let inner = opened.map_err(|error| self.held.account.fail(error.into()))?;
        Ok(Box::new(CountedWriter {
            inner,
            held: self.held.clone(),
        }))
    }
}

struct CountedWriter {
    inner: Box<dyn SpillWriter>,
    held: Arc<Held>,
}

impl Write for CountedWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let account = &self.held.account;
        let wanted = bytes.len() as u64;
        if account.held_bytes.fetch_add(wanted, Ordering::Relaxed) + wanted > account.bytes_max {
            account.held_bytes.fetch_sub(wanted, Ordering::Relaxed);
            let limit = account.bytes_max;
            return Err(std::io::Error::other(account.fail(Error::Rejected(
                format!(
                    "the task needs more than {limit} bytes of scratch: raise scratch_bytes_max"
                ),
            ))));
        }
        let written = self.inner.write(bytes);
        let landed = *written.as_ref().unwrap_or(&0) as u64;
        account
            .held_bytes
            .fetch_sub(wanted - landed, Ordering::Relaxed);
        account.written_bytes.fetch_add(landed, Ordering::Relaxed);
        self.held.bytes.fetch_add(landed, Ordering::Relaxed);
        match written {
            // Whoever writes tries again.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Err(error),
            written => written.map_err(|error| std::io::Error::other(account.io_failed(error))),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let account = &self.held.account;
        self.inner
            .flush()
            .map_err(|error| std::io::Error::other(account.io_failed(error)))
    }
}

impl SpillWriter for CountedWriter {
    fn finish(&mut self) -> DataFusionResult<()> {
        let finished = self.inner.finish();
        finished.map_err(|error| self.held.account.fail(error.into()))
    }
}
