//! What needs the store, Parquet, Delta or DataFusion, and has no mailbox.
//!
//! The engine never spawns an actor, never sleeps to wait for another node, and reads nothing from
//! the environment: clock, entropy, files and runtimes come through [`host::Host`].

pub mod behavior;
pub mod cache;
pub mod catalog;
pub mod cell;
pub mod distributed;
pub mod error;
pub mod host;
pub mod laboratory;
pub mod ledger;
pub mod schema;
pub mod settings;
pub mod sql;
pub mod store;

pub use error::{Error, ErrorKind, Result};
