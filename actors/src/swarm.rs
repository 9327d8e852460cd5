//! The swarm for people: who else is on this storage, and what each says of itself.
//!
//! A resident node shows what its Heartbeat saw: the view by which it gives work away. A brief one has
//! seen no beat change yet, and two looks some hundred milliseconds apart would show it nothing: a node
//! at rest beats once a minute. So it goes by how old the store says each beat is, against the time of
//! what this node wrote there when it started. No clock of a node takes part, and no request more is
//! made than the list and the beats. No work is placed by it.

use crate::context::Context;
use crate::heartbeat::{READS_AT_ONCE, read_beat};
use apiary_engine::behavior::membership::{NodeState, SwarmView, by_age};
use apiary_engine::error::Result;
use apiary_protocol::heartbeat::Heartbeat;
use apiary_protocol::ids::NodeId;
use apiary_protocol::keys;
use futures::StreamExt;
use std::time::Duration;

/// A node, as another one sees it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SwarmNode {
    pub node_id: String,
    pub state: NodeState,
    /// For how long its heartbeat has not changed. A resident node counts from when it first saw this
    /// beat, a brief one by the store's clock.
    pub seconds_since_change: u64,
    /// What its heartbeat says; absent when that cannot be read.
    #[serde(flatten)]
    pub beat: Option<BeatFacts>,
}

/// What a node last said of itself.
#[derive(Clone, Debug, serde::Serialize)]
pub struct BeatFacts {
    pub name: String,
    pub build: String,
    pub bees: u32,
    pub idle_bees: u32,
    pub temperature: f64,
    /// Reserved memory over the pool, 0..1.
    pub memory_pressure: f64,
    /// Parts of cells on its disk.
    pub cached_bytes: u64,
    pub next_beat_ms: u64,
    pub draining: bool,
    /// Tasks of other nodes' queries that it runs.
    pub claims: Vec<RunningClaim>,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RunningClaim {
    pub query: String,
    pub stage: u32,
    pub task: u32,
    pub attempt: u32,
}

impl SwarmNode {
    fn new(node: NodeId, state: NodeState, since: Duration, beat: Option<&Heartbeat>) -> Self {
        Self {
            node_id: node.to_string(),
            state,
            seconds_since_change: since.as_secs(),
            beat: beat.map(BeatFacts::of),
        }
    }
}

impl BeatFacts {
    fn of(beat: &Heartbeat) -> Self {
        let claims = beat.claims.iter().map(|claim| RunningClaim {
            query: claim.query.to_string(),
            stage: claim.stage,
            task: claim.task,
            attempt: claim.attempt,
        });
        Self {
            name: beat.name.clone(),
            build: beat.build.clone(),
            bees: beat.cores,
            idle_bees: beat.cores.saturating_sub(beat.load.bees_busy),
            temperature: beat.temperature,
            memory_pressure: beat.load.memory_pressure,
            cached_bytes: beat.cache.used_bytes,
            next_beat_ms: beat.next_beat_ms,
            draining: beat.draining,
            claims: claims.collect(),
        }
    }
}

/// The swarm as an observer saw it.
pub(crate) fn seen(view: &SwarmView) -> Vec<SwarmNode> {
    let members = view.members.iter();
    members
        .map(|member| {
            let beat = member.beat.as_deref();
            SwarmNode::new(member.node, member.state, member.silence, beat)
        })
        .collect()
}

/// The swarm at one look: a list, and every beat.
pub(crate) async fn at_once(context: &Context) -> Result<Vec<SwarmNode>> {
    let time = context.store_time;
    let (meadow, own) = (&context.environment.meadow, context.node_id);
    let objects = meadow.list(keys::NODES_PREFIX, None).await?;
    let now = context.environment.host.clock.monotonic();
    let listed = objects.iter().filter_map(|object| {
        let node = keys::heartbeat_node(object.location.as_ref())?;
        let age = time.age(object.last_modified.timestamp_millis(), now);
        (node != own).then_some((node, age))
    });
    let listed: Vec<(NodeId, Duration)> = listed.collect();
    let nodes = futures::stream::iter(listed)
        .map(|(node, age)| async move { (node, age, read_beat(meadow, node).await) })
        .buffered(READS_AT_ONCE)
        .filter_map(|(node, age, read)| async move {
            let beat = match read {
                // It left after the list.
                Ok(None) => return None,
                Ok(Some((_, beat))) => Some(beat),
                Err(error) => {
                    tracing::warn!(%error, "a heartbeat cannot be read");
                    None
                }
            };
            let state = by_age(age, beat.as_ref());
            Some(SwarmNode::new(node, state, age, beat.as_ref()))
        });
    Ok(nodes.collect().await)
}
