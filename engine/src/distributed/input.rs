//! Reading stored outputs: index first, then what is wanted of the chunks, each checked.
//!
//! The first request for an output brings its index and, when it is small, all of it. What a task
//! reads of an output is fetched whole when that is little, and chunk by chunk otherwise; what is in
//! memory is reserved from the chamber's pool.

use crate::error::{Error, Result};
use crate::store::Meadow;
use apiary_protocol::ids::{AttemptId, NodeId, QueryId};
use apiary_protocol::keys;
use apiary_protocol::planted;
use apiary_protocol::query::{Chunk, Outcome, Output, TaskFacts, TaskKey};
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::root_as_message;
use bytes::Bytes;
use datafusion::common::DataFusionError;
use datafusion::common::utils::memory::get_record_batch_memory_size;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::TryStreamExt;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio_util::task::AbortOnDropHandle;

/// Begins an object under `outputs/`: this, the length of the envelope (four bytes, little-endian),
/// the envelope, the chunks.
pub(super) const OUTPUT_MAGIC: &[u8; 8] = b"APIARYO1";
pub(super) const OUTPUT_HEADER_BYTES: usize = 12;
/// How much of an output the first request asks for: an index, and all of a small one. At least, at
/// most, and where nothing is known of a store that is not on this machine.
pub(super) const FIRST_READ_BYTES_MIN: u64 = 256 << 10;
const FIRST_READ_BYTES_MAX: u64 = 4 << 20;
const FIRST_READ_BYTES: u64 = 1 << 20;
/// What comes while another request would be waited for: of a line of a gigabit.
const LINE_BYTES_PER_SECOND: f64 = 125e6;

/// How many bytes of an output are asked for first: as many as come in the time that a second request
/// takes, when that is known; no more than `most`, where that is enough for an index.
pub fn first_read_bytes(meadow: &Meadow, request: Option<Duration>, most: u64) -> u64 {
    let wanted = match request {
        _ if meadow.is_fast() => FIRST_READ_BYTES_MIN,
        None => FIRST_READ_BYTES,
        Some(request) => (request.as_secs_f64() * LINE_BYTES_PER_SECOND) as u64,
    };
    wanted
        .min(most)
        .clamp(FIRST_READ_BYTES_MIN, FIRST_READ_BYTES_MAX)
}

/// An output as far as it was read.
#[derive(Debug)]
pub struct StoredOutput {
    pub output: Output,
    key: String,
    /// The beginning of the chunks.
    head: Bytes,
    /// Where the chunks begin in their object.
    data_at: u64,
    data_key: String,
}

impl StoredOutput {
    /// `head` is the beginning of the chunks, which are at `data_at` of the output's object unless they
    /// are apart.
    pub(super) fn new(output: Output, head: Bytes, data_at: u64) -> Self {
        let key = keys::query_output(output.query, output.key);
        let apart = matches!(output.outcome, Outcome::Rows { apart: true, .. });
        let (data_key, data_at) = match apart {
            true => (keys::query_data(output.query, output.key, output.id), 0),
            false => (key.clone(), data_at),
        };
        Self {
            output,
            key,
            head,
            data_at,
            data_key,
        }
    }

    /// What a planted mistake takes for an output that is not there.
    fn nothing(query: QueryId, key: TaskKey) -> Self {
        let (node, id) = (
            NodeId::from_random([0; 16]),
            AttemptId::from_random([0; 16]),
        );
        let outcome = Outcome::Rows {
            apart: false,
            partitions: vec![Vec::new(); 64].into_iter().collect(),
        };
        let output = Output {
            query,
            key,
            node,
            bee: String::new(),
            attempt: 0,
            id,
            facts: TaskFacts::default(),
            outcome,
        };
        Self::new(output, Bytes::new(), 0)
    }

    /// Bytes that it holds in memory.
    pub fn held_bytes(&self) -> usize {
        self.head.len()
    }

    /// The index alone: its chunks are read again when they are wanted.
    pub fn without_data(&self) -> Self {
        Self {
            output: self.output.clone(),
            key: self.key.clone(),
            head: Bytes::new(),
            data_at: self.data_at,
            data_key: self.data_key.clone(),
        }
    }

