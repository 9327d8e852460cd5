//! Which partition a row belongs to, and how partition values are spelled in paths and in the log.
//!
//! Values are the strings of the Delta protocol ("Partition Value Serialization"); directories are
//! `column=value` with Hive's escaping; `add.path` is that path, URI-encoded once more.

use super::accept::at_row;
use super::statistics::decimal_text;
use crate::error::{Error, Result};
use apiary_protocol::delta::StringMap;
use apiary_protocol::delta::paths::{NULL_PARTITION, partition_segment};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::*;
use arrow::row::{OwnedRow, RowConverter, SortField};
use arrow::util::display::array_value_to_string;
use chrono::{DateTime, Datelike, Utc};
use std::collections::HashMap;

/// One part of a path on most file systems.
const DIRECTORY_BYTES_MAX: usize = 255;

/// One partition that the write has met.
#[derive(Clone, Debug)]
pub struct Partition {
    /// `col=value/…/`, or nothing when the frame has no partitions.
    pub directory: String,
    pub values: StringMap,
}

impl Partition {
    /// The only one of a frame without partition columns.
    pub fn whole() -> Self {
        Self {
            directory: String::new(),
            values: StringMap::new(),
        }
    }
}

/// Numbers the partitions of a write in the order in which they come.
#[derive(Debug)]
pub struct Partitioner {
    /// (index in the batch, name), in directory order.
    columns: Vec<(usize, String)>,
    converter: RowConverter,
    known: HashMap<OwnedRow, u32>,
    pub partitions: Vec<Partition>,
    partitions_max: usize,
}

impl Partitioner {
    pub fn new(schema: &Schema, names: &[String], partitions_max: usize) -> Result<Self> {
        let mut columns = Vec::with_capacity(names.len());
        let mut sort_fields = Vec::with_capacity(names.len());
        for name in names {
            let index = schema
                .index_of(name)
                .map_err(|_| Error::Bug(format!("partition column {name:?} is missing")))?;
            columns.push((index, name.clone()));
            sort_fields.push(SortField::new(schema.field(index).data_type().clone()));
        }
        let converter = RowConverter::new(sort_fields)
            .map_err(|error| Error::Bug(format!("partition columns have no order: {error}")))?;
        Ok(Self {
            columns,
            converter,
            known: HashMap::new(),
            partitions: vec![],
            partitions_max,
        })
    }

    /// The partition number of each row. `row_first` is the batch's first row in the whole write.
    pub fn number(&mut self, batch: &RecordBatch, row_first: u64) -> Result<Vec<u32>> {
        let keys: Vec<ArrayRef> = self
            .columns
            .iter()
            .map(|(index, _)| batch.column(*index).clone())
            .collect();
        for ((_, name), key) in self.columns.iter().zip(&keys) {
            if let Some(row) = (0..key.len()).find(|row| key.null_count() > 0 && key.is_null(*row))
            {
                return Err(Error::rejected(format!(
                    "partition column {name:?}, {}: is null; give the row a value or leave it out",
                    at_row(row_first + row as u64)
                )));
            }
        }
        let rows = self
            .converter
            .convert_columns(&keys)
            .map_err(|error| Error::Bug(format!("partition columns have no order: {error}")))?;
        let mut numbers: Vec<u32> = Vec::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            if row > 0 && rows.row(row) == rows.row(row - 1) {
                numbers.push(numbers[row - 1]);
                continue;
            }
            let key = rows.row(row).owned();
            let number = match self.known.get(&key) {
                Some(number) => *number,
                None => self.admit(key, &keys, row, row_first + row as u64)?,
            };
            numbers.push(number);
        }
        Ok(numbers)
    }

    fn admit(&mut self, key: OwnedRow, keys: &[ArrayRef], row: usize, at: u64) -> Result<u32> {
        if self.partitions.len() >= self.partitions_max {
            return Err(Error::rejected(format!(
                "{}: the write touches more than {} partitions; partition by a column with fewer \
                 values, write in parts, or raise max_partitions",
                at_row(at),
                self.partitions_max
            )));
        }
        let mut partition = Partition::whole();
        for ((_, name), column) in self.columns.iter().zip(keys) {
            let refused = |reason: &str| {
                Error::rejected(format!(
                    "partition column {name:?}, {}: {reason}",
                    at_row(at)
                ))
            };
            let value = partition_value(column, row).map_err(|reason| refused(&reason))?;
            let directory = partition_segment(name, Some(&value));
            if directory.len() > DIRECTORY_BYTES_MAX {
                return Err(refused(
                    "is too long for a directory name; use a shorter value",
                ));
            }
            partition.directory.push_str(&directory);
            partition.directory.push('/');
            partition.values.insert(name.clone(), Some(value));
        }
        let number = self.partitions.len() as u32;
        self.partitions.push(partition);
        self.known.insert(key, number);
        Ok(number)
    }
}

/// A value of a partition column as the log spells it, or why it cannot be spelled.
pub fn partition_value(column: &ArrayRef, row: usize) -> std::result::Result<String, String> {
    let micros = |pattern: &str| {
        let value = column.as_primitive::<TimestampMicrosecondType>().value(row);
        common_time(DateTime::from_timestamp_micros(value))
            .map(|time| time.format(pattern).to_string())
    };
    let text = match column.data_type() {
        DataType::Boolean => column.as_boolean().value(row).to_string(),
        DataType::Float32 => float_text(
            column.as_primitive::<Float32Type>().value(row).into(),
            || column.as_primitive::<Float32Type>().value(row).to_string(),
        ),
        DataType::Float64 => float_text(column.as_primitive::<Float64Type>().value(row), || {
            column.as_primitive::<Float64Type>().value(row).to_string()
        }),
        DataType::Decimal128(_, scale) => {
            decimal_text(column.as_primitive::<Decimal128Type>().value(row), *scale)
        }
        DataType::Timestamp(_, _) => micros("%Y-%m-%d %H:%M:%S%.6f")?,
        DataType::Date32 => {
            let days = i64::from(column.as_primitive::<Date32Type>().value(row));
            common_time(DateTime::from_timestamp(days * 86_400, 0))?
                .format("%Y-%m-%d")
                .to_string()
        }
        DataType::Utf8 => column.as_string::<i32>().value(row).to_string(),
        DataType::Binary => std::str::from_utf8(column.as_binary::<i32>().value(row))
            .map_err(|_| "is binary that is not UTF-8, which a path cannot spell".to_string())?
            .to_string(),
        _ => array_value_to_string(column, row).map_err(|error| error.to_string())?,
    };
    if text.is_empty() {
        return Err("is empty, which readers take for null; give the row a value".into());
    }
    if text == NULL_PARTITION {
        return Err("is the word that readers take for null; give the row another value".into());
    }
    Ok(text)
}

/// Other years have a sign or another number of digits, and no reader finds its way back from them.
fn common_time(time: Option<DateTime<Utc>>) -> std::result::Result<DateTime<Utc>, String> {
    time.filter(|time| (1..=9999).contains(&time.year()))
        .ok_or_else(|| {
            "is outside the years 1 to 9999, which a path cannot spell; change the value or \
             partition by another column"
                .to_string()
        })
}

fn float_text(value: f64, finite: impl Fn() -> String) -> String {
    match value {
        value if value.is_nan() => "NaN".into(),
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        _ => finite(),
    }
}
