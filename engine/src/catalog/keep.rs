//! What killed nodes left half done, finished without anybody asking for the name.

use super::Catalog;
use crate::error::Result;
use apiary_protocol::names::FrameName;
use apiary_protocol::registry::FrameState;

impl Catalog {
    /// Finishes or aborts creations, drops and purges that a node began and did not end. Returns how
    /// many there were. One that fails does not keep the others from being tried; the first error is
    /// given at the end. One probe when there is nothing to do.
    ///
    /// Nobody waits for a name here, so a creation is watched for longer than its requests may take:
    /// aborting one that is only slow throws away all that it has uploaded.
    pub async fn finish_half_done(&self) -> Result<usize> {
        let head = self.head().await?;
        let half_done: Vec<FrameName> = head
            .registry
            .frames()
            .filter(|(_, record)| record.state != FrameState::Live)
            .map(|(name, _)| name)
            .collect();
        let poll = self.settings.storage_deadline() / 4;
        let mut failed = None;
        for name in &half_done {
            if let Err(error) = self.settle_patiently(name, poll).await {
                tracing::warn!(frame = %name, %error, "half done, and could not be finished");
                failed.get_or_insert(error);
            }
        }
        let purged = self.finish_purges().await;
        match failed {
            Some(error) => Err(error),
            None => Ok(half_done.len() + purged?),
        }
    }
}