    fn chunks(&self, partition: usize) -> Result<Vec<Chunk>> {
        match &self.output.outcome {
            Outcome::Failed(error) => Err(super::local_error(error)),
            Outcome::Cells(_) => Err(Error::corrupt(&self.key, "it is of cells and not of rows")),
            Outcome::Rows { partitions, .. } => match partitions.get(partition) {
                Some(chunks) => Ok(chunks.to_vec()),
                None => Err(Error::corrupt(
                    &self.key,
                    format!("it has {} partitions, not {partition}", partitions.count()),
                )),
            },
        }
    }
}

/// Reads the index of an output, with the `first` bytes of it; `None` when there is none yet. `Corrupt`
/// for anything else than an output of this task.
pub async fn read_output(
    meadow: &Meadow,
    query: QueryId,
    task: TaskKey,
    first: u64,
) -> Result<Option<Arc<StoredOutput>>> {
    let key = keys::query_output(query, task);
    let Some((mut bytes, size_bytes)) = meadow.get_start(&key, first).await? else {
        return Ok(None);
    };
    let corrupt = |reason: String| Error::corrupt(&key, reason);
    let length = envelope_bytes(&bytes).map_err(corrupt)?;
    let data_at = OUTPUT_HEADER_BYTES as u64 + length;
    if data_at > size_bytes {
        return Err(corrupt(format!(
            "its index ends at {data_at} of {size_bytes} bytes"
        )));
    }
    if (bytes.len() as u64) < data_at {
        bytes = meadow.get_range(&key, 0..data_at).await?;
    }
    let envelope = bytes.slice(OUTPUT_HEADER_BYTES..data_at as usize);
    let output = Output::from_bytes(&envelope).map_err(|error| corrupt(error.to_string()))?;
    if (output.query, output.key) != (query, task) && !planted!(OutputUnchecked) {
        return Err(corrupt(format!(
            "it is of task {:?} of query {}",
            output.key, output.query
        )));
    }
    let head = bytes.slice(data_at as usize..);
    let apart = matches!(output.outcome, Outcome::Rows { apart: true, .. });
    if !apart && size_bytes - data_at != output.data_bytes() {
        let (found, wanted) = (size_bytes - data_at, output.data_bytes());
        return Err(corrupt(format!("{found} bytes of chunks, not {wanted}")));
    }
    Ok(Some(Arc::new(StoredOutput::new(output, head, data_at))))
}

fn envelope_bytes(bytes: &[u8]) -> std::result::Result<u64, String> {
    let Some((header, _)) = bytes.split_first_chunk::<OUTPUT_HEADER_BYTES>() else {
        return Err(format!("torn after {} bytes", bytes.len()));
    };
    let Some(length) = header.strip_prefix(OUTPUT_MAGIC.as_slice()) else {
        return Err("it is not a task's output".into());
    };
    let length: [u8; 4] = length.try_into().map_err(|_| "its header is torn")?;
    Ok(u64::from(u32::from_le_bytes(length)))
}

/// The outputs that a plan reads: an extension of its session.
#[derive(Debug)]
pub struct Inputs {
    meadow: Meadow,
    query: QueryId,
    outputs: Mutex<BTreeMap<TaskKey, Arc<OnceCell<Arc<StoredOutput>>>>>,
    read_bytes: AtomicU64,
    requests: AtomicU64,
    /// More was read than came with the indexes.
    has_fetched: AtomicBool,
}

impl Inputs {
    /// With the outputs whose index was read already.
    pub fn new(
        meadow: &Meadow,
        query: QueryId,
        known: impl IntoIterator<Item = (TaskKey, Arc<StoredOutput>)>,
    ) -> Arc<Self> {
        let outputs = known
            .into_iter()
            .map(|(key, output)| (key, Arc::new(OnceCell::new_with(Some(output)))))
            .collect();
        Arc::new(Self {
            meadow: meadow.clone(),
            query,
            outputs: Mutex::new(outputs),
            read_bytes: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            has_fetched: AtomicBool::new(false),
        })
    }

