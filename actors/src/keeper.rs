//! House-keeping of a node that is idle or cold.
//!
//! Parent: Node (resident nodes only). Messages: `Look` from its timer, `Swept` and `Kept` from its
//! own work. A look finishes what killed nodes left half done in the registry, deletes the heartbeats
//! and proofs they left and what they left in the staging of a local meadow, and then takes one place:
//! a frame, the next in the order of locations, for its cells that no version names and its checkpoint
//! that is overdue; or, in turn with frames, cells of a maker that was killed before its frame had a
//! name. When it crashes, the next instance looks again after a while; all of it can be repeated.
//!
//! Invariants: it begins nothing while the node is warm; ages come from the store's own modification
//! times, with "now" read from this node's own heartbeat, never from a clock; looking after places
//! makes a bounded number of requests a minute, whatever the store holds; one place at a time;
//! attached tables are left alone.

use crate::bees::BeesHandle;
use crate::mailbox::{Alive, Census, remind, spawn_report};
use apiary_engine::behavior::sweep::is_old;
use apiary_engine::behavior::temperature::Regulation;
use apiary_engine::catalog::{Abandoned, Catalog, FrameEntry};
use apiary_engine::error::Result;
use apiary_engine::host::Host;
use apiary_engine::ledger::{Kept, Ledger};
use apiary_engine::settings::Settings;
use apiary_engine::store::Meadow;
use apiary_protocol::ids::NodeId;
use apiary_protocol::keys;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// A node that lives shorter than this keeps no house; and the start has requests of its own.
const FIRST_LOOK: Duration = Duration::from_secs(60);
/// A heartbeat this much older than ours belongs to a node that is gone: the longest promise is ten
/// minutes. A proof lives for less than a second.
const SWARM_AGE_MS: i64 = 3_600_000;

pub(crate) enum Message {
    Look,
    Swept {
        result: std::result::Result<Result<Swept>, String>,
    },
    Kept {
        place: String,
        result: std::result::Result<Result<Kept>, String>,
    },
}

/// What the short part of a look came to.
#[derive(Default)]
pub(crate) struct Swept {
    objects: usize,
    half_done: usize,
    /// By the store; absent while the node is warm or its own heartbeat is not there yet.
    now_ms: Option<i64>,
    /// Whose turn it is.
    place: Option<Place>,
}

/// What is looked after at once.
pub(crate) enum Place {
    Frame(FrameEntry),
    /// Where a frame was to be made, and never was.
    Abandoned(Abandoned),
}

impl Place {
    /// For messages.
    fn name(&self) -> &str {
        match self {
            Self::Frame(entry) => &entry.location,
            Self::Abandoned(mark) => &mark.key,
        }
    }
}

#[derive(Clone)]
pub(crate) struct Arguments {
    pub(crate) node_id: NodeId,
    pub(crate) host: Host,
    pub(crate) meadow: Meadow,
    pub(crate) settings: Arc<Settings>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) bees: BeesHandle,
    pub(crate) census: Census,
}

pub(crate) struct State {
    with: Arguments,
    /// The meadow for work that may take long.
    paced: Meadow,
    last: Last,
    /// The timer or the sweep, one at a time.
    _work: AbortOnDropHandle<()>,
    place: Option<AbortOnDropHandle<()>>,
    _alive: Alive,
}

/// What was looked after last.
#[derive(Clone, Default)]
struct Last {
    /// Location of the last frame.
    frame: Option<String>,
    was_abandoned: bool,
}

pub(crate) struct Keeper;

impl Actor for Keeper {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        with: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let first = FIRST_LOOK.min(interval(&with));
        let work = remind(&with.host.runtimes.control, &myself, first, || {
            Message::Look
        });
        Ok(State {
            paced: with.meadow.paced(with.settings.keeper_requests_per_minute),
            last: Last::default(),
            _work: work,
            place: None,
            _alive: with.census.enter(),
            with,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Look => {
                let sweep = sweep(state.with.clone(), state.last.clone());
                let control = &state.with.host.runtimes.control;
                state._work =
                    spawn_report(control, &myself, sweep, |result| Message::Swept { result });
            }
            Message::Swept { result } => {
                if let Some(swept) = told("the sweep", result) {
                    state.swept(&myself, swept);
                }
                let control = &state.with.host.runtimes.control;
                let pause = interval(&state.with);
                state._work = remind(control, &myself, pause, || Message::Look);
            }
            Message::Kept { place, result } => {
                state.place = None;
                let kept = told(&format!("looking after {place}"), result);
                if let Some(kept) = kept.filter(|kept| *kept != Kept::default()) {
                    tracing::info!(place, ?kept, "looked after a place");
                }
            }
        }
        Ok(())
    }
}

impl State {
    fn swept(&mut self, myself: &ActorRef<Message>, swept: Swept) {
        let Swept {
            objects,
            half_done,
            now_ms,
            place,
        } = swept;
        if objects + half_done > 0 {
            tracing::info!(objects, half_done, "swept what dead nodes left");
        }
        if let (Some(now_ms), Some(place), None) = (now_ms, place, &self.place) {
            self.last.was_abandoned = matches!(place, Place::Abandoned(_));
            if let Place::Frame(entry) = &place {
                self.last.frame = Some(entry.location.clone());
            }
            self.keep(myself, now_ms, place);
        }
    }

