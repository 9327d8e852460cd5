//! Commits applied one after the other: from nothing, a checkpoint or a snapshot to a snapshot.
//!
//! Invariant: the result depends on the commits alone, not on where the replay started.

use super::cell::{ByKey, Cell, KeyRef, Keyed, Tombstone};
use super::conflict::Footprint;
use super::invariants::check_small;
use super::snapshot::{Snapshot, Totals, tombstone_retention_ms};
use crate::error::{Error, Result};
use crate::schema::FrameSchema;
use apiary_protocol::delta::commit::Commit;
use apiary_protocol::delta::features::check_readable;
use apiary_protocol::delta::{Action, Add, DomainMetadata, Metadata, Protocol, Remove, Txn};
use apiary_protocol::keys;
use imbl::{OrdMap, OrdSet, Vector};
use std::sync::{Arc, OnceLock};

/// How many commits a snapshot remembers for conflict checks.
const RECENT_COMMITS_MAX: usize = 64;

/// Versions between two prunings of tombstones whose retention is over.
const PRUNE_INTERVAL: u64 = 100;

/// A snapshot in the making.
#[derive(Debug)]
pub(super) struct Replay {
    location: String,
    /// The version that was applied last.
    version: Option<u64>,
    protocol: Option<Protocol>,
    metadata: Option<Arc<Metadata>>,
    /// Of `metadata`, when it is known.
    schema: Option<Arc<FrameSchema>>,
    timestamp_ms: i64,
    cells: OrdSet<ByKey<Arc<Cell>>>,
    tombstones: OrdSet<ByKey<Arc<Tombstone>>>,
    txns: OrdMap<String, Txn>,
    domains: OrdMap<String, DomainMetadata>,
    totals: Totals,
    recent: Vector<Arc<Footprint>>,
}

impl Replay {
    pub fn new(location: &str) -> Self {
        Self {
            location: location.to_string(),
            version: None,
            protocol: None,
            metadata: None,
            schema: None,
            timestamp_ms: 0,
            cells: OrdSet::new(),
            tombstones: OrdSet::new(),
            txns: OrdMap::new(),
            domains: OrdMap::new(),
            totals: Totals::default(),
            recent: Vector::new(),
        }
    }

    pub fn from_snapshot(snapshot: &Snapshot) -> Self {
        Self {
            location: snapshot.location.clone(),
            version: Some(snapshot.version),
            protocol: Some(snapshot.protocol.clone()),
            metadata: Some(Arc::clone(&snapshot.metadata)),
            schema: Some(Arc::clone(&snapshot.schema)),
            timestamp_ms: snapshot.timestamp_ms,
            cells: snapshot.cells.clone(),
            tombstones: snapshot.tombstones.clone(),
            txns: snapshot.txns.clone(),
            domains: snapshot.domains.clone(),
            totals: snapshot.totals,
            recent: snapshot.recent.clone(),
        }
    }

    /// The next version to apply.
    pub fn next_version(&self) -> u64 {
        self.version.map_or(0, |version| version + 1)
    }

    /// Applies the commit of the next version: removes first, because one commit may remove a cell
    /// and add it again with another deletion vector.
    pub fn apply_commit(&mut self, commit: Commit) -> Result<()> {
        let version = self.next_version();
        let key = keys::commit(&self.location, version);
        let timestamp_ms = commit.timestamp_ms.unwrap_or(0);
        self.timestamp_ms = self.timestamp_ms.max(timestamp_ms);
        let mut removed = Vec::new();
        for action in &commit.actions {
            if let Action::Remove(remove) = action {
                removed.push(self.remove(remove.clone()));
            }
        }
        let footprint = Footprint::new(version, &commit, removed);
        for action in commit.actions {
            self.apply(action)
                .map_err(|reason| Error::corrupt(&key, reason))?;
        }
        self.recent.push_back(Arc::new(footprint));
        if self.recent.len() > RECENT_COMMITS_MAX {
            self.recent.pop_front();
        }
        self.version = Some(version);
        if version.is_multiple_of(PRUNE_INTERVAL) {
            self.prune_tombstones();
        }
        Ok(())
    }

    /// Starts from a checkpoint's actions, which are all of its version's state.
    pub fn apply_checkpoint(
        &mut self,
        version: u64,
        actions: impl IntoIterator<Item = Action>,
    ) -> Result<(), String> {
        for action in actions {
            match action {
                // Only a record: what is live in a checkpoint is live, in whatever order it is read.
                Action::Remove(remove) => {
                    let tombstone = ByKey(Arc::new(Tombstone::new(remove)));
                    if !self.cells.contains(&tombstone.0.key_ref()) {
                        self.tombstones.insert(tombstone);
                    }
                }
                action => self.apply(action)?,
            }
        }
        self.version = Some(version);
        Ok(())
    }

