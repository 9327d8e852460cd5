//! This node's heartbeat.
//!
//! Parent: Node (resident nodes only). Messages: `Beat` from its timer, `Written` from its own work,
//! `Farewell` at the node's stop. Writes and deletes `_swarm/nodes/{node}`, whose only writer it is.
//! When it crashes, the next instance beats at once; nothing is lost but a little time.
//!
//! Invariants: one write at a time, so an old beat never lands on a newer one; the heartbeat is
//! deleted only after the last write has returned, and no beat follows.

use crate::bees::BeesHandle;
use crate::chamber::Chambers;
use crate::mailbox::{Alive, Census, Reply, remind, spawn_report};
use apiary_engine::error::{Error, Result};
use apiary_engine::host::Host;
use apiary_engine::store::Meadow;
use apiary_protocol::format::BUILD;
use apiary_protocol::heartbeat::{CacheSummary, Heartbeat as Beat, Load};
use apiary_protocol::ids::NodeId;
use apiary_protocol::keys;
use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

const BEAT_IDLE: Duration = Duration::from_secs(60);
const BEAT_BUSY: Duration = Duration::from_secs(5);

pub(crate) enum Message {
    Beat,
    /// How long until the next, or why this one failed.
    Written {
        result: std::result::Result<Result<Duration>, String>,
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
    pub(crate) chambers: Arc<Chambers>,
    pub(crate) bees: BeesHandle,
    pub(crate) census: Census,
}

pub(crate) struct State {
    with: Arguments,
    sequence: u64,
    writing: Option<AbortOnDropHandle<()>>,
    timer: Option<AbortOnDropHandle<()>>,
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
            writing: None,
            timer: None,
            farewell: None,
            _alive: alive,
        };
        state.beat(&myself);
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
            Message::Farewell { reply } => {
                state.timer = None;
                state.farewell = Some(reply);
            }
        }
        state.leave();
        Ok(())
    }
}

impl State {
    fn beat(&mut self, myself: &ActorRef<Message>) {
        if self.writing.is_some() || self.farewell.is_some() {
            return;
        }
        self.sequence += 1;
        let work = write(self.with.clone(), self.sequence);
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
        let control = &self.with.host.runtimes.control;
        self.timer = Some(remind(control, myself, next, || Message::Beat));
    }

    /// Deletes the heartbeat once its last write has returned.
    fn leave(&mut self) {
        if self.writing.is_some() {
            return;
        }
        if let Some(reply) = self.farewell.take() {
            self.timer = None;
            let (meadow, key) = (self.with.meadow.clone(), keys::heartbeat(self.with.node_id));
            // A deletion has no result that this actor acts on; the caller waits for it.
            drop(self.with.host.runtimes.control.spawn(async move {
                let _ = reply.send(meadow.delete(&key).await);
            }));
        }
    }
}

/// Writes one beat; gives the time until the next.
async fn write(with: Arguments, sequence: u64) -> Result<Duration> {
    let view = with.bees.observe().await?;
    let division = with.chambers.division();
    let busy = view.bees.iter().filter(|bee| bee.state != "idle").count();
    let reserved: u64 = view.bees.iter().map(|bee| bee.memory_used_bytes).sum();
    let next = if busy > 0 || view.queued_tasks > 0 {
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
        claims: Vec::new(),
        cache: CacheSummary {
            used_bytes: with.chambers.caches().used_bytes() as u64,
            capacity_bytes: division.cache_bytes,
            frames: Vec::new(),
        },
    };
    let body = beat
        .to_bytes()
        .map_err(|error| Error::Bug(format!("the heartbeat: {error}")))?;
    with.meadow
        .put(&keys::heartbeat(with.node_id), Bytes::from(body))
        .await?;
    Ok(next)
}
