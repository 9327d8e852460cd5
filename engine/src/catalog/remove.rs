//! Dropping frames, boxes and hives.

use super::change::Step;
use super::create::is_gone;
use super::view::FrameEntry;
use super::{ATTEMPTS_MAX, Catalog, refused, too_busy};
use crate::error::{Error, Result};
use crate::ledger::Intent;
use apiary_protocol::delta::Action;
use apiary_protocol::ids::CommitId;
use apiary_protocol::names::{FrameName, Name};
use apiary_protocol::registry::{DROPPED_PROPERTY, FrameRecord, FrameState, Refusal};

impl Catalog {
    /// Hides the frame, commits a drop marker to its ledger, then frees its name; `purge` deletes the
    /// data and fences the ledger. Returns whether there was one. An attached table is only detached:
    /// nothing of it is touched, and `purge` is refused.
    pub async fn drop_frame(&self, name: &FrameName, if_exists: bool, purge: bool) -> Result<bool> {
        let dropped = self.drop_one(name, purge, true).await;
        self.leave_hint().await;
        match dropped {
            Ok(false) if !if_exists => Err(refused(Refusal::FrameMissing(name.clone()))),
            Err(Error::NotFound { .. }) if if_exists => Ok(false),
            dropped => dropped,
        }
    }

    /// Refused while it has frames, unless `cascade`. Attached tables in it are detached.
    pub async fn drop_box(
        &self,
        hive: &Name,
        box_name: &Name,
        if_exists: bool,
        cascade: bool,
        purge: bool,
    ) -> Result<bool> {
        let dropped = self
            .empty_and_drop_box(hive, box_name, cascade, purge)
            .await;
        self.leave_hint().await;
        existing(dropped, if_exists)
    }

    /// Refused while it has boxes, unless `cascade`.
    pub async fn drop_hive(
        &self,
        hive: &Name,
        if_exists: bool,
        cascade: bool,
        purge: bool,
    ) -> Result<bool> {
        let dropped = self.empty_and_drop_hive(hive, cascade, purge).await;
        self.leave_hint().await;
        existing(dropped, if_exists)
    }

