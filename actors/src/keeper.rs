//! House-keeping of a node that is idle or cold.
//!
//! Parent: Node (resident nodes only). Messages: `Look` from its timer, `Swept` from its own work.
//! Lists and deletes `_swarm/nodes/*` that nodes left behind which were killed. When it crashes, the
//! next instance looks again after the interval; every deletion can be repeated.
//!
//! Invariants: it works only while the node is cold or ideal; ages come from the store's own
//! modification times, with "now" read from this node's own heartbeat, never from a clock.

use crate::bees::BeesHandle;
use crate::mailbox::{Alive, Census, spawn_report};
use apiary_engine::behavior::temperature::Regulation;
use apiary_engine::error::Result;
use apiary_engine::host::Host;
use apiary_engine::store::Meadow;
use apiary_protocol::ids::NodeId;
use apiary_protocol::keys;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

const INTERVAL: Duration = Duration::from_secs(600);
/// A heartbeat this much older than ours belongs to a node that is gone: the longest promise is ten
/// minutes.
const SWEEP_AGE: Duration = Duration::from_secs(3600);

pub(crate) enum Message {
    Look,
    Swept {
        result: std::result::Result<Result<usize>, String>,
    },
}

#[derive(Clone)]
pub(crate) struct Arguments {
    pub(crate) node_id: NodeId,
    pub(crate) host: Host,
    pub(crate) meadow: Meadow,
    pub(crate) bees: BeesHandle,
    pub(crate) census: Census,
}

pub(crate) struct State {
    with: Arguments,
    /// The timer or the sweep, one at a time.
    _work: AbortOnDropHandle<()>,
    _alive: Alive,
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
        let alive = with.census.enter();
        let work = wait(&with, &myself);
        Ok(State {
            with,
            _work: work,
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
            Message::Look => {
                let sweep = sweep(state.with.clone());
                let control = &state.with.host.runtimes.control;
                state._work =
                    spawn_report(control, &myself, sweep, |result| Message::Swept { result });
            }
            Message::Swept { result } => {
                match result {
                    Ok(Ok(0)) => {}
                    Ok(Ok(heartbeats)) => tracing::info!(heartbeats, "swept what dead nodes left"),
                    Ok(Err(error)) => {
                        tracing::warn!(%error, "the sweep failed; it is tried again later")
                    }
                    Err(panic) => tracing::error!(panic, "the sweep panicked"),
                }
                state._work = wait(&state.with, &myself);
            }
        }
        Ok(())
    }
}

fn wait(with: &Arguments, myself: &ActorRef<Message>) -> AbortOnDropHandle<()> {
    let pause = async { tokio::time::sleep(INTERVAL).await };
    spawn_report(&with.host.runtimes.control, myself, pause, |_| {
        Message::Look
    })
}

/// Deletes the heartbeats of nodes that are long gone; gives how many.
async fn sweep(with: Arguments) -> Result<usize> {
    if with.bees.observe().await?.regulation > Regulation::Ideal {
        return Ok(0);
    }
    let ours = keys::heartbeat(with.node_id);
    let beats = with.meadow.list(keys::NODES_PREFIX, None).await?;
    let Some(now) = beats
        .iter()
        .find(|beat| beat.location.as_ref() == ours)
        .map(|beat| beat.last_modified)
    else {
        return Ok(0);
    };
    let mut swept = 0;
    for beat in &beats {
        let age = now
            .signed_duration_since(beat.last_modified)
            .to_std()
            .unwrap_or_default();
        if age > SWEEP_AGE {
            with.meadow.delete(beat.location.as_ref()).await?;
            swept += 1;
        }
    }
    Ok(swept)
}
