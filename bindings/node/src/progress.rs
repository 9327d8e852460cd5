//! Progress on stderr, only when a person looks at it and only when it takes long.

use apiary::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

const QUIET: Duration = Duration::from_millis(700);
const TICK: Duration = Duration::from_millis(100);

/// A bar that follows counters. Gone when dropped.
pub struct Meter {
    bar: ProgressBar,
    follower: Option<JoinHandle<()>>,
}

impl Meter {
    /// A bar for a running statement; appears after a while. Needs a tokio runtime around it.
    pub fn of_query(progress: Arc<Progress>) -> Self {
        Self::follow("{spinner} {elapsed} {msg}", move |bar| {
            let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let (done, total) = (read(&progress.bytes_done), read(&progress.bytes_total));
            let rows = read(&progress.rows_done);
            // A query that reads no cells has nothing to measure itself against.
            if total > 0 {
                let text = format!("{} of {} read, {rows} rows", bytes(done), bytes(total));
                bar.set_message(text);
            }
        })
    }

    /// A bar for files that are read; `done` counts their bytes.
    pub fn of_load(total_bytes: u64, done: Arc<AtomicU64>) -> Self {
        let template = "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
        Self::follow(template, move |bar| {
            bar.set_length(total_bytes);
            bar.set_position(done.load(Ordering::Relaxed));
        })
    }

    fn follow(template: &str, update: impl Fn(&ProgressBar) + Send + 'static) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self {
                bar: ProgressBar::hidden(),
                follower: None,
            };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let followed = bar.clone();
        let follower = tokio::spawn(async move {
            tokio::time::sleep(QUIET).await;
            followed.set_draw_target(ProgressDrawTarget::stderr());
            loop {
                update(&followed);
                followed.tick();
                tokio::time::sleep(TICK).await;
            }
        });
        Self {
            bar,
            follower: Some(follower),
        }
    }

    /// Prints something else while the bar stands aside.
    pub fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    pub fn finish(self) {}
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(follower) = self.follower.take() {
            follower.abort();
        }
        self.bar.finish_and_clear();
    }
}

/// A size for people.
pub fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}
