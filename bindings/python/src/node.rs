//! A running node, as Python's objects use it.

use crate::errors;
use crate::fork::Own;
use crate::information;
use crate::input::{Source, channel};
use crate::parameters::parameters;
use crate::rows::Rows;
use crate::types::{Declared, schema_of};
use crate::wait::{PAUSE, Watch, droppable, outcome};
use apiary::arrow::datatypes::{DataType, Schema, SchemaRef};
use apiary::{
    Answer, Apiary, Backpressure, BoxNs, CancellationToken, DropOptions, Error, Frame,
    QueryOptions, ReadOptions, Session, Settings, WriteOptions, WriteReport,
};
use apiary_node::{Input, TextOptions};
use crossbeam_channel::RecvTimeoutError;
use futures::{StreamExt, TryStreamExt};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3_arrow::PySchema;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Rows of a text file that the types of its columns are guessed from.
const INFER_ROWS: usize = 1000;

/// A running node on some storage.
#[pyclass(frozen, module = "apiary._apiary")]
pub struct Node {
    inner: Own<Inner>,
}

struct Inner {
    apiary: Apiary,
    session: Mutex<Session>,
    /// Cancelled when it is to stop at once.
    closing: CancellationToken,
    max_partitions: usize,
}

/// `hive`, `box` and `frame` of a call.
type Place = (String, String, String);
/// What is called while something takes long.
type Meter = Option<Py<PyAny>>;

impl Node {
    /// Does something that a Ctrl-C may drop.
    fn ask<T, F>(&self, py: Python<'_>, work: impl FnOnce(Apiary) -> F) -> PyResult<T>
    where
        T: Send,
        F: Future<Output = Result<T, Error>> + Send,
    {
        let inner = self.inner.get(py)?;
        let watch = Watch::new(&inner.closing, None);
        let work = work(inner.apiary.clone());
        droppable(py, &inner.apiary, &watch, work)?.map_err(|error| errors::raised(py, error))
    }
}

#[pymethods]
impl Node {
    /// Opens storage and starts a node there. `settings` is a JSON object of the crate's settings.
    #[new]
    fn start(py: Python<'_>, storage: String, settings: &str) -> PyResult<Self> {
        let settings: Settings = serde_json::from_str(settings).map_err(|error| {
            errors::new(py, "InvalidInputError", format!("wrong settings: {error}"))
        })?;
        let max_partitions = settings.max_partitions;
        let (sender, opened) = crossbeam_channel::bounded(1);
        // Storage may be slow to answer, and opening blocks: a Ctrl-C leaves it to its thread.
        std::thread::spawn(move || {
            let opened = Apiary::builder(&storage).settings(settings).open_blocking();
            // Behind its first heartbeat, and with the others in sight.
            let seen = opened.and_then(|apiary| {
                apiary.block_on(apiary.swarm())?;
                Ok(apiary)
            });
            let _ = sender.send(seen);
        });
        let apiary = loop {
            match py.detach(|| opened.recv_timeout(PAUSE)) {
                Ok(opened) => break opened.map_err(|error| errors::raised(py, error))?,
                Err(RecvTimeoutError::Timeout) => py.check_signals()?,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(errors::new(py, "InternalError", "opening panicked".into()));
                }
            }
        };
        let session = Session::new().map_err(|error| errors::raised(py, error))?;
        let inner = Inner {
            apiary,
            session: Mutex::new(session),
            closing: CancellationToken::new(),
            max_partitions,
        };
        Ok(Self {
            inner: Own::new(inner),
        })
    }

    /// Finishes what runs and stops; with `at_once`, cancels what runs first.
    fn shutdown(&self, py: Python<'_>, at_once: bool) -> PyResult<()> {
        let inner = self.inner.get(py)?;
        if at_once {
            inner.closing.cancel();
        }
        // A token of its own: the stop is not among what is stopped.
        let watch = Watch::new(&CancellationToken::new(), None);
        outcome(py, &inner.apiary, &watch, inner.apiary.shutdown())
    }

    /// Facts about this node, as JSON.
    fn status(&self, py: Python<'_>) -> PyResult<String> {
        self.ask(py, |apiary| async move {
            information::status(&apiary.status().await?)
        })
    }

    /// The other nodes, as JSON.
    fn swarm(&self, py: Python<'_>) -> PyResult<String> {
        self.ask(py, |apiary| async move {
            information::swarm(&apiary.swarm().await?)
        })
    }

