//! Cells: Parquet files of a frame. Streamed, validated, partitioned, cut to size.
//!
//! A write holds a bounded part of its chamber's memory: rows of the partitions that came first are
//! encoded as they arrive, the others are sorted by partition (spilling) and encoded one partition
//! after the other. Nothing here touches a ledger: what a failed or cancelled write uploaded is deleted,
//! what a killed one left is in no ledger and is swept.
//!
//! Invariants:
//! - The sum of `numRecords` of the adds is the number of rows that were accepted.
//! - The same rows, entropy and budget give the same bytes, whatever the number of bees.

mod accept;
mod cast;
pub(crate) mod checksums;
mod encode;
pub(crate) mod nans;
mod partition;
mod sort;
mod statistics;
mod unnamed;
mod upload;
mod writing;

#[cfg(test)]
mod tests;

pub(crate) use accept::counted_in_task;
pub use unnamed::Unnamed;
pub(crate) use upload::Upload;

use crate::error::Result;
use crate::host::Host;
use crate::schema::FrameSchema;
use crate::settings::Codec;
use crate::store::Meadow;
use apiary_protocol::delta::Add;
use apiary_protocol::ids::QueryId;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use std::sync::Arc;

/// How a write lays out its cells.
#[derive(Clone, Debug)]
pub struct WriteSpec {
    /// `hive/box/frame…`, relative to the meadow's root.
    pub location: String,
    pub schema: Arc<FrameSchema>,
    pub codec: Codec,
    pub target_cell_bytes: u64,
    pub row_group_rows_max: usize,
    pub max_partitions: usize,
    /// Rows of the same write that came before, for messages that name a row.
    pub rows_before: u64,
    /// The query that this is one task of; its cells are named after it.
    pub query: Option<QueryId>,
}

/// Cells that are in the meadow and not yet in any ledger.
#[derive(Clone, Debug, Default)]
pub struct WrittenCells {
    /// In path order.
    pub adds: Vec<Add>,
    pub rows: u64,
    pub bytes: u64,
    /// Extra columns that were dropped, and the like; a sentence each.
    pub warnings: Vec<String>,
}

/// Validates, splits, cuts and uploads a stream. Memory comes from `context`'s pool, spills go to its
/// disk manager. On an error, what was uploaded is deleted before it returns; when it is dropped,
/// beside whatever goes on then (see [`Meadow::discard`]).
///
/// `Error::Rejected` names column and row of the first value that the frame does not accept.
pub async fn write_cells(
    host: &Host,
    meadow: &Meadow,
    spec: &WriteSpec,
    input: SendableRecordBatchStream,
    context: Arc<TaskContext>,
) -> Result<WrittenCells> {
    let schema = input.schema();
    let acceptance = accept::Acceptance::new(spec.schema.clone(), &schema, spec.rows_before)?;
    let mut writing = writing::Writing::new(host, meadow, spec, &acceptance, &context)?;
    match writing.run(acceptance, input, context).await {
        Ok(written) => Ok(written),
        Err(error) => {
            writing.discard().await;
            Err(error)
        }
    }
}
