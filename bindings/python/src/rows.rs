//! The rows of a statement: a stream that is read once, or all of them.
//!
//! A result begins as a stream. Whoever asks for all rows (their number, a table, bytes) makes it
//! whole, and from then on it can be read again and again. Strings and bytes are given as the plain
//! types that every Arrow library computes with.

use crate::errors;
use crate::fork::Own;
use crate::pages::Pages;
use crate::types::plain;
use crate::wait::{PAUSE, Watch, droppable};
use apiary::arrow::array::{RecordBatch, RecordBatchReader};
use apiary::arrow::buffer::Buffer;
use apiary::arrow::compute::cast;
use apiary::arrow::datatypes::SchemaRef;
use apiary::arrow::error::ArrowError;
use apiary::arrow::ipc::reader::StreamDecoder;
use apiary::arrow::ipc::writer::StreamWriter;
use apiary::{Answer, Apiary, Error};
use apiary_node::give_back;
use futures::{StreamExt, TryStreamExt};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3_arrow::{PyRecordBatch, PyRecordBatchReader, PySchema};
use std::ffi::c_int;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Copied bytes after which freed memory is looked at.
const GIVEN_BACK_BYTES: usize = 32 << 20;

/// The rows of a statement. Made by [`Node`](crate::node::Node); a subclass takes them over.
#[pyclass(subclass, frozen, module = "apiary._apiary")]
pub struct Rows {
    inner: Mutex<Option<Own<Inner>>>,
    /// All rows as an Arrow IPC stream, once somebody asked for them. Views look into it, so it stays
    /// as long as the object does.
    ipc: OnceLock<Buffer>,
}

struct Inner {
    apiary: Apiary,
    watch: Watch,
    schema: SchemaRef,
    state: State,
}

enum State {
    Streaming(Box<Answer>),
    Whole {
        batches: Arc<Vec<RecordBatch>>,
        /// The batch that is taken next.
        next: usize,
    },
    /// Given away, or ended as a stream.
    Taken,
}

impl Rows {
    pub fn new(apiary: Apiary, watch: Watch, answer: Answer) -> Self {
        let schema = plain(answer.schema());
        let inner = Inner {
            apiary,
            watch,
            schema,
            state: State::Streaming(Box::new(answer)),
        };
        Self::of(Some(Own::new(inner)))
    }

