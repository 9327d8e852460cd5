//! Committing: put, read back, learn who won, check, try again.
//!
//! A version is created once; whoever is first has it. After any answer but success the object is
//! read, because a refused put may have been ours. One body is tried per version, so a late arrival
//! of it harms nothing.
//!
//! Invariant: a member's result says `Ok` only when the commit with its id was acknowledged or read
//! back, and an error other than `OutcomeUnknown` only when it is not in the log.

use super::conflict::Footprint;
use super::log::decode;
use super::plan::{Member, Round, plan_round};
use super::replay::Replay;
use super::{Committed, Intent, Ledger, Snapshot};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::FrameSchema;
use crate::store::Created;
use apiary_protocol::delta::commit::{Commit, Head, encode_commit};
use apiary_protocol::delta::features::check_writable;
use apiary_protocol::delta::{Action, Add, Metadata, Protocol};
use apiary_protocol::ids::CommitId;
use apiary_protocol::keys;
use apiary_protocol::planted;
use bytes::Bytes;
use object_store::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Pauses between attempts are uniform below a bound that doubles from the first to the last.
const PAUSE_FIRST_US: u64 = 500;
const PAUSE_DOUBLINGS_MAX: u32 = 8;

/// What became of a put.
enum Put {
    Landed,
    /// Another commit has the version.
    Lost(Bytes),
}

impl Ledger {
    pub(super) async fn commit_group(
        &self,
        base: Arc<Snapshot>,
        group: Vec<Intent>,
    ) -> (Vec<Result<Committed>>, Arc<Snapshot>) {
        let mut members: Vec<Member> = group.into_iter().map(Member::new).collect();
        let mut current = base;
        if let Err(error) = self.run(&mut current, &mut members).await {
            fail_pending(&mut members, error);
        }
        let results = members.into_iter().map(|member| {
            member
                .result
                .unwrap_or_else(|| Err(Error::Bug("a commit was left undecided".into())))
        });
        (results.collect(), current)
    }

    /// Until every member has a result; an error is that of all that are still pending, none of which
    /// is in the log.
    async fn run(&self, current: &mut Arc<Snapshot>, members: &mut [Member]) -> Result<()> {
        let started = self.host.clock.monotonic();
        self.catch_up(current, members).await?;
        let mut lost_count = 0;
        loop {
            for member in members.iter_mut().filter(|member| member.is_pending()) {
                member.judge(current);
            }
            let group_id = CommitId::from_random(self.host.entropy.bytes());
            let now_ms = self.host.clock.unix_ms();
            let Some(round) = plan_round(members, current, now_ms, group_id)? else {
                return Ok(());
            };
            if self.host.clock.monotonic().saturating_sub(started) > self.deadline {
                let what = format!("{} is too busy to commit to", self.location);
                return Err(Error::Busy {
                    what,
                    retry_after: Duration::from_secs(1),
                });
            }
            match self.try_round(current, members, round).await? {
                None => lost_count = 0,
                Some(winner) => {
                    self.learn(current, members, winner).await?;
                    self.pause(lost_count).await;
                    lost_count += 1;
                }
            }
        }
    }

    /// Tries one version. The winner's bytes come back when somebody else has it.
    async fn try_round(
        &self,
        current: &mut Arc<Snapshot>,
        members: &mut [Member],
        round: Round,
    ) -> Result<Option<Bytes>> {
        let version = current.version + 1;
        let named = self.cells_of(&round.commit.actions)?;
        // Applied before it is written: what could not be read back is not written.
        let mut replay = Replay::from_snapshot(current);
        replay.apply_commit(round.commit)?;
        let next = Arc::new(replay.finish()?);
        for index in &round.members {
            members[*index].attempts += 1;
        }
        match self.put_commit(version, round.body, named).await {
            Ok(Put::Landed) => {
                *current = next;
                for index in round.members {
                    members[index].result = Some(Ok(Committed {
                        version,
                        snapshot: Arc::clone(current),
                        attempts: members[index].attempts,
                        already: false,
                        recorded_before: false,
                    }));
                }
                Ok(None)
            }
            Ok(Put::Lost(winner)) => Ok(Some(winner)),
            Err(error) if error.kind() == ErrorKind::OutcomeUnknown => {
                let error = Arc::new(error);
                for index in round.members {
                    members[index].result = Some(Err(Error::Shared(Arc::clone(&error))));
                }
                // The others were not tried. Nor can they be now: the version may be taken.
                let what = format!("the log of {} does not answer", self.location);
                Err(Error::Busy {
                    what,
                    retry_after: Duration::from_secs(1),
                })
            }
            Err(error) => Err(error),
        }
    }

    /// Creates a version. The store has read back what it could; after an unknown outcome another's
    /// object still decides, but ours does not: it may be there and not survive a power cut. `named`
    /// are the cells that it adds.
    async fn put_commit(&self, version: u64, body: Bytes, named: Vec<Path>) -> Result<Put> {
        let key = self.commit_key(version);
        if planted!(CommitOverwritten) {
            self.meadow.put(&key, body).await?;
            return Ok(Put::Landed);
        }
        let created = self.meadow.create_naming(&key, body.clone(), named);
        let error = match created.await {
            Ok(Created::Ours) => return Ok(Put::Landed),
            Ok(Created::Theirs(_)) if planted!(LostIsLanded) => return Ok(Put::Landed),
            Ok(Created::Theirs(bytes)) => return Ok(Put::Lost(bytes)),
            Err(error) => error,
        };
        match self.meadow.get(&key).await {
            Ok(Some(found)) if found != body => Ok(Put::Lost(found)),
            _ => Err(error),
        }
    }

