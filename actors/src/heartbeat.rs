//! This node's heartbeat, and the swarm as this node sees it.
//!
//! Parent: Node. Messages: `Beat` and `Look` from timers, `Written` and `Looked` from its own work,
//! `Refresh` from whoever is about to place tasks, `Busy` from the Forager, `Farewell` at the node's
//! stop. Writes and deletes `_swarm/nodes/{node}`, whose only writer it is; reads the others'. A brief
//! node beats and looks only while it coordinates a query. When it crashes, the next instance beats
//! and looks at once; that others were seen alive is learnt anew.
//!
//! Invariants: one write at a time, so an old beat never lands on a newer one; the heartbeat is
//! deleted only after the last write has returned, and no beat follows; one look at a time; the view
//! that is published is never newer than what was seen.

mod handle;
mod looking;

pub(crate) use handle::SwarmHandle;
pub(crate) use looking::{Look, read_beat};

use crate::bees::BeesHandle;
use crate::cache::{CacheHandle, View};
use crate::chamber::Chambers;
use crate::forager::ForagerHandle;
use crate::mailbox::{Alive, Census, Reply, remind, spawn_report};
use apiary_engine::behavior::membership::{Observer, SwarmView, by_age};
use apiary_engine::error::{Error, Result};
use apiary_engine::host::Host;
use apiary_engine::store::Meadow;
use apiary_protocol::format::BUILD;
use apiary_protocol::heartbeat::{CacheSummary, Heartbeat as Beat, LISTED_COUNT_MAX, Load};
use apiary_protocol::ids::NodeId;
use apiary_protocol::keys;
use bytes::Bytes;
use looking::{Reads, look};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

const BEAT_IDLE: Duration = Duration::from_secs(60);
const BEAT_BUSY: Duration = Duration::from_secs(5);
/// While it runs tasks of other nodes' queries, or coordinates one: others wait for its beats.
const BEAT_CLAIMS: Duration = Duration::from_secs(2);
/// GCS takes one write a second of one key.
const BEAT_LEAST: Duration = Duration::from_secs(1);
const LOOK_IDLE: Duration = Duration::from_secs(60);
const LOOK_BUSY: Duration = Duration::from_secs(2);
/// While busy, new nodes are listed at every so many looks; the others are read one by one.
const LOOKS_PER_LIST: u32 = 5;
pub(crate) const READS_AT_ONCE: usize = 32;
const CONTROL_DEADLINE: Duration = Duration::from_secs(60);

pub(crate) enum Message {
    Beat,
    /// How long until the next, or why this one failed.
    Written {
        result: std::result::Result<Result<Duration>, String>,
    },
    Look,
    Looked {
        result: std::result::Result<Result<Look>, String>,
    },
    /// Answers with a view that is younger than `max_age`, or after a look that begins now and reads
    /// every beat that changed; while the first beat of this node is being written, behind it.
    Refresh {
        max_age: Duration,
        reply: Reply<Arc<SwarmView>>,
    },
    /// Whether a distributed query is under way here.
    Busy {
        busy: bool,
    },
    Farewell {
        reply: Reply<Result<()>>,
    },
}

#[derive(Clone)]
pub(crate) struct Arguments {
    pub(crate) node_id: NodeId,
    pub(crate) host: Host,
    pub(crate) meadow: Meadow,
    pub(crate) name: String,
    /// Beats and looks also at rest.
    pub(crate) is_resident: bool,
    pub(crate) chambers: Arc<Chambers>,
    pub(crate) bees: BeesHandle,
    pub(crate) forager: ForagerHandle,
    pub(crate) cache: Option<Arc<CacheHandle>>,
    pub(crate) view: watch::Sender<Arc<SwarmView>>,
    pub(crate) census: Census,
}

pub(crate) struct State {
    with: Arguments,
    sequence: u64,
    busy: bool,
    written_at: Option<Duration>,
    writing: Option<AbortOnDropHandle<()>>,
    beat_timer: Option<AbortOnDropHandle<()>>,
    observer: Observer,
    looks: u32,
    looking: Option<AbortOnDropHandle<()>>,
    /// When the look under way began, if it reads every beat; and the last such look.
    reading_all: Option<Duration>,
    read_all_at: Option<Duration>,
    look_timer: Option<AbortOnDropHandle<()>>,
    /// Waiting for the look under way, and for the one after it.
    refreshing: Vec<Reply<Arc<SwarmView>>>,
    refresh_next: Vec<Reply<Arc<SwarmView>>>,
    farewell: Option<Reply<Result<()>>>,
    _alive: Alive,
}

pub(crate) struct Heartbeat;

