//! A host for tests: a clock that steps, seeded entropy, real files, the current tokio runtime.
//!
//! Nothing here reads the machine it runs on, so a test that uses it twice sees the same twice.

use super::{Blocking, Clock, DiskFiles, Entropy, Host, Machine, Runtimes};
use crate::laboratory::Laboratory;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;

/// 2026-01-01T00:00:00Z.
const START_UNIX_MS: i64 = 1_767_225_600_000;

/// A host whose blocking jobs run at once. Must be called inside a tokio runtime.
pub fn host() -> Host {
    host_with_seed(1)
}

/// As [`host`], with its own sequence of random bytes: one seed per simulated node.
pub fn host_with_seed(seed: u64) -> Host {
    let handle = Handle::current();
    Host {
        clock: Arc::new(SteppingClock::default()),
        entropy: Arc::new(SeededEntropy::new(seed)),
        files: Arc::new(DiskFiles),
        blocking: Arc::new(Inline),
        machine: Arc::new(FixedMachine::default()),
        runtimes: Runtimes {
            query: handle.clone(),
            control: handle,
        },
        spill: None,
        laboratory: Laboratory::default(),
    }
}

/// As [`host`], with blocking jobs on threads of their own: for tests of races.
pub fn threaded_host() -> Host {
    Host {
        blocking: Arc::new(Threads(Handle::current())),
        ..host()
    }
}

/// Every reading is one millisecond after the last one.
#[derive(Debug, Default)]
pub struct SteppingClock {
    elapsed_ms: AtomicU64,
}

impl SteppingClock {
    pub fn advance(&self, duration: Duration) {
        self.elapsed_ms
            .fetch_add(duration.as_millis() as u64, Ordering::SeqCst);
    }

    fn step(&self) -> u64 {
        self.elapsed_ms.fetch_add(1, Ordering::SeqCst)
    }
}

impl Clock for SteppingClock {
    fn unix_ms(&self) -> i64 {
        START_UNIX_MS + self.step() as i64
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.step())
    }
}

/// SplitMix64: a short generator whose whole state is its seed.
#[derive(Debug)]
pub struct SeededEntropy(Mutex<u64>);

impl SeededEntropy {
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    pub fn next_u64(&self) -> u64 {
        let mut state = self.0.lock();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`.
    pub fn below(&self, bound: u64) -> u64 {
        self.next_u64() % bound.max(1)
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }
}

#[derive(Debug)]
struct Inline;

impl Blocking for Inline {
    fn run(&self, job: Box<dyn FnOnce() + Send + 'static>) {
        job();
    }
}

#[derive(Debug)]
struct Threads(Handle);

impl Blocking for Threads {
    fn run(&self, job: Box<dyn FnOnce() + Send + 'static>) {
        drop(self.0.spawn_blocking(job));
    }
}

/// Two cores and one gibibyte, of which 64 MiB are resident.
#[derive(Clone, Debug)]
pub struct FixedMachine {
    pub cores: usize,
    pub memory_bytes: u64,
    pub resident_bytes: u64,
}

impl Default for FixedMachine {
    fn default() -> Self {
        Self {
            cores: 2,
            memory_bytes: 1 << 30,
            resident_bytes: 64 << 20,
        }
    }
}

impl Machine for FixedMachine {
    fn cores(&self) -> usize {
        self.cores
    }

    fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    fn host_name(&self) -> String {
        "test-host".into()
    }

    fn process_id(&self) -> u32 {
        1
    }
}