    /// The keys of the cells that a commit adds: they are durable before it is.
    fn cells_of(&self, actions: &[Action]) -> Result<Vec<Path>> {
        let added = actions.iter().filter_map(|action| match action {
            Action::Add(add) => Some(&add.path),
            _ => None,
        });
        let key = |path: &String| {
            let key = keys::added_cell(&self.location, path);
            let parsed = Path::parse(key.map_err(|error| Error::Bug(error.to_string()))?);
            parsed.map_err(|error| Error::Bug(error.to_string()))
        };
        added.map(key).collect()
    }

    /// Moves to the newest version after a lost one and lets every pending member meet what won.
    async fn learn(
        &self,
        current: &mut Arc<Snapshot>,
        members: &mut [Member],
        winner: Bytes,
    ) -> Result<()> {
        let before = current.version;
        let mut replay = Replay::from_snapshot(current);
        let mut winner = decode(&self.commit_key(before + 1), &winner)?;
        if planted!(StaleRebase) {
            winner.actions.clear();
        }
        replay.apply_commit(winner)?;
        *current = self.follow(&Arc::new(replay.finish()?)).await?;
        self.meet_since(before, current, members).await
    }

    /// Lets members meet what was committed between the snapshot they read and the one we start from.
    async fn catch_up(&self, current: &mut Arc<Snapshot>, members: &mut [Member]) -> Result<()> {
        let newest_read = members
            .iter()
            .filter_map(|member| member.intent.read_version)
            .max();
        if newest_read.is_some_and(|version| version > current.version) {
            *current = self.follow(current).await?;
        }
        for index in 0..members.len() {
            members[index].find_in(current);
            if let Some(since) = members[index].intent.read_version {
                self.meet_since(since, current, &mut members[index..=index])
                    .await?;
            }
        }
        Ok(())
    }

    /// Pending members meet all commits after version `since`. The last ones are remembered by the
    /// snapshot, older ones are read.
    async fn meet_since(
        &self,
        since: u64,
        current: &Arc<Snapshot>,
        members: &mut [Member],
    ) -> Result<()> {
        let remembered = current
            .recent
            .front()
            .map_or(current.version + 1, |f| f.version);
        for version in since + 1..remembered.min(current.version + 1) {
            let footprint = Footprint::of(version, &self.read_known_commit(version).await?);
            meet(&footprint, current, members);
        }
        for footprint in current
            .recent
            .iter()
            .filter(|footprint| footprint.version > since)
        {
            meet(footprint, current, members);
        }
        Ok(())
    }

    /// Full jitter, so that writers which collided do not collide again.
    async fn pause(&self, lost_count: u32) {
        let bound_us = PAUSE_FIRST_US << lost_count.min(PAUSE_DOUBLINGS_MAX);
        let random = u64::from_le_bytes(self.host.entropy.bytes());
        tokio::time::sleep(Duration::from_micros(random % (bound_us + 1))).await;
    }

    pub(super) async fn create_first(
        &self,
        id: CommitId,
        metadata: Metadata,
        protocol: Protocol,
        adds: Vec<Add>,
    ) -> Result<Arc<Snapshot>> {
        check_writable(&protocol, &metadata).map_err(|e| Error::Unsupported(e.to_string()))?;
        FrameSchema::from_metadata(&metadata)?;
        let frame_id = metadata.id.clone();
        let operation = match adds.is_empty() {
            true => "CREATE TABLE",
            false => "CREATE TABLE AS SELECT",
        };
        let mut actions = vec![Action::Protocol(protocol), Action::MetaData(metadata)];
        actions.extend(adds.into_iter().map(Action::Add));
        for action in &actions {
            action.check().map_err(Error::Bug)?;
        }
        let head = Head {
            id,
            members: Vec::new(),
            operation: operation.to_string(),
            timestamp_ms: self.host.clock.unix_ms().max(0),
            is_blind_append: false,
            engine_info: concat!("apiary/", env!("CARGO_PKG_VERSION")).to_string(),
        };
        let body = encode_commit(&head, &actions).map_err(|e| Error::Bug(e.to_string()))?;
        let named = self.cells_of(&actions)?;
        match self.put_commit(0, body.into(), named).await? {
            Put::Landed => {
                let mut replay = Replay::new(&self.location);
                replay.apply_commit(Commit {
                    actions,
                    timestamp_ms: Some(head.timestamp_ms),
                    is_blind_append: false,
                    ids: vec![id.to_string()],
                })?;
                Ok(Arc::new(replay.finish()?))
            }
            Put::Lost(_) => {
                let found = self.load().await?;
                match found.metadata.id == frame_id || planted!(PlaceReused) {
                    true => Ok(found),
                    false => Err(Error::AlreadyExists {
                        what: format!("a Delta table at {}", self.location),
                    }),
                }
            }
        }
    }
}

fn meet(winner: &Footprint, current: &Arc<Snapshot>, members: &mut [Member]) {
    for member in members.iter_mut().filter(|member| member.is_pending()) {
        member.meet(winner, current);
    }
}

/// Gives one error to all members that have no result.
fn fail_pending(members: &mut [Member], error: Error) {
    let mut pending = members.iter_mut().filter(|member| member.is_pending());
    if let (Some(only), None) = (pending.next(), pending.next()) {
        only.result = Some(Err(error));
        return;
    }
    let error = Arc::new(error);
    for member in members.iter_mut().filter(|member| member.is_pending()) {
        member.result = Some(Err(Error::Shared(Arc::clone(&error))));
    }
}
