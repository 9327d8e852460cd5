//! The actor tree of a node: what has a mailbox, a timer or a lifetime.

mod node;

pub use node::{Answer, BeeStatus, Node, NodeStatus, Progress, QueryOptions, Role, WriteOptions, WriteReport};
