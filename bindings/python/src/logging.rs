//! What the crates log, for Python's `logging`.
//!
//! Threads of a node never ask for the GIL: they put records into a bounded queue, and a thread of
//! Python takes them out. When it is full, records are dropped, and how many is said.

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use pyo3::prelude::*;
use std::fmt::{Debug, Write};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Records that wait at most.
const WAITING_MAX: usize = 1024;

/// Python's level of a record, the module it is about, and its text.
type Record = (u8, String, String);

struct Queue {
    /// `None` once it is closed.
    sender: Mutex<Option<Sender<Record>>>,
    records: Receiver<Record>,
    dropped: AtomicU64,
}

static QUEUE: OnceLock<Queue> = OnceLock::new();
/// Records below are not made.
static LEVEL_MIN: AtomicU8 = AtomicU8::new(30);

/// Begins to listen, at the first call, to records of at least a level of Python's.
#[pyfunction]
pub fn set_log_level(level: u8) {
    LEVEL_MIN.store(level, Ordering::Relaxed);
    QUEUE.get_or_init(|| {
        let (sender, records) = bounded(WAITING_MAX);
        // Fails when somebody else listens, as the command line does: then it is theirs.
        let _ = tracing_subscriber::registry().with(ToPython).try_init();
        Queue {
            sender: Mutex::new(Some(sender)),
            records,
            dropped: AtomicU64::new(0),
        }
    });
}

/// Waits for the next record; `None` once the queue is closed.
#[pyfunction]
pub fn next_record(py: Python<'_>) -> Option<Record> {
    let queue = QUEUE.get()?;
    let record = py.detach(|| queue.records.recv().ok())?;
    let dropped = queue.dropped.swap(0, Ordering::Relaxed);
    if dropped == 0 {
        return Some(record);
    }
    let (level, target, text) = record;
    Some((
        level,
        target,
        format!("{text} ({dropped} records before it were dropped)"),
    ))
}

/// No record comes any more; the one who waits gets what is left, and then `None`.
#[pyfunction]
pub fn close_log() {
    if let Some(queue) = QUEUE.get() {
        queue
            .sender
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

fn python_level(level: Level) -> u8 {
    match level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        Level::DEBUG => 10,
        Level::TRACE => 5,
    }
}

struct ToPython;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for ToPython {
    /// Asked each time: the level may change.
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        // Other crates are loud below warnings.
        let least = match metadata.target().starts_with("apiary") {
            true => LEVEL_MIN.load(Ordering::Relaxed),
            false => LEVEL_MIN.load(Ordering::Relaxed).max(30),
        };
        python_level(*metadata.level()) >= least
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(queue) = QUEUE.get() else {
            return;
        };
        let metadata = event.metadata();
        let mut text = Text::default();
        event.record(&mut text);
        let target = metadata.target().replace("::", ".");
        let record = (python_level(*metadata.level()), target, text.whole());
        let sender = queue.sender.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(TrySendError::Full(_))) =
            sender.as_ref().map(|sender| sender.try_send(record))
        {
            queue.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An event in one line: its message, then its fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn whole(self) -> String {
        format!("{}{}", self.message, self.fields)
            .trim_start()
            .to_string()
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing into a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value}"),
            name => write!(self.fields, " {name}={value}"),
        };
    }
}
