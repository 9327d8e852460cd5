//! All commits of this node, and the snapshots that its statements read.
//!
//! Parent: Node. Messages: `Snapshot` and `Commit` from statements; `Probed`, `Committed` and
//! `Checkpointed` from its own work; `Flush`, `Observe`. Reads and writes the frames' `_delta_log/`.
//! When it crashes, commits in flight may still land: their callers are told that the outcome is
//! unknown. The next instance starts with an empty cache, and conditional creates keep it apart from
//! what the old one still does. Results of work go to the instance that began it and to no other.
//!
//! Invariants: at most one commit of a frame is in flight; a snapshot is answered from a probe that
//! began after the request, and from a log that was seen whole within [`LOOK_INTERVAL`]; a commit's
//! own snapshot is in the cache before it is acknowledged; the cache holds at most [`SNAPSHOTS_MAX`]
//! frames that are not in use; a version that this node knows has one content (LEDGER-1).

mod handle;

pub(crate) use handle::LedgerHandle;

use crate::mailbox::{Alive, Census, Reply, spawn_report};
use apiary_engine::error::{Error, ErrorKind, Result};
use apiary_engine::host::Host;
use apiary_engine::ledger::{Committed, Intent, Ledger, Reads, Snapshot, invariants};
use apiary_engine::settings::Settings;
use apiary_engine::store::Meadow;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// Frames whose snapshot is kept.
pub(crate) const SNAPSHOTS_MAX: usize = 64;
/// How long a log that is in use is believed to be whole: following it costs one request and sees only
/// what is new, looking at all of it two more.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(300);
/// Appends that one version takes.
const GROUP_MAX: usize = 256;

type Shared<T> = std::result::Result<T, Arc<Error>>;

pub(crate) enum Message {
    Snapshot {
        location: String,
        reply: Reply<Shared<Arc<Snapshot>>>,
    },
    Probed {
        location: String,
        result: std::result::Result<Result<Arc<Snapshot>>, String>,
    },
    Commit {
        base: Arc<Snapshot>,
        intent: Intent,
        reply: Reply<Result<Committed>>,
    },
    Committed {
        location: String,
        result: std::result::Result<GroupResult, String>,
    },
    Checkpointed {
        location: String,
        result: std::result::Result<Result<()>, String>,
    },
    /// Answers when nothing is in flight.
    Flush {
        reply: Reply<()>,
    },
    Observe {
        reply: Reply<View>,
    },
}

type GroupResult = (Vec<Result<Committed>>, Arc<Snapshot>);

/// What `Observe` answers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct View {
    pub(crate) snapshots: usize,
    pub(crate) commits_in_flight: usize,
}

#[derive(Clone)]
pub(crate) struct Arguments {
    pub(crate) host: Host,
    pub(crate) meadow: Meadow,
    pub(crate) settings: Arc<Settings>,
    pub(crate) census: Census,
}

struct Pending {
    base: Arc<Snapshot>,
    intent: Intent,
    reply: Reply<Result<Committed>>,
}

type SnapshotReplies = Vec<Reply<Shared<Arc<Snapshot>>>>;

/// A probe under way and who waits for it.
struct Probe {
    replies: SnapshotReplies,
    /// When it began, if it looks at the whole log.
    looks_at: Option<Duration>,
    _work: AbortOnDropHandle<()>,
}

/// A commit under way: the reply of each member, in the group's order.
struct InFlight {
    replies: Vec<Reply<Result<Committed>>>,
    _work: AbortOnDropHandle<()>,
}

/// The sequencer of one frame.
#[derive(Default)]
struct Frame {
    snapshot: Option<Arc<Snapshot>>,
    /// When the log was last seen whole, by the monotonic clock.
    looked_at: Option<Duration>,
    probe: Option<Probe>,
    /// Asked while a probe was under way: they need the next one.
    asked_later: SnapshotReplies,
    in_flight: Option<InFlight>,
    pending: VecDeque<Pending>,
    checkpoint: Option<AbortOnDropHandle<()>>,
    last_used: u64,
}

