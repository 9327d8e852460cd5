//! House-keeping of one frame: cells that are in no version, and a checkpoint that was due and that
//! nobody wrote because its author was killed.
//!
//! Only for frames of our own. What is deleted is decided by [`crate::behavior::sweep`] from the
//! store's modification times; an error anywhere on the way deletes nothing.

use super::Ledger;
use super::log::Listing;
use crate::behavior::sweep::{is_cell_path, is_checkpoint_missing, is_old, plan_evidence};
use crate::error::{Error, Result};
use apiary_protocol::delta::Action;
use apiary_protocol::delta::paths::decode_path;
use apiary_protocol::keys::{self, LogFile};
use object_store::ObjectMeta;
use std::collections::BTreeMap;
use std::time::Duration;

/// What one visit did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub orphans: usize,
    /// Version of the checkpoint that was made up for.
    pub checkpoint: Option<u64>,
}

impl Ledger {
    /// Sweeps cells that no version ever named and that are older than `sweep_age`, and writes a
    /// checkpoint that is overdue. `now_ms` is the modification time of an object just written.
    pub async fn keep(&self, now_ms: i64, sweep_age: Duration) -> Result<Kept> {
        let sweep_age_ms = i64::try_from(sweep_age.as_millis()).unwrap_or(i64::MAX);
        // Listed before the snapshot is read: a cell that is old here was committed by then, or never
        // will be.
        let listed = self.meadow.list(&self.location, None).await?;
        let snapshot = self.load().await?;
        if snapshot.is_dropped() {
            return Ok(Kept::default());
        }
        let checkpoint = self.missing_checkpoint(&listed, snapshot.version);
        if checkpoint {
            self.checkpoint(&snapshot).await?;
        }
        let mut candidates = self.old_cells(&listed, now_ms, sweep_age_ms);
        if !apiary_protocol::planted!(NamedCellSwept) {
            snapshot.forget_named(&mut candidates);
        }
        let orphans = self.never_named(candidates, &listed, sweep_age_ms).await?;
        for path in &orphans {
            tracing::info!(
                location = self.location,
                path,
                "sweeping a cell of no version"
            );
            let key = keys::cell(&self.location, path)
                .map_err(|error| Error::corrupt(&self.location, error))?;
            self.meadow.delete(&key).await?;
        }
        Ok(Kept {
            orphans: orphans.len(),
            checkpoint: checkpoint.then_some(snapshot.version),
        })
    }

    /// Of cells that are old enough (path below the location and modification time) those that no
    /// version ever named. `listed` is all that lies at the location, from before. Where the log does
    /// not say that its frame was dropped although it must, there are none: it is somebody's table.
    pub async fn unnamed(
        &self,
        mut candidates: BTreeMap<String, i64>,
        listed: &[ObjectMeta],
        sweep_age_ms: i64,
        must_be_dropped: bool,
    ) -> Result<Vec<String>> {
        let snapshot = self.load().await?;
        if must_be_dropped && !snapshot.is_dropped() {
            return Ok(Vec::new());
        }
        snapshot.forget_named(&mut candidates);
        self.never_named(candidates, listed, sweep_age_ms).await
    }

    fn missing_checkpoint(&self, listed: &[ObjectMeta], version: u64) -> bool {
        let prefix = keys::log_prefix(&self.location);
        let listing = Listing::parse(
            &prefix,
            listed
                .iter()
                .map(|found| (found.location.to_string(), found.size)),
        );
        is_checkpoint_missing(
            version,
            listing.newest_checkpoint(),
            self.checkpoint_interval,
        )
    }

    /// Path below the location and modification time of each cell that is old enough.
    fn old_cells(
        &self,
        listed: &[ObjectMeta],
        now_ms: i64,
        sweep_age_ms: i64,
    ) -> BTreeMap<String, i64> {
        let inside = format!("{}/", self.location);
        listed
            .iter()
            .filter_map(|found| {
                let path = found.location.as_ref().strip_prefix(&inside)?;
                let modified_ms = found.last_modified.timestamp_millis();
                let swept = is_cell_path(path) && is_old(modified_ms, now_ms, sweep_age_ms);
                swept.then(|| (path.to_string(), modified_ms))
            })
            .collect()
    }

    /// Those of the candidates that no commit of their time names.
    async fn never_named(
        &self,
        mut candidates: BTreeMap<String, i64>,
        listed: &[ObjectMeta],
        sweep_age_ms: i64,
    ) -> Result<Vec<String>> {
        let log = format!("{}/", keys::log_prefix(&self.location));
        let commits: Vec<(u64, i64)> = listed
            .iter()
            .filter(|found| found.location.as_ref().starts_with(&log))
            .filter_map(|found| match keys::log_file(found.location.as_ref()) {
                Some(LogFile::Commit { version }) => {
                    Some((version, found.last_modified.timestamp_millis()))
                }
                _ => None,
            })
            .collect();
        for version in plan_evidence(&candidates, &commits, sweep_age_ms) {
            for action in self.read_known_commit(version).await?.actions {
                let path = match &action {
                    Action::Add(add) => &add.path,
                    Action::Remove(remove) => &remove.path,
                    _ => continue,
                };
                if let Ok(path) = decode_path(path) {
                    candidates.remove(&path);
                }
            }
        }
        Ok(candidates.into_keys().collect())
    }
}
