//! Writing a task's output: Arrow IPC in chunks, a partition index, one create.
//!
//! Chunks wait in memory until the task ends, and go in front of nobody: a small output is one object.
//! When there are too many bytes for that, they stream to an object of their own under a name that
//! only this attempt has, and the output is a small index over it. Of a write the output is the list of
//! cells that its attempt put into the frame. An attempt that loses deletes what it uploaded.

use super::input::{OUTPUT_HEADER_BYTES, OUTPUT_MAGIC, StoredOutput};
use crate::cell::{Unnamed, Upload};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::store::{Created, Meadow};
use apiary_protocol::ids::{AttemptId, QueryId};
use apiary_protocol::keys;
use apiary_protocol::query::{Cells, Chunk, Failure, Outcome, Output, Partitions, TaskKey};
use arrow::array::{
    Array, ArrayRef, AsArray, GenericByteViewArray, RecordBatch, RecordBatchOptions,
};
use arrow::datatypes::{ByteViewType, DataType, SchemaRef};
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use bytes::Bytes;
use object_store::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Mutex;

/// Most bytes of an output that is one object, however much memory there is: they wait in it.
const INLINE_BYTES_MAX: u64 = 16 << 20;
const CHUNK_BYTES_MIN: usize = 16 << 10;
const CHUNK_BYTES_MAX: usize = 4 << 20;
/// A store that is faster than compression takes so much of an output as it is: a local disk, whose
/// cache holds that for the moment that it is there. More than that reaches the disk itself.
const PLAIN_BYTES_MAX: u64 = 32 << 20;
/// Share of a chamber's budget that the buffers of all partitions get, and that of the bytes that wait.
const BUDGET_SHARE: u64 = 8;
const INLINE_SHARE: u64 = 16;

/// How many bytes of a partition make a chunk.
pub(super) fn chunk_bytes(budget_bytes: u64, partitions: usize) -> usize {
    let share = budget_bytes / BUDGET_SHARE / partitions.max(1) as u64;
    usize::try_from(share)
        .unwrap_or(usize::MAX)
        .clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX)
}

/// How many bytes of an output wait in memory to become one object.
pub(super) fn inline_bytes(budget_bytes: u64) -> u64 {
    (budget_bytes / INLINE_SHARE).min(INLINE_BYTES_MAX)
}

/// What a task made, before it is anybody's output.
#[derive(Debug)]
pub struct Made {
    pub id: AttemptId,
    pub outcome: Outcome,
    /// The chunks of rows, when they are not apart.
    chunks: Vec<Bytes>,
    /// Of all chunks, or of all cells.
    pub bytes: u64,
    /// The cells, deleted when they become no output.
    cells: Option<Unnamed>,
}

impl Made {
    /// What a task of a write made.
    pub(super) fn of_cells(host: &Host, cells: Cells, owned: Unnamed) -> Self {
        Self {
            id: AttemptId::from_random(host.entropy.bytes()),
            bytes: cells.bytes,
            outcome: Outcome::Cells(cells),
            chunks: Vec::new(),
            cells: Some(owned),
        }
    }

    /// Whether objects were put before the output that names them.
    pub fn goes_before(&self) -> bool {
        self.is_cells() || matches!(self.outcome, Outcome::Rows { apart: true, .. })
    }

    /// Whether it is cells, which stay in the frame's location: nothing under the query's prefix.
    pub fn is_cells(&self) -> bool {
        self.cells.is_some()
    }
}

