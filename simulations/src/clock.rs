//! Simulated time: one timeline for all simulated nodes.
//!
//! Each node has a tokio runtime with a paused clock, which jumps to the next timer when nothing else
//! can run. A new runtime's clock restarts, so "now" is kept outside, per thread; while a runtime
//! runs, now is the moment it was made plus what its clock has moved since.

use apiary_engine::host::Clock;
use std::cell::Cell;
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// The Unix time at which every simulation starts, in seconds (2023-11-14).
pub const EPOCH_SECONDS: u64 = 1_700_000_000;

#[derive(Clone, Copy)]
struct Running {
    made_at: Duration,
    start: Instant,
}

thread_local! {
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static RUNNING: Cell<Option<Running>> = const { Cell::new(None) };
}

/// Simulated time since the start of the simulation.
pub fn now() -> Duration {
    match RUNNING.get() {
        // Without the runtime's context tokio's clock would be the system's.
        Some(running) if tokio::runtime::Handle::try_current().is_ok() => {
            running.made_at + Instant::now().saturating_duration_since(running.start)
        }
        _ => NOW.get(),
    }
}

/// Sets the time outside of any runtime: the world steps several nodes through the same interval.
pub fn set(now: Duration) {
    NOW.set(now);
}

/// A paused, single-threaded runtime whose clock lies on the timeline. Dropping it is a crash:
/// nothing that ran on it runs on.
#[derive(Debug)]
pub struct SimRuntime {
    runtime: tokio::runtime::Runtime,
    made_at: Duration,
    start: Instant,
}

impl SimRuntime {
    pub fn new() -> std::io::Result<Self> {
        let made_at = now();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
        let start = runtime.block_on(async { Instant::now() });
        Ok(Self { runtime, made_at, start })
    }

    pub fn handle(&self) -> &tokio::runtime::Handle {
        self.runtime.handle()
    }

    /// Runs a future to its end; time moves as its timers need it.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        RUNNING.set(Some(Running { made_at: self.made_at, start: self.start }));
        let (output, ended) = self.runtime.block_on(async {
            let output = future.await;
            (output, Instant::now())
        });
        RUNNING.set(None);
        NOW.set(self.made_at + ended.saturating_duration_since(self.start));
        output
    }

    /// Lets everything that was spawned run until the given time of the timeline.
    pub fn run_until(&self, until: Duration) {
        let deadline = self.start + until.saturating_sub(self.made_at);
        self.block_on(tokio::time::sleep_until(deadline));
    }
}

/// What one node takes for the time: off by a constant, and drifting.
#[derive(Clone, Copy, Debug, Default)]
pub struct SimClock {
    pub offset_ms: i64,
    pub drift_ppm: i64,
}

impl Clock for SimClock {
    fn unix_ms(&self) -> i64 {
        let true_ms = now().as_millis() as i64;
        EPOCH_SECONDS as i64 * 1000 + true_ms + self.offset_ms + true_ms * self.drift_ppm / 1_000_000
    }

    fn monotonic(&self) -> Duration {
        now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_across_runtimes_and_moves_only_with_timers() {
        let before = now();
        let first = SimRuntime::new().unwrap();
        first.block_on(async {
            assert_eq!(now(), before);
            tokio::time::sleep(Duration::from_secs(3600)).await;
            assert_eq!(now(), before + Duration::from_secs(3600));
        });
        drop(first);
        let second = SimRuntime::new().unwrap();
        second.block_on(async { assert_eq!(now(), before + Duration::from_secs(3600)) });
        second.run_until(now() + Duration::from_secs(1));
        assert_eq!(now(), before + Duration::from_secs(3601));
    }

    #[test]
    fn a_dropped_runtime_runs_nothing_on() {
        let reached = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let runtime = SimRuntime::new().unwrap();
        let flag = reached.clone();
        runtime.handle().spawn(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            flag.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        runtime.run_until(now() + Duration::from_millis(5));
        drop(runtime);
        let other = SimRuntime::new().unwrap();
        other.run_until(now() + Duration::from_millis(50));
        assert!(!reached.load(std::sync::atomic::Ordering::Relaxed));
    }

    #[test]
    fn a_wrong_clock_is_wrong_by_its_offset_and_drift() {
        let clock = SimClock { offset_ms: -60_000, drift_ppm: 1000 };
        let runtime = SimRuntime::new().unwrap();
        let (first, at) = runtime.block_on(async { (clock.unix_ms(), now()) });
        runtime.run_until(at + Duration::from_secs(1000));
        assert_eq!(clock.unix_ms() - first, 1_001_000);
    }
}
