//! Results that run ahead of their client: a bounded buffer in memory, then scratch.
//!
//! The crew writes, the client reads, and the crew never waits: what does not fit goes to the
//! chamber's scratch as Arrow IPC, and is read back in order. What waits has the types that the client
//! wants: a crew that is slowed by changing them is not so far ahead. Rows become visible when the plan has
//! ended or the buffer is full, so that most attempts can fail and be repeated unseen.
//!
//! Invariants: batches come out in the order they went in, each once; a reader sees the end of an
//! attempt's rows or an error, never a silent stop; nothing is restarted once a row was delivered.

use apiary_engine::error::{Error, Result};
use arrow::array::ArrayRef;
use arrow::buffer::Buffer;
use arrow::compute::cast;
use arrow::datatypes::{FieldRef, SchemaRef};
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::execution::disk_manager::DiskManager;
use datafusion::execution::{SpillFile, SpillWriter};
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio_util::task::AbortOnDropHandle;

/// Decoded batches of a spilled segment that wait for the client.
const READ_BACK_BATCHES: usize = 2;

/// Bytes that all answers of a node hold in memory together.
#[derive(Debug)]
pub(crate) struct ResultsBudget {
    held_bytes: AtomicU64,
    bytes_max: u64,
}

impl ResultsBudget {
    pub(crate) fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            held_bytes: AtomicU64::new(0),
            bytes_max,
        })
    }

    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Relaxed)
    }

    fn try_hold(self: &Arc<Self>, bytes: u64) -> Option<HeldBytes> {
        if self.held_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > self.bytes_max {
            self.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        Some(HeldBytes {
            budget: self.clone(),
            bytes,
        })
    }
}

struct HeldBytes {
    budget: Arc<ResultsBudget>,
    bytes: u64,
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.budget
            .held_bytes
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

enum Segment {
    Batch(RecordBatch, HeldBytes),
    Spilled(
        Arc<dyn SpillFile>,
        Option<StreamWriter<Box<dyn SpillWriter>>>,
    ),
}

#[derive(Default)]
struct State {
    segments: VecDeque<Segment>,
    memory_bytes: u64,
    /// The buffer was full once: rows may be delivered before the plan has ended.
    visible: bool,
    delivered: bool,
    reader_gone: bool,
    /// The attempt whose rows are taken; what an earlier one still brings is refused.
    generation: u64,
    end: Option<Result<()>>,
}

struct Shared {
    schema: SchemaRef,
    budget: Arc<ResultsBudget>,
    bytes_max: u64,
    state: Mutex<State>,
    changed: Notify,
}

/// The crew's end. The last one to go without [`Writer::finish`] leaves an error for the reader.
#[derive(Clone)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    generation: u64,
    _last: Arc<LastWriter>,
}

struct LastWriter(Arc<Shared>);

/// The client's end. Dropping it drops all that waits.
pub(crate) struct Reader {
    shared: Arc<Shared>,
}

/// The batch with the types of these columns.
fn presented(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let has_type =
        |(column, field): (&ArrayRef, &FieldRef)| column.data_type() == field.data_type();
    if batch.columns().iter().zip(schema.fields()).all(has_type) {
        return Ok(batch);
    }
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| cast(column, field.data_type()));
    let columns = columns.collect::<std::result::Result<_, _>>();
    columns
        .and_then(|columns| RecordBatch::try_new(schema.clone(), columns))
        .map_err(|error| DataFusionError::from(error).into())
}

/// A result of `schema` that holds at most `bytes_max` in memory, within the node's `budget`.
pub(crate) fn run_ahead(
    schema: SchemaRef,
    bytes_max: u64,
    budget: Arc<ResultsBudget>,
) -> (Writer, Reader) {
    let state = Mutex::new(State::default());
    let shared = Arc::new(Shared {
        schema,
        budget,
        bytes_max,
        state,
        changed: Notify::new(),
    });
    let last = Arc::new(LastWriter(shared.clone()));
    (
        Writer {
            shared: shared.clone(),
            generation: 0,
            _last: last,
        },
        Reader { shared },
    )
}

impl Writer {
    /// Takes a batch, into memory or into a file of `scratch`. Never waits for the reader. `Cancelled`
    /// when nobody wants it: the reader has gone, or the answer was restarted since.
    pub(crate) fn push(&self, batch: RecordBatch, scratch: &Arc<DiskManager>) -> Result<()> {
        let shared = &self.shared;
        let batch = presented(batch, &shared.schema)?;
        let mut state = shared.state.lock();
        if state.reader_gone || state.generation != self.generation {
            return Err(Error::Cancelled);
        }
        let bytes = batch.get_array_memory_size() as u64;
        if let Some(Segment::Spilled(_, Some(writer))) = state.segments.back_mut() {
            writer.write(&batch).map_err(spill_error)?;
        } else if let Some(held) = shared.try_hold(state.memory_bytes, bytes) {
            state.memory_bytes += bytes;
            state.segments.push_back(Segment::Batch(batch, held));
        } else {
            let file = scratch.create_tmp_file("results that run ahead of the client")?;
            let mut writer =
                StreamWriter::try_new(file.open_writer()?, &shared.schema).map_err(spill_error)?;
            writer.write(&batch).map_err(spill_error)?;
            state
                .segments
                .push_back(Segment::Spilled(file, Some(writer)));
            state.visible = true;
        }
        if state.visible {
            shared.changed.notify_one();
        }
        Ok(())
    }

