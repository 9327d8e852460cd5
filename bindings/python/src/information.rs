//! What is known about a node and its frames, as JSON: Python makes its dictionaries of it.

use crate::types::{DECLARED_KEY, word_of};
use apiary::{Error, FrameInfo, NodeStatus, Result, SwarmNode, WriteReport};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::{Value, json};

pub fn frame(info: &FrameInfo, max_partitions: usize) -> String {
    let columns = info.schema.fields().iter().map(|field| {
        let declared = field.metadata().get(DECLARED_KEY);
        let declared = declared.and_then(|text| serde_json::from_str::<Value>(text).ok());
        json!({
            "name": field.name(),
            "type": word_of(field.data_type()),
            "nullable": field.is_nullable(),
            "declared": declared,
        })
    });
    json!({
        "columns": columns.collect::<Vec<_>>(),
        "partition_by": info.partition_by,
        "max_partitions": max_partitions,
        "created_at_ms": info.created_at_ms,
        "committed_at_ms": info.committed_at_ms,
        "cell_count": info.cell_count,
        "row_count": info.row_count,
        "total_bytes": info.total_bytes,
        "version": info.version,
        "id": info.id,
        "location": info.location,
        "attached": info.attached,
    })
    .to_string()
}

pub fn status(status: &NodeStatus) -> Result<String> {
    serde_json::to_string(status).map_err(unwritten)
}

pub fn swarm(nodes: &[SwarmNode]) -> Result<String> {
    serde_json::to_string(nodes).map_err(unwritten)
}

fn unwritten(error: serde_json::Error) -> Error {
    Error::Bug(format!("a status as JSON: {error}"))
}

/// What a write did, as a dictionary.
pub fn report<'py>(py: Python<'py>, report: &WriteReport) -> PyResult<Bound<'py, PyDict>> {
    let given = PyDict::new(py);
    given.set_item("version", report.version)?;
    given.set_item("cells_written", report.cells_written)?;
    given.set_item("rows_written", report.rows_written)?;
    given.set_item("bytes_written", report.bytes_written)?;
    given.set_item("duration_ms", report.duration_ms)?;
    given.set_item("temperature", report.temperature)?;
    given.set_item("warnings", &report.warnings)?;
    Ok(given)
}
