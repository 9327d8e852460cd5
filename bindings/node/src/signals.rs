//! SIGINT and SIGTERM: the first one asks, the second one ends the process at once.
//!
//! Signals are blocked in every thread and read by one thread with `sigwait`, so no code of ours
//! runs inside a signal handler. Must be set up before any other thread starts, because threads
//! inherit the mask.

use crate::failure::{Failure, Result};
use std::io;
use tokio::sync::watch;

/// Exit code after a cancel: 128 + SIGINT, as shells have it.
pub const CANCELLED_CODE: i32 = 130;

/// Tells when somebody asked to stop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Interrupts {
    count: watch::Receiver<u64>,
    sender: watch::Sender<u64>,
}

impl Interrupts {
    /// Blocks the signals and starts the reading thread.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn listen() -> io::Result<Self> {
        let signals = stop_signals();
        // SAFETY: the set is initialised and lives through the call.
        let code =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut()) };
        if code != 0 {
            return Err(io::Error::from_raw_os_error(code));
        }
        let (sender, count) = watch::channel(0);
        let asked = sender.clone();
        std::thread::Builder::new()
            .name("apiary-signals".into())
            .spawn(move || {
                loop {
                    let mut signal = 0;
                    // SAFETY: both pointers live through the call.
                    if unsafe { libc::sigwait(&signals, &mut signal) } != 0 {
                        return;
                    }
                    if *asked.borrow() > 0 {
                        // SAFETY: ends the process without running anything that could wait.
                        unsafe { libc::_exit(CANCELLED_CODE) };
                    }
                    asked.send_modify(|count| *count += 1);
                }
            })?;
        Ok(Self { count, sender })
    }

    /// Whether a signal has come.
    pub fn is_asked(&self) -> bool {
        *self.count.borrow() > 0
    }

    /// Runs something that watches no signals to its end, or to the first signal.
    ///
    /// # Errors
    /// `Cancelled` after a signal.
    pub async fn or_cancelled<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.asked() => Err(Failure::Cancelled),
            done = work => done,
        }
    }

    /// Waits until a signal has come.
    pub async fn asked(&self) {
        let mut count = self.count.clone();
        // The sender lives as long as we do, so this cannot fail.
        let _ = count.wait_for(|count| *count > 0).await;
    }

    /// The shell has dealt with the interrupt and goes on.
    pub fn reset(&self) {
        self.sender.send_modify(|count| *count = 0);
    }
}

fn stop_signals() -> libc::sigset_t {
    // SAFETY: `sigset_t` is plain data, and `sigemptyset` initialises it.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGINT);
        libc::sigaddset(&mut set, libc::SIGTERM);
        set
    }
}
