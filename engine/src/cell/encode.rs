//! One cell in the making: encodes rows to Parquet, closes row groups, hands bytes to its upload.
//!
//! Columns are encoded by up to `crew` tasks of the query runtime, while the caller gets the next
//! rows ready; each column is one encoder's, so the bytes are the same however many tasks there are.
//! Row groups end at a number of rows or of encoded bytes, whichever comes first.

use super::checksums::{self, Recorder, chunk_ranges};
use super::nans::{NanWatch, leaf_count};
use super::statistics;
use super::upload::Upload;
use crate::error::{Error, Result};
use crate::settings::Codec;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parking_lot::Mutex;
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::{
    ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves,
};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::TypePtr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

const CREATED_BY: &str = concat!("apiary version ", env!("CARGO_PKG_VERSION"));
const DICTIONARY_BYTES_MAX: usize = 1 << 20;
/// Fewer rows are encoded where they are.
const ROWS_WORTH_A_TASK: usize = 4096;

/// What all cells of one write have in common.
#[derive(Debug)]
pub struct Format {
    /// The columns of the file.
    pub schema: SchemaRef,
    parquet: TypePtr,
    properties: WriterPropertiesPtr,
    /// First leaf of each top-level column, and the number of leaves at the end.
    leaves: Vec<usize>,
    pub row_group_rows: usize,
    pub row_group_bytes: usize,
    pub crew: usize,
    pub query: Handle,
}

impl Format {
    pub fn new(
        schema: SchemaRef,
        codec: Codec,
        row_group_rows: usize,
        row_group_bytes: usize,
        crew: usize,
        query: Handle,
    ) -> Result<Self> {
        let compression = match codec {
            Codec::None => Compression::UNCOMPRESSED,
            Codec::Snappy => Compression::SNAPPY,
            Codec::Zstd => Compression::ZSTD(ZstdLevel::default()),
            // Not `LZ4`, which is Hadoop's framing.
            Codec::Lz4Raw => Compression::LZ4_RAW,
        };
        let properties = WriterProperties::builder()
            .set_created_by(CREATED_BY.to_string())
            .set_compression(compression)
            .set_dictionary_page_size_limit(DICTIONARY_BYTES_MAX)
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_max_row_group_row_count(None)
            .build();
        let descriptor = ArrowSchemaConverter::new()
            .convert(&schema)
            .map_err(|error| {
                Error::Bug(format!("a frame's schema has no Parquet form: {error}"))
            })?;
        let mut leaves = vec![0];
        for field in schema.fields() {
            let last = leaves.last().copied().unwrap_or(0);
            leaves.push(last + leaf_count(field.data_type()));
        }
        Ok(Self {
            parquet: descriptor.root_schema_ptr(),
            properties: Arc::new(properties),
            leaves,
            schema,
            row_group_rows: row_group_rows.max(1),
            row_group_bytes,
            crew: crew.max(1),
            query,
        })
    }
}

/// The file's bytes that are not yet with the upload.
#[derive(Clone, Debug, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

type Encoders = Arc<Vec<Mutex<Option<ArrowColumnWriter>>>>;

pub struct CellWriter {
    format: Arc<Format>,
    file: SerializedFileWriter<Sink>,
    factory: ArrowRowGroupWriterFactory,
    sink: Sink,
    upload: Upload,
    checksums: Recorder,
    /// Bytes of the file that are with the upload.
    drained_bytes: u64,
    encoders: Option<Encoders>,
    running: Vec<AbortOnDropHandle<Result<()>>>,
    running_bytes: usize,
    /// Encoders' memory and encoded bytes when they last rested.
    encoders_bytes: usize,
    group_bytes: usize,
    group_rows: usize,
    nans: NanWatch,
    pub rows: u64,
}

/// A cell whose bytes are all with its upload.
pub struct EncodedCell {
    pub upload: Upload,
    pub rows: u64,
    pub stats: String,
}

fn parquet_error(error: parquet::errors::ParquetError) -> Error {
    Error::Other {
        what: "encoding a cell".into(),
        source: Box::new(error),
    }
}

impl CellWriter {
    pub fn new(format: Arc<Format>, upload: Upload) -> Result<Self> {
        let sink = Sink::default();
        let file = SerializedFileWriter::new(
            sink.clone(),
            format.parquet.clone(),
            format.properties.clone(),
        )
        .map_err(parquet_error)?;
        let factory = ArrowRowGroupWriterFactory::new(&file, format.schema.clone());
        Ok(Self {
            nans: NanWatch::new(format.schema.fields()),
            format,
            file,
            factory,
            sink,
            upload,
            checksums: Recorder::default(),
            drained_bytes: 0,
            encoders: None,
            running: Vec::new(),
            running_bytes: 0,
            encoders_bytes: 0,
            group_bytes: 0,
            group_rows: 0,
            rows: 0,
        })
    }