    fn create_hive(&self, py: Python<'_>, hive: &str) -> PyResult<()> {
        self.ask(py, |apiary| async move {
            apiary.create_hive(hive).await.map(drop)
        })
    }

    fn create_box(&self, py: Python<'_>, hive: &str, name: &str) -> PyResult<()> {
        self.ask(py, |apiary| async move {
            apiary.hive(hive).await?.create_box(name).await.map(drop)
        })
    }

    /// `columns` is a list of (name, type, nullable, as written) or has Arrow's schema interface.
    fn create_frame(
        &self,
        py: Python<'_>,
        place: Place,
        columns: &Bound<'_, PyAny>,
        partition_by: Vec<String>,
    ) -> PyResult<()> {
        let schema = columns_of(columns)?;
        self.ask(py, |apiary| async move {
            let partition_by: Vec<&str> = partition_by.iter().map(String::as_str).collect();
            let box_ns = box_of(&apiary, &place.0, &place.1).await?;
            box_ns
                .create_frame(&place.2, schema, &partition_by)
                .await
                .map(drop)
        })
    }

    fn attach_frame(&self, py: Python<'_>, place: Place, location: &str) -> PyResult<()> {
        self.ask(py, |apiary| async move {
            let box_ns = box_of(&apiary, &place.0, &place.1).await?;
            box_ns.attach_frame(&place.2, location).await.map(drop)
        })
    }

    fn hives(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.ask(py, |apiary| async move {
            let hives = apiary.hives().await?;
            Ok(hives.iter().map(|hive| hive.name().to_string()).collect())
        })
    }

    fn boxes(&self, py: Python<'_>, hive: &str) -> PyResult<Vec<String>> {
        self.ask(py, |apiary| async move {
            let boxes = apiary.hive(hive).await?.boxes().await?;
            Ok(boxes
                .iter()
                .map(|box_ns| box_ns.name().to_string())
                .collect())
        })
    }

    fn frames(&self, py: Python<'_>, hive: &str, name: &str) -> PyResult<Vec<String>> {
        self.ask(py, |apiary| async move {
            let frames = box_of(&apiary, hive, name).await?.frames().await?;
            Ok(frames
                .iter()
                .map(|frame| frame.name().frame.to_string())
                .collect())
        })
    }

    fn drop_hive(&self, py: Python<'_>, hive: &str, cascade: bool, purge: bool) -> PyResult<bool> {
        let options = DropOptions { cascade, purge };
        self.ask(
            py,
            |apiary| async move { apiary.drop_hive(hive, options).await },
        )
    }

    fn drop_box(
        &self,
        py: Python<'_>,
        hive: &str,
        name: &str,
        cascade: bool,
        purge: bool,
    ) -> PyResult<bool> {
        let options = DropOptions { cascade, purge };
        self.ask(py, |apiary| async move {
            apiary.hive(hive).await?.drop_box(name, options).await
        })
    }

    fn drop_frame(&self, py: Python<'_>, place: Place, purge: bool) -> PyResult<bool> {
        self.ask(py, |apiary| async move {
            let box_ns = box_of(&apiary, &place.0, &place.1).await?;
            box_ns.drop_frame(&place.2, purge).await
        })
    }

    /// Facts about a frame's newest version, as JSON.
    fn frame_info(&self, py: Python<'_>, place: Place) -> PyResult<String> {
        let max_partitions = self.inner.get(py)?.max_partitions;
        self.ask(py, |apiary| async move {
            let info = frame_of(&apiary, &place).await?.info().await?;
            Ok(information::frame(&info, max_partitions))
        })
    }

    /// The columns of a frame, with Arrow's schema interface.
    fn frame_schema(&self, py: Python<'_>, place: Place) -> PyResult<PySchema> {
        let schema = self.ask(py, |apiary| async move {
            frame_of(&apiary, &place).await?.schema().await
        })?;
        Ok(PySchema::new(crate::types::plain(&schema)))
    }

