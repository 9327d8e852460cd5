//! SIGINT and SIGTERM: the first one asks, the second one ends the process at once.
//!
//! Signals are blocked in every thread and read by one thread with `sigwait`, so no code of ours
//! runs inside a signal handler. Must be set up before any other thread starts, because threads
//! inherit the mask.

use crate::failure::{Failure, Result};
use apiary::CancellationToken;
use std::future::Future;
use std::io;
use std::pin::pin;
use tokio::sync::{oneshot, watch};

/// Exit code after a cancel: 128 + SIGINT, as shells have it.
pub const CANCELLED_CODE: i32 = 130;

/// What has come since the last [`Interrupts::reset`].
#[derive(Clone, Copy, Debug, Default)]
struct Signals {
    asked: bool,
    /// SIGTERM means the process, not what it does at the moment.
    terminated: bool,
}

/// Tells when somebody asked to stop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Interrupts {
    signals: watch::Receiver<Signals>,
    sender: watch::Sender<Signals>,
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
        let (sender, received) = watch::channel(Signals::default());
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
                    if asked.borrow().asked {
                        // SAFETY: ends the process without running anything that could wait.
                        unsafe { libc::_exit(CANCELLED_CODE) };
                    }
                    asked.send_modify(|signals| {
                        signals.asked = true;
                        signals.terminated |= signal == libc::SIGTERM;
                    });
                }
            })?;
        Ok(Self {
            signals: received,
            sender,
        })
    }

    /// Signals that never come.
    #[cfg(test)]
    pub fn silent() -> Self {
        let (sender, signals) = watch::channel(Signals::default());
        Self { signals, sender }
    }

    #[cfg(test)]
    pub fn interrupt(&self) {
        self.sender.send_modify(|signals| signals.asked = true);
    }

    /// Whether a signal has come.
    pub fn is_asked(&self) -> bool {
        self.signals.borrow().asked
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
        let mut signals = self.signals.clone();
        // The sender lives as long as we do, so this cannot fail.
        let _ = signals.wait_for(|signals| signals.asked).await;
    }

    /// Whether the process is to end, and not only what it does.
    pub fn is_final(&self) -> bool {
        self.signals.borrow().terminated
    }

    /// The outcome of work that `cancel` takes back. Once a signal comes the work is told so, and
    /// still says itself what became of it: it may be committing.
    pub async fn told<T>(&self, cancel: &CancellationToken, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        tokio::select! {
            biased;
            () = self.asked() => {
                cancel.cancel();
                work.await
            }
            outcome = &mut work => outcome,
        }
    }

    /// The shell has dealt with the interrupt and goes on.
    pub fn reset(&self) {
        self.sender
            .send_modify(|signals| signals.asked = signals.terminated);
    }
}

/// Runs work that blocks on a thread of its own, so that a signal need not wait for its end. The
/// thread is left behind then, and ends with the process.
pub async fn in_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, outcome) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let _ = sender.send(work());
        })
        .map_err(|source| Failure::File {
            path: "a thread".into(),
            source,
        })?;
    outcome
        .await
        .unwrap_or_else(|_| Err(apiary::Error::Bug(format!("the thread {name} panicked")).into()))
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
