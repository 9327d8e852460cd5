//! The last step of a write: from uploaded cells to a version of the ledger, or to nothing.
//!
//! It runs as a task of its own: neither a client who goes nor a driver that dies ends it halfway,
//! and what it knows of the cells is known until the outcome is.
//!
//! Invariants: cells are deleted only while no commit can name them (LEDGER-4), which is before the
//! intent is handed over, or after an answer that says that it is in no version; cells whose commit
//! is unknown are left alone.

use crate::context::Context;
use apiary_engine::catalog::NewFrame;
use apiary_engine::cell::WrittenCells;
use apiary_engine::error::{Error, ErrorKind, Result};
use apiary_engine::ledger::{Committed, Intent, Snapshot};
use apiary_engine::schema::FrameSchema;
use apiary_engine::store::Meadow;
use apiary_protocol::delta::Add;
use apiary_protocol::keys;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Handle;
use tracing::Instrument;

/// Whether a statement has begun what cannot be taken back. From then on a cancel waits for the
/// outcome, and a driver that is lost leaves an unknown one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Committing(Arc<AtomicBool>);

impl Committing {
    pub(crate) fn begin(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Cells that are uploaded and in no ledger; deleted when dropped, unless a commit may name them.
pub(crate) struct Uploaded {
    pub(crate) cells: WrittenCells,
    location: String,
    meadow: Meadow,
    control: Handle,
    kept: bool,
}

impl Uploaded {
    pub(crate) fn new(context: &Context, location: &str, cells: WrittenCells) -> Self {
        Self {
            cells,
            location: location.to_string(),
            meadow: context.environment.meadow.clone(),
            control: context.environment.host.runtimes.control.clone(),
            kept: false,
        }
    }

    /// Takes on the cells of another stretch of the same write.
    pub(crate) fn add(&mut self, more: WrittenCells) {
        self.cells.adds.extend(more.adds);
        self.cells.adds.sort_by(|a, b| a.path.cmp(&b.path));
        self.cells.rows += more.rows;
        self.cells.bytes += more.bytes;
        for warning in more.warnings {
            if !self.cells.warnings.contains(&warning) {
                self.cells.warnings.push(warning);
            }
        }
    }

    /// Each stretch keeps to the limit by itself; this is for all of them together.
    pub(crate) fn check_partitions(&self, max_partitions: usize) -> Result<()> {
        let directory = |add: &'_ Add| add.path.rsplit_once('/').map(|(path, _)| path.to_string());
        let touched: BTreeSet<_> = self.cells.adds.iter().map(directory).collect();
        if touched.len() > max_partitions.max(1) {
            return Err(Error::rejected(format!(
                "the write touches more than {max_partitions} partitions; partition by a column with \
                 fewer values, write in parts, or raise max_partitions"
            )));
        }
        Ok(())
    }
}

/// What became of a commit, and the cells that it was about.
pub(crate) struct Landed {
    pub(crate) committed: Committed,
    pub(crate) cells: WrittenCells,
}

/// Commits what was uploaded. An error of kind `OutcomeUnknown` may have landed; every other error
/// did not. Dropping this future leaves the commit to end by itself.
pub(crate) async fn commit(
    context: &Context,
    base: Arc<Snapshot>,
    intent: Intent,
    mut uploaded: Uploaded,
    committing: &Committing,
) -> Result<Landed> {
    let what = format!("a commit to {}", uploaded.location);
    let ledger = context.ledger.clone();
    let work = async move {
        uploaded.kept = true;
        let outcome = ledger.commit(base, intent).await;
        uploaded.kept = match &outcome {
            // Another commit holds these rows.
            Ok(committed) => !committed.recorded_before,
            Err(error) => error.kind() == ErrorKind::OutcomeUnknown,
        };
        let committed = outcome?;
        let cells = uploaded.cells.clone();
        Ok(Landed { committed, cells })
    };
    to_its_end(context, what, work, committing).await
}

/// Makes a frame with what was uploaded to its place. Of errors and of dropping, what [`commit`] says
/// holds here too.
pub(crate) async fn create(
    context: &Context,
    new: NewFrame,
    schema: Arc<FrameSchema>,
    mut uploaded: Uploaded,
    committing: &Committing,
) -> Result<(Arc<Snapshot>, WrittenCells)> {
    let what = format!("making a frame at {}", new.location);
    let catalog = context.environment.catalog.clone();
    let work = async move {
        uploaded.kept = true;
        let adds = uploaded.cells.adds.clone();
        let outcome = catalog.create_filled(&new, &schema, adds).await;
        uploaded.kept = match &outcome {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::OutcomeUnknown,
        };
        let (_, snapshot) = outcome?;
        Ok((snapshot, uploaded.cells.clone()))
    };
    to_its_end(context, what, work, committing).await
}

/// Runs work that must not be taken back, as a task that nothing but the end of the process ends.
async fn to_its_end<T: Send + 'static>(
    context: &Context,
    what: String,
    work: impl Future<Output = Result<T>> + Send + 'static,
    committing: &Committing,
) -> Result<T> {
    committing.begin();
    let control = &context.environment.host.runtimes.control;
    let ended = context
        .commits
        .spawn_on(work.in_current_span(), control)
        .await;
    ended.unwrap_or_else(|error| {
        let reason = error.to_string();
        Err(Error::OutcomeUnknown { what, reason })
    })
}

impl Drop for Uploaded {
    fn drop(&mut self) {
        if self.kept || self.cells.adds.is_empty() {
            return;
        }
        let (meadow, location) = (self.meadow.clone(), self.location.clone());
        let adds = std::mem::take(&mut self.cells.adds);
        // What this does not reach is an orphan, which the Keeper may sweep.
        let delete = delete_cells(meadow, location, adds).in_current_span();
        drop(self.control.spawn(delete));
    }
}

async fn delete_cells(meadow: Meadow, location: String, adds: Vec<Add>) {
    for add in adds {
        let deleted = match keys::added_cell(&location, &add.path) {
            Ok(key) => meadow.delete(&key).await,
            Err(error) => Err(Error::corrupt(add.path.clone(), error)),
        };
        if let Err(error) = deleted {
            tracing::warn!(location, path = add.path, %error, "a cell without a commit was not deleted");
        }
    }
}