    fn of(inner: Option<Own<Inner>>) -> Self {
        Self {
            inner: Mutex::new(inner),
            ipc: OnceLock::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Own<Inner>>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is inside while it is worked on: a lock that is held while the GIL is asked for would
    /// be waited for with the GIL.
    fn with<T>(&self, py: Python<'_>, work: impl FnOnce(&mut Inner) -> PyResult<T>) -> PyResult<T> {
        let taken = self.lock().take().ok_or_else(|| {
            let message =
                "another thread is reading this result; give each thread a result of its own";
            errors::new(py, "InterfaceError", message.into())
        })?;
        let mut inner = match taken.take(py) {
            Ok(inner) => inner,
            Err((taken, error)) => {
                *self.lock() = Some(taken);
                return Err(error);
            }
        };
        let outcome = work(&mut inner);
        *self.lock() = Some(Own::new(inner));
        outcome
    }
}

impl Inner {
    /// Makes the result whole.
    fn whole(&mut self, py: Python<'_>) -> PyResult<Arc<Vec<RecordBatch>>> {
        match std::mem::replace(&mut self.state, State::Taken) {
            State::Whole { batches, next } => {
                let given = batches.clone();
                self.state = State::Whole { batches, next };
                Ok(given)
            }
            State::Taken => Err(taken(py)),
            State::Streaming(answer) => {
                let schema = self.schema.clone();
                let collected = answer.map(move |batch| converted(&batch?, &schema));
                let collected = collected.try_collect::<Vec<_>>();
                let batches = droppable(py, &self.apiary, &self.watch, collected)?;
                let batches = Arc::new(batches.map_err(|error| errors::raised(py, error))?);
                self.state = State::Whole {
                    batches: batches.clone(),
                    next: 0,
                };
                Ok(batches)
            }
        }
    }

    fn next(&mut self, py: Python<'_>) -> PyResult<Option<RecordBatch>> {
        match &mut self.state {
            State::Taken => Ok(None),
            State::Whole { batches, next } => {
                let batch = batches.get(*next).cloned();
                *next += usize::from(batch.is_some());
                Ok(batch)
            }
            State::Streaming(answer) => {
                let batch = droppable(py, &self.apiary, &self.watch, answer.next());
                match batch {
                    Ok(Some(Ok(batch))) => {
                        let batch = py.detach(|| converted(&batch, &self.schema));
                        batch.map(Some).map_err(|error| errors::raised(py, error))
                    }
                    Ok(None) => {
                        self.state = State::Taken;
                        Ok(None)
                    }
                    Ok(Some(Err(error))) => {
                        self.state = State::Taken;
                        Err(errors::raised(py, error))
                    }
                    Err(interrupt) => {
                        self.state = State::Taken;
                        Err(interrupt)
                    }
                }
            }
        }
    }

    fn reader(&mut self, py: Python<'_>) -> PyResult<Reader> {
        let rows = match &mut self.state {
            State::Taken => return Err(taken(py)),
            State::Whole { batches, .. } => Readable::Batches(batches.clone(), 0),
            State::Streaming(_) => match std::mem::replace(&mut self.state, State::Taken) {
                State::Streaming(answer) => Readable::Answer(answer),
                _ => return Err(taken(py)),
            },
        };
        let (apiary, schema) = (self.apiary.clone(), self.schema.clone());
        Ok(Reader {
            schema: schema.clone(),
            rows: Own::new((apiary, rows)),
        })
    }

    /// All rows as an Arrow IPC stream. The batches are parts of its memory afterwards, so that nothing
    /// is held twice.
    fn ipc(&mut self, py: Python<'_>) -> PyResult<Buffer> {
        let mut reader = self.reader(py)?;
        let apiary = self.apiary.clone();
        let encoded = py.detach(|| {
            let mut writer = StreamWriter::try_new(Pages::new()?, &reader.schema)?;
            let mut copied_bytes = 0;
            while let Some(batch) = reader.next().transpose()? {
                writer.write(&batch)?;
                copied_bytes += batch.get_array_memory_size();
                drop(batch);
                if copied_bytes > GIVEN_BACK_BYTES {
                    copied_bytes = 0;
                    give_back_at_rest(&apiary)
                        .map_err(|error| ArrowError::ExternalError(error.into()))?;
                }
            }
            let buffer = writer.into_inner()?.into_buffer();
            let batches = decoded(buffer.clone())?;
            Ok::<_, ArrowError>((buffer, batches))
        });
        let (buffer, batches) = encoded.map_err(|error| of_arrow(py, error))?;
        self.state = State::Whole {
            batches: Arc::new(batches),
            next: 0,
        };
        Ok(buffer)
    }
}

/// Batches wait while they are copied, as many as the query is ahead. Once it has ended nobody needs the
/// memory that they leave, and it would stay for a while beside the copy.
fn give_back_at_rest(apiary: &Apiary) -> apiary::Result<()> {
    apiary.block_on(async {
        let status = apiary.status().await?;
        if status.bees.iter().all(|bee| bee.state == "idle") {
            apiary.on_each_thread(give_back).await;
            give_back();
        }
        Ok(())
    })
}

fn taken(py: Python<'_>) -> PyErr {
    let message = "the rows of this result were taken as a stream and are gone; ask for all of them \
                   first (collect(), len() or a table), or run the statement again";
    errors::new(py, "InterfaceError", message.into())
}

/// One of ours inside an Arrow error, or the Arrow error.
fn of_arrow(py: Python<'_>, error: ArrowError) -> PyErr {
    let error = match error {
        ArrowError::ExternalError(source) => match source.downcast::<Error>() {
            Ok(ours) => return errors::raised(py, *ours),
            Err(source) => match source.downcast::<PyErr>() {
                Ok(theirs) => return *theirs,
                Err(source) => ArrowError::ExternalError(source),
            },
        },
        other => other,
    };
    errors::new(py, "InternalError", error.to_string())
}

fn decoded(mut buffer: Buffer) -> Result<Vec<RecordBatch>, ArrowError> {
    let mut decoder = StreamDecoder::new();
    let mut batches = Vec::new();
    while !buffer.is_empty() {
        batches.extend(decoder.decode(&mut buffer)?);
    }
    decoder.finish()?;
    Ok(batches)
}

/// A batch with the types that we give.
fn converted(batch: &RecordBatch, schema: &SchemaRef) -> apiary::Result<RecordBatch> {
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(
        |(column, field)| match column.data_type() == field.data_type() {
            true => Ok(column.clone()),
            false => cast(column, field.data_type()),
        },
    );
    let columns = columns.collect::<Result<Vec<_>, _>>();
    let options =
        apiary::arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    columns
        .and_then(|columns| RecordBatch::try_new_with_options(schema.clone(), columns, &options))
        .map_err(|error| Error::Bug(format!("the rows of a result: {error}")))
}

/// The rows for somebody who reads batch after batch, from any thread and with or without the GIL.
struct Reader {
    schema: SchemaRef,
    rows: Own<(Apiary, Readable)>,
}

enum Readable {
    Answer(Box<Answer>),
    Batches(Arc<Vec<RecordBatch>>, usize),
}

impl RecordBatchReader for Reader {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

impl Iterator for Reader {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let external = |error: Box<dyn std::error::Error + Send + Sync>| {
            Some(Err(ArrowError::ExternalError(error)))
        };
        let (apiary, rows) = match self.rows.get_mut() {
            Ok(rows) => rows,
            Err(message) => return external(message.into()),
        };
        let answer = match rows {
            Readable::Batches(batches, next) => {
                let batch = batches.get(*next).cloned();
                *next += 1;
                return batch.map(Ok);
            }
            Readable::Answer(answer) => answer,
        };
        loop {
            // Made inside, because a timer wants a runtime around it.
            let waited =
                apiary.block_on(async { tokio::time::timeout(PAUSE, answer.next()).await });
            match waited {
                Ok(Some(Ok(batch))) => {
                    let batch = converted(&batch, &self.schema);
                    return Some(batch.map_err(|error| ArrowError::ExternalError(error.into())));
                }
                Ok(Some(Err(error))) => return external(error.into()),
                Ok(None) => return None,
                // A signal: whoever reads us may not look for it.
                Err(_) => match Python::try_attach(|py| py.check_signals()) {
                    Some(Err(interrupt)) => return external(Box::new(interrupt)),
                    _ => continue,
                },
            }
        }
    }
}

#[pymethods]
impl Rows {
    /// Takes the rows of another one over.
    #[new]
    fn take_over(py: Python<'_>, rows: &Bound<'_, Self>) -> PyResult<Self> {
        let inner = rows.get().lock().take();
        let inner = inner.ok_or_else(|| taken(py))?;
        Ok(Self::of(Some(inner)))
    }

    /// The next batch that was not taken; `None` at the end.
    fn next_batch(&self, py: Python<'_>) -> PyResult<Option<PyRecordBatch>> {
        self.with(py, |inner| Ok(inner.next(py)?.map(PyRecordBatch::new)))
    }

    /// All batches; the result is whole then.
    fn all_batches(&self, py: Python<'_>) -> PyResult<Vec<PyRecordBatch>> {
        let batches = self.with(py, |inner| inner.whole(py))?;
        Ok(batches.iter().cloned().map(PyRecordBatch::new).collect())
    }

    /// Reads what is left of a stream; the result is whole then.
    fn make_whole(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |inner| inner.whole(py).map(drop))
    }

    /// Whether all rows are here.
    #[getter]
    fn is_whole(&self, py: Python<'_>) -> PyResult<bool> {
        self.with(py, |inner| Ok(matches!(inner.state, State::Whole { .. })))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        let batches = self.with(py, |inner| inner.whole(py))?;
        Ok(batches.iter().map(RecordBatch::num_rows).sum())
    }

    /// Forgets the rows; a running query is cancelled.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let state = self.with(py, |inner| {
            Ok(std::mem::replace(&mut inner.state, State::Taken))
        })?;
        py.detach(|| drop(state));
        Ok(())
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let schema = self.with(py, |inner| Ok(inner.schema.clone()))?;
        Bound::new(py, PySchema::new(schema))?.call_method0("__arrow_c_schema__")
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let reader = self.with(py, |inner| inner.reader(py))?;
        let reader = Bound::new(py, PyRecordBatchReader::new(Box::new(reader)))?;
        reader.call_method1("__arrow_c_stream__", (requested_schema,))
    }

    /// The rows as the bytes of an Arrow IPC stream, for whoever reads those.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let py = slf.py();
        let rows = slf.get();
        if rows.ipc.get().is_none() {
            let buffer = rows.with(py, |inner| inner.ipc(py))?;
            let _ = rows.ipc.set(buffer);
        }
        let bytes = rows.ipc.get().map(Buffer::as_slice).unwrap_or_default();
        // SAFETY: the caller gives a view to fill. The bytes live as long as the object, which the view
        // keeps.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                bytes.as_ptr().cast_mut().cast(),
                bytes.len() as isize,
                1,
                flags,
            )
        };
        match filled {
            0 => Ok(()),
            _ => Err(PyErr::fetch(py)),
        }
    }
}
