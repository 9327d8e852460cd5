//! MEMBER-1: once nothing goes wrong, every node that lives sees all others that live as alive, and none
//! of those that do not, whatever their clocks show.

use apiary_actors::{NodeState, SwarmNode};
use std::collections::BTreeSet;
use std::time::Duration;

/// A view is right within this: a node at rest beats and looks once a minute, and is dead after four
/// beats that did not come.
pub const SEEN_WITHIN: Duration = Duration::from_secs(420);

/// What `observer` sees, against the ids of all nodes that live.
pub fn check(observer: &str, seen: &[SwarmNode], living: &BTreeSet<String>) -> Result<(), String> {
    for node in seen {
        let (is_alive, lives) = (
            node.state == NodeState::Alive,
            living.contains(&node.node_id),
        );
        if is_alive != lives {
            let truth = if lives { "lives" } else { "is gone" };
            return Err(format!(
                "MEMBER-1: {observer} takes {} for {:?}, and it {truth}",
                node.node_id, node.state
            ));
        }
    }
    let mut others = living.iter().filter(|id| *id != observer);
    match others.find(|id| seen.iter().all(|node| node.node_id != **id)) {
        Some(id) => Err(format!(
            "MEMBER-1: {observer} does not see {id}, which lives"
        )),
        None => Ok(()),
    }
}
