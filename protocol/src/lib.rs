//! Bytes that another process may read, and the names for them.
//!
//! This crate never does I/O, never reads a clock and never draws a random number: identifiers are
//! made from entropy that the caller brings, times are parameters.

mod binary;
pub mod cache;
pub mod delta;
pub mod envelope;
pub mod format;
pub mod heartbeat;
pub mod ids;
pub mod keys;
pub mod making;
pub mod manifest;
pub mod names;
pub mod query;
pub mod registry;
pub mod sealed_json;
