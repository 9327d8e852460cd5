//! Chambers: what a task runs in.
//!
//! A chamber has a memory pool of its crew's budgets together and scratch of its own; the caches
//! and the store registry are shared by all chambers of a node. The scratch is made when the first
//! operator spills and is cleared when the chamber and all that reads from it are gone.
//!
//! Invariants: what operators reserve never exceeds the budget (CHAMBER-1); spill files of one
//! chamber never exceed its scratch bound.

use apiary_engine::behavior::mason::Division;
use apiary_engine::error::{Error, Result};
use apiary_engine::host::Host;
use apiary_engine::settings::Settings;
use apiary_engine::sql::Caches;
use bytes::Bytes;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::disk_manager::{DiskManager, DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{
    FairSpillPool, GreedyMemoryPool, MemoryPool, PeakRecordingPool, TrackConsumersPool,
};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SpillFile, SpillWriter, TempFileFactory};
use futures::stream::BoxStream;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// Consumers that an out-of-memory message names.
const CONSUMERS_NAMED: NonZeroUsize = NonZeroUsize::new(3).unwrap();

/// Opens chambers: what they share.
#[derive(Debug)]
pub(crate) struct Chambers {
    host: Host,
    shared: Arc<RuntimeEnv>,
    caches: Arc<Caches>,
    scratch_directory: Option<PathBuf>,
    scratch_bytes_max: u64,
    division: Division,
    /// Of the chambers that were opened, those whose scratch is still held.
    scratches: Mutex<Vec<Weak<Scratch>>>,
}

impl Chambers {
    pub(crate) fn new(host: &Host, settings: &Settings, division: Division) -> Result<Self> {
        let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
        let shared = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(GreedyMemoryPool::new(
                division.budget_per_bee_bytes as usize,
            )))
            .with_disk_manager_builder(disk)
            // Footers are in the engine's own cache.
            .with_metadata_cache_limit(0)
            .build_arc()
            .map_err(Error::from)?;
        Ok(Self {
            host: host.clone(),
            shared,
            caches: Arc::new(Caches::new(division.cache_bytes as usize)),
            scratch_directory: settings.scratch_directory.clone(),
            scratch_bytes_max: settings.scratch_bytes_max,
            division,
            scratches: Mutex::default(),
        })
    }

    pub(crate) fn division(&self) -> &Division {
        &self.division
    }

    /// Where plans are made before they have a crew: the shared caches, no scratch.
    pub(crate) fn planning(&self) -> &Arc<RuntimeEnv> {
        &self.shared
    }

    /// What queries leave behind for later ones.
    pub(crate) fn caches(&self) -> &Arc<Caches> {
        &self.caches
    }

    /// Whether something is left that runs in a chamber and may write scratch. What a task started
    /// ends a while after the task that was aborted.
    pub(crate) fn are_in_use(&self) -> bool {
        let mut scratches = self.scratches.lock();
        scratches.retain(|scratch| scratch.strong_count() > 0);
        !scratches.is_empty()
    }

    /// A chamber for a crew of `bees`.
    pub(crate) fn open(&self, bees: usize) -> Result<Chamber> {
        let budget_bytes = self.division.budget_per_bee_bytes * bees as u64;
        let fair = FairSpillPool::new(budget_bytes as usize);
        let tracked = TrackConsumersPool::new(fair, CONSUMERS_NAMED);
        let pool = Arc::new(PeakRecordingPool::new(Arc::new(tracked)));
        let scratch = Arc::new(Scratch {
            files: match &self.host.spill {
                Some(factory) => FileSource::Host(factory.chamber()),
                None => FileSource::Disk {
                    directory: self.scratch_directory.clone(),
                    manager: Mutex::new(None),
                },
            },
            account: Arc::new(ScratchAccount {
                bytes_max: self.scratch_bytes_max,
                ..Default::default()
            }),
        });
        {
            let mut scratches = self.scratches.lock();
            scratches.retain(|scratch| scratch.strong_count() > 0);
            scratches.push(Arc::downgrade(&scratch));
        }
        let disk = DiskManagerBuilder::default().with_temp_file_factory(scratch.clone());
        let runtime = RuntimeEnvBuilder::from_runtime_env(&self.shared)
            .with_memory_pool(pool.clone())
            .with_disk_manager_builder(disk)
            .build_arc()
            .map_err(Error::from)?;
        Ok(Chamber {
            bees,
            budget_bytes,
            pool,
            scratch,
            runtime,
        })
    }
}

