//! Marks of frames in the making, and what their makers leave when they are killed.
//!
//! A frame that is made from rows has no name until they are uploaded, so nothing but its mark leads
//! to the cells of a maker that died. A mark that is older than the sweep age is a dead maker's, or
//! one's whose outcome nobody knows: a write may not take that long.
//!
//! Never deletes anything where a frame or a Delta log is, nothing but cells, and no cell that was
//! there before the mark.

use super::{Catalog, NewFrame};
use crate::behavior::sweep::{is_old, plan_unmade};
use crate::error::{Error, Result};
use crate::store::Meadow;
use apiary_protocol::ids::FrameId;
use apiary_protocol::keys;
use apiary_protocol::making::Making;
use apiary_protocol::registry::{FrameState, Registry};
use std::collections::BTreeMap;
use std::time::Duration;

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
    /// A frame that may still turn out never to have been.
    Undecided,
    Frame,
}

impl Catalog {
    /// Says where the cells of a new frame go, before the first of them goes there.
    pub async fn begin_making(&self, new: &NewFrame) -> Result<()> {
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
    /// be slow. Gives how many cells there were. The mark stays while something there is too young, and
    /// one that cannot be read is an error.
    pub async fn sweep_abandoned(
        &self,
        meadow: &Meadow,
        mark: &Abandoned,
        now_ms: i64,
        sweep_age: Duration,
    ) -> Result<usize> {
        let Some(bytes) = meadow.get(&mark.key).await? else {
            return Ok(0);
        };
        let making =
            Making::from_bytes(&bytes).map_err(|error| Error::corrupt(&mark.key, error))?;
        // Listed before the registry is read: a frame whose version 0 the list has not is then in it.
        let inside = format!("{}/", making.location);
        let listed: BTreeMap<String, i64> = meadow
            .list(&making.location, None)
            .await?
            .into_iter()
            .filter_map(|found| {
                let path = found.location.as_ref().strip_prefix(&inside)?.to_string();
                Some((path, found.last_modified.timestamp_millis()))
            })
            .collect();
        match owner(&self.head().await?.registry, &making.location) {
            Owner::Undecided => return Ok(0),
            Owner::Frame => return meadow.delete(&mark.key).await.map(|()| 0),
            Owner::Nobody => {}
        }
        let plan = plan_unmade(&listed, mark.modified_ms, now_ms, as_ms(sweep_age));
        for path in &plan.swept {
            let location = &making.location;
            tracing::info!(
                location,
                path,
                "sweeping a cell of a frame that was never made"
            );
            meadow.delete(&format!("{location}/{path}")).await?;
        }
        if plan.is_all {
            meadow.sync_deletions(&making.location).await?;
            meadow.delete(&mark.key).await?;
        }
        Ok(plan.swept.len())
    }
}

fn as_ms(age: Duration) -> i64 {
    i64::try_from(age.as_millis()).unwrap_or(i64::MAX)
}

fn owner(registry: &Registry, location: &str) -> Owner {
    let is_purging = registry
        .purging
        .keys()
        .any(|other| keys::locations_overlap(other, location));
    if is_purging {
        return Owner::Frame;
    }
    let frames = registry.frames();
    let mut states = frames
        .filter(|(_, record)| keys::locations_overlap(&record.location, location))
        .map(|(_, record)| record.state);
    match states.next() {
        None => Owner::Nobody,
        Some(FrameState::Creating) => Owner::Undecided,
        Some(_) => Owner::Frame,
    }
}