    /// Takes rows in, which hold `bytes`; they may still be on their way through the encoders when it
    /// returns.
    pub async fn write(&mut self, batches: Vec<RecordBatch>, bytes: usize) -> Result<()> {
        let mut chunk = Vec::with_capacity(batches.len());
        let mut chunk_rows = 0;
        for mut batch in batches {
            while batch.num_rows() > 0
                && self.group_rows + chunk_rows + batch.num_rows() > self.format.row_group_rows
            {
                let room = self.format.row_group_rows - self.group_rows - chunk_rows;
                chunk.push(batch.slice(0, room));
                batch = batch.slice(room, batch.num_rows() - room);
                self.encode(std::mem::take(&mut chunk)).await?;
                self.close_group().await?;
                chunk_rows = 0;
            }
            chunk_rows += batch.num_rows();
            chunk.push(batch);
        }
        self.encode(chunk).await?;
        if !self.running.is_empty() {
            self.running_bytes = bytes;
        }
        Ok(())
    }

    async fn encode(&mut self, batches: Vec<RecordBatch>) -> Result<()> {
        self.settle().await?;
        if self.group_rows > 0 && self.group_bytes >= self.format.row_group_bytes {
            self.close_group().await?;
        }
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        if rows == 0 {
            return Ok(());
        }
        for batch in &batches {
            batch
                .columns()
                .iter()
                .fold(0, |leaf, column| self.nans.observe(column, leaf));
        }
        self.group_rows += rows;
        self.rows += rows as u64;
        let encoders = match &self.encoders {
            Some(encoders) => encoders.clone(),
            None => {
                let group = self.file.flushed_row_groups().len();
                let writers = self
                    .factory
                    .create_column_writers(group)
                    .map_err(parquet_error)?;
                let made: Encoders =
                    Arc::new(writers.into_iter().map(|w| Mutex::new(Some(w))).collect());
                self.encoders.insert(made).clone()
            }
        };
        let work = Arc::new(Work {
            format: self.format.clone(),
            encoders,
            batches,
            next: AtomicUsize::new(0),
        });
        let crew = self.format.crew.min(self.format.schema.fields().len());
        if crew == 1 || rows < ROWS_WORTH_A_TASK {
            work.run()?;
            self.measure();
            return Ok(());
        }
        for _ in 0..crew {
            let work = work.clone();
            let task = self.format.query.spawn(async move { work.run() });
            self.running.push(AbortOnDropHandle::new(task));
        }
        Ok(())
    }

    pub fn has_open_group(&self) -> bool {
        self.encoders.is_some()
    }

    /// Waits for the encoders to be done with what they were given.
    pub async fn settle(&mut self) -> Result<()> {
        for task in std::mem::take(&mut self.running) {
            join(task).await?;
        }
        self.measure();
        Ok(())
    }

    /// Only while no encoder runs: it would wait for their locks.
    fn measure(&mut self) {
        let encoders = self
            .encoders
            .as_deref()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let (mut memory, mut encoded) = (0, 0);
        for encoder in encoders {
            if let Some(encoder) = encoder.lock().as_ref() {
                memory += encoder.memory_size();
                encoded += encoder.get_estimated_total_bytes();
            }
        }
        (self.encoders_bytes, self.group_bytes) = (memory, encoded);
        self.running_bytes = 0;
    }

    /// Encoded bytes so far, an estimate, without the rows on their way.
    pub fn encoded_bytes(&self) -> u64 {
        (self.file.bytes_written() + self.group_bytes) as u64
    }

    /// Memory held by encoders, rows on their way and the upload.
    pub fn memory_bytes(&self) -> usize {
        self.encoders_bytes
            + self.running_bytes
            + self.sink.0.lock().capacity()
            + self.upload.held_bytes()
    }

