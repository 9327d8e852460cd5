//! The bee behaviours: pure functions, called by an actor, each to be measured against a plain baseline.

pub mod abandonment;
pub mod foraging;
pub mod leafcutter;
pub mod listening;
pub mod mason;
pub mod membership;
pub mod placement;
pub mod sweep;
pub mod temperature;
