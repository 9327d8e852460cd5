//! Reading the others' heartbeats.

use super::{Arguments, READS_AT_ONCE};
use apiary_engine::behavior::membership::Mark;
use apiary_engine::error::{Error, Result};
use apiary_engine::store::{Meadow, tag_of};
use apiary_protocol::heartbeat::Heartbeat as Beat;
use apiary_protocol::ids::NodeId;
use apiary_protocol::keys;
use futures::StreamExt;
use std::time::Duration;

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
    /// A list, and every beat that changed.
    Listed,
    /// A list, and the beats of nodes that are not among these.
    New(Vec<NodeId>),
    /// No list: these.
    Known(Vec<NodeId>),
}

pub(super) async fn look(with: Arguments, reads: Reads) -> Result<Look> {
    let own = with.node_id;
    let (mut request, mut written) = (None, Vec::new());
    let listed = match &reads {
        Reads::Known(_) => None,
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
    let there = listed.iter().flatten().map(|(node, _)| *node);
    let wanted: Vec<NodeId> = match reads {
        Reads::Known(known) => known,
        Reads::Listed => there.collect(),
        Reads::New(known) => there.filter(|node| !known.contains(node)).collect(),
    };
    let meadow = &with.meadow;
    let read = futures::stream::iter(wanted)
        .map(|node| async move { (node, read_beat(meadow, node).await) })
        .buffered(READS_AT_ONCE)
        .filter_map(|(node, beat)| async move {
            match beat {
                Ok(beat) => Some((node, beat)),
                Err(error) => {
                    tracing::warn!(%error, "a heartbeat cannot be read");
                    None
                }
            }
        })
        .collect()
        .await;
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
