//! Looking again at a log that is known already: is all of it still there?
//!
//! Following a log asks for the next version only. A version that vanished behind a snapshot, or the
//! newest ones with nothing after them, would be noticed by nobody who has the snapshot; and its next
//! commit would be made over the gap.

use super::{Ledger, Snapshot};
use crate::error::{Error, Result};
use futures::future::try_join;
use std::sync::Arc;

impl Ledger {
    /// As [`Self::refresh`], and sees that every version is there that a new reader needs to come to
    /// the snapshot. Costs a read of the hint and a listing more; no time, as a rule.
    ///
    /// `Corrupt` names the first version that is gone.
    pub async fn refresh_whole(&self, snapshot: &Arc<Snapshot>) -> Result<Arc<Snapshot>> {
        let look = self.look(snapshot.version);
        let (newest, ()) = try_join(self.follow(snapshot), look).await?;
        Ok(newest)
    }

    async fn look(&self, known: u64) -> Result<()> {
        let hint = self.read_hint().await?.map_or(0, |hint| hint.version);
        let mut listing = self.list_log(hint).await?;
        if hint > 0 && listing.newest_checkpoint().is_none() {
            listing = self.list_log(0).await?;
        }
        // Who has cleaned up before a checkpoint was allowed to.
        let first = listing.newest_checkpoint().map_or(0, |version| version + 1);
        for version in first..=known {
            // A listing may be late.
            if !listing.holds_commit(version) && self.read_commit(version).await?.is_none() {
                return Err(Error::corrupt(
                    self.commit_key(version),
                    format!("it is missing, and version {known} was there before; restore it"),
                ));
            }
        }
        Ok(())
    }
}
