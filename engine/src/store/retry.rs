//! Which storage errors are worth another try, and the pause before it.
//!
//! Never retries a conditional write: what became of one is for `create` to find out.

use crate::host::Entropy;
use object_store::{Error, Result};
use std::error::Error as StdError;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

const PAUSE_FIRST: Duration = Duration::from_millis(50);
/// What `object_store::memory` calls itself in errors.
const IN_MEMORY: &str = "InMemory";
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Retries with full jitter inside a deadline.
#[derive(Clone, Debug)]
pub(super) struct Retry {
    pub deadline: Duration,
    pub entropy: Arc<dyn Entropy>,
}

impl Retry {
    /// Runs `attempt` until it succeeds, fails for good, or the deadline passes; then the last
    /// error is the result.
    pub async fn run<T, A>(&self, mut attempt: impl FnMut() -> A) -> Result<T>
    where
        A: Future<Output = Result<T>>,
    {
        let mut last = None;
        let attempts = async {
            let mut tries = 0;
            loop {
                match attempt().await {
                    Err(error) if is_transient(&error) => {
                        tracing::debug!(%error, tries, "storage request failed, trying again");
                        last = Some(error);
                    }
                    result => return result,
                }
                tokio::time::sleep(self.pause(tries)).await;
                tries += 1;
            }
        };
        match tokio::time::timeout(self.deadline, attempts).await {
            Ok(result) => result,
            Err(_) => Err(last.unwrap_or_else(|| self.timed_out())),
        }
    }

    /// Runs `attempt` until it succeeds, fails for good, or fails after the deadline: for what has
    /// deadlines within and may take longer as long as it gets on.
    pub async fn begin_within<T, A>(&self, mut attempt: impl FnMut() -> A) -> Result<T>
    where
        A: Future<Output = Result<T>>,
    {
        let started = tokio::time::Instant::now();
        let mut tries = 0;
        loop {
            match attempt().await {
                Err(error) if is_transient(&error) && started.elapsed() < self.deadline => {
                    tracing::debug!(%error, tries, "storage request failed, trying again");
                }
                result => return result,
            }
            tokio::time::sleep(self.pause(tries)).await;
            tries += 1;
        }
    }

    /// One attempt inside the deadline: for what must not be repeated blindly.
    pub async fn once<T>(&self, attempt: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(self.deadline, attempt).await {
            Ok(result) => result,
            Err(_) => Err(self.timed_out()),
        }
    }

    /// Full jitter: uniform below an exponentially growing bound, so that nodes which failed
    /// together do not come back together.
    pub fn pause(&self, tries: u32) -> Duration {
        let bound = PAUSE_FIRST
            .saturating_mul(1 << tries.min(10))
            .min(PAUSE_MAX);
        let random = u64::from_le_bytes(self.entropy.bytes());
        Duration::from_micros(random % (bound.as_micros() as u64 + 1))
    }

    fn timed_out(&self) -> Error {
        Error::Generic {
            store: "meadow",
            source: format!("no answer within {} ms", self.deadline.as_millis()).into(),
        }
    }
}

/// True when the same request may succeed later without anybody changing anything.
pub(super) fn is_transient(error: &Error) -> bool {
    match error {
        // What the system refuses now it refuses in a second, and a range outside of an object
        // stays there.
        Error::Generic { store, .. } if [super::local::STORE, IN_MEMORY].contains(store) => false,
        Error::Generic { source, .. } => !has_client_error_status(&**source),
        Error::JoinError { .. } => true,
        _ => false,
    }
}

/// `object_store` keeps the type of its HTTP errors to itself, so their text is all there is:
/// 4xx is the caller's mistake, but for 408 (timeout), 409 (conflict) and 429 (too many requests).
fn has_client_error_status(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some((_, rest)) = error.to_string().split_once("non-2xx status code: ") {
            let status = rest.get(..3).and_then(|digits| digits.parse::<u16>().ok());
            return status.is_some_and(|code| {
                (400..500).contains(&code) && ![408, 409, 429].contains(&code)
            });
        }
        next = error.source();
    }
    false
}
