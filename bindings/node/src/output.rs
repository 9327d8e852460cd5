//! Rows to stdout as table, CSV, JSON lines or Arrow IPC, batch by batch.
//!
//! Memory is bounded by a block of the table format; the others write each batch as it comes. Never
//! writes anything but rows: reports and progress go to stderr.

use crate::args::Format;
use crate::failure::{Failure, Result};
use apiary::arrow::array::{Array, ArrayRef, RecordBatch, StringBuilder};
use apiary::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use apiary::arrow::error::ArrowError;
use apiary::arrow::util::display::{ArrayFormatter, FormatOptions};
use apiary::arrow::{csv, ipc, json, util::pretty};
use std::io::Write;
use std::sync::Arc;

/// A table is printed in blocks of at most this many rows, or sooner when they are large.
const BLOCK_ROWS_MAX: usize = 1000;
const BLOCK_BYTES_MAX: usize = 8 << 20;

/// Writes one answer.
pub enum Sink<W: Write> {
    Table(Table<W>),
    Csv {
        writer: Box<csv::Writer<W>>,
        schema: SchemaRef,
    },
    Json(Box<json::LineDelimitedWriter<W>>),
    Arrow(Box<ipc::writer::StreamWriter<W>>),
}

impl<W: Write> Sink<W> {
    /// Writes what comes before any row.
    pub fn start(format: Format, schema: &SchemaRef, out: W) -> Result<Self> {
        Ok(match format {
            Format::Table => Self::Table(Table::new(schema.clone(), out)),
            Format::Csv => {
                let schema = flat_schema(schema);
                let mut writer = csv::WriterBuilder::new().with_header(true).build(out);
                // The header also when no row comes.
                writer
                    .write(&RecordBatch::new_empty(schema.clone()))
                    .map_err(failure)?;
                Self::Csv {
                    writer: Box::new(writer),
                    schema,
                }
            }
            Format::Json => {
                let builder = json::WriterBuilder::new().with_explicit_nulls(true);
                Self::Json(Box::new(builder.build(out)))
            }
            Format::Arrow => {
                let writer = ipc::writer::StreamWriter::try_new(out, schema).map_err(failure)?;
                Self::Arrow(Box::new(writer))
            }
        })
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match self {
            Self::Table(table) => table.write(batch),
            Self::Csv { writer, schema } => writer.write(&flat(schema, batch)?).map_err(failure),
            Self::Json(writer) => writer.write(batch).map_err(failure),
            Self::Arrow(writer) => writer.write(batch).map_err(failure),
        }
    }

    /// Writes what is still held back.
    pub fn finish(self) -> Result<()> {
        match self {
            Self::Table(mut table) => table.finish(),
            Self::Csv { writer, .. } => Ok(writer.into_inner().flush()?),
            Self::Json(mut writer) => {
                writer.finish().map_err(failure)?;
                Ok(writer.into_inner().flush()?)
            }
            Self::Arrow(mut writer) => {
                writer.finish().map_err(failure)?;
                Ok(writer.get_mut().flush()?)
            }
        }
    }
}

/// A table in blocks, each with its own header and column widths.
pub struct Table<W: Write> {
    out: W,
    schema: SchemaRef,
    held: Vec<RecordBatch>,
    held_rows: usize,
    held_bytes: usize,
    rows: u64,
    blocks: u64,
}

impl<W: Write> Table<W> {
    fn new(schema: SchemaRef, out: W) -> Self {
        Self {
            out,
            schema,
            held: vec![],
            held_rows: 0,
            held_bytes: 0,
            rows: 0,
            blocks: 0,
        }
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut offset = 0;
        while offset < batch.num_rows() {
            let count = (batch.num_rows() - offset).min(BLOCK_ROWS_MAX - self.held_rows);
            let slice = batch.slice(offset, count);
            offset += count;
            self.held_rows += count;
            self.held_bytes += batch.get_array_memory_size() / batch.num_rows().max(1) * count;
            self.held.push(slice);
            if self.held_rows >= BLOCK_ROWS_MAX || self.held_bytes >= BLOCK_BYTES_MAX {
                self.print_block()?;
            }
        }
        Ok(())
    }

    fn print_block(&mut self) -> Result<()> {
        let options = FormatOptions::new().with_null("NULL");
        if self.held.is_empty() {
            // The header comes from a batch.
            self.held.push(RecordBatch::new_empty(self.schema.clone()));
        }
        let block = pretty::pretty_format_batches_with_options(&self.held, &options);
        writeln!(self.out, "{}", block.map_err(failure)?)?;
        // A block is as large as it gets: the reader wants to see it now.
        self.out.flush()?;
        self.rows += self.held_rows as u64;
        self.blocks += 1;
        self.held.clear();
        (self.held_rows, self.held_bytes) = (0, 0);
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        if self.held_rows > 0 || self.blocks == 0 {
            self.print_block()?;
        }
        let plural = if self.rows == 1 { "" } else { "s" };
        writeln!(self.out, "({} row{plural})", self.rows)?;
        Ok(self.out.flush()?)
    }
}

