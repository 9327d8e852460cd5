//! What touches the world: clock, entropy, local files, runtimes, memory readings.
//!
//! `engine` and `actors` reach all of it through [`Host`] alone, so a simulation can replace it and
//! the same seed gives the same trace.

mod disk;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use disk::DiskFiles;

use crate::laboratory::Laboratory;
use bytes::Bytes;
use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Wall clock and monotonic clock. Timers are tokio's, which a simulation pauses.
pub trait Clock: Send + Sync + Debug {
    /// Milliseconds since the Unix epoch. For people and for Delta's timestamps; no decision
    /// compares two machines' readings.
    fn unix_ms(&self) -> i64;
    /// Time since some fixed moment of this process.
    fn monotonic(&self) -> Duration;
}

/// The only source of random bytes.
pub trait Entropy: Send + Sync + Debug {
    fn fill(&self, bytes: &mut [u8]);
}

impl dyn Entropy {
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }
}

/// What a file or directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStatus {
    pub is_directory: bool,
    pub size_bytes: u64,
    /// Microseconds since the Unix epoch, by the file system's clock.
    pub modified_us: i64,
    /// Tells a file from the one that replaced it under the same name (an inode number).
    pub identity: u64,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirectoryEntry {
    /// A name that is not Unicode is left out of listings: no key can spell it.
    pub name: String,
    /// False for a symbolic link, whatever it leads to.
    pub is_directory: bool,
}

/// The seam under the local store. All calls block; [`Host::blocking`] runs them. Paths are absolute.
///
/// Durability is what `sync` and `sync_directory` promise and nothing else is: a simulation drops or
/// tears everything that was not synced. No call makes a parent directory: who makes one has to
/// make it durable.
pub trait Files: Send + Sync + Debug {
    /// Writes all parts one after the other from `offset` on, creating the file when it is absent.
    /// What was there before or after is kept.
    fn write(&self, path: &Path, offset: u64, parts: &[Bytes]) -> io::Result<()>;
    /// Makes a file that is not there and writes all parts to it; `AlreadyExists` when something is.
    /// After another error the file may be there, with a part of its content.
    fn write_new(&self, path: &Path, parts: &[Bytes]) -> io::Result<()>;
    /// Makes a file's content durable.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// A second name for a file; `AlreadyExists` when `to` is there.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Replaces `to` atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
    /// Makes one directory in an existing one; `AlreadyExists` when something is there.
    fn make_directory(&self, path: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory; one that is not empty is an error.
    fn remove_directory(&self, path: &Path) -> io::Result<()>;
    /// Status of what the path leads to.
    fn status(&self, path: &Path) -> io::Result<FileStatus>;
    /// The path with every symbolic link resolved.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf>;
    /// Entries of one directory, in name order; an absent directory is `NotFound`.
    fn list(&self, path: &Path) -> io::Result<Vec<DirectoryEntry>>;
    /// Opens a file for reading; what is read stays one file's content, also when it is replaced.
    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>>;
}

/// A file opened for reading.
pub trait OpenFile: Send + Sync + Debug {
    fn status(&self) -> io::Result<FileStatus>;
    /// Bytes of the range, or `UnexpectedEof` when the file is shorter.
    fn read(&self, range: Range<u64>) -> io::Result<Bytes>;
}

/// Runs blocking jobs. The real one has a few I/O threads behind a bounded channel; a simulation
/// runs the job at once.
pub trait Blocking: Send + Sync + Debug {
    fn run(&self, job: Box<dyn FnOnce() + Send + 'static>);
}

impl dyn Blocking {
    /// Runs a job and gives its result; a job that panicked gives an error.
    pub async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.run(Box::new(move || {
            let _ = sender.send(job());
        }));
        receiver
            .await
            .map_err(|_| io::Error::other("a blocking job ended without a result"))
    }
}

/// Readings of this process and its machine.
pub trait Machine: Send + Sync + Debug {
    /// Cores this process may use (cgroup, then affinity), at least 1.
    fn cores(&self) -> usize;
    /// Memory this process may use in bytes (cgroup, then the machine's).
    fn memory_bytes(&self) -> u64;
    /// Resident memory of this process in bytes, now.
    fn resident_bytes(&self) -> u64;
    fn host_name(&self) -> String;
    fn process_id(&self) -> u32;
}

/// Where work runs. In a simulation both are the one runtime.
#[derive(Clone, Debug)]
pub struct Runtimes {
    /// As many worker threads as bees; only query and write work.
    pub query: Handle,
    /// Actors, heartbeats, object-store I/O; never waits behind a query.
    pub control: Handle,
}

/// Everything that a node takes from the world. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Host {
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub files: Arc<dyn Files>,
    pub blocking: Arc<dyn Blocking>,
    pub machine: Arc<dyn Machine>,
    pub runtimes: Runtimes,
    /// How DataFusion gets its spill files: real ones under a chamber's scratch directory when
    /// `None`, this factory's in a simulation.
    pub spill: Option<Arc<dyn SpillFactory>>,
    /// Of experiments in simulated time.
    pub laboratory: Laboratory,
}

/// Makes the spill-file factory of one chamber (see `DiskManagerMode::Custom`).
pub trait SpillFactory: Send + Sync + Debug {
    fn chamber(&self) -> Arc<dyn datafusion::execution::TempFileFactory>;
}
