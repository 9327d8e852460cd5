//! How statements reach the Ledger: which lost answers are asked for again, and which are unknown.

use super::{Message, View, outcome_unknown};
use crate::mailbox::{Address, CallError};
use apiary_engine::catalog::FrameEntry;
use apiary_engine::error::{Error, Result};
use apiary_engine::ledger::{Committed, Intent, Snapshot};
use apiary_engine::sql::Snapshots;
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;

/// The callers' handle.
#[derive(Clone, Debug)]
pub(crate) struct LedgerHandle {
    address: Address<Message>,
    deadline: Duration,
}

impl LedgerHandle {
    /// `deadline` bounds one request: several storage requests with their retries.
    pub(crate) fn new(address: Address<Message>, deadline: Duration) -> Self {
        Self { address, deadline }
    }

    /// The current instance, for tests that kill it.
    #[cfg(test)]
    pub(crate) fn instance(&self) -> Option<ractor::ActorRef<Message>> {
        self.address.instance()
    }

    /// Commits an intent that was made against `base`. An error of kind `OutcomeUnknown` may have
    /// landed; every other error did not.
    pub(crate) async fn commit(&self, base: Arc<Snapshot>, intent: Intent) -> Result<Committed> {
        let location = base.location.clone();
        let sent = self
            .address
            .call(self.deadline, |reply| Message::Commit {
                base,
                intent,
                reply,
            })
            .await;
        match sent {
            Ok(result) => result,
            Err(error @ CallError::Stopped) => Err(error.into_error(self.address.name())),
            Err(CallError::Lost) => Err(outcome_unknown(&location, "the ledger actor ended")),
            Err(CallError::Deadline(after)) => Err(outcome_unknown(
                &location,
                &format!("no answer in {} ms", after.as_millis()),
            )),
        }
    }

    /// Waits until no commit and no checkpoint is in flight.
    pub(crate) async fn flush(&self) -> Result<(), CallError> {
        self.address
            .call(self.deadline, |reply| Message::Flush { reply })
            .await
    }

    pub(crate) async fn observe(&self) -> Result<View> {
        let observed = self
            .address
            .call(self.deadline, |reply| Message::Observe { reply })
            .await;
        observed.map_err(|error| error.into_error(self.address.name()))
    }
}

#[async_trait]
impl Snapshots for LedgerHandle {
    async fn snapshot(&self, frame: &FrameEntry) -> Result<Arc<Snapshot>> {
        let ask = |reply| Message::Snapshot {
            location: frame.location.clone(),
            reply,
        };
        let answer = match self.address.call(self.deadline, ask).await {
            // Reading again is harmless: the next instance is asked.
            Err(CallError::Lost) => self.address.call(self.deadline, ask).await,
            other => other,
        };
        let answer = answer.map_err(|error| error.into_error(self.address.name()))?;
        answer.map_err(|error| match Arc::try_unwrap(error) {
            Ok(alone) => alone,
            Err(shared) => Error::Shared(shared),
        })
    }
}
