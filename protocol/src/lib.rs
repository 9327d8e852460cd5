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
#[cfg(feature = "planted")]
pub mod planted;
pub mod query;
pub mod registry;
pub mod sealed_json;

/// Whether a mistake is planted: the constant `false`, but in a build that is made to be found out (see
/// `planted`).
#[cfg(not(feature = "planted"))]
#[macro_export]
macro_rules! planted {
    ($mistake:ident) => {
        false
    };
}

/// Whether a mistake is planted.
#[cfg(feature = "planted")]
#[macro_export]
macro_rules! planted {
    ($mistake:ident) => {
        $crate::planted::is($crate::planted::Mistake::$mistake)
    };
}