    /// Bytes and requests that reading took.
    pub fn totals(&self) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.read_bytes), load(&self.requests))
    }

    /// Whether more was read than came with the indexes.
    pub fn has_fetched(&self) -> bool {
        self.has_fetched.load(Ordering::Relaxed)
    }

    pub(super) fn check_query(&self, query: QueryId) -> Result<()> {
        if query == self.query {
            return Ok(());
        }
        let reason = format!("it reads query {query} and belongs to {}", self.query);
        Err(Error::corrupt("a serialised plan", reason))
    }

    async fn output(&self, key: TaskKey) -> Result<Arc<StoredOutput>> {
        let cell = Arc::clone(self.outputs.lock().entry(key).or_default());
        let read = || async {
            self.count(0);
            let first = first_read_bytes(&self.meadow, None, u64::MAX);
            let mut found = read_output(&self.meadow, self.query, key, first).await?;
            if planted!(AbsentIsEmpty) && found.is_none() {
                found = Some(Arc::new(StoredOutput::nothing(self.query, key)));
            }
            let found = found.ok_or_else(|| {
                Error::corrupt(
                    keys::query_output(self.query, key),
                    "it is not there any more",
                )
            })?;
            let held = found.held_bytes() as u64;
            self.read_bytes.fetch_add(held, Ordering::Relaxed);
            Ok(found)
        };
        cell.get_or_try_init(read).await.cloned()
    }

    fn count(&self, bytes: u64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The rows of one stored partition. `held` grows and shrinks with what is in memory.
    pub(super) fn stream(
        self: &Arc<Self>,
        key: TaskKey,
        partition: usize,
        schema: SchemaRef,
        held: MemoryReservation,
    ) -> SendableRecordBatchStream {
        let inputs = Arc::clone(self);
        let wanted = Arc::clone(&schema);
        let rows = async move {
            let output = inputs.output(key).await?;
            let reader = PartitionReader {
                chunks: output.chunks(partition)?.into_iter(),
                inputs,
                output,
                schema: wanted,
                held,
                ahead: None,
            };
            let batches = futures::stream::try_unfold(reader, PartitionReader::next);
            Ok::<_, DataFusionError>(batches.try_flatten())
        };
        let rows = futures::stream::once(rows).try_flatten();
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }

    async fn chunk(&self, output: &StoredOutput, chunk: Chunk) -> Result<Bytes> {
        let end = chunk.offset + chunk.length;
        let bytes = if !output.head.is_empty() && end <= output.head.len() as u64 {
            output.head.slice(chunk.offset as usize..end as usize)
        } else {
            self.count(chunk.length);
            self.has_fetched.store(true, Ordering::Relaxed);
            let range = output.data_at + chunk.offset..output.data_at + end;
            self.meadow.get_range(&output.data_key, range).await?
        };
        let crc32 = crc32fast::hash(&bytes);
        if crc32 != chunk.crc32 && !planted!(ChunkUnchecked) {
            let reason = format!(
                "the checksum of bytes {}..{end} is {crc32:08x}, not {:08x}",
                chunk.offset, chunk.crc32
            );
            return Err(Error::corrupt(&output.data_key, reason));
        }
        Ok(bytes)
    }
}

/// The chunks of one stored partition, one after the other.
struct PartitionReader {
    inputs: Arc<Inputs>,
    output: Arc<StoredOutput>,
    chunks: std::vec::IntoIter<Chunk>,
    schema: SchemaRef,
    held: MemoryReservation,
    /// The next chunk, on its way while the rows of the one before are worked on.
    ahead: Option<Ahead>,
}

struct Ahead {
    length: usize,
    read: AbortOnDropHandle<Result<Bytes>>,
}

type Batches = futures::stream::Iter<std::vec::IntoIter<datafusion::common::Result<RecordBatch>>>;

