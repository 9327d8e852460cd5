//! A few threads for blocking calls, behind a bounded channel.
//!
//! Never runs a job on the caller's thread. A job that panics ends alone.

use apiary_engine::host::Blocking;
use crossbeam_channel::{Receiver, Sender};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

type Job = Box<dyn FnOnce() + Send + 'static>;

/// A sync keeps a thread for milliseconds, and several frames commit at once.
const THREADS_MIN: usize = 4;
/// Jobs that wait at most; more make the caller wait.
const WAITING_MAX: usize = 4096;

#[derive(Debug)]
pub(super) struct IoThreads {
    jobs: Sender<Job>,
}

/// How many there are.
pub fn thread_count(bees: usize) -> usize {
    bees.saturating_mul(2).max(THREADS_MIN)
}

impl IoThreads {
    pub fn start(bees: usize) -> io::Result<Self> {
        let (jobs, receiver) = crossbeam_channel::bounded(WAITING_MAX);
        for index in 0..thread_count(bees) {
            let receiver = receiver.clone();
            thread::Builder::new()
                .name(format!("apiary-io-{index}"))
                .spawn(move || work(&receiver))?;
        }
        Ok(Self { jobs })
    }
}

fn work(jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        // The waiting side sees its channel closed and gets an error.
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("a blocking job panicked");
        }
    }
}

impl Blocking for IoThreads {
    fn run(&self, job: Job) {
        // Fails only when every thread is gone; the job's own channel then tells its caller.
        let _ = self.jobs.send(job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panicking_job_ends_alone() {
        let threads = IoThreads::start(1).unwrap();
        for _ in 0..20 {
            threads.run(Box::new(|| panic!("on purpose")));
        }
        let (sender, receiver) = crossbeam_channel::bounded(1);
        threads.run(Box::new(move || sender.send(7).unwrap()));
        assert_eq!(receiver.recv(), Ok(7));
    }
}