    /// Commit timestamps never go backwards, wherever they come from.
    pub fn raise_timestamp(&mut self, timestamp_ms: i64) {
        self.timestamp_ms = self.timestamp_ms.max(timestamp_ms);
    }

    pub fn has_timestamp(&self) -> bool {
        self.timestamp_ms > 0
    }

    fn apply(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Protocol(protocol) => self.protocol = Some(protocol),
            Action::MetaData(metadata) => {
                self.metadata = Some(Arc::new(metadata));
                self.schema = None;
            }
            Action::Txn(txn) => _ = self.txns.insert(txn.app_id.clone(), txn),
            Action::DomainMetadata(domain) if domain.removed => {
                self.domains.remove(&domain.domain);
            }
            Action::DomainMetadata(domain) => {
                self.domains.insert(domain.domain.clone(), domain);
            }
            Action::Add(add) => self.add(add)?,
            Action::Remove(_) | Action::CommitInfo(_) => {}
        }
        Ok(())
    }

    fn add(&mut self, add: Add) -> Result<(), String> {
        let cell = Arc::new(Cell::new(add).map_err(|error| error.to_string())?);
        if !self.tombstones.is_empty() {
            self.tombstones.remove(&cell.key_ref());
        }
        self.totals.count(&cell);
        if let Some(ByKey(replaced)) = self.cells.insert(ByKey(Arc::clone(&cell))) {
            self.totals.discount(&replaced);
        }
        // The same file with and without a deletion vector would give its rows twice.
        let path = cell.physical_path();
        let of_path = self.cells.range(KeyRef::new(path, None)..);
        let same = of_path.take_while(|other| other.0.physical_path() == path);
        if same.count() > 1 {
            return Err(format!(
                "{path:?} is live with two different deletion vectors"
            ));
        }
        Ok(())
    }

    fn remove(&mut self, remove: Remove) -> ByKey<Arc<Tombstone>> {
        let tombstone = ByKey(Arc::new(Tombstone::new(remove)));
        if let Some(ByKey(removed)) = self.cells.remove(&tombstone.0.key_ref()) {
            self.totals.discount(&removed);
        }
        self.tombstones.insert(tombstone.clone());
        tombstone
    }

    fn prune_tombstones(&mut self) {
        let Some(metadata) = &self.metadata else {
            return;
        };
        let since = self
            .timestamp_ms
            .saturating_sub(tombstone_retention_ms(metadata));
        let is_over = |tombstone: &&ByKey<Arc<Tombstone>>| tombstone.0.deleted_at_ms() <= since;
        let over: Vec<_> = self.tombstones.iter().filter(is_over).cloned().collect();
        for ByKey(tombstone) in over {
            self.tombstones.remove(&tombstone.key_ref());
        }
    }

    /// The snapshot of what was applied. Refuses features that we do not know, by name.
    pub fn finish(self) -> Result<Snapshot> {
        let key = |version: u64| keys::commit(&self.location, version);
        let Some(version) = self.version else {
            return Err(Error::corrupt(key(0), "it is missing"));
        };
        let protocol = self
            .protocol
            .ok_or_else(|| Error::corrupt(key(version), "the log up to here has no protocol"))?;
        let metadata = self
            .metadata
            .ok_or_else(|| Error::corrupt(key(version), "the log up to here has no metaData"))?;
        check_readable(&protocol, &metadata)
            .map_err(|error| Error::Unsupported(format!("{error} (table {})", self.location)))?;
        let schema = match self.schema {
            Some(schema) => schema,
            None => {
                let schema = FrameSchema::from_metadata(&metadata);
                Arc::new(schema.map_err(|error| in_ledger(error, &key(version)))?)
            }
        };
        let snapshot = Snapshot {
            location: self.location,
            version,
            protocol,
            metadata,
            schema,
            timestamp_ms: self.timestamp_ms,
            cells: self.cells,
            tombstones: self.tombstones,
            txns: self.txns,
            domains: self.domains,
            totals: self.totals,
            recent: self.recent,
            derived: OnceLock::new(),
        };
        debug_assert_eq!(check_small(&snapshot), Ok(()));
        Ok(snapshot)
    }
}

/// Names the commit up to which a schema that cannot be read was read.
fn in_ledger(error: Error, key: &str) -> Error {
    match error {
        Error::Corrupt { key: part, reason } => Error::corrupt(
            key,
            format!("{part}, here or in a commit before it: {reason}"),
        ),
        Error::Unsupported(what) => Error::Unsupported(format!("{what} (log up to {key})")),
        error => error,
    }
}
