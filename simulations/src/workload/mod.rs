//! What clients do to nodes, and the model of what must come of it.

pub mod answers;
pub mod asker;
pub mod client;
pub mod model;
pub mod namer;
pub mod outsider;
pub mod rows;