impl PartitionReader {
    async fn next(mut self) -> datafusion::common::Result<Option<(Batches, Self)>> {
        let (length, bytes) = match self.ahead.take() {
            Some(Ahead { length, read }) => {
                let read = read.await.map_err(|error| match error.is_cancelled() {
                    true => Error::Cancelled,
                    false => Error::Bug(format!("reading a part of an output: {error}")),
                });
                (length, read??)
            }
            None => {
                let Some(chunk) = self.chunks.next() else {
                    return Ok(None);
                };
                let length = in_memory(chunk);
                self.held.try_resize(length)?;
                (length, self.inputs.chunk(&self.output, chunk).await?)
            }
        };
        let batches = decode(&self.output.key, &bytes, &self.schema)?;
        drop(bytes);
        let decoded: usize = batches.iter().map(get_record_batch_memory_size).sum();
        self.held.try_resize(length.max(decoded))?;
        self.read_ahead();
        let batches: Vec<_> = batches.into_iter().map(Ok).collect();
        Ok(Some((futures::stream::iter(batches), self)))
    }

    /// Begins to read the next chunk, when there is memory for it beside what is held.
    fn read_ahead(&mut self) {
        let Some(chunk) = self.chunks.as_slice().first().copied() else {
            return;
        };
        let length = in_memory(chunk);
        if self.held.try_grow(length).is_err() {
            return;
        }
        self.chunks.next();
        let (inputs, output) = (Arc::clone(&self.inputs), Arc::clone(&self.output));
        let read = tokio::spawn(async move { inputs.chunk(&output, chunk).await });
        let read = AbortOnDropHandle::new(read);
        self.ahead = Some(Ahead { length, read });
    }
}

fn in_memory(chunk: Chunk) -> usize {
    usize::try_from(chunk.length).unwrap_or(usize::MAX)
}

/// The batches of a chunk; each chunk is an IPC stream of its own.
///
/// Each message is copied out of the chunk: where nothing is compressed, arrays are slices of what they
/// were read from, and one that is kept, a few rows, would keep the whole chunk.
fn decode(key: &str, bytes: &[u8], schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
    let corrupt = |error: arrow::error::ArrowError| Error::corrupt(key, error);
    let mut decoder = StreamDecoder::new();
    let mut batches = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let length = message_bytes(rest).map_err(|reason| Error::corrupt(key, reason))?;
        let (message, after) = rest.split_at(length);
        rest = after;
        let mut buffer = Buffer::from_slice_ref(message);
        while !buffer.is_empty() {
            if let Some(batch) = decoder.decode(&mut buffer).map_err(corrupt)? {
                // Metadata of fields may differ from the plan's; types may not. Rows without columns
                // are rows too: a join may need no more than their number.
                let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                let columns = batch.columns().to_vec();
                let batch = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &rows);
                batches.push(batch.map_err(corrupt)?);
            }
        }
    }
    decoder.finish().map_err(corrupt)?;
    Ok(batches)
}

/// How long the first message of a stream is: continuation marker, length of the metadata, metadata,
/// body; the last has no metadata.
fn message_bytes(bytes: &[u8]) -> std::result::Result<usize, String> {
    const PREFIX_BYTES: usize = 8;
    const CONTINUATION: [u8; 4] = [0xff; 4];
    let torn = || format!("a message is torn after {} bytes", bytes.len());
    let (prefix, rest) = bytes.split_first_chunk::<PREFIX_BYTES>().ok_or_else(torn)?;
    let [c0, c1, c2, c3, l0, l1, l2, l3] = *prefix;
    if [c0, c1, c2, c3] != CONTINUATION {
        return Err("a message has no beginning".into());
    }
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length == 0 {
        return Ok(PREFIX_BYTES);
    }
    let metadata = rest.get(..length).ok_or_else(torn)?;
    let message = root_as_message(metadata).map_err(|error| error.to_string())?;
    let body = usize::try_from(message.bodyLength()).map_err(|error| error.to_string())?;
    let after = rest.len() - length;
    match body <= after {
        true => Ok(PREFIX_BYTES + length + body),
        false => Err(torn()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An output as if it had been read.
    pub(in super::super) fn stored(output: Output) -> Arc<StoredOutput> {
        Arc::new(StoredOutput::new(output, Bytes::new(), 0))
    }
}
