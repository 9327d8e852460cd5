//! NODE-1: a node starts on whatever a crash left, stops cleanly, and no actor outlives its stop.

use apiary_actors::Node;
use apiary_engine::error::Error;

pub fn does_not_start(error: Error) -> String {
    format!("NODE-1: a node does not start: {error}")
}

pub fn does_not_stop(error: Error) -> String {
    format!("NODE-1: a node does not stop: {error}")
}

/// For a node that has stopped.
pub fn check(name: &str, node: &Node) -> Result<(), String> {
    match node.living_actors() {
        0 => Ok(()),
        count => Err(format!("NODE-1: {count} actors of {name} outlive its stop")),
    }
}
