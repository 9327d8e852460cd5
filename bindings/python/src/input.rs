//! What can be written, as batches that the calling thread brings.
//!
//! Generators and readers run on the thread that writes: they may use what belongs to it, see its
//! Ctrl-C, and raise what they like. Rows go to the node through a short channel, so a source runs
//! ahead by a few batches and memory stays bounded.

use crate::errors;
use crate::types::plain;
use crate::wait::{Call, PAUSE, Watch};
use apiary::arrow::array::{RecordBatch, RecordBatchReader};
use apiary::arrow::compute::cast;
use apiary::arrow::datatypes::SchemaRef;
use apiary::arrow::error::ArrowError;
use apiary::arrow::ipc::reader::{FileReader, StreamReader};
use apiary::{Apiary, Error, InputError};
use futures::{Stream, stream};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyIterator;
use pyo3_arrow::input::AnyRecordBatch;
use std::io::Cursor;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

/// Batches that wait for the node.
const BATCHES_AHEAD: usize = 2;
/// A batch of more rows is handed on in parts of so many, which share its memory.
const ROWS_MAX: usize = 64 * 1024;
/// The first bytes of an Arrow IPC file; a stream begins otherwise.
const ARROW_FILE_MAGIC: &[u8] = b"ARROW1";

type Reader = Box<dyn RecordBatchReader + Send>;
type Sent = Result<RecordBatch, InputError>;

/// Rows of a Python object.
pub struct Source {
    batches: Batches,
    /// A batch that is being handed on in parts, and how many of its rows were.
    cut: Option<(RecordBatch, usize)>,
    schema: Option<SchemaRef>,
    has_given: bool,
}

enum Batches {
    Reader(Reader),
    /// Of objects that can be read, and the one that is.
    Iterator(Py<PyIterator>, Option<Reader>),
}

impl Source {
    /// # Errors
    /// An `InvalidInputError` that names the type, for what holds no rows.
    pub fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let batches = if is_arrow(object)? {
            Batches::Reader(reader(object)?)
        } else if let Ok(bytes) = object.extract::<PyBackedBytes>() {
            Batches::Reader(ipc(object.py(), bytes)?)
        } else if let Ok(iterator) = object.try_iter() {
            Batches::Iterator(iterator.unbind(), None)
        } else {
            return Err(not_rows(object));
        };
        let schema = match &batches {
            Batches::Reader(reader) => Some(reader.schema()),
            Batches::Iterator(..) => None,
        };
        Ok(Self {
            batches,
            cut: None,
            schema,
            has_given: false,
        })
    }

    fn next(&mut self, py: Python<'_>) -> PyResult<Option<RecordBatch>> {
        loop {
            if let Some((batch, done)) = self.cut.take() {
                let rows = (batch.num_rows() - done).min(ROWS_MAX);
                let part = batch.slice(done, rows);
                if done + rows < batch.num_rows() {
                    self.cut = Some((batch, done + rows));
                }
                return Ok(Some(part));
            }
            match self.batches.next(py)?.map(|batch| self.alike(batch)) {
                Some(batch) if batch.num_rows() > ROWS_MAX => self.cut = Some((batch, 0)),
                Some(batch) => return Ok(Some(batch)),
                None => return Ok(None),
            }
        }
    }

    /// A batch whose texts are of the same kind as those of the first one: objects of several libraries may
    /// follow each other. Whatever else differs is the node's to refuse.
    fn alike(&mut self, batch: RecordBatch) -> RecordBatch {
        let first = self.schema.get_or_insert_with(|| batch.schema());
        if batch.schema_ref().fields() == first.fields()
            || plain(batch.schema_ref()).fields() != plain(first).fields()
        {
            return batch;
        }
        let columns = batch.columns().iter().zip(first.fields());
        let columns = columns.map(|(column, field)| cast(column, field.data_type()));
        let columns = columns.collect::<Result<Vec<_>, _>>();
        columns
            .and_then(|columns| RecordBatch::try_new(first.clone(), columns))
            .unwrap_or(batch)
    }

    /// The next batch; for a source without any an empty one first, so that its columns are judged.
    fn next_or_empty(&mut self, py: Python<'_>) -> PyResult<Option<RecordBatch>> {
        let next = self.next(py)?;
        let first = !std::mem::replace(&mut self.has_given, true);
        match (&next, &self.schema) {
            (None, Some(schema)) if first => Ok(Some(RecordBatch::new_empty(schema.clone()))),
            _ => Ok(next),
        }
    }
}

impl Batches {
    fn next(&mut self, py: Python<'_>) -> PyResult<Option<RecordBatch>> {
        match self {
            Self::Reader(reader) => read(py, reader),
            Self::Iterator(iterator, current) => loop {
                if let Some(reader) = current {
                    match read(py, reader)? {
                        Some(batch) => return Ok(Some(batch)),
                        None => *current = None,
                    }
                }
                match iterator.bind(py).clone().next() {
                    None => return Ok(None),
                    Some(item) => {
                        let item = item?;
                        if !is_arrow(&item)? {
                            return Err(not_rows(&item));
                        }
                        *current = Some(reader(&item)?);
                    }
                }
            },
        }
    }
}

