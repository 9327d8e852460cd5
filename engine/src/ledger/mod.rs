//! A frame's ledger: the Delta transaction log, read and written by ourselves.

use crate::error::Result;
use crate::host::Host;
use crate::schema::FrameSchema;
use crate::settings::Settings;
use crate::store::Meadow;
use apiary_protocol::delta::{Action, Add, Metadata, Protocol};
use apiary_protocol::ids::CommitId;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// A cell of a snapshot: its `add` action and what of it is looked at often.
#[derive(Clone, Debug)]
pub struct Cell {
    pub add: Add,
    /// Rows by the statistics, before deletion vectors; `None` when a foreign writer left them out.
    pub rows: Option<u64>,
}

/// One version of a frame. Immutable; shares structure with its neighbours.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub location: String,
    pub version: u64,
    pub protocol: Protocol,
    pub metadata: Arc<Metadata>,
    pub schema: Arc<FrameSchema>,
    /// Largest commit timestamp up to here, milliseconds.
    pub timestamp_ms: i64,
}

impl Snapshot {
    /// Live cells in path order.
    pub fn cells(&self) -> impl Iterator<Item = &Arc<Cell>> {
        std::iter::empty()
    }
    pub fn cell_count(&self) -> usize {
        todo!()
    }
    /// Sum of the cells' sizes.
    pub fn total_bytes(&self) -> u64 {
        todo!()
    }
    /// Rows in the snapshot, deletion vectors subtracted; `None` when a cell has no count.
    pub fn row_count(&self) -> Option<u64> {
        todo!()
    }
    /// Whether the frame was dropped: a marker in its properties says so.
    pub fn is_dropped(&self) -> bool {
        todo!()
    }
    /// A value that is derived from this snapshot, built once and kept with it: the SQL owner's index.
    pub fn derived<T: Send + Sync + 'static>(&self, build: impl FnOnce(&Self) -> T) -> Arc<T> {
        Arc::new(build(self))
    }
    /// Last version that an application committed with `txn`.
    pub fn txn_version(&self, app_id: &str) -> Option<i64> {
        let _ = app_id;
        todo!()
    }
}

/// Why two commits do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    #[error("the table's protocol was changed by version {version}")]
    ProtocolChanged { version: u64 },
    #[error("the frame's schema or properties were changed by version {version}")]
    MetadataChanged { version: u64 },
    #[error("the frame was dropped by version {version}")]
    Dropped { version: u64 },
    #[error("version {version} added {path}, which this write should have read")]
    ConcurrentAppend { version: u64, path: String },
    #[error("version {version} removed {path}, which this write read or removes")]
    ConcurrentDelete { version: u64, path: String },
    #[error("version {version} committed a transaction of {app_id}")]
    Transaction { version: u64, app_id: String },
}

/// What a commit read, for the conflict rules.
#[derive(Clone, Debug, Default)]
pub enum Reads {
    /// Nothing: an append.
    #[default]
    Nothing,
    /// The named cells (path, deletion vector id) and everything that would match.
    Cells(BTreeSet<(String, Option<String>)>),
    /// The whole table.
    Everything,
}

/// A commit to make: what it does and what it assumed.
#[derive(Clone, Debug)]
pub struct Intent {
    pub id: CommitId,
    /// `commitInfo.operation`: WRITE, CREATE TABLE, OPTIMIZE …
    pub operation: &'static str,
    pub actions: Vec<Action>,
    pub reads: Reads,
    /// "Replace all": removes are planned again from the newest snapshot at each attempt.
    pub replaces_all: bool,
    /// `txn` of the caller, for exactly-once across restarts: (appId, version).
    pub txn: Option<(String, i64)>,
    /// Version of the snapshot that the intent was made from; whatever was committed after it is
    /// checked for conflicts. `None` is the base that is handed to [`Ledger::commit`].
    pub read_version: Option<u64>,
}

impl Intent {
    /// A blind append of cells.
    pub fn append(id: CommitId, adds: Vec<Add>) -> Self {
        Self {
            id,
            operation: "WRITE",
            actions: adds.into_iter().map(Action::Add).collect(),
            reads: Reads::Nothing,
            replaces_all: false,
            txn: None,
            read_version: None,
        }
    }
}

/// What an acknowledged commit did.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The version that holds it.
    pub version: u64,
    /// The snapshot of that version or a later one of ours.
    pub snapshot: Arc<Snapshot>,
    /// Conditional puts that were tried.
    pub attempts: u32,
    /// Nothing was written now: the intent's `txn` was in the frame before, at `version` or earlier.
    pub already: bool,
}

/// Reads and writes one frame's log. Stateless: snapshots are values that the caller keeps.
#[derive(Clone, Debug)]
pub struct Ledger {
    pub host: Host,
    pub meadow: Meadow,
    pub location: String,
    pub checkpoint_interval: u64,
    /// A commit that has not landed after this long gives up.
    pub deadline: Duration,
}

impl Ledger {
    /// The ledger of the frame at `location`. Does no I/O.
    pub fn new(host: Host, meadow: Meadow, location: String, settings: &Settings) -> Self {
        Self {
            host,
            meadow,
            location,
            checkpoint_interval: settings.checkpoint_interval.max(1),
            deadline: settings.storage_deadline(),
        }
    }

    /// The newest snapshot, from `_last_checkpoint` and the log behind it.
    /// `Error::NotFound` when there is no log at all.
    pub async fn load(&self) -> Result<Arc<Snapshot>> {
        todo!()
    }

    /// The snapshot as of a version.
    pub async fn load_version(&self, version: u64) -> Result<Arc<Snapshot>> {
        let _ = version;
        todo!()
    }

    /// Follows the log by probing the next version until it is absent. The same `Arc` comes back
    /// when nothing changed.
    pub async fn refresh(&self, snapshot: &Arc<Snapshot>) -> Result<Arc<Snapshot>> {
        let _ = snapshot;
        todo!()
    }

    /// Writes version 0.
    pub async fn create(
        &self,
        id: CommitId,
        metadata: Metadata,
        protocol: Protocol,
    ) -> Result<Arc<Snapshot>> {
        let _ = (id, metadata, protocol);
        todo!()
    }

    /// Commits a group in one version. Each member keeps its own id, `txn` and intent; one that
    /// conflicts fails alone. Rebases and retries with jittered backoff until `deadline` (monotonic).
    /// Results are in the order of `group`; the snapshot is the newest one that was seen.
    pub async fn commit(
        &self,
        base: Arc<Snapshot>,
        group: Vec<Intent>,
    ) -> (Vec<Result<Committed>>, Arc<Snapshot>) {
        let _ = (base, group);
        todo!()
    }

    /// Writes the checkpoint of a snapshot and then the hint.
    pub async fn checkpoint(&self, snapshot: &Snapshot) -> Result<()> {
        let _ = snapshot;
        todo!()
    }
}