impl Frame {
    fn is_look_due(&self, now: Duration) -> bool {
        let since = self.looked_at.map(|then| now.saturating_sub(then));
        since.is_none_or(|since| since >= LOOK_INTERVAL)
    }

    fn is_busy(&self) -> bool {
        self.probe.is_some() || self.in_flight.is_some() || self.checkpoint.is_some()
    }
}

pub(crate) struct State {
    with: Arguments,
    frames: BTreeMap<String, Frame>,
    uses: u64,
    flushing: Vec<Reply<()>>,
    _alive: Alive,
}

pub(crate) struct LedgerActor;

impl Actor for LedgerActor {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        _: ActorRef<Message>,
        with: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let alive = with.census.enter();
        Ok(State {
            with,
            frames: BTreeMap::new(),
            uses: 0,
            flushing: Vec::new(),
            _alive: alive,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Snapshot { location, reply } => state.snapshot(&myself, location, reply),
            Message::Probed { location, result } => state.probed(&myself, location, result),
            Message::Commit {
                base,
                intent,
                reply,
            } => {
                let location = base.location.clone();
                state.frame(&location).pending.push_back(Pending {
                    base,
                    intent,
                    reply,
                });
                state.begin_commit(&myself, &location);
            }
            Message::Committed { location, result } => state.committed(&myself, location, result),
            Message::Checkpointed { location, result } => state.checkpointed(location, result),
            Message::Flush { reply } => state.flushing.push(reply),
            Message::Observe { reply } => {
                let _ = reply.send(state.view());
            }
        }
        state.evict();
        state.answer_flush();
        Ok(())
    }
}

impl State {
    fn ledger(&self, location: &str) -> Ledger {
        let Arguments {
            host,
            meadow,
            settings,
            ..
        } = &self.with;
        Ledger::new(host.clone(), meadow.clone(), location.to_string(), settings)
    }

    fn frame(&mut self, location: &str) -> &mut Frame {
        self.uses += 1;
        let frame = self.frames.entry(location.to_string()).or_default();
        frame.last_used = self.uses;
        frame
    }

    fn snapshot(
        &mut self,
        myself: &ActorRef<Message>,
        location: String,
        reply: Reply<Shared<Arc<Snapshot>>>,
    ) {
        let frame = self.frame(&location);
        frame.asked_later.push(reply);
        if frame.probe.is_none() {
            self.begin_probe(myself, &location);
        }
    }

    /// Starts the probe for all that asked so far.
    fn begin_probe(&mut self, myself: &ActorRef<Message>, location: &str) {
        let ledger = self.ledger(location);
        let control = self.with.host.runtimes.control.clone();
        let now = self.with.host.clock.monotonic();
        let frame = self.frame(location);
        let replies = std::mem::take(&mut frame.asked_later);
        let known = frame.snapshot.clone();
        let looks_at = (known.is_none() || frame.is_look_due(now)).then_some(now);
        let to = location.to_string();
        let work = async move {
            match known {
                Some(known) if looks_at.is_some() => ledger.refresh_whole(&known).await,
                Some(known) => ledger.refresh(&known).await,
                None => ledger.load().await,
            }
        };
        let work = spawn_report(&control, myself, work, |result| Message::Probed {
            location: to,
            result,
        });
        frame.probe = Some(Probe {
            replies,
            looks_at,
            _work: work,
        });
    }