fn is_arrow(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(object.hasattr("__arrow_c_stream__")? || object.hasattr("__arrow_c_array__")?)
}

fn reader(object: &Bound<'_, PyAny>) -> PyResult<Reader> {
    let extracted = object
        .extract::<AnyRecordBatch>()
        .and_then(AnyRecordBatch::into_reader);
    extracted.map_err(|error| unreadable(object.py(), error))
}

fn read(py: Python<'_>, reader: &mut Reader) -> PyResult<Option<RecordBatch>> {
    let next = py.detach(|| reader.next()).transpose();
    next.map_err(|error| input_error(py, &error.to_string()))
}

fn ipc(py: Python<'_>, bytes: PyBackedBytes) -> PyResult<Reader> {
    let is_file = bytes.starts_with(ARROW_FILE_MAGIC);
    let read = Cursor::new(bytes);
    let reader: Result<Reader, ArrowError> = if is_file {
        FileReader::try_new(read, None).map(|reader| Box::new(reader) as Reader)
    } else {
        StreamReader::try_new(read, None).map(|reader| Box::new(reader) as Reader)
    };
    reader.map_err(|error| input_error(py, &format!("not an Arrow IPC stream: {error}")))
}

fn input_error(py: Python<'_>, reason: &str) -> PyErr {
    let message = format!("the input cannot be read: {reason}");
    errors::new(py, "InvalidInputError", message)
}

/// What another library refused becomes one of ours, with its error as the cause; a Ctrl-C stays one.
fn unreadable(py: Python<'_>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<pyo3::exceptions::PyException>(py) {
        return error;
    }
    let raised = input_error(py, &error.value(py).to_string());
    raised.set_cause(py, Some(error));
    raised
}

fn not_rows(object: &Bound<'_, PyAny>) -> PyErr {
    let kind = object.get_type();
    let kind = kind
        .name()
        .map_or_else(|_| "?".into(), |name| name.to_string());
    let message = format!(
        "a {kind} holds no rows: give a table or batches with the Arrow C stream or array interface \
         (pyarrow, Polars, pandas, DuckDB), Arrow IPC bytes, or the path of a file"
    );
    errors::new(object.py(), "InvalidInputError", message)
}

/// The channel to the node. A stream that ends without its last word was given up, and is an error:
/// otherwise half of the rows would be committed.
enum Item {
    Batch(Sent),
    End,
}

pub struct Sender {
    items: mpsc::Sender<Item>,
}

/// Both ends: ours, and the stream that a write takes.
pub fn channel() -> (Sender, impl Stream<Item = Sent> + Send + 'static) {
    let (items, receiver) = mpsc::channel(BATCHES_AHEAD);
    let rows = stream::unfold(
        Some(receiver),
        |receiver: Option<mpsc::Receiver<Item>>| async {
            let mut receiver = receiver?;
            match receiver.recv().await {
                Some(Item::Batch(batch)) => Some((batch, Some(receiver))),
                Some(Item::End) => None,
                None => Some((Err(Error::Cancelled.into()), None)),
            }
        },
    );
    (Sender { items }, rows)
}

impl Sender {
    /// Brings all rows of a source, as fast as they are taken. Returns early when nobody takes them any
    /// more: the write has ended, and its outcome says why.
    ///
    /// # Errors
    /// What the source raised, or a signal. Then the write gets an error, too.
    pub fn bring(
        self,
        py: Python<'_>,
        apiary: &Apiary,
        watch: &Watch,
        source: &mut Source,
    ) -> PyResult<()> {
        let _call = Call::begin();
        loop {
            if watch.cancel.is_cancelled() {
                return Err(errors::raised(py, Error::Cancelled));
            }
            let item = match source.next_or_empty(py)? {
                Some(batch) => Item::Batch(Ok(batch)),
                None => Item::End,
            };
            let rows = match &item {
                Item::Batch(Ok(batch)) => Some(batch.num_rows() as u64),
                _ => None,
            };
            if !self.send(py, apiary, watch, item)? {
                return Ok(());
            }
            match rows {
                Some(rows) => watch.progress.rows_done.fetch_add(rows, Ordering::Relaxed),
                None => return Ok(()),
            };
        }
    }

    /// False when nobody takes it.
    fn send(&self, py: Python<'_>, apiary: &Apiary, watch: &Watch, item: Item) -> PyResult<bool> {
        loop {
            let reserved = py.detach(|| {
                apiary.block_on(async {
                    tokio::time::timeout(PAUSE, self.items.reserve()).await.ok()
                })
            });
            match reserved {
                Some(Ok(place)) => {
                    place.send(item);
                    return Ok(true);
                }
                Some(Err(_)) => return Ok(false),
                None => watch.look(py)?,
            }
        }
    }
}
