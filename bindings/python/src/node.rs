//! A running node, as Python's objects use it.

use crate::errors;
use crate::fork::Own;
use crate::information;
use crate::places::{Place, box_of, columns_of, frame_of};
use crate::queries;
use crate::rows::Rows;
use crate::wait::{Meter, PAUSE, Watch, droppable, outcome};
use crate::writes::WriteCall;
use apiary::{Apiary, CancellationToken, DropOptions, Error, Session, Settings};
use crossbeam_channel::RecvTimeoutError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3_arrow::PySchema;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Mutex;

/// A running node on some storage.
#[pyclass(frozen, module = "apiary._apiary")]
pub struct Node {
    inner: Own<Inner>,
}

/// What belongs to the process that started it.
pub struct Inner {
    pub apiary: Apiary,
    pub session: Mutex<Session>,
    /// Cancelled when it is to stop at once.
    pub closing: CancellationToken,
    max_partitions: usize,
}

impl Inner {
    /// Does something that a Ctrl-C may drop.
    pub fn ask<T, F>(&self, py: Python<'_>, work: impl FnOnce(Apiary) -> F) -> PyResult<T>
    where
        T: Send,
        F: Future<Output = Result<T, Error>> + Send,
    {
        let watch = Watch::new(&self.closing, None);
        let work = work(self.apiary.clone());
        droppable(py, &self.apiary, &watch, work)?.map_err(|error| errors::raised(py, error))
    }
}

impl Node {
    fn ask<T, F>(&self, py: Python<'_>, work: impl FnOnce(Apiary) -> F) -> PyResult<T>
    where
        T: Send,
        F: Future<Output = Result<T, Error>> + Send,
    {
        self.inner.get(py)?.ask(py, work)
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

    /// Writes what holds rows (see [`Source`](crate::input::Source)); says what was done.
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
        let call = WriteCall::new(py, inner, meter, overwrite, backpressure, timeout)?;
        information::report(py, &call.rows(py, place, rows)?)
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
        let call = WriteCall::new(py, inner, meter, overwrite, backpressure, timeout)?;
        information::report(py, &call.files(py, place, files)?)
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
        queries::sql(py, self.inner.get(py)?, text, given, timeout, meter)
    }

    /// The rows of a frame, without SQL: some columns, and those rows whose columns have these values,
    /// each given as text. `None` for a frame without cells.
    #[pyo3(signature = (place, columns, filter, timeout, meter))]
    fn read(
        &self,
        py: Python<'_>,
        place: Place,
        columns: Option<Vec<String>>,
        filter: Vec<(String, Option<String>)>,
        timeout: Option<f64>,
        meter: Meter,
    ) -> PyResult<Option<Rows>> {
        let inner = self.inner.get(py)?;
        queries::read(py, inner, &place, columns, &filter, timeout, meter)
    }
}