impl Actor for Heartbeat {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        with: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let alive = with.census.enter();
        let mut state = State {
            with,
            sequence: 0,
            busy: false,
            written_at: None,
            writing: None,
            beat_timer: None,
            observer: Observer::default(),
            looks: 0,
            looking: None,
            reading_all: None,
            read_all_at: None,
            look_timer: None,
            refreshing: Vec::new(),
            refresh_next: Vec::new(),
            farewell: None,
            _alive: alive,
        };
        if state.with.is_resident {
            state.beat(&myself);
            state.look(&myself);
        }
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Beat => state.beat(&myself),
            Message::Written { result } => state.written(&myself, result),
            Message::Look => state.look(&myself),
            Message::Looked { result } => state.looked(&myself, result),
            Message::Refresh { max_age, reply } => state.refresh(&myself, max_age, reply),
            Message::Busy { busy } => state.set_busy(&myself, busy),
            Message::Farewell { reply } => {
                state.beat_timer = None;
                state.look_timer = None;
                state.farewell = Some(reply);
            }
        }
        state.leave();
        Ok(())
    }
}

impl State {
    fn is_active(&self) -> bool {
        self.with.is_resident || self.busy
    }

    fn set_busy(&mut self, myself: &ActorRef<Message>, busy: bool) {
        if self.busy == busy {
            return;
        }
        self.busy = busy;
        // Others learn soon that this node works, and this one who else does.
        if busy {
            // The first look finds who is new.
            self.looks = 0;
            self.beat_soon(myself);
            self.look(myself);
        } else if !self.with.is_resident {
            self.retire();
        }
    }

    /// A brief node that coordinates nothing any more takes its beat back.
    fn retire(&mut self) {
        self.beat_timer = None;
        self.look_timer = None;
        if self.writing.is_none() && self.written_at.take().is_some() {
            let (meadow, key) = (self.with.meadow.clone(), keys::heartbeat(self.with.node_id));
            drop(self.with.host.runtimes.control.spawn(async move {
                if let Err(error) = meadow.delete(&key).await {
                    tracing::warn!(%error, "the heartbeat of a brief node stays");
                }
            }));
        }
    }

    fn beat_soon(&mut self, myself: &ActorRef<Message>) {
        let now = self.with.host.clock.monotonic();
        let since = self.written_at.map(|at| now.saturating_sub(at));
        match since.filter(|since| *since < BEAT_LEAST) {
            None => self.beat(myself),
            Some(since) => {
                let control = &self.with.host.runtimes.control;
                let pause = BEAT_LEAST - since;
                self.beat_timer = Some(remind(control, myself, pause, || Message::Beat));
            }
        }
    }

    fn beat(&mut self, myself: &ActorRef<Message>) {
        if self.writing.is_some() || self.farewell.is_some() || !self.is_active() {
            return;
        }
        self.sequence += 1;
        self.written_at = Some(self.with.host.clock.monotonic());
        let work = write(self.with.clone(), self.sequence, self.busy);
        let control = &self.with.host.runtimes.control;
        self.writing = Some(spawn_report(control, myself, work, |result| {
            Message::Written { result }
        }));
    }

    fn written(
        &mut self,
        myself: &ActorRef<Message>,
        result: std::result::Result<Result<Duration>, String>,
    ) {
        self.writing = None;
        let next = match result {
            Ok(Ok(next)) => {
                tracing::debug!(sequence = self.sequence, "the heartbeat was written");
                next
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the heartbeat was not written");
                BEAT_BUSY
            }
            Err(panic) => {
                tracing::error!(panic, "writing the heartbeat panicked");
                BEAT_IDLE
            }
        };
        if !self.refresh_next.is_empty() {
            self.look(myself);
        }
        if !self.is_active() {
            return self.retire();
        }
        // It may have become busy while this beat was written.
        let next = if self.busy {
            next.min(BEAT_CLAIMS)
        } else {
            next
        };
        let control = &self.with.host.runtimes.control;
        self.beat_timer = Some(remind(control, myself, next, || Message::Beat));
    }

    fn refresh(
        &mut self,
        myself: &ActorRef<Message>,
        max_age: Duration,
        reply: Reply<Arc<SwarmView>>,
    ) {
        let now = self.with.host.clock.monotonic();
        let is_fresh = |at: Duration| now.saturating_sub(at) < max_age;
        if self.read_all_at.is_some_and(is_fresh) {
            let _ = reply.send(Arc::new(self.observer.view()));
            return;
        }
        self.refresh_next.push(reply);
        self.look(myself);
    }

    fn look(&mut self, myself: &ActorRef<Message>) {
        let is_asked = !self.refresh_next.is_empty();
        if self.looking.is_some() || self.farewell.is_some() || !(self.is_active() || is_asked) {
            return;
        }
        // Whoever asks may tell others to look for this node.
        if is_asked && self.sequence == 1 && self.writing.is_some() {
            return;
        }
        self.refreshing.append(&mut self.refresh_next);
        let known: Vec<NodeId> = self
            .observer
            .view()
            .members
            .iter()
            .map(|member| member.node)
            .collect();
        let lists = is_asked || !self.busy || self.looks.is_multiple_of(LOOKS_PER_LIST);
        self.looks = self.looks.wrapping_add(1);
        self.reading_all = is_asked.then(|| self.with.host.clock.monotonic());
        let plan = match (is_asked, lists) {
            (true, _) => Reads::Changed(self.observer.marks()),
            (false, true) => Reads::New(known),
            (false, false) => Reads::Watched,
        };
        let watched = (self.busy && !is_asked).then(|| self.with.forager.clone());
        let work = look(self.with.clone(), plan, watched);
        let control = &self.with.host.runtimes.control;
        self.looking = Some(spawn_report(control, myself, work, |result| {
            Message::Looked { result }
        }));
    }

