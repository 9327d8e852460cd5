//! Rows whose whole content follows from their batch and index, so that a reader who knows nothing
//! else can tell a right row from a wrong one.

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::error::ArrowError;
use std::sync::Arc;

/// The frame that all clients write.
pub const FRAME: &str = "journal";

pub const CREATE_FRAME: &str =
    "CREATE TABLE IF NOT EXISTS journal (batch BIGINT, row BIGINT, value BIGINT, label VARCHAR)";

/// A batch as one write: its number and how many rows it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Batch {
    pub number: u64,
    pub row_count: u64,
}

/// One row of the frame.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    pub batch: u64,
    pub row: u64,
    pub value: i64,
    pub label: String,
}

impl Row {
    pub fn of(batch: u64, row: u64) -> Self {
        let mut rng = crate::rng::Rng::new(batch << 20 | row);
        let value = rng.below(1000) as i64;
        Self {
            batch,
            row,
            value,
            label: format!("label {}", rng.below(20)),
        }
    }
}

impl Batch {
    pub fn rows(&self) -> impl Iterator<Item = Row> + use<> {
        let number = self.number;
        (0..self.row_count).map(move |row| Row::of(number, row))
    }

    pub fn to_arrow(self) -> Result<RecordBatch, ArrowError> {
        to_arrow(&self.rows().collect::<Vec<_>>())
    }
}

/// Rows as a record batch of the frame's shape.
pub fn to_arrow(rows: &[Row]) -> Result<RecordBatch, ArrowError> {
    let integers = |value: fn(&Row) -> i64| {
        Arc::new(rows.iter().map(value).collect::<Int64Array>()) as ArrayRef
    };
    let labels: StringArray = rows.iter().map(|row| Some(row.label.as_str())).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("batch", integers(|row| row.batch as i64), true),
        ("row", integers(|row| row.row as i64), true),
        ("value", integers(|row| row.value), true),
        ("label", Arc::new(labels) as ArrayRef, true),
    ])
}

/// The rows in record batches of the frame's shape.
pub fn from_arrow(batches: &[RecordBatch]) -> Result<Vec<Row>, String> {
    use arrow::compute::cast;
    use arrow::datatypes::DataType;
    let mut rows = Vec::new();
    for batch in batches {
        let column = |name: &str, data_type: DataType| {
            let column = batch
                .column_by_name(name)
                .ok_or(format!("no column {name}"))?;
            if column.null_count() > 0 {
                return Err(format!("a null in column {name}"));
            }
            cast(column, &data_type).map_err(|error| error.to_string())
        };
        let integers = |name: &str| {
            let column = column(name, DataType::Int64)?;
            let values = column
                .as_any()
                .downcast_ref::<Int64Array>()
                .map(|a| a.values().to_vec());
            values.ok_or(format!("column {name} is not of integers"))
        };
        let (numbers, indexes, values) = (integers("batch")?, integers("row")?, integers("value")?);
        let labels = column("label", DataType::Utf8)?;
        let labels = labels
            .as_any()
            .downcast_ref::<StringArray>()
            .ok_or("labels are no strings")?;
        for index in 0..batch.num_rows() {
            rows.push(Row {
                batch: numbers[index] as u64,
                row: indexes[index] as u64,
                value: values[index],
                label: labels.value(index).to_string(),
            });
        }
    }
    Ok(rows)
}
