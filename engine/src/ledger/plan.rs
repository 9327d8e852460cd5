//! What the next version of a group should be: pure decisions, without storage.
//!
//! Every member is judged against the newest snapshot before each attempt. Consecutive blind appends
//! share one version: they depend on nothing, so any order of them is right. Everything else is
//! committed alone, in the order it came.

use super::conflict::{Dependencies, Footprint};
use super::{Committed, Conflict, Intent, Reads, Snapshot};
use crate::error::{Error, Result};
use apiary_protocol::delta::commit::{Commit, Head, encode_commit};
use apiary_protocol::delta::features::{check_writable, is_append_only};
use apiary_protocol::delta::{Action, Add, Remove, Txn};
use apiary_protocol::ids::CommitId;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;

const ENGINE_INFO: &str = concat!("apiary/", env!("CARGO_PKG_VERSION"));

/// An intent on its way.
#[derive(Debug)]
pub(super) struct Member {
    pub intent: Intent,
    dependencies: Dependencies,
    pub attempts: u32,
    pub result: Option<Result<Committed>>,
}

impl Member {
    pub fn new(intent: Intent) -> Self {
        let dependencies = Dependencies::of(&intent);
        Self {
            intent,
            dependencies,
            attempts: 0,
            result: None,
        }
    }

    pub fn is_pending(&self) -> bool {
        self.result.is_none()
    }

    /// Takes note of a commit that won. When it is this very intent, which an earlier try left with
    /// an unknown outcome, then it is done.
    pub fn meet(&mut self, winner: &Footprint, snapshot: &Arc<Snapshot>) {
        if winner.contains(self.intent.id) {
            self.settle_already(winner.version, snapshot, false);
        } else if self.recorded(snapshot) {
            self.settle_recorded(snapshot);
        } else if let Err(conflict) = self.dependencies.check(winner) {
            self.result = Some(Err(conflict.into()));
        }
    }

    /// Settles an intent that a remembered commit holds: an earlier try of it had landed after all.
    pub fn find_in(&mut self, snapshot: &Arc<Snapshot>) {
        let found = snapshot
            .recent
            .iter()
            .find(|known| known.contains(self.intent.id));
        if let Some(version) = found.map(|footprint| footprint.version) {
            self.settle_already(version, snapshot, false);
        }
    }

    /// Whether the snapshot holds the intent's `txn`.
    fn recorded(&self, snapshot: &Snapshot) -> bool {
        let Some((app_id, version)) = &self.intent.txn else {
            return false;
        };
        if apiary_protocol::planted!(TransactionForgotten) {
            return false;
        }
        snapshot
            .txn_version(app_id)
            .is_some_and(|known| known >= *version)
    }

    /// Settles an intent whose `txn` the snapshot holds: by this very intent, if it is remembered, or
    /// by another.
    fn settle_recorded(&mut self, snapshot: &Arc<Snapshot>) {
        self.find_in(snapshot);
        if self.is_pending() {
            self.settle_already(snapshot.version, snapshot, true);
        }
    }

    fn settle_already(&mut self, version: u64, snapshot: &Arc<Snapshot>, recorded_before: bool) {
        self.result = Some(Ok(Committed {
            version,
            snapshot: Arc::clone(snapshot),
            attempts: self.attempts,
            already: true,
            recorded_before,
        }));
    }

    /// Decides what can be decided from the snapshot alone.
    pub fn judge(&mut self, snapshot: &Arc<Snapshot>) {
        if self.recorded(snapshot) {
            self.settle_recorded(snapshot);
        } else if let Err(error) = check(&self.intent, snapshot) {
            self.result = Some(Err(error));
        }
    }

    fn is_blind_append(&self) -> bool {
        let adds_only = self
            .intent
            .actions
            .iter()
            .all(|action| matches!(action, Action::Add(_)));
        adds_only && !self.intent.replaces_all && matches!(self.intent.reads, Reads::Nothing)
    }
}

