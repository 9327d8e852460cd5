//! Making and attaching frames, and bringing half-made ones to rest.

use super::change::Step;
use super::view::FrameEntry;
use super::{ATTEMPTS_MAX, Catalog, refused, too_busy};
use crate::error::{Error, ErrorKind, Result};
use crate::ledger::Snapshot;
use crate::schema::FrameSchema;
use apiary_protocol::delta::{Add, Format, Metadata};
use apiary_protocol::ids::{CommitId, FrameId};
use apiary_protocol::keys;
use apiary_protocol::names::FrameName;
use apiary_protocol::planted;
use apiary_protocol::registry::{FrameRecord, FrameState, Refusal, Registry};
use std::sync::Arc;
use std::time::Duration;

/// How long a creation that is under way is watched before it is aborted: polls, with pauses of
/// half to once this length. Its maker may be alive and slow; then it starts again, so a wrong guess
/// costs time and nothing else.
const PATIENCE_POLLS: u32 = 12;
const PATIENCE_POLL: Duration = Duration::from_millis(400);

/// A frame that is going to be made: its id and the place of its cells. Known to nobody else until
/// the name is reserved, so that what is done there until then can take as long as it likes.
#[derive(Clone, Debug)]
pub struct NewFrame {
    name: FrameName,
    id: FrameId,
    plain: Option<String>,
    /// Where its cells go. Nobody else's frame is made there, but for a rival of the same name.
    pub location: String,
}

impl Catalog {
    /// Chooses id and location of a frame that [`Catalog::create_filled`] makes later. Writes nothing
    /// but what finishes the half-done work of others under that name.
    ///
    /// `AlreadyExists` when there is a frame of that name.
    pub async fn plan_frame(&self, name: &FrameName) -> Result<NewFrame> {
        for _ in 0..ATTEMPTS_MAX {
            if let Some(existing) = self.settle(name).await? {
                return Err(refused(Refusal::FrameExists(existing.name)));
            }
            if let Some(new) = self.new_frame(name).await? {
                return Ok(new);
            }
        }
        Err(too_busy(format_args!("frame {name}")))
    }

    /// Makes a frame with rows: reserves its name, writes version 0 with the cells in it, marks it
    /// live. Nobody ever sees it without them.
    ///
    /// `AlreadyExists` when somebody else was faster. With `OutcomeUnknown` it may be there, now or
    /// later; after any other error it is not, and nothing names the cells.
    pub async fn create_filled(
        &self,
        new: &NewFrame,
        schema: &FrameSchema,
        adds: Vec<Add>,
    ) -> Result<(FrameEntry, Arc<Snapshot>)> {
        let made = self.make_filled(new, schema, &adds).await;
        self.leave_hint().await;
        made
    }

    async fn make_filled(
        &self,
        new: &NewFrame,
        schema: &FrameSchema,
        adds: &[Add],
    ) -> Result<(FrameEntry, Arc<Snapshot>)> {
        for _ in 0..ATTEMPTS_MAX {
            if let Some(existing) = self.settle(&new.name).await? {
                return Err(refused(Refusal::FrameExists(existing.name)));
            }
            if let Some(made) = self.try_make(new, schema, adds).await? {
                return Ok(made);
            }
            let head = self.head().await?;
            if !new.fits(&head.registry)? {
                return Err(Error::Busy {
                    what: format!(
                        "frame {} was made and dropped by others meanwhile",
                        new.name
                    ),
                    retry_after: Duration::from_millis(100),
                });
            }
        }
        Err(too_busy(format_args!("frame {}", new.name)))
    }

    /// Reserves id and location, writes version 0, marks it live. With `if_not_exists` an existing
    /// frame of that name comes back as it is, whatever its schema.
    pub async fn create_frame(
        &self,
        name: &FrameName,
        schema: &FrameSchema,
        if_not_exists: bool,
    ) -> Result<(FrameEntry, Arc<Snapshot>)> {
        let made = self.make_frame(name, schema, if_not_exists).await;
        self.leave_hint().await;
        made
    }

