//! Waiting for a node from Python: without the GIL, with an ear for Ctrl-C.

use crate::errors;
use apiary::{Apiary, CancellationToken, Error, Progress};
use pyo3::prelude::*;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How often a waiting thread looks for signals: a tenth of a second is what a person takes for at
/// once.
pub const PAUSE: Duration = Duration::from_millis(25);
/// What takes no longer shows no progress.
const QUIET: Duration = Duration::from_millis(700);

/// Calls of all threads that wait here, or that Python code which they call back does.
static CALLS: AtomicUsize = AtomicUsize::new(0);

/// One of them, while it lives.
pub struct Call;

impl Call {
    pub fn begin() -> Self {
        CALLS.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        CALLS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Waits, for so many seconds at most, until no thread is in a call; says whether that is so. For the end of
/// the interpreter: a thread that asks for the GIL afterwards is ended by Python in the middle of our code.
#[pyfunction]
pub fn wait_for_calls(py: Python<'_>, seconds: f64) -> bool {
    let started = Instant::now();
    while CALLS.load(Ordering::SeqCst) > 0 {
        if started.elapsed().as_secs_f64() > seconds {
            return false;
        }
        py.detach(|| std::thread::sleep(Duration::from_millis(1)));
    }
    true
}

/// What is called as `meter(bytes_done, bytes_total, rows_done)`, again and again, once something takes
/// long.
pub type Meter = Option<Py<PyAny>>;

/// Seconds that a caller gives, as the time that something may take.
pub fn duration(py: Python<'_>, seconds: Option<f64>) -> PyResult<Option<Duration>> {
    let duration = seconds.map(Duration::try_from_secs_f64).transpose();
    duration.map_err(|error| {
        let message = format!("timeout is a number of seconds: {error}");
        errors::new(py, "InvalidInputError", message)
    })
}

/// What is watched while something runs.
pub struct Watch {
    pub cancel: CancellationToken,
    pub progress: Arc<Progress>,
    meter: Meter,
    started: Instant,
}

impl Watch {
    /// `closing` is cancelled when the node is told to stop at once.
    pub fn new(closing: &CancellationToken, meter: Meter) -> Self {
        Self {
            cancel: closing.child_token(),
            progress: Arc::default(),
            meter,
            started: Instant::now(),
        }
    }

    /// Lets Python see its signals, and the meter the time.
    pub fn look(&self, py: Python<'_>) -> PyResult<()> {
        py.check_signals()?;
        if let Some(meter) = self
            .meter
            .as_ref()
            .filter(|_| self.started.elapsed() > QUIET)
        {
            let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let progress = &self.progress;
            let (done, total) = (read(&progress.bytes_done), read(&progress.bytes_total));
            meter.call1(py, (done, total, read(&progress.rows_done)))?;
        }
        Ok(())
    }
}

type Work<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Waits for work for a short while.
fn some<T: Send>(py: Python<'_>, apiary: &Apiary, work: &mut Work<'_, T>) -> Option<T> {
    py.detach(|| apiary.block_on(async { tokio::time::timeout(PAUSE, work.as_mut()).await.ok() }))
}

/// The outcome of work that the watch's token takes back. After a Ctrl-C it is told so, and waited
/// for: it may be committing. Then the exception of the signal is raised.
pub fn outcome<T: Send>(
    py: Python<'_>,
    apiary: &Apiary,
    watch: &Watch,
    work: impl Future<Output = Result<T, Error>> + Send,
) -> PyResult<T> {
    let _call = Call::begin();
    let mut work: Work<'_, _> = Box::pin(work);
    loop {
        if let Some(outcome) = some(py, apiary, &mut work) {
            return outcome.map_err(|error| errors::raised(py, error));
        }
        if let Err(interrupt) = watch.look(py) {
            watch.cancel.cancel();
            // What became of it is told by nobody: the signal's exception goes on.
            let _ = py.detach(|| apiary.block_on(work));
            return Err(interrupt);
        }
    }
}

/// The outcome of work that ends when it is dropped; a Ctrl-C does that.
pub fn droppable<T: Send>(
    py: Python<'_>,
    apiary: &Apiary,
    watch: &Watch,
    work: impl Future<Output = T> + Send,
) -> PyResult<T> {
    let _call = Call::begin();
    let mut work: Work<'_, _> = Box::pin(work);
    loop {
        if let Some(outcome) = some(py, apiary, &mut work) {
            return Ok(outcome);
        }
        let looked = match watch.cancel.is_cancelled() {
            true => Err(errors::raised(py, Error::Cancelled)),
            false => watch.look(py),
        };
        if let Err(interrupt) = looked {
            py.detach(|| drop(work));
            return Err(interrupt);
        }
    }
}
