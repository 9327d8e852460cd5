//! Files as streams of record batches: Parquet, CSV, JSON lines, Arrow IPC.
//!
//! Files are read by one thread, which runs ahead of the writer by a few batches. An error names the
//! file. Never holds more than a few batches and one Parquet row group's pages in memory.

use crate::args::FileFormat;
use crate::exact;
use crate::failure::{Failure, Result};
use apiary::arrow::array::RecordBatch;
use apiary::arrow::csv;
use apiary::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use apiary::arrow::error::ArrowError;
use apiary::arrow::ipc::reader::{FileReader, StreamReader};
use apiary::arrow::json::reader::{ReaderBuilder, infer_json_schema};
use apiary::{Error, InputError};
use futures::Stream;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

const BATCH_ROWS: usize = 8192;
const BATCHES_AHEAD: usize = 4;
const BUFFER_BYTES: usize = 256 << 10;
/// The first bytes of an Arrow IPC file; a stream begins otherwise.
const ARROW_FILE_MAGIC: &[u8] = b"ARROW1";

/// How text files are read.
#[derive(Clone, Debug, Default)]
pub struct TextOptions {
    pub delimiter: Option<u8>,
    pub null: Option<String>,
    /// Rows of each file that types are guessed from; 0 for all.
    pub infer_rows: usize,
}

/// Files of one kind with the columns that they are read as.
#[derive(Clone, Debug)]
pub struct Input {
    files: Vec<PathBuf>,
    format: FileFormat,
    text: TextOptions,
    pub schema: SchemaRef,
    pub total_bytes: u64,
}

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>>;

impl Input {
    /// Looks at all files. `existing` are the columns of the frame, when there is one: text files
    /// are then read as those types, by their column names.
    ///
    /// # Errors
    /// Names the file that is missing, is damaged, or has other columns than the first one.
    pub fn examine(
        files: &[PathBuf],
        format: Option<FileFormat>,
        text: TextOptions,
        existing: Option<&SchemaRef>,
    ) -> Result<Self> {
        let mut total_bytes = 0;
        let mut schema: Option<SchemaRef> = None;
        let mut common: Option<FileFormat> = None;
        for path in files {
            let format = match format.or_else(|| format_of(path)) {
                Some(format) => format,
                None => return Err(Failure::Usage(unknown_format(path))),
            };
            if *common.get_or_insert(format) != format {
                return Err(Failure::Usage(format!(
                    "{}: all files of one load must be of one format",
                    path.display()
                )));
            }
            let metadata = std::fs::metadata(path).map_err(|error| Failure::file(path, error))?;
            if metadata.is_dir() {
                return Err(Failure::Usage(format!("{} is a directory", path.display())));
            }
            total_bytes += metadata.len();
            let columns = schema_of(path, format, &text).map_err(|error| named(path, error))?;
            schema = Some(match schema {
                None => columns,
                Some(first) => merged(&first, &columns).map_err(|reason| {
                    Error::rejected(format!(
                        "{}: {reason} in {}; files of one load must have the same columns",
                        path.display(),
                        files[0].display()
                    ))
                })?,
            });
        }
        let (Some(format), Some(schema)) = (common, schema) else {
            return Err(Failure::Usage("there is no file to load".into()));
        };
        let schema = match (format, existing) {
            (FileFormat::Csv, Some(existing)) => fitted(&schema, existing),
            // A field may stand in later rows only, so all columns of the frame are looked for.
            (FileFormat::Json, Some(existing)) => with_all_of(&fitted(&schema, existing), existing),
            _ => without_null_type(&schema),
        };
        Ok(Self {
            files: files.to_vec(),
            format,
            text,
            schema,
            total_bytes,
        })
    }