    /// Attaches a Delta table that lies under the meadow's root at `location`. Its id is the table's
    /// own when that is a UUID which no other frame has.
    pub async fn attach_frame(&self, name: &FrameName, location: &str) -> Result<FrameEntry> {
        let attached = self.attach(name, location).await;
        self.leave_hint().await;
        attached
    }

    async fn make_frame(
        &self,
        name: &FrameName,
        schema: &FrameSchema,
        if_not_exists: bool,
    ) -> Result<(FrameEntry, Arc<Snapshot>)> {
        let mut without_ledger = None;
        for _ in 0..ATTEMPTS_MAX {
            let Some(entry) = self.settle(name).await? else {
                if let Some(new) = self.new_frame(name).await?
                    && let Some(made) = self.try_make(&new, schema, &[]).await?
                {
                    return Ok(made);
                }
                continue;
            };
            if !if_not_exists {
                return Err(refused(Refusal::FrameExists(entry.name)));
            }
            match self.ledger(&entry.location).load().await {
                // Dropped since.
                Ok(snapshot) if snapshot.is_dropped() => self.pause(0).await,
                Ok(snapshot) => return Ok((entry, snapshot)),
                // Dropped and purged since; or damaged, when it is still there the next time.
                Err(Error::NotFound { .. }) if without_ledger != Some(entry.id) => {
                    without_ledger = Some(entry.id);
                }
                Err(Error::NotFound { .. }) => {
                    let key = keys::commit(&entry.location, 0);
                    let reason = format!("frame {} is live, but has no ledger", entry.name);
                    return Err(Error::corrupt(key, reason));
                }
                Err(error) => return Err(error),
            }
        }
        Err(too_busy(format_args!("frame {name}")))
    }

    /// A fresh id, and the plain location when that is free. `None` when the name is taken.
    async fn new_frame(&self, name: &FrameName) -> Result<Option<NewFrame>> {
        let id = FrameId::from_random(self.host.entropy.bytes());
        let head = self.head().await?;
        let plain = self.free_plain_location(&head.registry, name).await?;
        let location = match head.registry.apply_reserve(name, id, plain.as_deref()) {
            Ok((_, _, record)) => record.location,
            Err(Refusal::FrameExists(_)) => return Ok(None),
            Err(refusal) => return Err(refused(refusal)),
        };
        let name = name.clone();
        Ok(Some(NewFrame {
            name,
            id,
            plain,
            location,
        }))
    }

    /// One attempt at a name that is free. `None` when it has to be looked at again: somebody was
    /// faster, or the place turned out to be taken.
    async fn try_make(
        &self,
        new: &NewFrame,
        schema: &FrameSchema,
        adds: &[Add],
    ) -> Result<Option<(FrameEntry, Arc<Snapshot>)>> {
        let id = new.id;
        let reserved = self
            .change(|registry| match new.reserve(registry) {
                Ok(Some((next, spelled, record))) => Ok(Step::Write(next, Some((spelled, record)))),
                Ok(None) | Err(Refusal::FrameExists(_)) => Ok(Step::Done(None)),
                Err(refusal) => Err(refusal),
            })
            .await?;
        let Some((spelled, record)) = reserved else {
            return Ok(None);
        };
        let snapshot = match self
            .write_first_version(&spelled, &record, schema, adds)
            .await
        {
            Ok(snapshot) => snapshot,
            // It may be there: the reservation stays, and whoever comes next finds out.
            Err(error) if error.kind() == ErrorKind::OutcomeUnknown => return Err(error),
            Err(error) => {
                self.abort(&spelled, id).await?;
                return match error {
                    Error::AlreadyExists { .. } | Error::Conflict(_) => Ok(None),
                    error => Err(error),
                };
            }
        };
        // Version 0 is there: whoever looks next makes it live, if this did not.
        let is_live = self.make_live(&spelled, id).await;
        let is_live = is_live.map_err(|error| Error::OutcomeUnknown {
            what: format!("making frame {spelled}"),
            reason: error.to_string(),
        })?;
        Ok(is_live.then(|| (FrameEntry::new(spelled, &record), snapshot)))
    }

