//! Settings are data: read at the edge from flags, environment and file, refused when unknown.

use crate::behavior::placement::Distribute;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Storage deadlines that a commit may take, and some to spare.
const COMMIT_REQUESTS: u32 = 8;

/// How cells are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Codec {
    None,
    Snappy,
    Zstd,
    #[default]
    Lz4Raw,
}

/// What a new write does while the node is hot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backpressure {
    /// Waits up to 30 s, then fails.
    #[default]
    Block,
    Error,
    Ignore,
}

/// What opening a meadow takes from the environment and the user's files, read at the edge.
#[derive(Clone, Default, PartialEq)]
pub struct StorageEnvironment {
    /// `AWS_…`, `GOOGLE_…` and `AZURE_…` variables, and what the files of these clouds say.
    pub variables: BTreeMap<String, String>,
    /// What `~` stands for.
    pub home: Option<PathBuf>,
    /// What a relative path is relative to.
    pub working_directory: Option<PathBuf>,
}

/// Values are secrets: only names are shown.
impl fmt::Debug for StorageEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorageEnvironment")
            .field("variables", &self.variables.keys().collect::<Vec<_>>())
            .field("home", &self.home)
            .field("working_directory", &self.working_directory)
            .finish()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The name of this node for people; the host name when absent.
    pub name: Option<String>,
    /// Memory that this process may use, in bytes; measured when absent.
    pub memory_bytes: Option<u64>,
    /// Number of bees; one per usable core when absent.
    pub bees: Option<usize>,
    /// Where operators spill; the system's temporary directory when absent. The crate `apiary` puts a
    /// directory of the process's own below it.
    pub scratch_directory: Option<PathBuf>,
    /// Most bytes of scratch that one chamber may use.
    pub scratch_bytes_max: u64,
    /// Most bytes of cells that are kept on local disk, when the meadow is not on this machine; 0 for
    /// none. The crate `apiary` takes a share of what is free when it is absent.
    pub cache_bytes_max: Option<u64>,
    /// Where; absent for nowhere. The crate `apiary` finds a place when it is absent, and leaves it
    /// absent while another process has it.
    pub cache_directory: Option<PathBuf>,
    /// Codec of new cells.
    pub codec: Codec,
    /// Whether commits and cells on a local meadow are synced before they are acknowledged.
    pub sync: bool,
    /// Rows of a row group in new cells.
    pub row_group_rows_max: usize,
    /// Cell size in bytes; from the bee's budget (leafcutter) when absent.
    pub target_cell_bytes: Option<u64>,
    /// Partitions that one write may touch.
    pub max_partitions: usize,
    /// A query or write that takes longer fails.
    pub query_deadline_ms: u64,
    /// Deadline of one storage request with its retries.
    pub storage_deadline_ms: u64,
    pub backpressure: Backpressure,
    /// Commits between two checkpoints of a frame's ledger.
    pub checkpoint_interval: u64,
    /// Pause between two looks of a resident node's Keeper; each takes one frame.
    pub keeper_interval_ms: u64,
    /// Storage requests that the Keeper makes per minute while it looks after a frame.
    pub keeper_requests_per_minute: u32,
    /// Whether this node's queries are shared with the others of the meadow. It helps with theirs in any
    /// case.
    pub distribute: Distribute,
    /// What no version names is swept when it is older. The same on all nodes of a meadow.
    pub sweep_age_ms: u64,
    /// What opening a meadow takes from the environment; filled at the edge, never stored.
    #[serde(skip)]
    pub storage: StorageEnvironment,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: None,
            memory_bytes: None,
            bees: None,
            scratch_directory: None,
            scratch_bytes_max: 100 << 30,
            cache_bytes_max: None,
            cache_directory: None,
            codec: Codec::default(),
            sync: true,
            row_group_rows_max: 256 * 1024,
            target_cell_bytes: None,
            max_partitions: 10_000,
            query_deadline_ms: 3_600_000,
            storage_deadline_ms: 60_000,
            backpressure: Backpressure::default(),
            checkpoint_interval: 100,
            keeper_interval_ms: 600_000,
            keeper_requests_per_minute: 6,
            distribute: Distribute::default(),
            sweep_age_ms: 7 * 24 * 3_600_000,
            storage: StorageEnvironment::default(),
        }
    }
}

impl Settings {
    pub fn query_deadline(&self) -> Duration {
        Duration::from_millis(self.query_deadline_ms)
    }

    pub fn storage_deadline(&self) -> Duration {
        Duration::from_millis(self.storage_deadline_ms)
    }

    pub fn sweep_age(&self) -> Duration {
        Duration::from_millis(self.sweep_age_ms)
    }

    /// The longest that a write may take up to its commit, so that none of its cells grows older than
    /// the sweep age before it is in a version.
    pub fn write_deadline_max(&self) -> Duration {
        self.sweep_age()
            .saturating_sub(self.storage_deadline() * COMMIT_REQUESTS)
    }

    /// `Rejected` for settings that do not go together.
    pub fn check(&self) -> Result<()> {
        if self.query_deadline() > self.write_deadline_max() {
            return Err(Error::rejected(format!(
                "a sweep age of {} ms is too short for writes of up to {} ms and their commits: raise \
                 sweep_age or lower query_deadline or storage_deadline",
                self.sweep_age_ms, self.query_deadline_ms
            )));
        }
        Ok(())
    }
}
