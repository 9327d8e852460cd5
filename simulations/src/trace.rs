//! What happened, in simulated time: one line an event, the same bytes for the same seed.
//!
//! A line is `{microseconds} {node} {event}`. Everything that leaves a node is traced where it
//! leaves: file calls, store requests, answers. Bodies are traced by length and checksum.

use crate::clock;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::sync::Arc;

/// Where lines go: to a writer as they come, or into memory.
pub type Sink = Box<dyn Write + Send>;

struct Inner {
    sink: Sink,
    line_count: u64,
    coverage: BTreeMap<&'static str, u64>,
}

/// The trace of one simulation. Clones share it.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<Inner>>);

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trace")
    }
}

impl Trace {
    pub fn new(sink: Sink) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            sink,
            line_count: 0,
            coverage: BTreeMap::new(),
        })))
    }

    /// A trace that only counts.
    #[cfg(test)]
    pub fn discard() -> Self {
        Self::new(Box::new(std::io::sink()))
    }

    pub fn event(&self, node: &str, event: fmt::Arguments<'_>) {
        let micros = clock::now().as_micros();
        let mut inner = self.0.lock();
        inner.line_count += 1;
        // Nobody reads on when the sink is gone; the simulation itself goes on.
        let _ = writeln!(inner.sink, "{micros:>12} {node} {event}");
    }

    /// Counts an occurrence of something that a simulation must not miss.
    pub fn count(&self, what: &'static str, by: u64) {
        *self.0.lock().coverage.entry(what).or_default() += by;
    }

    pub fn coverage(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().coverage.clone()
    }

    pub fn line_count(&self) -> u64 {
        self.0.lock().line_count
    }

    pub fn flush(&self) {
        let _ = self.0.lock().sink.flush();
    }
}

/// CRC-32 of a body, for the trace.
pub fn checksum<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.into_iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}