/// What one task runs in.
#[derive(Clone, Debug)]
pub(crate) struct Chamber {
    pub(crate) bees: usize,
    pub(crate) budget_bytes: u64,
    pool: Arc<PeakRecordingPool>,
    scratch: Arc<Scratch>,
    pub(crate) runtime: Arc<RuntimeEnv>,
}

impl Chamber {
    pub(crate) fn reserved_bytes(&self) -> u64 {
        self.pool.reserved() as u64
    }

    pub(crate) fn peak_bytes(&self) -> u64 {
        self.pool.peak_reserved() as u64
    }

    /// Bytes written to scratch so far, whether or not they are still there.
    pub(crate) fn spilled_bytes(&self) -> u64 {
        self.scratch.account.written_bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
impl Chamber {
    /// Bytes that are in scratch now.
    pub(crate) fn held_scratch_bytes(&self) -> u64 {
        self.scratch.account.held_bytes.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct ScratchAccount {
    bytes_max: u64,
    written_bytes: AtomicU64,
    held_bytes: AtomicU64,
}

enum FileSource {
    Host(Arc<dyn TempFileFactory>),
    /// A directory of this chamber's own, made at the first spill; removed with its last file.
    Disk {
        directory: Option<PathBuf>,
        manager: Mutex<Option<Arc<DiskManager>>>,
    },
}

/// The spill files of one chamber, counted and bounded.
struct Scratch {
    files: FileSource,
    account: Arc<ScratchAccount>,
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.account.fmt(f)
    }
}

impl TempFileFactory for Scratch {
    fn create_temp_file(&self, description: &str) -> DataFusionResult<Arc<dyn SpillFile>> {
        let inner = match &self.files {
            FileSource::Host(factory) => factory.create_temp_file(description)?,
            FileSource::Disk { directory, manager } => {
                let mut manager = manager.lock();
                let manager = match &mut *manager {
                    Some(manager) => manager,
                    None => manager.insert(Arc::new(make_disk_manager(directory.as_deref())?)),
                };
                manager.create_tmp_file(description)?
            }
        };
        let held = Arc::new(Held {
            bytes: AtomicU64::new(0),
            account: self.account.clone(),
        });
        Ok(Arc::new(CountedFile { inner, held }))
    }
}

fn make_disk_manager(directory: Option<&Path>) -> DataFusionResult<DiskManager> {
    let mode = match directory {
        Some(directory) => DiskManagerMode::Directories(vec![directory.to_path_buf()]),
        None => DiskManagerMode::OsTmpDirectory,
    };
    // The bound is kept by the account, in simulations too.
    DiskManagerBuilder::default()
        .with_mode(mode)
        .with_max_temp_directory_size(u64::MAX)
        .build()
}

/// What one spill file holds; gives it back when the file goes.
struct Held {
    bytes: AtomicU64,
    account: Arc<ScratchAccount>,
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
        self.inner.size()
    }

    fn read_stream(&self) -> DataFusionResult<BoxStream<'static, DataFusionResult<Bytes>>> {
        self.inner.read_stream()
    }

    fn open_writer(&self) -> DataFusionResult<Box<dyn SpillWriter>> {
        Ok(Box::new(CountedWriter {
            inner: self.inner.open_writer()?,
            held: self.held.clone(),
        }))
    }
}

struct CountedWriter {
    inner: Box<dyn SpillWriter>,
    held: Arc<Held>,
}

impl std::io::Write for CountedWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let account = &self.held.account;
        let wanted = bytes.len() as u64;
        if account.held_bytes.fetch_add(wanted, Ordering::Relaxed) + wanted > account.bytes_max {
            account.held_bytes.fetch_sub(wanted, Ordering::Relaxed);
            let limit = account.bytes_max;
            return Err(std::io::Error::other(DataFusionError::External(Box::new(
                Error::Rejected(format!(
                    "the task needs more than {limit} bytes of scratch: raise scratch_bytes_max"
                )),
            ))));
        }
        let written = self.inner.write(bytes);
        let landed = *written.as_ref().unwrap_or(&0) as u64;
        account
            .held_bytes
            .fetch_sub(wanted - landed, Ordering::Relaxed);
        account.written_bytes.fetch_add(landed, Ordering::Relaxed);
        self.held.bytes.fetch_add(landed, Ordering::Relaxed);
        written
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl SpillWriter for CountedWriter {
    fn finish(&mut self) -> DataFusionResult<()> {
        self.inner.finish()
    }
}
