//! Simulated time: one timeline for all simulated nodes, moved by whoever would have slept.
//!
//! Time is a number per thread. It moves when the thread, having nothing left to run, would wait for
//! its next timer: [`crate::process`] takes the wait for the time it was to last. So tokio runs as it
//! is, without its test features, and a node that sleeps an hour costs nothing.

use apiary_engine::host::Clock;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Poll, Waker};
use std::time::Duration;

/// The Unix time at which every simulation starts, in seconds (2023-11-14).
pub const EPOCH_SECONDS: u64 = 1_700_000_000;

/// After so long a runtime with nothing to do is let run in any case.
const IDLE_MAX: Duration = Duration::from_secs(24 * 3_600);

thread_local! {
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static NODE_TIME: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// What the next reading shows, instead of the time.
    static ONE_READING: Cell<Option<Duration>> = const { Cell::new(None) };
    static STEP: RefCell<Option<Step>> = const { RefCell::new(None) };
}

/// Simulated time that nodes have lived, all together.
pub fn node_time() -> Duration {
    NODE_TIME.get()
}

/// So many nodes have lived for so long.
pub fn count_node_time(nodes: u32, lived: Duration) {
    NODE_TIME.set(NODE_TIME.get() + lived * nodes);
}

/// A step of a runtime that is one of several: it ends where the runtime would wait.
#[derive(Default)]
struct Step {
    waker: Option<Waker>,
    waits_until: Option<Duration>,
}

/// Simulated time since the start of the simulation.
pub fn now() -> Duration {
    NOW.try_with(Cell::get).unwrap_or_default()
}

/// Sets the time: the world steps several nodes through the same interval.
pub fn set(now: Duration) {
    NOW.set(now);
}

/// Called where this thread would wait, with the time at which its next timer is due. Moves the clock
/// there, unless the runtime that waits is one of several: then its step is over, and the wait must be
/// seen to be over although no time has passed. `looks_again` says that whoever waits reads the clock
/// once and waits on when it is too early.
pub(crate) fn wait_until(until: Duration, looks_again: bool) {
    let stepping = STEP.with_borrow_mut(|step| {
        let step = step.as_mut()?;
        step.waits_until = Some(until);
        Some(step.waker.take())
    });
    match stepping {
        Some(waker) => {
            waker.into_iter().for_each(Waker::wake);
            ONE_READING.set(looks_again.then_some(until));
        }
        None => set(now().max(until)),
    }
}

/// What this thread's clock shows to the C library's callers.
pub(crate) fn reading() -> Duration {
    let one = ONE_READING.try_with(Cell::take).ok().flatten();
    one.unwrap_or_else(now)
}

/// A single-threaded runtime. Dropping it is a crash: nothing that ran on it runs on.
#[derive(Debug)]
pub struct SimRuntime(tokio::runtime::Runtime);

impl SimRuntime {
    pub fn new() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        Ok(Self(runtime))
    }

    pub fn handle(&self) -> &tokio::runtime::Handle {
        self.0.handle()
    }

    /// Runs a future to its end; time moves as its timers need it.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let began_at = now();
        let output = self.0.block_on(future);
        count_node_time(1, now().saturating_sub(began_at));
        output
    }

    /// Lets everything run that can run now, without moving the clock. Gives the time of the next timer,
    /// a day at most.
    pub fn step(&self) -> Duration {
        STEP.set(Some(Step::default()));
        let next = self.0.block_on(async {
            // A wait without any timer would have no end.
            let mut idle = pin!(tokio::time::sleep(IDLE_MAX));
            poll_fn(|context| {
                let _ = idle.as_mut().poll(context);
                STEP.with_borrow_mut(|step| {
                    let step = step.get_or_insert_default();
                    if let Some(until) = step.waits_until {
                        return Poll::Ready(until);
                    }
                    step.waker = Some(context.waker().clone());
                    Poll::Pending
                })
            })
            .await
        });
        STEP.set(None);
        next
    }

    /// Lets everything that was spawned run until the given time.
    #[cfg(test)]
    pub fn run_until(&self, until: Duration) {
        self.block_on(async { tokio::time::sleep(until.saturating_sub(now())).await });
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
        let drift_ms = true_ms * self.drift_ppm / 1_000_000;
        EPOCH_SECONDS as i64 * 1000 + true_ms + self.offset_ms + drift_ms
    }

    fn monotonic(&self) -> Duration {
        now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn time_moves_with_timers_only_and_goes_on_across_runtimes() {
        process::enroll(1);
        let first = SimRuntime::new().unwrap();
        first.block_on(async {
            let before = (
                now(),
                std::time::Instant::now(),
                tokio::time::Instant::now(),
            );
            tokio::time::sleep(Duration::from_secs(3600)).await;
            let hour = Duration::from_secs(3600)..Duration::from_millis(3_600_002);
            assert!(hour.contains(&(now() - before.0)));
            assert!(hour.contains(&before.1.elapsed()));
            assert!(hour.contains(&before.2.elapsed()));
        });
        drop(first);
        let (second, before) = (SimRuntime::new().unwrap(), now());
        assert!(before >= Duration::from_secs(3600));
        second.run_until(before + Duration::from_secs(1));
        assert!(now() >= before + Duration::from_secs(1));
    }

    #[test]
    fn a_dropped_runtime_runs_nothing_on() {
        process::enroll(1);
        let reached = Arc::new(AtomicBool::new(false));
        let runtime = SimRuntime::new().unwrap();
        let flag = reached.clone();
        runtime.handle().spawn(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            flag.store(true, Ordering::Relaxed);
        });
        runtime.run_until(now() + Duration::from_millis(5));
        drop(runtime);
        let other = SimRuntime::new().unwrap();
        other.run_until(now() + Duration::from_millis(50));
        assert!(!reached.load(Ordering::Relaxed));
    }

    #[test]
    fn a_step_runs_what_is_due_and_says_when_the_next_is() {
        process::enroll(1);
        let runtime = SimRuntime::new().unwrap();
        let start = now();
        let steps = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let counter = steps.clone();
        runtime.handle().spawn(async move {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(100)).await;
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut due = runtime.step();
        assert_eq!(now(), start, "a step takes no time");
        while steps.load(Ordering::Relaxed) < 3 {
            assert!(due > now());
            set(due);
            due = runtime.step();
        }
        assert!(now() - start >= Duration::from_secs(300));
        assert!(now() - start < Duration::from_secs(301));
    }

    #[test]
    fn a_wrong_clock_is_wrong_by_its_offset_and_drift() {
        let clock = SimClock {
            offset_ms: -60_000,
            drift_ppm: 1000,
        };
        set(Duration::ZERO);
        let first = clock.unix_ms();
        assert_eq!(first, EPOCH_SECONDS as i64 * 1000 - 60_000);
        set(Duration::from_secs(1000));
        assert_eq!(clock.unix_ms() - first, 1_001_000);
    }
}
