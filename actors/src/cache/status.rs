//! What a cache tells of itself.

use apiary_protocol::cache::CachedCells;
use std::path::PathBuf;

/// What `Observe` answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) status: CacheStatus,
    pub(crate) cells: CachedCells,
}

/// Facts about the parts of cells on this node's disk. Counts are since the node started.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CacheStatus {
    pub directory: PathBuf,
    pub used_bytes: u64,
    pub limit_bytes: u64,
    pub parts: usize,
    /// Parts that were asked for, and those of them that needed no request.
    pub asked: u64,
    pub hits: u64,
    pub hit_bytes: u64,
    /// Reads, of one part or several, that needed no request.
    pub requests_saved: u64,
    pub written: u64,
    pub evicted: u64,
    /// Parts that were not kept: the disk was too slow, or all room was in use.
    pub dropped: u64,
    /// Parts that were found torn or changed, and fetched again.
    pub damaged: u64,
    /// Writes and removals that failed.
    pub failures: u64,
}
