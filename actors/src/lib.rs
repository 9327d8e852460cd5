//! The actor tree of a node: what has a mailbox, a timer or a lifetime.
//!
//! No handler awaits storage or another actor: it starts the work and receives the result as a
//! message. Callers hold addresses that supervisors resolve to the current instance. Nothing here
//! reads a clock, draws a random number or finds an actor by name, so that several nodes can live in
//! one process, and a simulation can replay them.

mod answer;
mod bee;
mod bees;
mod cache;
mod chamber;
mod commit;
mod context;
mod feed;
mod forager;
mod heartbeat;
mod keeper;
mod ledger;
mod mailbox;
mod node;
mod patience;
mod planner;
mod pool;
mod query;
mod read;
mod results;
mod root;
mod scratch;
mod shared;
mod supervision;
mod swarm;
mod traced;
mod write;

#[cfg(test)]
mod tests;

pub use tokio_util::sync::CancellationToken;

pub use answer::{
    Answer, BeeStatus, NodeStatus, Progress, QueryOptions, WriteOptions, WriteReport,
};
pub use apiary_engine::behavior::membership::NodeState;
pub use cache::CacheStatus;
pub use node::{Node, Role};
pub use swarm::{BeatFacts, RunningClaim, SwarmNode};