    /// The plain location, when the registry never gave it to a frame and no ledger lies there.
    async fn free_plain_location(
        &self,
        registry: &Registry,
        name: &FrameName,
    ) -> Result<Option<String>> {
        let Some(location) = registry.plain_location(name).map_err(refused)? else {
            return Ok(None);
        };
        // A table whose old commits were cleaned up has a checkpoint and no version 0.
        let (first, checkpoint) = (keys::commit(&location, 0), keys::last_checkpoint(&location));
        let (first, checkpoint) =
            futures::try_join!(self.meadow.get(&first), self.meadow.get(&checkpoint))?;
        let is_free = (first.is_none() && checkpoint.is_none()) || planted!(PlaceReused);
        Ok(is_free.then_some(location))
    }

    async fn write_first_version(
        &self,
        name: &FrameName,
        record: &FrameRecord,
        schema: &FrameSchema,
        adds: &[Add],
    ) -> Result<Arc<Snapshot>> {
        let metadata = Metadata {
            id: record.id.to_string(),
            name: Some(name.frame.to_string()),
            description: None,
            format: Format {
                provider: "parquet".into(),
                options: Default::default(),
            },
            schema_string: schema.to_schema_string(),
            partition_columns: schema.partition_columns.clone(),
            configuration: Default::default(),
            created_time: Some(self.host.clock.unix_ms()),
        };
        let id = CommitId::from_random(self.host.entropy.bytes());
        self.ledger(&record.location)
            .create_with(id, metadata, schema.protocol(), adds.to_vec())
            .await
    }

    /// Whether the frame is live now, or was; false when its reservation was aborted.
    async fn make_live(&self, name: &FrameName, id: FrameId) -> Result<bool> {
        self.change(|registry| match registry.apply_make_live(name, id) {
            Ok(Some(next)) => Ok(Step::Write(next, true)),
            Ok(None) | Err(Refusal::WrongState { .. }) => Ok(Step::Done(true)),
            Err(refusal) if is_gone(&refusal) => Ok(Step::Done(false)),
            Err(refusal) => Err(refusal),
        })
        .await
    }

    async fn abort(&self, name: &FrameName, id: FrameId) -> Result<()> {
        self.change(|registry| match registry.apply_abort(name, id) {
            Ok(next) => Ok(Step::Write(next, ())),
            Err(Refusal::WrongState { .. }) => Ok(Step::Done(())),
            Err(refusal) if is_gone(&refusal) => Ok(Step::Done(())),
            Err(refusal) => Err(refusal),
        })
        .await
    }

    async fn attach(&self, name: &FrameName, location: &str) -> Result<FrameEntry> {
        let location = location.strip_suffix('/').unwrap_or(location);
        keys::check_location(location).map_err(|error| {
            Error::Rejected(format!(
                "{error}: give the table's path relative to {}",
                self.meadow.label()
            ))
        })?;
        if let Some(existing) = self.settle(name).await? {
            return Err(refused(Refusal::FrameExists(existing.name)));
        }
        let snapshot = match self.ledger(location).load().await {
            Err(Error::NotFound { .. }) => {
                return Err(Error::NotFound {
                    what: format!("Delta table {location}"),
                });
            }
            loaded => loaded?,
        };
        if snapshot.is_dropped() {
            return Err(Error::Rejected(format!(
                "the table at {location} was dropped; copy it elsewhere to use it again"
            )));
        }
        let own = FrameId::parse(&snapshot.metadata.id);
        let fresh = FrameId::from_random(self.host.entropy.bytes());
        self.change(|registry| {
            let id = own
                .filter(|id| !registry.has_frame_id(*id))
                .unwrap_or(fresh);
            let (next, spelled) = registry.apply_attach(name, id, location)?;
            let entry = FrameEntry {
                name: spelled,
                id,
                location: location.to_string(),
                attached: true,
            };
            Ok(Step::Write(next, entry))
        })
        .await
    }