    /// Closes the row group, if one is open, and hands its bytes to the upload.
    pub async fn close_group(&mut self) -> Result<()> {
        self.settle().await?;
        let Some(encoders) = self.encoders.take() else {
            return Ok(());
        };
        let count = encoders.len();
        let closing = Arc::new(Closing {
            encoders,
            chunks: (0..count).map(|_| Mutex::new(None)).collect(),
            next: AtomicUsize::new(0),
        });
        let crew = self.format.crew.min(count);
        if crew == 1 || self.group_rows < ROWS_WORTH_A_TASK {
            closing.run()?;
        } else {
            let tasks: Vec<_> = (0..crew)
                .map(|_| {
                    let closing = closing.clone();
                    let task = self.format.query.spawn(async move { closing.run() });
                    AbortOnDropHandle::new(task)
                })
                .collect();
            for task in tasks {
                join(task).await?;
            }
        }
        let mut group = self.file.next_row_group().map_err(parquet_error)?;
        for chunk in &closing.chunks {
            let chunk = chunk
                .lock()
                .take()
                .ok_or_else(|| Error::Bug("a column was lost".into()))?;
            chunk
                .append_to_row_group(&mut group)
                .map_err(parquet_error)?;
        }
        group.close().map_err(parquet_error)?;
        self.group_rows = 0;
        self.measure();
        self.drain_group().await
    }

    /// Hands the bytes of the row group that was closed last to the upload.
    async fn drain_group(&mut self) -> Result<()> {
        let unwritten = |error: std::io::Error| parquet_error(error.into());
        self.file.flush().map_err(unwritten)?;
        let bytes = std::mem::take(&mut *self.sink.0.lock());
        for range in self
            .file
            .flushed_row_groups()
            .last()
            .into_iter()
            .flat_map(chunk_ranges)
        {
            let place = |at: u64| usize::try_from(at.checked_sub(self.drained_bytes)?).ok();
            let chunk = place(range.start).zip(place(range.end));
            let chunk = chunk.and_then(|(start, end)| bytes.get(start..end));
            let chunk =
                chunk.ok_or_else(|| Error::Bug("a column is not where it was put".into()))?;
            self.checksums.add_chunk(chunk);
        }
        self.drained_bytes += bytes.len() as u64;
        self.upload.append(bytes.into()).await
    }

    /// Hands page indexes and footer to the upload, with their checksums.
    async fn drain_footer(&mut self) -> Result<()> {
        let mut bytes = std::mem::take(&mut *self.sink.0.lock());
        // A file without a row group begins here, with its magic.
        let index_at = checksums::HEADER_BYTES.saturating_sub(self.drained_bytes) as usize;
        checksums::seal(&mut bytes, index_at)
            .ok_or_else(|| Error::Bug("a footer has no place for its checksum".into()))?;
        self.drained_bytes += bytes.len() as u64;
        self.upload.append(bytes.into()).await
    }

    /// Writes the footer; what is left is to finish the upload.
    pub async fn finish(mut self) -> Result<EncodedCell> {
        self.close_group().await?;
        if let Some(entry) = self.nans.entry() {
            self.file.append_key_value_metadata(entry);
        }
        self.file.append_key_value_metadata(self.checksums.entry());
        let metadata = self.file.finish().map_err(parquet_error)?;
        self.drain_footer().await?;
        let stats = statistics::describe(self.format.schema.fields(), &metadata, &self.nans);
        Ok(EncodedCell {
            upload: self.upload,
            rows: self.rows,
            stats,
        })
    }
}

async fn join(task: AbortOnDropHandle<Result<()>>) -> Result<()> {
    task.await
        .map_err(|error| Error::Bug(format!("encoding a cell ended early: {error}")))?
}

/// Rows for one row group's encoders: tasks take column after column until none is left.
struct Work {
    format: Arc<Format>,
    encoders: Encoders,
    batches: Vec<RecordBatch>,
    next: AtomicUsize,
}

impl Work {
    fn run(&self) -> Result<()> {
        let fields = self.format.schema.fields();
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(field) = fields.get(index) else {
                return Ok(());
            };
            let encoders = &self.encoders[self.format.leaves[index]..self.format.leaves[index + 1]];
            for batch in &self.batches {
                let leaves = compute_leaves(field, batch.column(index)).map_err(parquet_error)?;
                for (leaf, encoder) in leaves.iter().zip(encoders) {
                    match encoder.lock().as_mut() {
                        Some(encoder) => encoder.write(leaf).map_err(parquet_error)?,
                        None => return Err(Error::Bug("a row group was closed early".into())),
                    }
                }
            }
        }
    }
}

struct Closing {
    encoders: Encoders,
    chunks: Vec<Mutex<Option<ArrowColumnChunk>>>,
    next: AtomicUsize,
}

impl Closing {
    fn run(&self) -> Result<()> {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(encoder) = self.encoders.get(index) else {
                return Ok(());
            };
            if let Some(encoder) = encoder.lock().take() {
                let chunk = encoder.close().map_err(parquet_error)?;
                *self.chunks[index].lock() = Some(chunk);
            }
        }
    }
}
