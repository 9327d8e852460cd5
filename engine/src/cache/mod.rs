//! Parts of cells on local disk: what is decided and what is done for it, without a mailbox.
//!
//! [`PartIndex`] decides what is kept (pure); [`PartFiles`] reads and writes the files, through the
//! host's seam; [`CellParts`] is how a reader of cells gets at parts, and [`PartSource`] where those
//! come from that are not here. Who asks whom, and in which order, is the Cache actor's.
//!
//! Never fails a read: whatever goes wrong here, the meadow has the bytes. Cells are immutable, so
//! nothing here is ever outdated; it is only given up to make room.

mod files;
mod index;

pub use files::{Damage, PartFiles};
pub use index::PartIndex;

use crate::error::Result;
use apiary_protocol::cache::CellIdentity;
use async_trait::async_trait;
use bytes::Bytes;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

/// The meadow's bytes of one cell.
#[async_trait]
pub trait PartSource: Debug + Send + Sync {
    /// Reads a range of the cell with one request, or says why there is none.
    async fn fetch(&self, range: Range<u64>) -> Result<Bytes>;
}

/// Parts that were asked for.
#[derive(Debug, Default)]
pub struct PartsRead {
    /// In the order in which they were asked for, each whole.
    pub parts: Vec<Bytes>,
    /// How many, and bytes, of those that no request of this read brought: they were on disk, or
    /// somebody else was fetching them.
    pub hits: usize,
    pub hit_bytes: u64,
}

/// Where readers of cells get parts.
#[async_trait]
pub trait CellParts: Debug + Send + Sync {
    /// Parts of a cell by their indexes, which are in growing order and in the cell. Fails as `source`
    /// does.
    async fn read(
        &self,
        cell: &Arc<CellIdentity>,
        indexes: &[u32],
        source: &Arc<dyn PartSource>,
    ) -> Result<PartsRead>;

    /// Gives up what is here of a cell: it does not go together.
    fn forget(&self, cell: &CellIdentity);
}