    fn keep(&mut self, myself: &ActorRef<Message>, now_ms: i64, place: Place) {
        let name = place.name().to_string();
        let work = keep(self.with.clone(), self.paced.clone(), now_ms, place);
        let control = &self.with.host.runtimes.control;
        let report = |result| Message::Kept {
            place: name,
            result,
        };
        self.place = Some(spawn_report(control, myself, work, report));
    }
}

/// The long part of a look.
async fn keep(with: Arguments, paced: Meadow, now_ms: i64, place: Place) -> Result<Kept> {
    let sweep_age = with.settings.sweep_age();
    match place {
        Place::Frame(entry) => {
            let ledger = Ledger::new(with.host, paced, entry.location, &with.settings);
            ledger.keep(now_ms, sweep_age).await
        }
        Place::Abandoned(mark) => {
            let catalog = &with.catalog;
            let swept = catalog.sweep_abandoned(&paced, &mark, now_ms, sweep_age);
            Ok(Kept {
                orphans: swept.await?,
                checkpoint: None,
            })
        }
    }
}

fn interval(with: &Arguments) -> Duration {
    Duration::from_millis(with.settings.keeper_interval_ms.max(1))
}

/// Logs what went wrong; it is tried again at a later look.
fn told<T>(what: &str, result: std::result::Result<Result<T>, String>) -> Option<T> {
    match result {
        Ok(Ok(done)) => return Some(done),
        Ok(Err(error)) => tracing::warn!(%error, "{what} failed; it is tried again later"),
        Err(panic) => tracing::error!(panic, "{what} panicked"),
    }
    None
}

/// The short part of a look, and whose turn it is after `last`.
async fn sweep(with: Arguments, last: Last) -> Result<Swept> {
    if with.bees.observe().await?.regulation > Regulation::Ideal {
        return Ok(Swept::default());
    }
    let (objects, now_ms) = sweep_swarm(&with).await?;
    // What fails here is no reason to leave the frames alone.
    let half_done = with.catalog.finish_half_done().await;
    let half_done =
        half_done.inspect_err(|error| tracing::warn!(%error, "something stays half done"));
    if let Err(error) = with.meadow.sweep_staging().await {
        tracing::warn!(%error, "staging was not swept");
    }
    let place = match now_ms {
        Some(now_ms) => next_place(&with, &last, now_ms).await?,
        None => None,
    };
    Ok(Swept {
        objects,
        half_done: half_done.unwrap_or(0),
        now_ms,
        place,
    })
}

/// Deletes the heartbeats of nodes that are long gone, and what nodes left that were killed while they
/// tried out the store; gives how many, and the time by the store.
async fn sweep_swarm(with: &Arguments) -> Result<(usize, Option<i64>)> {
    let ours = keys::heartbeat(with.node_id);
    let beats = with.meadow.list(keys::NODES_PREFIX, None).await?;
    let own = beats.iter().find(|beat| beat.location.as_ref() == ours);
    let Some(now_ms) = own.map(|beat| beat.last_modified.timestamp_millis()) else {
        return Ok((0, None));
    };
    let proofs = with.meadow.list(keys::PROOFS_PREFIX, None).await?;
    let mut swept = 0;
    for left in beats.iter().chain(&proofs) {
        let modified_ms = left.last_modified.timestamp_millis();
        if is_old(modified_ms, now_ms, SWARM_AGE_MS) {
            with.meadow.delete(left.location.as_ref()).await?;
            swept += 1;
        }
    }
    Ok((swept, Some(now_ms)))
}

/// Frames and what makers abandoned come in turn; of the latter any, because one may be unreadable.
async fn next_place(with: &Arguments, last: &Last, now_ms: i64) -> Result<Option<Place>> {
    let frame = next_frame(with, last.frame.as_deref()).await?;
    if frame.is_some() && last.was_abandoned {
        return Ok(frame.map(Place::Frame));
    }
    let sweep_age = with.settings.sweep_age();
    let mut abandoned = with.catalog.list_abandoned(now_ms, sweep_age).await?;
    if abandoned.is_empty() {
        return Ok(frame.map(Place::Frame));
    }
    let index = draw(with) % abandoned.len();
    Ok(Some(Place::Abandoned(abandoned.swap_remove(index))))
}

fn draw(with: &Arguments) -> usize {
    u64::from_le_bytes(with.host.entropy.bytes()) as usize
}

/// The frame of our own that comes after a location, or the first; with nothing before it a random
/// one, so that nodes that start together do not all look after the same.
async fn next_frame(with: &Arguments, last: Option<&str>) -> Result<Option<FrameEntry>> {
    let view = with.catalog.view().await?;
    let mut frames = Vec::new();
    for hive in view.hives() {
        for box_name in view.boxes(&hive)? {
            frames.extend(view.frames(&hive, &box_name)?);
        }
    }
    frames.retain(|frame| !frame.attached);
    if frames.is_empty() {
        return Ok(None);
    }
    frames.sort_by(|a, b| a.location.cmp(&b.location));
    let index = match last {
        Some(last) => frames.partition_point(|frame| frame.location.as_str() <= last),
        None => draw(with),
    };
    let index = index % frames.len();
    Ok(Some(frames.swap_remove(index)))
}
