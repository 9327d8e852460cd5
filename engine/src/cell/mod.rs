//! Cells: Parquet files of a frame. Streamed, validated, partitioned, cut to size.

use crate::error::Result;
use crate::host::Host;
use crate::schema::FrameSchema;
use crate::settings::Codec;
use crate::store::Meadow;
use apiary_protocol::delta::Add;
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
}

/// Cells that are in the meadow and not yet in any ledger.
#[derive(Clone, Debug, Default)]
pub struct WrittenCells {
    pub adds: Vec<Add>,
    pub rows: u64,
    pub bytes: u64,
    /// Extra columns that were dropped, and the like; a sentence each.
    pub warnings: Vec<String>,
}

/// Validates, splits, cuts and uploads a stream. Memory comes from `context`'s pool, spills go to its
/// disk manager. On an error, what was uploaded is deleted before it returns.
pub async fn write_cells(
    host: &Host,
    meadow: &Meadow,
    spec: &WriteSpec,
    input: SendableRecordBatchStream,
    context: Arc<TaskContext>,
) -> Result<WrittenCells> {
    let _ = (host, meadow, spec, input, context);
    todo!()
}
