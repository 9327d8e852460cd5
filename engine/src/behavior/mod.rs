//! The bee behaviours: pure functions, called by an actor, each to be measured against a plain baseline.

pub mod abandonment;
pub mod leafcutter;
pub mod mason;
pub mod sweep;
pub mod temperature;
