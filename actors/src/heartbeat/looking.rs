//! Reading the others' heartbeats.

use super::{Arguments, READS_AT_ONCE};
use crate::forager::ForagerHandle;
use crate::patience::answered;
use apiary_engine::behavior::membership::Mark;
use apiary_engine::error::{Error, Result};
use apiary_engine::store::{Meadow, tag_of};
use apiary_protocol::heartbeat::Heartbeat as Beat;
use apiary_protocol::ids::NodeId;
use apiary_protocol::keys;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Whoever asks who is there waits for beats for so long, or so many times as long as the list took: an
/// older one does as well, and the slowest of many takes long.
const READS_WAIT: Duration = Duration::from_millis(300);
const READS_WAIT_REQUESTS: u32 = 2;

/// What a look found.
pub(crate) struct Look {
    /// All heartbeats, when they were listed.
    pub(super) listed: Option<Vec<(NodeId, Mark)>>,
    /// When these were written, by the store's clock.
    pub(super) written: Vec<(NodeId, i64)>,
    /// Of nodes that were read one by one; `None` when its beat is gone.
    pub(super) read: Vec<(NodeId, Option<(Mark, Beat)>)>,
    /// How long the list took.
    pub(super) request: Option<Duration>,
}

/// Which beats a look reads.
pub(super) enum Reads {
    /// A list, and every beat that has not this mark any more.
    Changed(BTreeMap<NodeId, Mark>),
    /// A list, and the beats of nodes that are not among these.
    New(Vec<NodeId>),
    /// No list, and what the Forager watches.
    Watched,
}

/// `watched`: asked whose beats are to be read besides. In a large swarm those are few of many: reading
/// all, at every look of everybody, costs as the square of the number of nodes.
pub(super) async fn look(
    with: Arguments,
    reads: Reads,
    watched: Option<ForagerHandle>,
) -> Result<Look> {
    let own = with.node_id;
    let watched = match watched {
        // It may be starting anew; then the next look reads more.
        Some(forager) => forager.watched().await.unwrap_or_default(),
        None => BTreeSet::new(),
    };
    let (mut request, mut written) = (None, Vec::new());
    let listed = match &reads {
        Reads::Watched => None,
        _ => {
            let began_at = with.host.clock.monotonic();
            let objects = with.meadow.list(keys::NODES_PREFIX, None).await?;
            request = Some(with.host.clock.monotonic().saturating_sub(began_at));
            let beats = objects.iter().filter_map(|object| {
                let node = keys::heartbeat_node(object.location.as_ref())?;
                (node != own).then_some((node, object))
            });
            let mut listed = Vec::new();
            for (node, object) in beats {
                listed.push((node, tag_of(object)));
                written.push((node, object.last_modified.timestamp_millis()));
            }
            Some(listed)
        }
    };
    let is_wanted = |node: &NodeId, mark: &Mark| match &reads {
        Reads::Changed(marks) => marks.get(node) != Some(mark),
        Reads::New(known) => !known.contains(node),
        Reads::Watched => false,
    };
    let there = listed.iter().flatten();
    let new = there.filter(|(node, mark)| is_wanted(node, mark));
    let mut wanted: BTreeSet<NodeId> = new.map(|(node, _)| *node).collect();
    wanted.extend(watched.into_iter().filter(|node| *node != own));
    let patience = match reads {
        Reads::Changed(_) => request.map(|took| (took * READS_WAIT_REQUESTS).max(READS_WAIT)),
        Reads::New(_) | Reads::Watched => None,
    };
    let meadow = &with.meadow;
    let requests = wanted.into_iter().map(|node| async move {
        match read_beat(meadow, node).await {
            Ok(beat) => Some((node, beat)),
            Err(error) => {
                tracing::warn!(%error, "a heartbeat cannot be read");
                None
            }
        }
    });
    let read = answered(requests, READS_AT_ONCE, patience).await;
    Ok(Look {
        listed,
        written,
        read,
        request,
    })
}

pub(crate) async fn read_beat(meadow: &Meadow, node: NodeId) -> Result<Option<(Mark, Beat)>> {
    let key = keys::heartbeat(node);
    let Some((bytes, tag)) = meadow.get_tagged(&key).await? else {
        return Ok(None);
    };
    let beat = Beat::from_bytes(&bytes).map_err(|error| Error::corrupt(&key, error))?;
    if beat.node != node {
        return Err(Error::corrupt(&key, format!("it is of node {}", beat.node)));
    }
    Ok(Some((tag, beat)))
}
