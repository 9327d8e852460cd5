//! A frame's ledger: the Delta transaction log, read and written by ourselves.
//!
//! A ledger is a row of commits, one object per version, each created once and never changed or
//! deleted, with checkpoints that only make reading shorter. Whatever is read is checked: a torn,
//! empty, missing or foreign thing is an error that names its key, never a smaller table.
//!
//! Never here: cells' contents, names of frames, a mailbox, a decision that compares two machines'
//! clocks. Invariants: LEDGER-1 to LEDGER-3 (see [`invariants`]).

mod cell;
mod checkpoint_read;
mod checkpoint_write;
mod commit;
mod conflict;
mod deletion_vector;
pub mod invariants;
mod keep;
mod log;
mod look;
mod plan;
mod replay;
mod snapshot;
#[cfg(test)]
mod tests;

use crate::error::Result;
use crate::host::Host;
use crate::settings::Settings;
use crate::store::Meadow;
use apiary_protocol::delta::{Action, Add, Metadata, Protocol};
use apiary_protocol::ids::CommitId;
use apiary_protocol::keys;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

pub use cell::{Cell, total_bytes};
pub use deletion_vector::read_deletion_vector;
pub use keep::Kept;
pub use snapshot::Snapshot;

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
    /// The named cells (`add.path` as the log spells it, deletion vector id) and everything that
    /// would match.
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
    /// Nothing was written now: the intent's id or its `txn` was in the frame before, at `version`
    /// or earlier.
    pub already: bool,
    /// It was another commit that recorded the `txn`: what this intent adds is in no version. Without
    /// it, `already` means that an earlier try of this very intent had landed.
    pub recorded_before: bool,
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
            checkpoint_interval: settings.checkpoint_interval,
            deadline: settings.storage_deadline(),
        }
    }

    /// The newest snapshot, from `_last_checkpoint` and the log behind it.
    /// `Error::NotFound` when there is no log at all.
    pub async fn load(&self) -> Result<Arc<Snapshot>> {
        self.load_until(None).await
    }

    /// The snapshot as of a version; `Error::NotFound` when the log does not reach from a known state
    /// to it.
    pub async fn load_version(&self, version: u64) -> Result<Arc<Snapshot>> {
        self.load_until(Some(version)).await
    }

    /// Follows the log by probing the next version until it is absent. The same `Arc` comes back
    /// when nothing changed.
    pub async fn refresh(&self, snapshot: &Arc<Snapshot>) -> Result<Arc<Snapshot>> {
        self.follow(snapshot).await
    }

    /// Writes version 0. When a ledger with the same `metaData.id` is there already, that one is
    /// loaded: somebody finished what was begun. Another one is `Error::AlreadyExists`.
    pub async fn create(
        &self,
        id: CommitId,
        metadata: Metadata,
        protocol: Protocol,
    ) -> Result<Arc<Snapshot>> {
        self.create_first(id, metadata, protocol, Vec::new()).await
    }

    /// As [`Self::create`], with the table's first cells in the same version.
    pub async fn create_with(
        &self,
        id: CommitId,
        metadata: Metadata,
        protocol: Protocol,
        adds: Vec<Add>,
    ) -> Result<Arc<Snapshot>> {
        self.create_first(id, metadata, protocol, adds).await
    }

    /// Commits a group in as few versions as its members allow: consecutive blind appends share one,
    /// everything else gets its own. Each member keeps its own id, `txn` and intent; one that
    /// conflicts fails alone. Rebases and retries with jittered backoff until `deadline`.
    ///
    /// Results are in the order of `group`; the snapshot is the newest one that was seen.
    /// `OutcomeUnknown` is given only when neither the put nor reading back had an answer.
    pub async fn commit(
        &self,
        base: Arc<Snapshot>,
        group: Vec<Intent>,
    ) -> (Vec<Result<Committed>>, Arc<Snapshot>) {
        self.commit_group(base, group).await
    }

    /// Whether the commit that made this version should be followed by a checkpoint.
    pub fn checkpoint_due(&self, version: u64) -> bool {
        version > 0 && version.is_multiple_of(self.checkpoint_interval.max(1))
    }

    /// Writes the checkpoint of a snapshot and then the hint, unless the hint names a newer one.
    /// The bytes depend on the snapshot alone, so writing it twice is harmless.
    pub async fn checkpoint(&self, snapshot: &Snapshot) -> Result<()> {
        self.write_checkpoint(snapshot).await
    }

    fn commit_key(&self, version: u64) -> String {
        keys::commit(&self.location, version)
    }
}
