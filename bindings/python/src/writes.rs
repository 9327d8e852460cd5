//! Writing: what Python gives goes to the node as a stream, and its outcome is waited for.

use crate::errors;
use crate::input::{Source, channel};
use crate::node::Inner;
use crate::places::{Place, frame_of};
use crate::wait::{Meter, Watch, droppable, duration, outcome};
use apiary::{Backpressure, Error, WriteOptions, WriteReport};
use apiary_node::{TextOptions, examine_files};
use futures::StreamExt;
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Rows of a text file that the types of its columns are guessed from.
const INFER_ROWS: usize = 1000;

/// A write that was asked for.
pub struct WriteCall<'a> {
    inner: &'a Inner,
    watch: Watch,
    options: WriteOptions,
}

impl<'a> WriteCall<'a> {
    /// # Errors
    /// `InvalidInputError` for another word than those that `backpressure` has, or a wrong timeout.
    pub fn new(
        py: Python<'_>,
        inner: &'a Inner,
        meter: Meter,
        overwrite: bool,
        backpressure: Option<&str>,
        timeout: Option<f64>,
    ) -> PyResult<Self> {
        let watch = Watch::new(&inner.closing, meter);
        let options = WriteOptions {
            overwrite,
            backpressure: backpressure.map(|word| named(py, word)).transpose()?,
            deadline: duration(py, timeout)?,
            cancel: Some(watch.cancel.clone()),
            ..WriteOptions::default()
        };
        Ok(Self {
            inner,
            watch,
            options,
        })
    }

    /// Writes what holds rows (see [`Source`]).
    pub fn rows(
        self,
        py: Python<'_>,
        place: Place,
        rows: &Bound<'_, PyAny>,
    ) -> PyResult<WriteReport> {
        let Self {
            inner,
            watch,
            options,
        } = self;
        // Before the source is touched: it may be readable only once.
        let frame = inner.ask(py, |apiary| async move { frame_of(&apiary, &place).await })?;
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
            Ok(()) => outcome(py, apiary, &watch, written),
            Err(raised) => {
                // The write ends now; that it was taken back is no news.
                let _ = py.detach(|| apiary.block_on(written));
                Err(raised)
            }
        }
    }

    /// Writes the rows of files.
    pub fn files(self, py: Python<'_>, place: Place, files: Vec<PathBuf>) -> PyResult<WriteReport> {
        let Self {
            inner,
            watch,
            options,
        } = self;
        let (frame, schema) = inner.ask(py, |apiary| async move {
            let frame = frame_of(&apiary, &place).await?;
            let schema = frame.schema().await?;
            Ok((frame, schema))
        })?;
        let text = TextOptions {
            infer_rows: INFER_ROWS,
            ..TextOptions::default()
        };
        let examined = examine_files(files, None, text, Some(schema));
        let input = droppable(py, &inner.apiary, &watch, examined)?
            .map_err(|failure| errors::of_files(py, failure))?;
        let progress = watch.progress.clone();
        progress
            .bytes_total
            .store(input.total_bytes, Ordering::Relaxed);
        let read = Arc::new(AtomicU64::new(0));
        let rows = input
            .stream(read.clone())
            .map_err(|failure| errors::of_files(py, failure))?;
        let rows = rows.inspect(move |_| {
            progress
                .bytes_done
                .store(read.load(Ordering::Relaxed), Ordering::Relaxed);
        });
        outcome(py, &inner.apiary, &watch, frame.write_with(rows, options))
    }
}

fn named(py: Python<'_>, word: &str) -> PyResult<Backpressure> {
    match word {
        "block" => Ok(Backpressure::Block),
        "error" => Ok(Backpressure::Error),
        "ignore" => Ok(Backpressure::Ignore),
        other => {
            let message =
                format!("backpressure is \"block\", \"error\" or \"ignore\", not {other:?}");
            Err(errors::new(py, "InvalidInputError", message))
        }
    }
}
