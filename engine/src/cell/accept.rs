//! Which rows a frame accepts: matches a stream's columns to the frame's and casts them.
//!
//! Columns are matched by exact name, then ignoring case when only one is meant. The types are judged
//! once, before the first row. Rows are counted from zero over the whole write.

use super::cast::{self, Refusal};
use crate::error::{Error, Result};
use crate::schema::{FrameSchema, types};
use arrow::array::{RecordBatch, RecordBatchOptions, new_empty_array, new_null_array};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Delta's name for a check that a writer would have to evaluate.
const INVARIANTS_KEY: &str = "delta.invariants";
/// How rows in messages are counted.
const OVER_ALL: &str = "over the whole write";
const IN_TASK: &str = "in one task of the write";

/// Judges the batches of one stream.
#[derive(Debug)]
pub struct Acceptance {
    frame: Arc<FrameSchema>,
    /// For each logical column where it is in the stream.
    sources: Vec<Option<usize>>,
    /// All logical columns, in the types that are written.
    pub written: SchemaRef,
    pub warnings: BTreeSet<String>,
    /// Rows of the write that came before this stream.
    rows_before: u64,
    rows: u64,
}

impl Acceptance {
    /// `Error::Rejected` when the types alone, or a missing column, rule every row out.
    pub fn new(frame: Arc<FrameSchema>, given: &Schema, rows_before: u64) -> Result<Self> {
        for field in frame.logical.fields() {
            if field.metadata().contains_key(INVARIANTS_KEY) {
                return Err(Error::Unsupported(format!(
                    "writing to a table with an invariant on column {:?}",
                    field.name()
                )));
            }
        }
        let mut warnings = BTreeSet::new();
        let sources = cast::match_fields(given.fields(), frame.logical.fields(), "", &mut warnings)
            .map_err(|refusal| explain(refusal, 0))?;
        let views = frame.partition_columns.is_empty();
        let mut written: Vec<Field> = Vec::with_capacity(sources.len());
        for (field, source) in frame.logical.fields().iter().zip(&sources) {
            let given = source.map(|index| given.field(index).data_type());
            let data_type = written_type(field.data_type(), given, views);
            if let Some(given) = given {
                let empty = new_empty_array(given);
                let nullable = field.as_ref().clone().with_nullable(true);
                cast::convert_field(
                    &empty,
                    &nullable,
                    &data_type,
                    field.name(),
                    None,
                    &mut warnings,
                )
                .map_err(|refusal| explain(refusal, 0))?;
            }
            written.push(Field::new(field.name(), data_type, field.is_nullable()));
        }
        let written = Arc::new(Schema::new(written));
        Ok(Self {
            frame,
            sources,
            written,
            warnings,
            rows_before,
            rows: 0,
        })
    }

    /// Rows that were accepted so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The number of the next row in the whole write.
    pub fn next_row(&self) -> u64 {
        self.rows_before + self.rows
    }

    /// A batch of the stream, as it is written; partition columns are still in it.
    pub fn accept(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = Vec::with_capacity(self.sources.len());
        for (index, source) in self.sources.iter().enumerate() {
            let field = self.frame.logical.field(index);
            let written = self.written.field(index).data_type();
            columns.push(match source {
                None => new_null_array(written, batch.num_rows()),
                Some(source) => cast::convert_field(
                    batch.column(*source),
                    field,
                    written,
                    field.name(),
                    None,
                    &mut self.warnings,
                )
                .map_err(|refusal| explain(refusal, self.next_row()))?,
            });
        }
        self.rows += batch.num_rows() as u64;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(self.written.clone(), columns, &options)
            .map_err(|error| Error::Bug(format!("accepted columns make no batch: {error}")))
    }
}

/// The refusal of a column, with its row in the whole write.
pub fn explain(refusal: Refusal, rows_before: u64) -> Error {
    let place = match refusal.row {
        Some(row) => at_row(rows_before + row as u64),
        None => "from row 0 on".to_string(),
    };
    Error::Rejected(format!(
        "column {:?}, {place}: {}",
        refusal.path, refusal.reason
    ))
}

pub fn at_row(row: u64) -> String {
    format!("row {row} (counted from 0 {OVER_ALL})")
}

/// A refusal of a write that is one task of several: its rows are its own.
pub(crate) fn counted_in_task(error: Error) -> Error {
    match error {
        Error::Rejected(text) => Error::Rejected(text.replace(OVER_ALL, IN_TASK)),
        error => error,
    }
}

/// The Arrow type in which a column goes to the Parquet writer: the stored one, with strings that
/// own their bytes, unless a view comes in and nothing has to be taken apart.
fn written_type(logical: &DataType, given: Option<&DataType>, views: bool) -> DataType {
    match (given, logical) {
        (Some(given), logical) if views && given == logical && !logical.is_nested() => {
            types::stored(logical)
        }
        _ => owned(&types::stored(logical)),
    }
}

fn owned(stored: &DataType) -> DataType {
    let field = |f: &Arc<Field>| Arc::new(f.as_ref().clone().with_data_type(owned(f.data_type())));
    match stored {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(element) => DataType::List(field(element)),
        DataType::Map(entries, sorted) => DataType::Map(field(entries), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(field).collect::<Fields>()),
        other => other.clone(),
    }
}