    /// Forgets an attempt's rows and gives the writer of the next attempt: a task that is lost may
    /// still be running and bring more. `None` when rows were delivered already.
    pub(crate) fn restart(&self) -> Option<Self> {
        let mut state = self.shared.state.lock();
        if state.delivered {
            return None;
        }
        state.segments.clear();
        state.memory_bytes = 0;
        state.visible = false;
        state.generation += 1;
        Some(Self {
            generation: state.generation,
            ..self.clone()
        })
    }

    /// All rows are in, or no more will come. The first call counts.
    pub(crate) fn finish(&self, end: Result<()>) {
        self.shared.finish(end);
    }
}

impl Drop for LastWriter {
    fn drop(&mut self) {
        self.0.finish(Err(Error::Busy {
            what: "the query ended without an answer, because its crew was lost".into(),
            retry_after: Duration::from_millis(100),
        }));
    }
}

impl Shared {
    fn try_hold(&self, memory_bytes: u64, bytes: u64) -> Option<HeldBytes> {
        if memory_bytes + bytes > self.bytes_max {
            return None;
        }
        self.budget.try_hold(bytes)
    }

    fn finish(&self, end: Result<()>) {
        let mut state = self.state.lock();
        if state.end.is_some() {
            return;
        }
        if end.is_err() && !state.delivered {
            state.segments.clear();
        }
        state.end = Some(end);
        state.visible = true;
        self.changed.notify_one();
    }

    /// The next thing for the reader, or nothing yet.
    fn take(&self) -> Option<Taken> {
        let mut state = self.state.lock();
        if !state.visible {
            return None;
        }
        match state.segments.pop_front() {
            Some(Segment::Batch(batch, held)) => {
                state.memory_bytes -= held.bytes;
                state.delivered = true;
                Some(Taken::Batch(batch))
            }
            Some(Segment::Spilled(file, writer)) => {
                state.delivered = true;
                // The writer starts anew behind it: memory first.
                let sealed = match writer {
                    Some(mut writer) => writer.finish().map_err(spill_error),
                    None => Ok(()),
                };
                Some(sealed.map_or_else(Taken::Failed, |()| Taken::File(file)))
            }
            None => match state.end.as_mut()? {
                Ok(()) => Some(Taken::End),
                end => match std::mem::replace(end, Ok(())) {
                    Err(error) => Some(Taken::Failed(error)),
                    Ok(()) => Some(Taken::End),
                },
            },
        }
    }
}

enum Taken {
    Batch(RecordBatch),
    File(Arc<dyn SpillFile>),
    Failed(Error),
    End,
}

fn spill_error(error: arrow::error::ArrowError) -> Error {
    DataFusionError::from(error).into()
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.reader_gone = true;
        state.segments.clear();
    }
}

type ReadBack = (mpsc::Receiver<Result<RecordBatch>>, AbortOnDropHandle<()>);

impl Reader {
    /// The rows as a stream. `runtime` reads spilled segments back, so any executor may poll.
    /// `guard` lives as long as the stream does.
    pub(crate) fn into_stream<G: Send + 'static>(
        self,
        runtime: Handle,
        guard: G,
    ) -> BoxStream<'static, Result<RecordBatch>> {
        let start = (self, runtime, guard, None::<ReadBack>, false);
        futures::stream::unfold(
            start,
            |(reader, runtime, guard, mut file, ended)| async move {
                if ended {
                    return None;
                }
                loop {
                    if let Some((batches, _)) = &mut file {
                        if let Some(batch) = batches.recv().await {
                            let failed = batch.is_err();
                            return Some((batch, (reader, runtime, guard, file, failed)));
                        }
                        file = None;
                    }
                    match reader.shared.take() {
                        Some(Taken::Batch(batch)) => {
                            return Some((Ok(batch), (reader, runtime, guard, file, false)));
                        }
                        Some(Taken::File(spilled)) => file = Some(read_back(spilled, &runtime)),
                        Some(Taken::Failed(error)) => {
                            return Some((Err(error), (reader, runtime, guard, file, true)));
                        }
                        Some(Taken::End) => return None,
                        // A notification that fell between is kept: there is one reader.
                        None => reader.shared.changed.notified().await,
                    }
                }
            },
        )
        .boxed()
    }
}

fn read_back(file: Arc<dyn SpillFile>, runtime: &Handle) -> ReadBack {
    let (sender, receiver) = mpsc::channel(READ_BACK_BATCHES);
    let task = runtime.spawn(async move {
        if let Err(error) = decode(file, &sender).await {
            let _ = sender.send(Err(error)).await;
        }
    });
    (receiver, AbortOnDropHandle::new(task))
}

async fn decode(
    file: Arc<dyn SpillFile>,
    sender: &mpsc::Sender<Result<RecordBatch>>,
) -> Result<()> {
    let mut bytes = file.read_stream()?;
    let mut decoder = StreamDecoder::new();
    while let Some(chunk) = bytes.next().await {
        let mut buffer = Buffer::from(chunk?);
        while !buffer.is_empty() {
            if let Some(batch) = decoder.decode(&mut buffer).map_err(spill_error)?
                && sender.send(Ok(batch)).await.is_err()
            {
                return Ok(());
            }
        }
    }
    decoder.finish().map_err(spill_error)
}