    /// Writes what holds rows (see [`Source`]); says what was done.
    #[pyo3(signature = (place, rows, overwrite, backpressure, timeout, meter))]
    #[allow(clippy::too_many_arguments)]
    fn write<'py>(
        &self,
        py: Python<'py>,
        place: Place,
        rows: &Bound<'py, PyAny>,
        overwrite: bool,
        backpressure: Option<&str>,
        timeout: Option<f64>,
        meter: Meter,
    ) -> PyResult<Bound<'py, PyDict>> {
        let inner = self.inner.get(py)?;
        let watch = Watch::new(&inner.closing, meter);
        let options = write_options(py, &watch, overwrite, backpressure, timeout)?;
        // Before the source is touched: it may be readable only once.
        let frame = self.ask(py, |apiary| async move { frame_of(&apiary, &place).await })?;
        let mut source = Source::new(rows)?;
        let (sender, stream) = channel();
        let apiary = &inner.apiary;
        let write = async move { frame.write_with(stream, options).await };
        // The block only lends its runtime; the task is waited for below.
        #[allow(clippy::async_yields_async)]
        let write = py.detach(|| apiary.block_on(async { tokio::spawn(write) }));
        let brought = sender.bring(py, apiary, &watch, &mut source);
        if brought.is_err() {
            watch.cancel.cancel();
        }
        let written = async {
            let joined = write.await;
            joined.unwrap_or_else(|error| Err(Error::Bug(format!("a write ended: {error}"))))
        };
        match brought {
            Ok(()) => {
                let report: WriteReport = outcome(py, apiary, &watch, written)?;
                information::report(py, &report)
            }
            Err(raised) => {
                // The write ends now; that it was taken back is no news.
                let _ = py.detach(|| apiary.block_on(written));
                Err(raised)
            }
        }
    }

    /// Writes the rows of files; says what was done.
    #[pyo3(signature = (place, files, overwrite, backpressure, timeout, meter))]
    #[allow(clippy::too_many_arguments)]
    fn write_files<'py>(
        &self,
        py: Python<'py>,
        place: Place,
        files: Vec<PathBuf>,
        overwrite: bool,
        backpressure: Option<&str>,
        timeout: Option<f64>,
        meter: Meter,
    ) -> PyResult<Bound<'py, PyDict>> {
        let inner = self.inner.get(py)?;
        let watch = Watch::new(&inner.closing, meter);
        let options = write_options(py, &watch, overwrite, backpressure, timeout)?;
        let (frame, schema) = self.ask(py, |apiary| async move {
            let frame = frame_of(&apiary, &place).await?;
            let schema = frame.schema().await?;
            Ok((frame, schema))
        })?;
        let text = TextOptions {
            infer_rows: INFER_ROWS,
            ..TextOptions::default()
        };
        let read = Arc::new(AtomicU64::new(0));
        let progress = watch.progress.clone();
        let rows = py.detach(|| {
            let input = Input::examine(&files, None, text, Some(&schema))?;
            progress
                .bytes_total
                .store(input.total_bytes, Ordering::Relaxed);
            input.stream(read.clone())
        });
        let rows = rows.map_err(|failure| errors::of_files(py, failure))?;
        let rows = rows.inspect(move |_| {
            progress
                .bytes_done
                .store(read.load(Ordering::Relaxed), Ordering::Relaxed);
        });
        let report = outcome(py, &inner.apiary, &watch, frame.write_with(rows, options))?;
        information::report(py, &report)
    }

    /// Runs statements: the rows of the last one, if it has any, and what it wrote, if it did.
    #[pyo3(signature = (text, given, timeout, meter))]
    fn sql<'py>(
        &self,
        py: Python<'py>,
        text: &str,
        given: Option<&Bound<'py, PyAny>>,
        timeout: Option<f64>,
        meter: Meter,
    ) -> PyResult<(Option<Rows>, Option<Bound<'py, PyDict>>)> {
        let inner = self.inner.get(py)?;
        let given = parameters(given)?;
        let statements =
            apiary::parse(text).and_then(|statements| apiary::bind(statements, &given));
        let statements = statements.map_err(|error| errors::raised(py, error))?;
        let watch = Watch::new(&inner.closing, meter);
        let options = QueryOptions {
            deadline: duration(py, timeout)?,
            progress: watch.progress.clone(),
            cancel: Some(watch.cancel.clone()),
        };
        let session = inner
            .session
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let run = run(inner.apiary.clone(), statements, session, options);
        let answer = outcome(py, &inner.apiary, &watch, run)?;
        let session = answer.session().clone();
        *inner.session.lock().unwrap_or_else(PoisonError::into_inner) = session;
        let report = answer
            .write_report()
            .map(|report| information::report(py, report));
        let report = report.transpose()?;
        let rows = answer.has_rows();
        let rows = rows.then(|| Rows::new(inner.apiary.clone(), watch, answer));
        Ok((rows, report))
    }

    /// The rows of a frame, without SQL: some columns, and those rows whose columns have these values,
    /// each given as text. `None` for a frame without cells.
    #[pyo3(signature = (place, columns, filter, meter))]
    fn read(
        &self,
        py: Python<'_>,
        place: Place,
        columns: Option<Vec<String>>,
        filter: Vec<(String, Option<String>)>,
        meter: Meter,
    ) -> PyResult<Option<Rows>> {
        let inner = self.inner.get(py)?;
        let answer = self.ask(py, |apiary| async move {
            let frame = frame_of(&apiary, &place).await?;
            let info = frame.info().await?;
            let filter = predicate(&info.schema, &filter)?;
            if info.cell_count == 0 {
                return Ok(None);
            }
            frame
                .read_with(&ReadOptions { columns, filter })
                .await
                .map(Some)
        })?;
        let watch = Watch::new(&inner.closing, meter);
        Ok(answer.map(|answer| Rows::new(inner.apiary.clone(), watch, answer)))
    }
}