/// Where the chunks of all partitions go.
#[derive(Debug)]
pub(super) struct Sink {
    host: Host,
    meadow: Meadow,
    key: String,
    id: AttemptId,
    /// How many of the first bytes go as they are.
    plain_bytes: u64,
    /// How many bytes wait at most to become one object.
    inline_bytes: u64,
    pushed_bytes: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: Vec<Bytes>,
    bytes: u64,
    upload: Option<Upload>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Sink {
    pub(super) fn new(
        host: &Host,
        meadow: &Meadow,
        query: QueryId,
        task: TaskKey,
        inline_bytes: u64,
    ) -> Arc<Self> {
        let id = AttemptId::from_random(host.entropy.bytes());
        Arc::new(Self {
            host: host.clone(),
            meadow: meadow.clone(),
            key: keys::query_data(query, task, id),
            id,
            plain_bytes: match meadow.is_fast() {
                true => PLAIN_BYTES_MAX,
                false => 0,
            },
            inline_bytes,
            pushed_bytes: AtomicU64::new(0),
            state: Mutex::default(),
        })
    }

    fn is_plain(&self) -> bool {
        self.pushed_bytes.load(Ordering::Relaxed) < self.plain_bytes
    }

    async fn push(&self, bytes: Bytes) -> Result<Chunk> {
        let mut state = self.state.lock().await;
        let chunk = Chunk {
            offset: state.bytes,
            length: bytes.len() as u64,
            crc32: crc32fast::hash(&bytes),
        };
        state.bytes += chunk.length;
        self.pushed_bytes.store(state.bytes, Ordering::Relaxed);
        if let Some(upload) = &mut state.upload {
            upload.append(bytes).await?;
            return Ok(chunk);
        }
        state.waiting.push(bytes);
        if state.bytes > self.inline_bytes {
            let mut upload = Upload::new(&self.host, &self.meadow, &self.key)?;
            for bytes in std::mem::take(&mut state.waiting) {
                upload.append(bytes).await?;
            }
            state.upload = Some(upload);
        }
        Ok(chunk)
    }

    /// All partitions are in.
    pub(super) async fn finish(&self, partitions: Partitions) -> Result<Made> {
        let state = std::mem::take(&mut *self.state.lock().await);
        let apart = state.upload.is_some();
        if let Some(upload) = state.upload {
            upload.finish().await?;
        }
        Ok(Made {
            id: self.id,
            outcome: Outcome::Rows { apart, partitions },
            chunks: state.waiting,
            bytes: state.bytes,
            cells: None,
        })
    }
}

/// One partition on its way into the sink.
pub(super) struct PartitionWriter {
    sink: Arc<Sink>,
    schema: SchemaRef,
    chunk_bytes: usize,
    writer: Option<StreamWriter<Vec<u8>>>,
    chunks: Vec<Chunk>,
}

impl PartitionWriter {
    pub(super) fn new(sink: Arc<Sink>, schema: SchemaRef, chunk_bytes: usize) -> Self {
        Self {
            sink,
            schema,
            chunk_bytes,
            writer: None,
            chunks: Vec::new(),
        }
    }

    pub(super) async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let batch = compact(batch)?;
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => self
                .writer
                .insert(writer(&self.schema, self.sink.is_plain())?),
        };
        writer.write(&batch).map_err(unwritable)?;
        if writer.get_ref().len() >= self.chunk_bytes {
            self.flush().await?;
        }
        Ok(())
    }

    pub(super) async fn finish(mut self) -> Result<Vec<Chunk>> {
        self.flush().await?;
        Ok(self.chunks)
    }

    async fn flush(&mut self) -> Result<()> {
        if let Some(writer) = self.writer.take() {
            let bytes = writer.into_inner().map_err(unwritable)?;
            self.chunks.push(self.sink.push(Bytes::from(bytes)).await?);
        }
        Ok(())
    }
}

/// The batch without bytes that none of its rows has. A few rows of many, as a limit leaves them, still
/// hold the text of all, and it would be written with them.
fn compact(batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = batch
        .columns()
        .iter()
        .map(|column| match column.data_type() {
            DataType::Utf8View => compact_views(column.as_string_view()).unwrap_or(column.clone()),
            DataType::BinaryView => {
                compact_views(column.as_binary_view()).unwrap_or(column.clone())
            }
            _ => column.clone(),
        });
    // Rows without columns are rows too.
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns.collect(), &rows).map_err(unwritable)
}

/// `None` when most of what is held is in use.
fn compact_views<T: ByteViewType + ?Sized>(views: &GenericByteViewArray<T>) -> Option<ArrayRef> {
    let held: usize = views.data_buffers().iter().map(|buffer| buffer.len()).sum();
    let is_sparse = held > 2 * views.total_buffer_bytes_used();
    is_sparse.then(|| Arc::new(views.gc()) as ArrayRef)
}

fn writer(schema: &SchemaRef, is_plain: bool) -> Result<StreamWriter<Vec<u8>>> {
    let compression = (!is_plain).then_some(CompressionType::LZ4_FRAME);
    let options = IpcWriteOptions::default()
        .try_with_compression(compression)
        .map_err(unwritable)?;
    StreamWriter::try_new_with_options(Vec::new(), schema, options).map_err(unwritable)
}

fn unwritable(error: arrow::error::ArrowError) -> Error {
    datafusion::error::DataFusionError::from(error).into()
}