    /// All rows of all files, read by a thread of its own, which ends with the stream. `done` counts
    /// the bytes of the files that were read.
    pub fn stream(
        self,
        done: Arc<AtomicU64>,
    ) -> Result<impl Stream<Item = Result<RecordBatch, InputError>> + Send + 'static> {
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
        std::thread::Builder::new()
            .name("apiary-input".into())
            .spawn(move || self.read_all(&done, &sender))
            .map_err(|source| Failure::File {
                path: "a reading thread".into(),
                source,
            })?;
        Ok(futures::stream::unfold(
            receiver,
            |mut receiver| async move { Some((receiver.recv().await?, receiver)) },
        ))
    }

    fn read_all(
        &self,
        done: &Arc<AtomicU64>,
        sender: &mpsc::Sender<Result<RecordBatch, InputError>>,
    ) {
        for path in &self.files {
            let batches = match self.open(path, done) {
                Ok(batches) => batches,
                Err(error) => {
                    let _ = sender.blocking_send(Err(input_error(path, error)));
                    return;
                }
            };
            for batch in batches {
                let batch = batch
                    .and_then(|batch| aligned(&batch, &self.schema))
                    .map_err(|error| input_error(path, error));
                let failed = batch.is_err();
                // A receiver that has gone means that the load failed or was cancelled.
                if sender.blocking_send(batch).is_err() || failed {
                    return;
                }
            }
        }
    }

    fn open(&self, path: &Path, done: &Arc<AtomicU64>) -> Result<Batches, ArrowError> {
        let file = File::open(path)?;
        match self.format {
            FileFormat::Parquet => parquet_batches(file, done),
            FileFormat::Arrow => arrow_batches(file, done),
            FileFormat::Csv => {
                // Columns of this file, in its order, with the types of the whole load.
                let header = csv_schema(path, &self.text, Some(0))?;
                let schema = fitted(&Arc::new(header), &self.schema);
                let format = csv_format(path, &self.text)?;
                let reader = counted(file, done);
                let reader = csv::ReaderBuilder::new(exact::readable(&schema, false))
                    .with_format(format)
                    .with_batch_size(BATCH_ROWS)
                    .build_buffered(BufReader::with_capacity(BUFFER_BYTES, reader))?;
                Ok(Box::new(reader))
            }
            FileFormat::Json => {
                let reader = BufReader::with_capacity(BUFFER_BYTES, counted(file, done));
                let reader = ReaderBuilder::new(exact::readable(&self.schema, true))
                    .with_batch_size(BATCH_ROWS)
                    // Fields that no column was made for are an error, not left out.
                    .with_strict_mode(true)
                    .with_coerce_primitive(true)
                    .build(reader)?;
                Ok(Box::new(reader))
            }
        }
    }
}

fn parquet_batches(file: File, done: &Arc<AtomicU64>) -> Result<Batches, ArrowError> {
    let size_bytes = file.metadata()?.len();
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let rows = builder.metadata().file_metadata().num_rows().max(1) as u64;
    let reader = builder.with_batch_size(BATCH_ROWS).build()?;
    let done = done.clone();
    // Pages are read out of order, so bytes are counted by the share of the rows.
    let (mut read_rows, mut counted_bytes) = (0u64, 0u64);
    Ok(Box::new(reader.inspect(move |batch| {
        if let Ok(batch) = batch {
            read_rows += batch.num_rows() as u64;
            let bytes = (size_bytes as u128 * read_rows as u128 / rows as u128) as u64;
            done.fetch_add(bytes.saturating_sub(counted_bytes), Ordering::Relaxed);
            counted_bytes = counted_bytes.max(bytes);
        }
    })))
}

fn arrow_batches(mut file: File, done: &Arc<AtomicU64>) -> Result<Batches, ArrowError> {
    if is_arrow_file(&mut file)? {
        let reader = BufReader::with_capacity(BUFFER_BYTES, counted(file, done));
        Ok(Box::new(FileReader::try_new(reader, None)?))
    } else {
        let reader = BufReader::with_capacity(BUFFER_BYTES, counted(file, done));
        Ok(Box::new(StreamReader::try_new(reader, None)?))
    }
}

fn is_arrow_file(file: &mut File) -> std::io::Result<bool> {
    let mut magic = [0; ARROW_FILE_MAGIC.len()];
    let is_file = match file.read_exact(&mut magic) {
        Ok(()) => magic == ARROW_FILE_MAGIC,
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => false,
        Err(error) => return Err(error),
    };
    file.seek(SeekFrom::Start(0))?;
    Ok(is_file)
}

