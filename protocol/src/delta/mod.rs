//! The open Delta Lake transaction log protocol: actions, features, schemas, statistics, paths.
//!
//! Source: the Delta Transaction Log Protocol. Unknown action kinds are skipped and unknown fields
//! ignored, as the protocol says; unknown *features* are refused by name.
//!
//! Nothing here does I/O. Bytes that come in were written by somebody else: every decoder bounds and
//! checks what it gives out.

mod action;
pub mod commit;
pub mod features;
pub mod paths;
pub mod statistics;
mod string_map;

pub use action::{
    Action, Add, DeletionVector, DomainMetadata, Format, Metadata, Protocol, Remove, Txn,
};
pub use string_map::StringMap;

/// The checksum that our commits, checkpoints and deletion vectors carry: CRC-32 (IEEE).
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}