/// CSV holds texts only: nested columns are written as Arrow prints them.
fn flat_schema(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        if field.data_type().is_nested() {
            Arc::new(Field::new(field.name(), DataType::Utf8, true))
        } else {
            field.clone()
        }
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn flat(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = batch.columns().iter().map(|column| {
        if column.data_type().is_nested() {
            as_text(column)
        } else {
            Ok(column.clone())
        }
    });
    let columns: Vec<ArrayRef> = columns
        .collect::<Result<_, ArrowError>>()
        .map_err(failure)?;
    RecordBatch::try_new(schema.clone(), columns).map_err(failure)
}

fn as_text(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let options = FormatOptions::new();
    let formatter = ArrayFormatter::try_new(column.as_ref(), &options)?;
    let mut texts = StringBuilder::new();
    for row in 0..column.len() {
        if column.is_null(row) {
            texts.append_null();
        } else {
            texts.append_value(formatter.value(row).try_to_string()?);
        }
    }
    Ok(Arc::new(texts.finish()))
}

/// What a writer says is about the output, or about a type that the format cannot hold.
fn failure(error: ArrowError) -> Failure {
    match error {
        ArrowError::IoError(_, error) => Failure::from(error),
        ArrowError::CsvError(text) if text.contains("Broken pipe") => Failure::OutputClosed,
        ArrowError::ExternalError(source) => match source.downcast::<std::io::Error>() {
            Ok(error) => Failure::from(*error),
            Err(source) => apiary::Error::Other {
                what: "output".into(),
                source,
            }
            .into(),
        },
        other => apiary::Error::rejected(format!(
            "the rows cannot be written in this format: {other}; try another --format"
        ))
        .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apiary::arrow::array::{Int64Array, ListArray, StringArray};
    use apiary::arrow::datatypes::Int64Type;

    fn written(format: Format, schema: &SchemaRef, batches: &[RecordBatch]) -> String {
        let mut bytes = Vec::new();
        let mut sink = Sink::start(format, schema, &mut bytes).unwrap();
        for batch in batches {
            sink.write(batch).unwrap();
        }
        sink.finish().unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn numbers(range: std::ops::Range<i64>) -> RecordBatch {
        RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from_iter_values(range)) as _)])
            .unwrap()
    }

    #[test]
    fn csv_has_its_header_also_without_rows() {
        let batch = numbers(0..0);
        assert_eq!(written(Format::Csv, &batch.schema(), &[]), "n\n");
        let batch = numbers(0..2);
        assert_eq!(
            written(Format::Csv, &batch.schema(), &[batch.clone(), batch]),
            "n\n0\n1\n0\n1\n"
        );
    }

    #[test]
    fn a_long_table_comes_in_blocks_and_counts_all_rows() {
        let batch = numbers(0..2500);
        let text = written(Format::Table, &batch.schema(), &[batch]);
        assert_eq!(text.matches("| n ").count(), 3);
        assert!(text.ends_with("(2500 rows)\n"), "{text}");
    }

    #[test]
    fn a_table_without_rows_shows_its_columns() {
        let batch = numbers(0..0);
        let text = written(Format::Table, &batch.schema(), &[]);
        assert!(
            text.contains("| n |") && text.ends_with("(0 rows)\n"),
            "{text}"
        );
    }

    #[test]
    fn json_writes_nulls_and_nested_columns() {
        let names = StringArray::from(vec![Some("a"), None]);
        let lists = ListArray::from_iter_primitive::<Int64Type, _, _>([
            Some(vec![Some(1), None]),
            Some(vec![]),
        ]);
        let batch = RecordBatch::try_from_iter([
            ("name", Arc::new(names) as ArrayRef),
            ("list", Arc::new(lists) as ArrayRef),
        ])
        .unwrap();
        let text = written(Format::Json, &batch.schema(), std::slice::from_ref(&batch));
        assert_eq!(
            text,
            "{\"name\":\"a\",\"list\":[1,null]}\n{\"name\":null,\"list\":[]}\n"
        );
        let text = written(Format::Csv, &batch.schema(), &[batch]);
        assert_eq!(text, "name,list\na,\"[1, ]\"\n,[]\n");
    }

    #[test]
    fn arrow_output_is_a_stream_that_reads_back() {
        let batch = numbers(0..3);
        let mut bytes = Vec::new();
        let mut sink = Sink::start(Format::Arrow, &batch.schema(), &mut bytes).unwrap();
        sink.write(&batch).unwrap();
        sink.finish().unwrap();
        let mut reader = ipc::reader::StreamReader::try_new(bytes.as_slice(), None).unwrap();
        assert_eq!(reader.next().unwrap().unwrap(), batch);
    }

    #[test]
    fn a_closed_pipe_is_told_apart_from_other_errors() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
        }
        let batch = numbers(0..100_000);
        for format in [Format::Table, Format::Csv, Format::Json, Format::Arrow] {
            let outcome = Sink::start(format, &batch.schema(), Closed).and_then(|mut sink| {
                sink.write(&batch)?;
                sink.finish()
            });
            assert!(
                matches!(outcome, Err(Failure::OutputClosed)),
                "{format:?}: {outcome:?}"
            );
        }
    }
}