    /// `strict`: purging an attached table is an error, and not just left out.
    async fn drop_one(&self, name: &FrameName, purge: bool, strict: bool) -> Result<bool> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(entry) = self.settle(name).await? else {
                return Ok(false);
            };
            if entry.attached && purge && strict {
                return Err(Error::Rejected(format!(
                    "frame {} is an attached table, whose data is never deleted: drop it without \
                     PURGE",
                    entry.name
                )));
            }
            let Some(record) = self.begin_drop(&entry, purge).await? else {
                continue;
            };
            self.finish_drop(&entry.name, &record).await?;
            if purge && !entry.attached {
                self.purge(&entry.location, entry.id).await?;
            }
            return Ok(true);
        }
        Err(too_busy(format_args!("frame {name}")))
    }

    /// Hides a live frame. `None` when somebody else was faster.
    async fn begin_drop(&self, entry: &FrameEntry, purge: bool) -> Result<Option<FrameRecord>> {
        let with_data = purge && !entry.attached;
        self.change(
            |registry| match registry.apply_begin_drop(&entry.name, entry.id, with_data) {
                Ok(next) => {
                    let record = next.frame(&entry.name)?.1.clone();
                    Ok(Step::Write(next, Some(record)))
                }
                Err(Refusal::WrongState { .. }) => Ok(Step::Done(None)),
                Err(refusal) if is_gone(&refusal) => Ok(Step::Done(None)),
                Err(refusal) => Err(refusal),
            },
        )
        .await
    }

    /// The rest of a drop after the frame was hidden, up to where its name is free. Whoever finds one
    /// half done does it; doing it twice is the same as once.
    pub(super) async fn finish_drop(&self, name: &FrameName, record: &FrameRecord) -> Result<()> {
        debug_assert!(record.state.is_dropping());
        if !record.attached {
            self.mark_dropped(name, record).await?;
        }
        self.change(
            |registry| match registry.apply_finish_drop(name, record.id) {
                Ok(next) => Ok(Step::Write(next, ())),
                Err(refusal) if is_gone(&refusal) => Ok(Step::Done(())),
                Err(refusal) => Err(refusal),
            },
        )
        .await
    }

    /// Commits the marker that makes every writer in flight conflict. A ledger that cannot be read
    /// cannot be written to either, and its frame can still be dropped.
    async fn mark_dropped(&self, name: &FrameName, record: &FrameRecord) -> Result<()> {
        let ledger = self.ledger(&record.location);
        for attempt in 0..ATTEMPTS_MAX {
            let base = match ledger.load().await {
                Ok(base) => base,
                Err(
                    error
                    @ (Error::Corrupt { .. } | Error::NotFound { .. } | Error::Unsupported(_)),
                ) => {
                    tracing::warn!(frame = %name, %error, "dropped without a marker in its ledger");
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            if base.is_dropped() {
                return Ok(());
            }
            let mut metadata = (*base.metadata).clone();
            metadata
                .configuration
                .insert(DROPPED_PROPERTY.into(), Some("true".into()));
            let id = CommitId::from_random(self.host.entropy.bytes());
            let intent = Intent {
                operation: "DROP TABLE",
                actions: vec![Action::MetaData(metadata)],
                ..Intent::append(id, Vec::new())
            };
            let (mut results, _) = ledger.commit(base, vec![intent]).await;
            match results.pop() {
                Some(Ok(_)) => return Ok(()),
                Some(Err(Error::Conflict(_))) => self.pause(attempt).await,
                // Another client's features: we may read it and not write. Nor may any writer of
                // ours, so there is none to stop.
                Some(Err(error @ Error::Unsupported(_))) => {
                    tracing::warn!(frame = %name, %error, "dropped without a marker in its ledger");
                    return Ok(());
                }
                Some(Err(error)) => return Err(error),
                None => return Err(Error::Bug("a commit without a result".into())),
            }
        }
        Err(too_busy(format_args!("the ledger of frame {name}")))
    }

    async fn empty_and_drop_box(
        &self,
        hive: &Name,
        box_name: &Name,
        cascade: bool,
        purge: bool,
    ) -> Result<()> {
        for _ in 0..ATTEMPTS_MAX {
            let dropped = self
                .change(|registry| match registry.apply_drop_box(hive, box_name) {
                    Err(refusal @ Refusal::NotEmpty { .. }) => Ok(Step::Done(Some(refusal))),
                    next => Ok(Step::Write(next?, None)),
                })
                .await?;
            let Some(not_empty) = dropped else {
                return Ok(());
            };
            let head = self.head().await?;
            let (hive, _) = head.registry.hive(hive).map_err(refused)?;
            let (box_name, content) = head.registry.frame_box(hive, box_name).map_err(refused)?;
            let mut is_empty = true;
            for (frame, record) in &content.frames {
                let name = FrameName::new(hive.clone(), box_name.clone(), frame.clone());
                if cascade {
                    self.drop_one(&name, purge, false).await?;
                } else if record.state == FrameState::Live || self.settle(&name).await?.is_some() {
                    is_empty = false;
                }
            }
            if !is_empty {
                return Err(refused(not_empty));
            }
        }
        Err(too_busy(format_args!("box {hive}.{box_name}")))
    }

    async fn empty_and_drop_hive(&self, hive: &Name, cascade: bool, purge: bool) -> Result<()> {
        for _ in 0..ATTEMPTS_MAX {
            let dropped = self
                .change(|registry| match registry.apply_drop_hive(hive) {
                    Err(Refusal::NotEmpty { .. }) if cascade => Ok(Step::Done(false)),
                    next => Ok(Step::Write(next?, true)),
                })
                .await?;
            if dropped {
                return Ok(());
            }
            let head = self.head().await?;
            let (hive, content) = head.registry.hive(hive).map_err(refused)?;
            for box_name in content.boxes.keys() {
                let dropped = self
                    .empty_and_drop_box(hive, box_name, cascade, purge)
                    .await;
                existing(dropped, true)?;
            }
        }
        Err(too_busy(format_args!("hive {hive}")))
    }
}

/// `if_exists`: a missing one is no error.
fn existing(dropped: Result<()>, if_exists: bool) -> Result<bool> {
    match dropped {
        Ok(()) => Ok(true),
        Err(Error::NotFound { .. }) if if_exists => Ok(false),
        Err(error) => Err(error),
    }
}
