//! How fast a store takes objects, as was seen lately.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Below this a write is mostly its round trip.
const BYTES_LEAST: usize = 256 << 10;
/// Above this, LZ4 costs more time than it saves: it takes about 500 MB/s and leaves two fifths.
const FAST_BYTES_PER_SECOND: u64 = 400_000_000;

/// A sliding mean; nothing is known at first.
#[derive(Debug, Default)]
pub(super) struct Speed {
    bytes_per_second: AtomicU64,
}

impl Speed {
    pub fn note(&self, bytes: usize, took: Duration) {
        if bytes < BYTES_LEAST {
            return;
        }
        let seen = (bytes as f64 / took.as_secs_f64().max(1e-6)) as u64;
        // One of several that write at once may be lost: it is a mean.
        let mean = match self.bytes_per_second.load(Ordering::Relaxed) {
            0 => seen,
            before => before - before / 4 + seen / 4,
        };
        self.bytes_per_second.store(mean, Ordering::Relaxed);
    }

    pub fn is_fast(&self) -> bool {
        self.bytes_per_second.load(Ordering::Relaxed) >= FAST_BYTES_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_fast_when_it_was_fast_lately() {
        let speed = Speed::default();
        assert!(!speed.is_fast());
        speed.note(1 << 10, Duration::from_nanos(1));
        assert!(!speed.is_fast(), "a small object says nothing");
        speed.note(1 << 20, Duration::from_millis(1));
        assert!(speed.is_fast());
        for _ in 0..8 {
            speed.note(1 << 20, Duration::from_millis(50));
        }
        assert!(!speed.is_fast());
    }
}