fn schema_of(path: &Path, format: FileFormat, text: &TextOptions) -> Result<SchemaRef, ArrowError> {
    match format {
        FileFormat::Parquet => Ok(ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?
            .schema()
            .clone()),
        FileFormat::Arrow => {
            let mut file = File::open(path)?;
            if is_arrow_file(&mut file)? {
                Ok(FileReader::try_new(BufReader::new(file), None)?.schema())
            } else {
                Ok(StreamReader::try_new(BufReader::new(file), None)?.schema())
            }
        }
        FileFormat::Csv => {
            let rows = (text.infer_rows > 0).then_some(text.infer_rows);
            Ok(Arc::new(csv_schema(path, text, rows)?))
        }
        FileFormat::Json => {
            let rows = (text.infer_rows > 0).then_some(text.infer_rows);
            let reader = BufReader::with_capacity(BUFFER_BYTES, File::open(path)?);
            let (schema, _) = infer_json_schema(reader, rows)?;
            if schema.fields().is_empty() {
                return Err(ArrowError::JsonError(
                    "there is no JSON object in the file".into(),
                ));
            }
            Ok(Arc::new(schema))
        }
    }
}

fn csv_schema(path: &Path, text: &TextOptions, rows: Option<usize>) -> Result<Schema, ArrowError> {
    let reader = BufReader::with_capacity(BUFFER_BYTES, File::open(path)?);
    let (schema, _) = csv_format(path, text)?.infer_schema(reader, rows)?;
    let mut seen = BTreeMap::new();
    for (index, field) in schema.fields().iter().enumerate() {
        if field.name().is_empty() {
            let text = format!("column {} has no name in the header line", index + 1);
            return Err(ArrowError::CsvError(text));
        }
        if seen.insert(field.name().to_lowercase(), index).is_some() {
            let text = format!("column {:?} stands twice in the header line", field.name());
            return Err(ArrowError::CsvError(text));
        }
    }
    if schema.fields().is_empty() {
        return Err(ArrowError::CsvError("there is no header line".into()));
    }
    // As exact as a frame keeps times: later rows may have fractions of a second.
    let fields = schema.fields().iter().map(|field| {
        let data_type = match field.data_type() {
            DataType::Timestamp(TimeUnit::Second | TimeUnit::Millisecond, zone) => {
                DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
            }
            other => other.clone(),
        };
        field.as_ref().clone().with_data_type(data_type)
    });
    Ok(Schema::new(fields.collect::<Vec<_>>()))
}

fn csv_format(path: &Path, text: &TextOptions) -> Result<csv::reader::Format, ArrowError> {
    let tabs = extension(path) == "tsv";
    let delimiter = text.delimiter.unwrap_or(if tabs { b'\t' } else { b',' });
    let mut format = csv::reader::Format::default()
        .with_header(true)
        .with_delimiter(delimiter);
    if let Some(null) = &text.null {
        let pattern = format!("^$|^{}$", regex::escape(null));
        let pattern = regex::Regex::new(&pattern)
            .map_err(|error| ArrowError::CsvError(format!("--null {null:?}: {error}")))?;
        format = format.with_null_regex(pattern);
    }
    Ok(format)
}

/// Counts bytes as they are read from the file.
fn counted(file: File, done: &Arc<AtomicU64>) -> Counted {
    Counted {
        file,
        done: done.clone(),
    }
}