/// Whether an intent may become the snapshot's next version.
fn check(intent: &Intent, snapshot: &Snapshot) -> Result<()> {
    if snapshot.is_dropped() {
        return Err(Conflict::Dropped {
            version: snapshot.version,
        }
        .into());
    }
    check_writable(&snapshot.protocol, &snapshot.metadata).map_err(|error| {
        Error::Unsupported(format!(
            "writing to a table ({}) with {error}",
            snapshot.location
        ))
    })?;
    let removes_data = intent.replaces_all && snapshot.cell_count() > 0
        || intent
            .actions
            .iter()
            .any(|a| matches!(a, Action::Remove(r) if r.data_change));
    if removes_data && is_append_only(&snapshot.metadata) {
        return Err(Error::rejected(format!(
            "the table at {} is append-only: unset delta.appendOnly to remove rows",
            snapshot.location
        )));
    }
    let columns = intent.actions.iter().find_map(|action| match action {
        Action::MetaData(metadata) => Some(&metadata.partition_columns),
        _ => None,
    });
    let columns = columns.unwrap_or(&snapshot.metadata.partition_columns);
    let mut paths = BTreeSet::new();
    for action in &intent.actions {
        action.check().map_err(Error::Bug)?;
        match action {
            Action::Add(add) => {
                check_add(add, intent.replaces_all, columns, snapshot)?;
                if !paths.insert(&add.path) {
                    return Err(Error::Bug(format!("an intent adds {} twice", add.path)));
                }
            }
            // It was live in what the intent read, so somebody removed it since.
            Action::Remove(remove) => {
                let vector = remove.deletion_vector.as_ref();
                if snapshot.cell(&remove.path, vector).is_none() {
                    let path = remove.path.clone();
                    let version = snapshot.version;
                    return Err(Conflict::ConcurrentDelete { version, path }.into());
                }
            }
            Action::CommitInfo(_) => {
                return Err(Error::Bug("an intent brings its own commitInfo".into()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_add(add: &Add, replaces_all: bool, columns: &[String], snapshot: &Snapshot) -> Result<()> {
    apiary_protocol::delta::paths::decode_path(&add.path)
        .map_err(|error| Error::Bug(error.to_string()))?;
    if snapshot
        .cell(&add.path, add.deletion_vector.as_ref())
        .is_some()
        && !replaces_all
    {
        let what = format!("cell {} of {}", add.path, snapshot.location);
        return Err(Error::AlreadyExists { what });
    }
    let all_there = columns
        .iter()
        .all(|column| add.partition_values.contains_key(column));
    if !all_there || columns.len() != add.partition_values.len() {
        return Err(Error::Bug(format!(
            "cell {} has partition values for {:?}, and the table at {} is partitioned by {columns:?}",
            add.path,
            add.partition_values.keys().collect::<Vec<_>>(),
            snapshot.location
        )));
    }
    Ok(())
}

/// One version to try.
#[derive(Debug)]
pub(super) struct Round {
    /// Indices of the members in it.
    pub members: Vec<usize>,
    pub commit: Commit,
    pub body: Bytes,
}

/// The next version from the first pending member on; `None` when nobody is pending. `group_id` is
/// the commit's own id when it has several members.
pub(super) fn plan_round(
    members: &[Member],
    snapshot: &Snapshot,
    now_ms: i64,
    group_id: CommitId,
) -> Result<Option<Round>> {
    let chosen = choose(members);
    let Some(first) = chosen.first().map(|index| &members[*index]) else {
        return Ok(None);
    };
    // A frame's timestamps never go backwards, whatever this machine's clock says.
    let timestamp_ms = now_ms.max(snapshot.timestamp_ms.saturating_add(1));
    let mut actions = Vec::new();
    for index in &chosen {
        push_actions(
            &members[*index].intent,
            snapshot,
            timestamp_ms,
            &mut actions,
        );
    }
    let is_group = chosen.len() > 1;
    let ids = || chosen.iter().map(|index| members[*index].intent.id);
    let head = Head {
        id: if is_group { group_id } else { first.intent.id },
        members: if is_group {
            ids().collect()
        } else {
            Vec::new()
        },
        operation: first.intent.operation.to_string(),
        timestamp_ms,
        is_blind_append: first.is_blind_append(),
        engine_info: ENGINE_INFO.to_string(),
    };
    let body = encode_commit(&head, &actions).map_err(|error| Error::Bug(error.to_string()))?;
    let all_ids = std::iter::once(head.id).chain(head.members.iter().copied());
    let commit = Commit {
        actions,
        timestamp_ms: Some(timestamp_ms),
        is_blind_append: head.is_blind_append,
        ids: all_ids.map(|id| id.to_string()).collect(),
    };
    Ok(Some(Round {
        members: chosen,
        commit,
        body: body.into(),
    }))
}

/// The first pending member, and, when it is a blind append, the blind appends that follow it with
/// no application or cell in common: the protocol knows one `txn` per application and commit.
fn choose(members: &[Member]) -> Vec<usize> {
    let mut pending = members
        .iter()
        .enumerate()
        .filter(|(_, member)| member.is_pending());
    let Some((first, member)) = pending.next() else {
        return Vec::new();
    };
    let mut chosen = vec![first];
    if !member.is_blind_append() {
        return chosen;
    }
    let app_id = |member: &Member| member.intent.txn.as_ref().map(|(app_id, _)| app_id.clone());
    let mut app_ids: BTreeSet<String> = app_id(member).into_iter().collect();
    let mut paths: BTreeSet<&str> = add_paths(member).collect();
    for (index, member) in pending {
        let clashes = app_id(member).is_some_and(|app_id| app_ids.contains(&app_id))
            || add_paths(member).any(|path| paths.contains(path));
        if clashes || !member.is_blind_append() {
            break;
        }
        app_ids.extend(app_id(member));
        paths.extend(add_paths(member));
        chosen.push(index);
    }
    chosen
}

fn add_paths(member: &Member) -> impl Iterator<Item = &str> {
    member
        .intent
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::Add(add) => Some(add.path.as_str()),
            _ => None,
        })
}

fn push_actions(
    intent: &Intent,
    snapshot: &Snapshot,
    timestamp_ms: i64,
    actions: &mut Vec<Action>,
) {
    if let Some((app_id, version)) = &intent.txn {
        actions.push(Action::Txn(Txn {
            app_id: app_id.clone(),
            version: *version,
            last_updated: Some(timestamp_ms),
        }));
    }
    if intent.replaces_all {
        let removes = snapshot
            .cells()
            .map(|cell| Action::Remove(cell.remove(Some(timestamp_ms), true)));
        actions.extend(removes);
    }
    actions.extend(
        intent
            .actions
            .iter()
            .cloned()
            .filter_map(|action| match action {
                // Planned again above.
                Action::Remove(_) if intent.replaces_all => None,
                Action::Remove(remove) => Some(Action::Remove(Remove {
                    deletion_timestamp: remove.deletion_timestamp.or(Some(timestamp_ms)),
                    ..remove
                })),
                action => Some(action),
            }),
    );
}
