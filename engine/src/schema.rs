//! Arrow schemas and Delta schemas, and what each frame's columns look like in both.

use crate::error::Result;
use apiary_protocol::delta::{Metadata, Protocol};
use arrow::datatypes::SchemaRef;

/// The columns of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameSchema {
    /// What users see and write: all columns in order, partition columns among them, types restored
    /// (uint64, nanoseconds) from field metadata.
    pub logical: SchemaRef,
    /// What a cell's Parquet file holds: without the partition columns, with the stored types.
    pub stored: SchemaRef,
    /// Names of the partition columns, in directory order.
    pub partition_columns: Vec<String>,
}

impl FrameSchema {
    /// Checks user columns for a new frame: names, types (others are refused by name), partitioning.
    pub fn new(logical: SchemaRef, partition_columns: Vec<String>) -> Result<Self> {
        let _ = (logical, partition_columns);
        todo!()
    }

    /// What a ledger says.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self> {
        let _ = metadata;
        todo!()
    }

    /// `metaData.schemaString`.
    pub fn to_schema_string(&self) -> String {
        todo!()
    }

    /// The least protocol that these columns need (1/2, or 3/7 with `timestampNtz`).
    pub fn protocol(&self) -> Protocol {
        todo!()
    }
}