/// Commits an output, and gives it as it can be read; `None` when the task has one already, and what
/// this attempt uploaded is gone again. Cells are durable before an output names them, and then the
/// coordinator's. To be run to its end: of a create that is left alone nobody knows whose the cells are.
pub async fn commit_output(
    meadow: &Meadow,
    output: &Output,
    made: Option<Made>,
) -> Result<Option<Arc<StoredOutput>>> {
    let (chunks, cells) = made.map_or((Vec::new(), None), |made| (made.chunks, made.cells));
    let (body, data_at) = body(output, &chunks)?;
    let key = keys::query_output(output.query, output.key);
    let cells = cells.map_or(Vec::new(), Unnamed::hand_over);
    let named = cells.iter().map(Path::parse);
    let named = named
        .collect::<std::result::Result<Vec<Path>, _>>()
        .map_err(|error| Error::Bug(format!("a cell of an output: {error}")))?;
    let created = match apiary_protocol::planted!(OutputOverwritten) {
        true => meadow.put(&key, body.clone()).await.map(|()| Created::Ours),
        false => meadow.create_naming(&key, body.clone(), named).await,
    };
    let lost = !matches!(
        created,
        Ok(Created::Ours) | Err(Error::OutcomeUnknown { .. })
    );
    let apart = matches!(output.outcome, Outcome::Rows { apart: true, .. });
    if lost && apart {
        let data = keys::query_data(output.query, output.key, output.id);
        if let Err(error) = meadow.delete(&data).await {
            tracing::warn!(%error, "what a late attempt uploaded stays until the query's end");
        }
    }
    if lost && !cells.is_empty() {
        drop(meadow.discard(async {}, cells).await);
    }
    Ok(match created? {
        Created::Ours => {
            let head = body.slice(data_at..);
            let stored = StoredOutput::new(output.clone(), head, data_at as u64);
            Some(Arc::new(stored))
        }
        Created::Theirs(_) => None,
    })
}

/// An output's object, and where its chunks begin.
fn body(output: &Output, chunks: &[Bytes]) -> Result<(Bytes, usize)> {
    let envelope = output
        .to_bytes()
        .map_err(|error| Error::Bug(format!("an output: {error}")))?;
    let length = u32::try_from(envelope.len())
        .map_err(|_| Error::Bug("an output with an index of 4 GiB".into()))?;
    let data_bytes: usize = chunks.iter().map(Bytes::len).sum();
    let mut body = Vec::with_capacity(OUTPUT_HEADER_BYTES + envelope.len() + data_bytes);
    body.extend_from_slice(OUTPUT_MAGIC);
    body.extend_from_slice(&length.to_le_bytes());
    body.extend_from_slice(&envelope);
    chunks
        .iter()
        .for_each(|chunk| body.extend_from_slice(chunk));
    Ok((Bytes::from(body), OUTPUT_HEADER_BYTES + envelope.len()))
}

/// Leaves the record of a failed attempt.
pub async fn commit_failure(meadow: &Meadow, query: QueryId, failure: &Failure) -> Result<()> {
    let bytes = failure
        .to_bytes()
        .map_err(|error| Error::Bug(format!("a failure: {error}")))?;
    let key = keys::query_failure(query, failure.key, failure.attempt);
    meadow.create(&key, Bytes::from(bytes)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringViewArray};

    #[test]
    fn a_few_rows_of_many_are_written_without_the_text_of_the_others() {
        let text = |row: i64| format!("a text that is no part of its view {row}");
        let numbers = Int64Array::from_iter_values(0..10_000);
        let texts = StringViewArray::from_iter_values((0..10_000).map(text));
        let columns: [(_, ArrayRef); 2] = [("n", Arc::new(numbers)), ("t", Arc::new(texts))];
        let whole = RecordBatch::try_from_iter(columns).unwrap();
        let few = whole.slice(4_000, 3);
        let written = |batch: &RecordBatch| {
            let mut writer = writer(&batch.schema(), true).unwrap();
            writer.write(&compact(batch).unwrap()).unwrap();
            writer.into_inner().unwrap().len()
        };
        assert_eq!(compact(&few).unwrap(), few);
        assert!(written(&few) < 2_000, "{}", written(&few));
        // What is all in use is not copied.
        let kept = compact(&whole).unwrap();
        assert!(Arc::ptr_eq(kept.column(1), whole.column(1)));
        let none = RecordBatchOptions::new().with_row_count(Some(7));
        let none = RecordBatch::try_new_with_options(
            Arc::new(arrow::datatypes::Schema::empty()),
            vec![],
            &none,
        );
        assert_eq!(compact(&none.unwrap()).unwrap().num_rows(), 7);
    }
}
