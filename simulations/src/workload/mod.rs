//! What clients do to nodes, and the model of what must come of it.

pub mod client;
pub mod model;
pub mod rows;
