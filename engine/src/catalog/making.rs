//! Marks of frames in the making, and what their makers leave when they are killed.
//!
//! A frame that is made from rows has no name until they are uploaded, so nothing but its mark leads
//! to the cells of a maker that died. A mark that is older than the sweep age is a dead maker's, or
//! one's whose outcome nobody knows: a write may not take that long.
//!
//! Never deletes anything but cells, none that was there before the mark, none that a version of a
//! log there ever named, and nothing of a table that was attached.

use super::{Catalog, NewFrame};
use crate::behavior::sweep::{is_old, plan_unmade};
use crate::error::{Error, Result};
use crate::ledger::Ledger;
use crate::store::Meadow;
use apiary_protocol::ids::FrameId;
use apiary_protocol::keys;
use apiary_protocol::making::Making;
use apiary_protocol::registry::{FrameState, Registry};
use object_store::ObjectMeta;
use std::collections::BTreeMap;
use std::time::Duration;

/// A mark is a few lines.
const MARK_BYTES_MAX: u64 = 64 << 10;

/// A mark that its maker should have taken back long ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abandoned {
    pub key: String,
    /// By the store.
    modified_ms: i64,
}

/// Whose a location is.
#[derive(Debug, PartialEq, Eq)]
enum Owner {
    Nobody,
    /// A frame's that is being made or dropped.
    Undecided,
    /// A frame's of our own.
    Frame,
    Other,
}

impl Catalog {
    /// Says where the cells of a new frame go, before the first of them goes there.
    pub async fn begin_making(&self, new: &NewFrame) -> Result<()> {
        if apiary_protocol::planted!(NoMark) {
            return Ok(());
        }
        let making = Making {
            id: new.id(),
            location: new.location.clone(),
        };
        let body = making.to_bytes();
        let body = body.map_err(|error| Error::Bug(error.to_string()))?;
        self.meadow.put(&keys::making(making.id), body.into()).await
    }

    /// Takes that back, when no cell is left that no version names. `discarded` is where cells were
    /// deleted: a power cut must not bring them back without the mark.
    pub async fn end_making(&self, id: FrameId, discarded: Option<&str>) -> Result<()> {
        if let Some(location) = discarded {
            self.meadow.sync_deletions(location).await?;
        }
        self.meadow.delete(&keys::making(id)).await
    }

    /// Whether cells of a frame may go to a location: it is that frame's, and of our own, or nobody's
    /// yet. One probe of the registry.
    pub async fn check_place(&self, frame: FrameId, location: &str) -> Result<()> {
        let head = self.head().await?;
        let overlaps = |other: &str| keys::locations_overlap(other, location);
        let registry = &head.registry;
        let mut records = registry.frames().map(|(_, record)| record);
        let is_free = match records.find(|record| overlaps(&record.location)) {
            Some(record) => record.id == frame && record.location == location && !record.attached,
            None => !registry.purging.keys().any(|other| overlaps(other)),
        };
        match is_free {
            true => Ok(()),
            false => Err(Error::rejected(format!(
                "cells of frame {frame} were to be put at {location}, which is another's, or is purged"
            ))),
        }
    }

    /// Marks that are older than the sweep age. One list.
    pub async fn list_abandoned(&self, now_ms: i64, sweep_age: Duration) -> Result<Vec<Abandoned>> {
        let marks = self.meadow.list(keys::MAKING_PREFIX, None).await?;
        let abandoned = marks.into_iter().filter_map(|mark| {
            let modified_ms = mark.last_modified.timestamp_millis();
            is_old(modified_ms, now_ms, as_ms(sweep_age)).then(|| Abandoned {
                key: mark.location.to_string(),
                modified_ms,
            })
        });
        Ok(abandoned.collect())
    }

    /// Deletes the cells that an abandoned mark leads to, and then the mark, through a meadow that may
    /// be slow. Gives how many cells there were. The mark stays while it is not decided whose the place
    /// is, or something of its time is too young; one that cannot be read is an error.
    pub async fn sweep_abandoned(
        &self,
        meadow: &Meadow,
        mark: &Abandoned,
        now_ms: i64,
        sweep_age: Duration,
    ) -> Result<usize> {
        let Some(bytes) = meadow.get_at_most(&mark.key, MARK_BYTES_MAX).await? else {
            return Ok(0);
        };
        let making =
            Making::from_bytes(&bytes).map_err(|error| Error::corrupt(&mark.key, error))?;
        let location = making.location;
        // Listed before the registry is read: a frame whose version 0 the list has not is then in it.
        let listed = meadow.list(&location, None).await?;
        let must_be_dropped = match owner(&self.head().await?.registry, &location) {
            Owner::Undecided => return Ok(0),
            Owner::Other => return meadow.delete(&mark.key).await.map(|()| 0),
            Owner::Nobody => true,
            Owner::Frame => false,
        };
        let plan = plan_unmade(
            &paths(&listed, &location),
            mark.modified_ms,
            now_ms,
            as_ms(sweep_age),
        );
        let (host, over) = (self.host.clone(), meadow.clone());
        let ledger = Ledger::new(host, over, location.clone(), &self.settings);
        let swept = match plan.is_in_log {
            false => plan.old.into_keys().collect(),
            true => {
                ledger
                    .unnamed(plan.old, &listed, as_ms(sweep_age), must_be_dropped)
                    .await?
            }
        };
        for path in &swept {
            tracing::info!(
                location,
                path,
                "sweeping a cell of a frame that was never made"
            );
            meadow.delete(&format!("{location}/{path}")).await?;
        }
        if !plan.is_young {
            meadow.sync_deletions(&location).await?;
            meadow.delete(&mark.key).await?;
        }
        Ok(swept.len())
    }
}

fn as_ms(age: Duration) -> i64 {
    i64::try_from(age.as_millis()).unwrap_or(i64::MAX)
}

/// Path below the location and modification time.
fn paths(listed: &[ObjectMeta], location: &str) -> BTreeMap<String, i64> {
    let inside = format!("{location}/");
    let path = |found: &ObjectMeta| {
        let path = found.location.as_ref().strip_prefix(&inside)?.to_string();
        Some((path, found.last_modified.timestamp_millis()))
    };
    listed.iter().filter_map(path).collect()
}

fn owner(registry: &Registry, location: &str) -> Owner {
    let overlaps = |other: &str| keys::locations_overlap(other, location);
    if registry.purging.keys().any(|other| overlaps(other)) {
        return Owner::Undecided;
    }
    let mut records = registry.frames().map(|(_, record)| record);
    let Some(record) = records.find(|record| overlaps(&record.location)) else {
        return Owner::Nobody;
    };
    match record.state {
        _ if record.attached || record.location != location => Owner::Other,
        FrameState::Live => Owner::Frame,
        _ => Owner::Undecided,
    }
}
