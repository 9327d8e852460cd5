//! Chambers: what a task runs in.
//!
//! A chamber has a memory pool of its crew's budgets together and scratch of its own; the caches
//! and the store registry are shared by all chambers of a node.
//!
//! Invariants: what operators reserve never exceeds the budget (CHAMBER-1).

use crate::pool::ChamberPool;
use crate::scratch::Scratch;
use apiary_engine::behavior::abandonment::Strategy;
use apiary_engine::behavior::mason::Division;
use apiary_engine::cache::CellParts;
use apiary_engine::error::{Error, Result};
use apiary_engine::host::Host;
use apiary_engine::laboratory::Cores;
use apiary_engine::settings::Settings;
use apiary_engine::sql::Caches;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{
    GreedyMemoryPool, MemoryPool, PeakRecordingPool, TrackConsumersPool,
};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::path::PathBuf;
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
    /// `parts`: where readers of cells look first.
    pub(crate) fn new(
        host: &Host,
        settings: &Settings,
        division: Division,
        parts: Option<Arc<dyn CellParts>>,
    ) -> Result<Self> {
        let footer_bytes = match parts {
            Some(_) => division.cache_with_disk().footer_bytes,
            None => division.cache_bytes,
        };
        let world = host.laboratory.small_world;
        let cores = world.map(|world| Cores::new(world, division.bees));
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
            caches: Arc::new(Caches::new(footer_bytes as usize, parts).on_cores(cores)),
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
        let memory = ChamberPool::new(budget_bytes as usize);
        let memory = Arc::new(TrackConsumersPool::new(memory, CONSUMERS_NAMED));
        let pool = Arc::new(PeakRecordingPool::new(memory.clone()));
        let scratch = Arc::new(Scratch::new(
            self.host.spill.as_deref(),
            self.scratch_directory.as_deref(),
            self.scratch_bytes_max,
        ));
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
            memory,
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
    memory: Arc<TrackConsumersPool<ChamberPool>>,
    pool: Arc<PeakRecordingPool>,
    scratch: Arc<Scratch>,
    pub(crate) runtime: Arc<RuntimeEnv>,
}

impl Chamber {
    /// Divides its memory between what operators hold and what they need to spill and to merge.
    pub(crate) fn divide(&self, strategy: Strategy) {
        self.memory.inner().hold_at_most(strategy.held_percent);
        self.runtime
            .disk_manager
            .set_max_spill_merge_fan_in(strategy.merged_runs);
    }

    pub(crate) fn reserved_bytes(&self) -> u64 {
        self.pool.reserved() as u64
    }

    pub(crate) fn peak_bytes(&self) -> u64 {
        self.pool.peak_reserved() as u64
    }

    /// Ends when a write to scratch has failed, with what went wrong. Operators may wait for ever for
    /// bytes that could not be written, so this ends the task.
    pub(crate) async fn scratch_failed(&self) -> Error {
        self.scratch.failed().await
    }

    /// Bytes written to scratch so far, whether or not they are still there.
    pub(crate) fn spilled_bytes(&self) -> u64 {
        self.scratch.written_bytes()
    }
}

#[cfg(test)]
impl Chamber {
    /// Bytes that are in scratch now.
    pub(crate) fn held_scratch_bytes(&self) -> u64 {
        self.scratch.held_bytes()
    }
}