/// Runs statements one after the other; gives the answer of the last one.
async fn run(
    apiary: Apiary,
    statements: Vec<apiary::Statement>,
    mut session: Session,
    options: QueryOptions,
) -> Result<Answer, Error> {
    let cancel = options.cancel.clone().unwrap_or_default();
    let count = statements.len();
    for (index, statement) in statements.into_iter().enumerate() {
        let mut answer = apiary.execute(statement, &session, options.clone()).await?;
        if index + 1 == count {
            return Ok(answer);
        }
        let drained = async {
            while answer.try_next().await?.is_some() {}
            Ok::<_, Error>(())
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Error::Cancelled),
            drained = drained => drained?,
        }
        session = answer.session().clone();
    }
    Err(Error::rejected("there is no SQL statement in the text"))
}

fn columns_of(columns: &Bound<'_, PyAny>) -> PyResult<SchemaRef> {
    let py = columns.py();
    if columns.hasattr("__arrow_c_schema__")? {
        let schema: PySchema = columns.extract()?;
        return Ok(schema.into_inner());
    }
    let declared: Vec<Declared> = columns.extract()?;
    schema_of(declared).map_err(|reason| errors::new(py, "InvalidInputError", reason))
}

async fn box_of(apiary: &Apiary, hive: &str, name: &str) -> Result<BoxNs, Error> {
    apiary.hive(hive).await?.box_ns(name).await
}

/// A frame by its three names, at one look.
async fn frame_of(apiary: &Apiary, place: &Place) -> Result<Frame, Error> {
    let parts = [&place.0, &place.1, &place.2].map(|part| quoted(part));
    apiary.frame(&parts.join(".")).await
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Equality with texts, in the types of the columns.
fn predicate(
    schema: &Schema,
    filter: &[(String, Option<String>)],
) -> Result<Option<String>, Error> {
    let mut parts = Vec::new();
    for (name, value) in filter {
        let (_, field) = schema.column_with_name(name).ok_or_else(|| {
            Error::rejected(format!(
                "the filter names {name:?}, which is not a column of the frame"
            ))
        })?;
        let column = quoted(name);
        parts.push(match (value, field.data_type()) {
            (None, _) => format!("{column} IS NULL"),
            (Some(value), DataType::Utf8View) => format!("{column} = {}", text(value)),
            (Some(value), other) => {
                format!(
                    "{column} = arrow_cast({}, {})",
                    text(value),
                    text(&other.to_string())
                )
            }
        });
    }
    Ok((!parts.is_empty()).then(|| parts.join(" AND ")))
}

fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

fn write_options(
    py: Python<'_>,
    watch: &Watch,
    overwrite: bool,
    backpressure: Option<&str>,
    timeout: Option<f64>,
) -> PyResult<WriteOptions> {
    let backpressure = match backpressure {
        None => None,
        Some("block") => Some(Backpressure::Block),
        Some("error") => Some(Backpressure::Error),
        Some("ignore") => Some(Backpressure::Ignore),
        Some(other) => {
            let message =
                format!("backpressure is \"block\", \"error\" or \"ignore\", not {other:?}");
            return Err(errors::new(py, "InvalidInputError", message));
        }
    };
    Ok(WriteOptions {
        overwrite,
        backpressure,
        deadline: duration(py, timeout)?,
        cancel: Some(watch.cancel.clone()),
        ..WriteOptions::default()
    })
}

fn duration(py: Python<'_>, seconds: Option<f64>) -> PyResult<Option<Duration>> {
    let duration = seconds.map(Duration::try_from_secs_f64).transpose();
    duration.map_err(|error| {
        let message = format!("timeout is a number of seconds: {error}");
        errors::new(py, "InvalidInputError", message)
    })
}