struct Counted {
    file: File,
    done: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.done.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl Seek for Counted {
    fn seek(&mut self, position: SeekFrom) -> std::io::Result<u64> {
        self.file.seek(position)
    }
}

fn extension(path: &Path) -> String {
    path.extension()
        .map(|text| text.to_string_lossy().to_ascii_lowercase())
        .unwrap_or_default()
}

fn format_of(path: &Path) -> Option<FileFormat> {
    match extension(path).as_str() {
        "parquet" | "pq" => Some(FileFormat::Parquet),
        "csv" | "tsv" => Some(FileFormat::Csv),
        "json" | "jsonl" | "ndjson" => Some(FileFormat::Json),
        "arrow" | "arrows" | "feather" | "ipc" => Some(FileFormat::Arrow),
        _ => None,
    }
}

fn unknown_format(path: &Path) -> String {
    format!(
        "{}: the name does not say what it is; give --format",
        path.display()
    )
}

/// The columns of both files: the same names, the wider type where text files were guessed apart.
fn merged(first: &SchemaRef, second: &SchemaRef) -> Result<SchemaRef, String> {
    for field in second.fields() {
        if first.column_with_name(field.name()).is_none() {
            return Err(format!("column {:?} is not", field.name()));
        }
    }
    let mut fields = Vec::new();
    for field in first.fields() {
        let Some((_, other)) = second.column_with_name(field.name()) else {
            return Err(format!("column {:?} is missing here and is", field.name()));
        };
        let data_type = wider(field.data_type(), other.data_type()).ok_or_else(|| {
            let (here, there) = (other.data_type(), field.data_type());
            format!("column {:?} is {here} here and {there}", field.name())
        })?;
        let nullable = field.is_nullable() || other.is_nullable();
        fields.push(
            Field::new(field.name(), data_type, nullable).with_metadata(field.metadata().clone()),
        );
    }
    Ok(Arc::new(Schema::new(fields)))
}

fn wider(first: &DataType, second: &DataType) -> Option<DataType> {
    use DataType::{Boolean, Float64, Int64, Null, Utf8};
    let guessed = |data_type: &DataType| {
        matches!(data_type, Boolean | Int64 | Float64 | Utf8) || data_type.is_temporal()
    };
    match (first, second) {
        (first, second) if first == second => Some(first.clone()),
        (Null, other) | (other, Null) => Some(other.clone()),
        (Int64, Float64) | (Float64, Int64) => Some(Float64),
        (first, second) if guessed(first) && guessed(second) => Some(Utf8),
        _ => None,
    }
}

/// The columns of a text file with the types of the frame; unknown ones stay as guessed.
fn fitted(columns: &SchemaRef, existing: &SchemaRef) -> SchemaRef {
    let fields = columns.fields().iter().map(|field| {
        let by_name =
            |known: &&Arc<Field>| known.name().to_lowercase() == field.name().to_lowercase();
        match existing.fields().iter().find(by_name) {
            Some(known) => Field::new(field.name(), known.data_type().clone(), true),
            None => Field::new(field.name(), text_for_null(field.data_type()), true),
        }
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The columns, and those of the frame that are not among them.
fn with_all_of(columns: &SchemaRef, existing: &SchemaRef) -> SchemaRef {
    let is_there = |known: &Field| {
        let name = known.name().to_lowercase();
        let mut fields = columns.fields().iter();
        fields.any(|field| field.name().to_lowercase() == name)
    };
    let others = existing.fields().iter().filter(|known| !is_there(known));
    let others =
        others.map(|known| Arc::new(Field::new(known.name(), known.data_type().clone(), true)));
    let fields = columns.fields().iter().cloned().chain(others);
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// A column without any value has no type to guess; texts hold everything that may come.
fn without_null_type(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let data_type = text_for_null(field.data_type());
        Arc::new(field.as_ref().clone().with_data_type(data_type))
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn text_for_null(data_type: &DataType) -> DataType {
    if *data_type == DataType::Null {
        DataType::Utf8
    } else {
        data_type.clone()
    }
}

/// The batch's columns in the order of the load, so that every file's batches look alike.
fn aligned(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let batch_schema = batch.schema();
    let columns = schema.fields().iter().map(|field| {
        let index = batch_schema.index_of(field.name())?;
        let column = batch.column(index);
        if column.data_type() == field.data_type() {
            Ok(column.clone())
        } else {
            exact::converted(column, field.data_type()).map_err(|error| {
                ArrowError::CastError(format!("column {:?}: {error}", field.name()))
            })
        }
    });
    let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
    RecordBatch::try_new(schema.clone(), columns)
}

fn named(path: &Path, error: ArrowError) -> Failure {
    match error {
        ArrowError::IoError(_, source) => Failure::file(path, source),
        other => Error::rejected(format!("{}: {}", path.display(), said(&other))).into(),
    }
}

fn input_error(path: &Path, error: ArrowError) -> InputError {
    let error = match error {
        ArrowError::IoError(_, source) => Error::Io {
            path: path.display().to_string(),
            source,
        },
        other => Error::rejected(format!("{}: {}", path.display(), said(&other))),
    };
    Box::new(error)
}

/// With a hint where a guess may have been wrong.
fn said(error: &ArrowError) -> String {
    const UNKNOWN_FIELD: &str = " missing from schema";
    match error {
        ArrowError::JsonError(text) if text.ends_with(UNKNOWN_FIELD) => format!(
            "{} is in none of the rows that columns were guessed from, and the frame has no such \
             column (--infer-rows 0 guesses from all rows)",
            text.trim_end_matches(UNKNOWN_FIELD)
                .replace("column '", "field '")
        ),
        ArrowError::ParseError(_)
        | ArrowError::CsvError(_)
        | ArrowError::JsonError(_)
        | ArrowError::CastError(_) => {
            format!("{error} (--infer-rows 0 guesses types from all rows)")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
#[path = "input_tests.rs"]
mod tests;