    /// Brings a name to rest: finishes or aborts a creation, and finishes a drop, that somebody left
    /// half done. Gives the live frame of that name, if any.
    pub(super) async fn settle(&self, name: &FrameName) -> Result<Option<FrameEntry>> {
        self.settle_patiently(name, PATIENCE_POLL).await
    }

    /// As [`Self::settle`], with longer pauses between the polls of a creation that is under way.
    pub(super) async fn settle_patiently(
        &self,
        name: &FrameName,
        poll: Duration,
    ) -> Result<Option<FrameEntry>> {
        let mut watched = None;
        let mut polls = 0;
        loop {
            let head = self.head().await?;
            let (spelled, record) = match head.registry.frame(name) {
                Ok(found) => found,
                Err(Refusal::FrameMissing(_)) => return Ok(None),
                Err(refusal) => return Err(refused(refusal)),
            };
            match record.state {
                FrameState::Live => return Ok(Some(FrameEntry::new(spelled, record))),
                FrameState::Dropping | FrameState::DroppingWithData => {
                    self.finish_drop(&spelled, record).await?;
                }
                FrameState::Creating if self.has_first_version(record).await? => {
                    self.make_live(&spelled, record.id).await?;
                }
                FrameState::Creating => {
                    if watched != Some(record.id) {
                        (watched, polls) = (Some(record.id), 0);
                    }
                    if polls == PATIENCE_POLLS {
                        tracing::info!(frame = %spelled, "aborting a creation that does not get on");
                        self.abort(&spelled, record.id).await?;
                        continue;
                    }
                    polls += 1;
                    let random = f64::from(u32::from_le_bytes(self.host.entropy.bytes()));
                    let part = 0.5 + 0.5 * random / f64::from(u32::MAX);
                    tokio::time::sleep(poll.mul_f64(part)).await;
                }
            }
        }
    }

    /// Whether the ledger of a reserved frame was begun, with its id. A damaged one was not: nothing
    /// of it was ever acknowledged.
    async fn has_first_version(&self, record: &FrameRecord) -> Result<bool> {
        // Mostly it is not there yet, and one request says so.
        let first = keys::commit(&record.location, 0);
        if self.meadow.get(&first).await?.is_none() {
            return Ok(false);
        }
        match self.ledger(&record.location).load().await {
            Ok(snapshot) => Ok(snapshot.metadata.id == record.id.to_string()),
            Err(Error::NotFound { .. } | Error::Corrupt { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl NewFrame {
    pub fn id(&self) -> FrameId {
        self.id
    }

    /// The reservation of the place; `None` when it is not to be had any more.
    fn reserve(
        &self,
        registry: &Registry,
    ) -> Result<Option<(Registry, FrameName, FrameRecord)>, Refusal> {
        let reserved = registry.apply_reserve(&self.name, self.id, self.plain.as_deref())?;
        Ok(Some(reserved).filter(|(_, _, record)| record.location == self.location))
    }

    fn fits(&self, registry: &Registry) -> Result<bool> {
        match self.reserve(registry) {
            Ok(reserved) => Ok(reserved.is_some()),
            // Somebody else's; the next look tells.
            Err(Refusal::FrameExists(_)) => Ok(true),
            Err(refusal) => Err(refused(refusal)),
        }
    }
}

/// Whether the frame that a transition meant is not there any more.
pub(super) fn is_gone(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::HiveMissing(_)
            | Refusal::BoxMissing(..)
            | Refusal::FrameMissing(_)
            | Refusal::FrameReplaced(_)
    )
}