    fn probed(
        &mut self,
        myself: &ActorRef<Message>,
        location: String,
        result: std::result::Result<Result<Arc<Snapshot>>, String>,
    ) {
        let frame = self.frame(&location);
        let Some(probe) = frame.probe.take() else {
            return;
        };
        let result = result
            .unwrap_or_else(|panic| Err(Error::Bug(panic)))
            .map_err(Arc::new);
        match &result {
            Ok(snapshot) => {
                frame.keep(snapshot);
                frame.looked_at = probe.looks_at.or(frame.looked_at);
            }
            // What is known is all there is against a log that has lost some of it: without it the
            // next statement would go on with what is left.
            Err(error) if probe.looks_at.is_some() && error.kind() == ErrorKind::Corrupt => {}
            Err(_) => frame.snapshot = None,
        }
        for reply in probe.replies {
            let _ = reply.send(result.clone());
        }
        frame.asked_later.retain(|reply| !reply.is_closed());
        if !frame.asked_later.is_empty() {
            self.begin_probe(myself, &location);
        }
    }

    /// Starts the next commit of a frame, unless one is under way.
    fn begin_commit(&mut self, myself: &ActorRef<Message>, location: &str) {
        let ledger = self.ledger(location);
        let control = self.with.host.runtimes.control.clone();
        let frame = self.frame(location);
        if frame.in_flight.is_some() {
            return;
        }
        let Some(first) = frame.pending.front() else {
            return;
        };
        let newest = match &frame.snapshot {
            Some(snapshot) if snapshot.version > first.base.version => snapshot.clone(),
            _ => first.base.clone(),
        };
        let group = take_group(&mut frame.pending, &newest);
        let base = match group.first() {
            Some(alone) if !joins(alone, &newest) => alone.base.clone(),
            _ => newest,
        };
        let (intents, replies): (Vec<_>, Vec<_>) = group
            .into_iter()
            .map(|pending| (pending.intent, pending.reply))
            .unzip();
        let (to, location) = (location.to_string(), location.to_string());
        // In the span of the statement that began it; others may have joined.
        let work = async move {
            let commits = intents.len();
            let (results, newest) = ledger.commit(base, intents).await;
            let version = newest.version;
            tracing::debug!(location, version, commits, "a commit has ended");
            (results, newest)
        };
        let work = spawn_report(&control, myself, work, |result| Message::Committed {
            location: to,
            result,
        });
        frame.in_flight = Some(InFlight {
            replies,
            _work: work,
        });
    }

    fn committed(
        &mut self,
        myself: &ActorRef<Message>,
        location: String,
        result: std::result::Result<GroupResult, String>,
    ) {
        let frame = self.frame(&location);
        let Some(in_flight) = frame.in_flight.take() else {
            return;
        };
        let mut due = None;
        match result {
            Ok((results, newest)) => {
                frame.keep(&newest);
                for (reply, result) in in_flight.replies.into_iter().zip(results) {
                    if let Ok(committed) = &result
                        && !committed.already
                    {
                        due = Some(committed.version);
                    }
                    let _ = reply.send(result);
                }
            }
            Err(panic) => {
                for reply in in_flight.replies {
                    let _ = reply.send(Err(outcome_unknown(&location, &panic)));
                }
            }
        }
        self.begin_commit(myself, &location);
        if let Some(version) = due {
            self.checkpoint_when_due(myself, &location, version);
        }
    }

    /// The author of the version that completes an interval writes the checkpoint, after the
    /// acknowledgement.
    fn checkpoint_when_due(&mut self, myself: &ActorRef<Message>, location: &str, version: u64) {
        let interval = self.with.settings.checkpoint_interval.max(1);
        if version == 0 || !version.is_multiple_of(interval) {
            return;
        }
        let ledger = self.ledger(location);
        let control = self.with.host.runtimes.control.clone();
        let frame = self.frame(location);
        let Some(snapshot) = frame
            .snapshot
            .clone()
            .filter(|_| frame.checkpoint.is_none())
        else {
            return;
        };
        let to = location.to_string();
        let work = async move { ledger.checkpoint(&snapshot).await };
        let work = spawn_report(&control, myself, work, |result| Message::Checkpointed {
            location: to,
            result,
        });
        frame.checkpoint = Some(work);
    }

