//! Has a call made on each of several threads that take their work from one queue.
//!
//! There is no way to name the thread that takes a task. But a thread that waits takes no other one:
//! as many tasks as there are threads, each of which waits until all have begun, are on all of them.

use parking_lot::{Condvar, Mutex};
use std::time::Duration;

/// A thread that is busy for longer is not waited for; then another one may make the call twice.
const WAIT: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Gate {
    /// Tasks that have not begun.
    missing: Mutex<usize>,
    opened: Condvar,
}

impl Gate {
    /// A gate for as many tasks as there are threads.
    pub fn new(threads: usize) -> Self {
        Self {
            missing: Mutex::new(threads),
            opened: Condvar::new(),
        }
    }

    /// Waits until all tasks are here, for a short while, and makes the call.
    pub fn pass(&self, work: fn()) {
        let mut missing = self.missing.lock();
        *missing = missing.saturating_sub(1);
        if *missing == 0 {
            self.opened.notify_all();
        }
        self.opened
            .wait_while_for(&mut missing, |missing| *missing > 0, WAIT);
        drop(missing);
        work();
    }
}

#[cfg(test)]
mod tests {
    use crate::runtime::OwnedRuntimes;
    use apiary_engine::settings::Settings;
    use std::collections::BTreeSet;
    use std::sync::Mutex;
    use std::thread;

    static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

    #[test]
    fn every_thread_of_a_resting_node_is_reached() {
        let runtimes = OwnedRuntimes::start(3).unwrap();
        let settings = Settings {
            bees: Some(3),
            ..Settings::default()
        };
        let host = crate::host::system_host(&settings, runtimes.handles().clone()).unwrap();
        let work = || {
            let thread = thread::current();
            let name = format!("{:?} {}", thread.id(), thread.name().unwrap_or_default());
            SEEN.lock().unwrap().insert(name);
        };
        futures::executor::block_on(runtimes.on_each_thread(&host.blocking, work));
        let seen = SEEN.lock().unwrap();
        let count = |name: &str| seen.iter().filter(|thread| thread.contains(name)).count();
        assert_eq!(count("apiary-query"), 3, "{seen:?}");
        assert_eq!(count("apiary-control"), 2, "{seen:?}");
        assert_eq!(count("apiary-io"), 6, "{seen:?}");
    }
}