    fn looked(
        &mut self,
        myself: &ActorRef<Message>,
        result: std::result::Result<Result<Look>, String>,
    ) {
        self.looking = None;
        let now = self.with.host.clock.monotonic();
        match result {
            Ok(Ok(Look {
                listed,
                written,
                read,
                request,
            })) => {
                self.read_all_at = self.reading_all.take().or(self.read_all_at);
                if let Some(took) = request {
                    self.observer.took(took);
                }
                if let Some(found) = listed {
                    self.observer.looked(now, &found);
                }
                self.observer.written(written);
                for (node, beat) in read {
                    match beat {
                        Some((mark, beat)) => self.observer.read(now, mark, beat),
                        None => self.observer.gone(node),
                    }
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "the swarm was not seen"),
            Err(panic) => tracing::error!(panic, "looking at the swarm panicked"),
        }
        let mut view = self.observer.view();
        if apiary_protocol::planted!(WallClock) {
            by_wall_clock(&mut view, self.with.host.clock.unix_ms());
        }
        let view = Arc::new(view);
        self.with.view.send_replace(view.clone());
        for reply in self.refreshing.drain(..) {
            let _ = reply.send(view.clone());
        }
        if !self.refresh_next.is_empty() {
            return self.look(myself);
        }
        if self.is_active() {
            let pause = if self.busy { LOOK_BUSY } else { LOOK_IDLE };
            let control = &self.with.host.runtimes.control;
            self.look_timer = Some(remind(control, myself, pause, || Message::Look));
        }
    }

    /// Deletes the heartbeat once its last write has returned.
    fn leave(&mut self) {
        if self.writing.is_some() {
            return;
        }
        if let Some(reply) = self.farewell.take() {
            self.beat_timer = None;
            let (meadow, key) = (self.with.meadow.clone(), keys::heartbeat(self.with.node_id));
            let is_there = self.sequence > 0 && !apiary_protocol::planted!(HeartbeatKept);
            // A deletion has no result that this actor acts on; the caller waits for it.
            drop(self.with.host.runtimes.control.spawn(async move {
                let result = match is_there {
                    true => meadow.delete(&key).await,
                    false => Ok(()),
                };
                let _ = reply.send(result);
            }));
        }
    }
}

/// A mistake that is planted: states by when this node's own wall clock says that beats were written.
fn by_wall_clock(view: &mut SwarmView, now_ms: i64) {
    for member in &mut view.members {
        let age_ms = member
            .written_ms
            .map_or(0, |written_ms| now_ms - written_ms);
        let age = Duration::from_millis(u64::try_from(age_ms).unwrap_or(0));
        member.state = by_age(age, member.beat.as_deref());
    }
}

/// What lies on this node's disk. A cache that does not answer delays no beat.
async fn cached(with: &Arguments) -> CacheSummary {
    let Some(cache) = &with.cache else {
        return CacheSummary::default();
    };
    let Ok(View { status, cells }) = cache.observe().await else {
        return CacheSummary::default();
    };
    CacheSummary {
        used_bytes: status.used_bytes,
        capacity_bytes: status.limit_bytes,
        cells,
    }
}

/// Writes one beat; gives the time until the next.
async fn write(with: Arguments, sequence: u64, is_busy: bool) -> Result<Duration> {
    let view = with.bees.observe().await?;
    let mut claims = with.forager.claims().await?;
    claims.truncate(LISTED_COUNT_MAX);
    let division = with.chambers.division();
    let busy = view.bees.iter().filter(|bee| bee.state != "idle").count();
    let cache = cached(&with).await;
    let reserved: u64 = view.bees.iter().map(|bee| bee.memory_used_bytes).sum();
    let next = if is_busy || !claims.is_empty() {
        BEAT_CLAIMS
    } else if busy > 0 || view.queued_tasks > 0 {
        BEAT_BUSY
    } else {
        BEAT_IDLE
    };
    let beat = Beat {
        node: with.node_id,
        name: with.name,
        build: BUILD.to_string(),
        sequence,
        next_beat_ms: next.as_millis() as u64,
        cores: division.bees as u32,
        memory_bytes: division.pool_bytes(),
        bee_budget_bytes: division.budget_per_bee_bytes,
        load: Load {
            bees_busy: busy as u32,
            tasks_queued: view.queued_tasks as u32,
            memory_pressure: (reserved as f64 / division.pool_bytes() as f64).clamp(0.0, 1.0),
            resident_bytes: view.resident_bytes,
        },
        temperature: view.temperature,
        draining: false,
        claims,
        cache,
    };
    let body = beat
        .to_bytes()
        .map_err(|error| Error::Bug(format!("the heartbeat: {error}")))?;
    with.meadow
        .put(&keys::heartbeat(with.node_id), Bytes::from(body))
        .await?;
    Ok(next)
}
