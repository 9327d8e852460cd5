//! Whether an intent still holds after other commits won.
//!
//! The rules follow Delta's WriteSerializable, with one difference: overlapping removes always
//! conflict, whatever their `dataChange` says, because two rewrites of one cell would both put its
//! rows back.

use super::cell::{ByKey, Keyed, Tombstone};
use super::snapshot::is_dropped;
use super::{Conflict, Intent, Reads};
use apiary_protocol::delta::commit::Commit;
use apiary_protocol::delta::paths::decode_path;
use apiary_protocol::delta::{Action, DeletionVector};
use apiary_protocol::ids::CommitId;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What of a commit matters to others.
#[derive(Debug)]
pub(super) struct Footprint {
    pub version: u64,
    /// Of the commit and its members.
    ids: Vec<String>,
    protocol_changed: bool,
    metadata_changed: bool,
    dropped: bool,
    /// A cell with new data.
    added: Option<String>,
    /// Added cells and depended on nothing, so that it may be ordered after what was computed without
    /// them.
    blind: bool,
    /// Removed cells, shared with the snapshot.
    removed: Vec<ByKey<Arc<Tombstone>>>,
    app_ids: Vec<String>,
}

impl Footprint {
    /// `removed` are the commit's removes in the form that the snapshot keeps.
    pub fn new(version: u64, commit: &Commit, removed: Vec<ByKey<Arc<Tombstone>>>) -> Self {
        let mut footprint = Self {
            version,
            ids: commit.ids.clone(),
            protocol_changed: false,
            metadata_changed: false,
            dropped: false,
            added: None,
            blind: commit.is_blind_append && removed.is_empty(),
            removed,
            app_ids: Vec::new(),
        };
        for action in &commit.actions {
            match action {
                Action::Protocol(_) => footprint.protocol_changed = true,
                Action::MetaData(metadata) => {
                    footprint.metadata_changed = true;
                    footprint.dropped = is_dropped(metadata);
                }
                Action::Add(add) if add.data_change && footprint.added.is_none() => {
                    footprint.added = Some(add.path.clone());
                }
                Action::Txn(txn) => footprint.app_ids.push(txn.app_id.clone()),
                _ => {}
            }
        }
        footprint
    }

    /// From a commit alone, when no snapshot of it is at hand.
    pub fn of(version: u64, commit: &Commit) -> Self {
        let removes = commit.actions.iter().filter_map(|action| match action {
            Action::Remove(remove) => Some(ByKey(Arc::new(Tombstone::new(remove.clone())))),
            _ => None,
        });
        let removed = removes.collect();
        Self::new(version, commit, removed)
    }

    pub fn contains(&self, id: CommitId) -> bool {
        let id = id.to_string();
        self.ids.contains(&id)
    }
}

/// A cell by decoded path and deletion vector id.
type Identity = (String, Option<String>);

/// What an intent depends on, in a form that is quick to check.
#[derive(Debug)]
pub(super) struct Dependencies {
    reads_anything: bool,
    reads_everything: bool,
    cells: BTreeSet<Identity>,
    removes: BTreeSet<Identity>,
    changes_data: bool,
    replaces_all: bool,
    app_id: Option<String>,
}

impl Dependencies {
    pub fn of(intent: &Intent) -> Self {
        let cells = match &intent.reads {
            Reads::Cells(cells) => cells
                .iter()
                .map(|(path, vector)| (decoded(path), vector.clone()))
                .collect(),
            _ => BTreeSet::new(),
        };
        let removes = intent.actions.iter().filter_map(|action| match action {
            Action::Remove(remove) => Some(identity(&remove.path, remove.deletion_vector.as_ref())),
            _ => None,
        });
        let changes_data = intent.replaces_all
            || intent.actions.iter().any(|action| match action {
                Action::Add(add) => add.data_change,
                Action::Remove(remove) => remove.data_change,
                Action::Protocol(_) | Action::MetaData(_) => true,
                _ => false,
            });
        Self {
            reads_anything: !matches!(intent.reads, Reads::Nothing),
            reads_everything: matches!(intent.reads, Reads::Everything),
            cells,
            removes: removes.collect(),
            changes_data,
            replaces_all: intent.replaces_all,
            app_id: intent.txn.as_ref().map(|(app_id, _)| app_id.clone()),
        }
    }

    /// Whether the intent holds although `winner` was committed after what it read.
    pub fn check(&self, winner: &Footprint) -> Result<(), Conflict> {
        let version = winner.version;
        if winner.dropped {
            return Err(Conflict::Dropped { version });
        }
        if winner.protocol_changed {
            return Err(Conflict::ProtocolChanged { version });
        }
        if winner.metadata_changed {
            return Err(Conflict::MetadataChanged { version });
        }
        for ByKey(removed) in &winner.removed {
            let vector = removed
                .remove
                .deletion_vector
                .as_ref()
                .map(DeletionVector::unique_id);
            let identity = (removed.key_ref().path.to_string(), vector);
            let read = self.reads_everything || self.cells.contains(&identity);
            if self.removes.contains(&identity) || (removed.remove.data_change && read) {
                return Err(Conflict::ConcurrentDelete {
                    version,
                    path: identity.0,
                });
            }
        }
        // What only rearranges rows does not care for new ones, and what came blindly may be ordered
        // after this; but not when this removes it.
        let may_be_later = winner.blind && !self.replaces_all;
        match &winner.added {
            Some(path) if self.reads_anything && self.changes_data && !may_be_later => {
                return Err(Conflict::ConcurrentAppend {
                    version,
                    path: path.clone(),
                });
            }
            _ => {}
        }
        match &self.app_id {
            Some(app_id) if winner.app_ids.contains(app_id) => Err(Conflict::Transaction {
                version,
                app_id: app_id.clone(),
            }),
            _ => Ok(()),
        }
    }
}

fn identity(path: &str, vector: Option<&DeletionVector>) -> Identity {
    (decoded(path), vector.map(DeletionVector::unique_id))
}

fn decoded(path: &str) -> String {
    decode_path(path).unwrap_or_else(|_| path.to_string())
}