    fn checkpointed(&mut self, location: String, result: std::result::Result<Result<()>, String>) {
        if let Some(frame) = self.frames.get_mut(&location) {
            frame.checkpoint = None;
        }
        match result {
            Ok(Ok(())) => {}
            // A checkpoint only saves later readers time: the next interval brings another.
            Ok(Err(error)) => tracing::warn!(location, %error, "the checkpoint was not written"),
            Err(panic) => tracing::error!(location, panic, "writing the checkpoint panicked"),
        }
    }

    /// Forgets the frames that were not used for longest.
    fn evict(&mut self) {
        while self.frames.len() > SNAPSHOTS_MAX {
            let idle = self.frames.iter().filter(|(_, frame)| !frame.is_busy());
            let oldest = idle
                .min_by_key(|(_, frame)| frame.last_used)
                .map(|(location, _)| location.clone());
            let Some(oldest) = oldest else { return };
            self.frames.remove(&oldest);
        }
    }

    fn answer_flush(&mut self) {
        if !self.frames.values().any(Frame::is_busy) {
            for reply in self.flushing.drain(..) {
                let _ = reply.send(());
            }
        }
    }

    fn view(&self) -> View {
        View {
            snapshots: self
                .frames
                .values()
                .filter(|frame| frame.snapshot.is_some())
                .count(),
            commits_in_flight: self
                .frames
                .values()
                .filter(|frame| frame.in_flight.is_some())
                .count(),
        }
    }
}

impl Frame {
    fn keep(&mut self, snapshot: &Arc<Snapshot>) {
        if let Some(known) = &self.snapshot {
            debug_assert_eq!(check_one_content(known, snapshot), Ok(()));
        }
        if self
            .snapshot
            .as_ref()
            .is_none_or(|known| known.version <= snapshot.version)
        {
            self.snapshot = Some(snapshot.clone());
        }
    }
}

/// LEDGER-1, where it costs little: two snapshots of one version that were not read together.
fn check_one_content(
    known: &Arc<Snapshot>,
    other: &Arc<Snapshot>,
) -> std::result::Result<(), String> {
    let is_told = known.version != other.version || Arc::ptr_eq(known, other);
    if is_told || known.cell_count() > invariants::CELLS_CHECKED_MAX {
        return Ok(());
    }
    invariants::check_same_content(known, other)
}

/// Whether a commit can go with others on `newest`: it read nothing, and what it validated its rows
/// against still holds there. All others commit alone, against the snapshot that they read.
fn joins(pending: &Pending, newest: &Snapshot) -> bool {
    matches!(pending.intent.reads, Reads::Nothing)
        && !pending.intent.replaces_all
        && pending.base.metadata == newest.metadata
        && pending.base.protocol == newest.protocol
}

/// The next group: the first alone, or the first and all later ones that go with it. Two of one
/// application never share a version.
fn take_group(pending: &mut VecDeque<Pending>, newest: &Snapshot) -> Vec<Pending> {
    let Some(first) = pending.pop_front() else {
        return Vec::new();
    };
    if !joins(&first, newest) {
        return vec![first];
    }
    let mut applications = BTreeSet::new();
    applications.extend(first.intent.txn.as_ref().map(|(app_id, _)| app_id.clone()));
    let mut group = vec![first];
    let mut left = VecDeque::new();
    for next in pending.drain(..) {
        let app_id = next.intent.txn.as_ref().map(|(app_id, _)| app_id.clone());
        let fits = group.len() < GROUP_MAX
            && joins(&next, newest)
            && app_id.is_none_or(|app_id| applications.insert(app_id));
        if fits {
            group.push(next)
        } else {
            left.push_back(next)
        }
    }
    *pending = left;
    group
}

fn outcome_unknown(location: &str, reason: &str) -> Error {
    Error::OutcomeUnknown {
        what: format!("a commit to {location}"),
        reason: reason.to_string(),
    }
}
