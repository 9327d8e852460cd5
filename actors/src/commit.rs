//! The last step of a write: from uploaded cells to a version of the ledger, or to nothing.
//!
//! It runs as a task of its own: neither a client who goes nor a driver that dies ends it halfway,
//! and what it knows of the cells is known until the outcome is.
//!
//! Invariants: cells are deleted only while no commit can name them (LEDGER-4), which is before the
//! intent is handed over, or after an answer that says that it is in no version; cells whose commit
//! is unknown are left alone; the mark of a frame in the making is taken back after all that becomes
//! of its cells.

use crate::context::Context;
use apiary_engine::catalog::{Catalog, NewFrame};
use apiary_engine::cell::WrittenCells;
use apiary_engine::error::{Error, ErrorKind, Result};
use apiary_engine::ledger::{Committed, Intent, Snapshot};
use apiary_engine::schema::FrameSchema;
use apiary_engine::store::Meadow;
use apiary_protocol::delta::Add;
use apiary_protocol::ids::FrameId;
use apiary_protocol::keys;
use apiary_protocol::planted;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
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

/// What is done beside the statement that began it, and waited for by the node's stop.
#[derive(Clone)]
struct Aside {
    commits: TaskTracker,
    control: Handle,
}

impl Aside {
    fn of(context: &Context) -> Self {
        Self {
            commits: context.commits.clone(),
            control: context.environment.host.runtimes.control.clone(),
        }
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.commits.spawn_on(work.in_current_span(), &self.control));
    }
}

/// The mark of a frame in the making (see `apiary_engine::catalog`). Shared by all that may still do
/// something to its cells; taken back when the last of them is through, unless a version may name
/// them and nobody knows.
pub(crate) struct Making {
    id: FrameId,
    location: String,
    catalog: Arc<Catalog>,
    meadow: Meadow,
    aside: Aside,
    kept: AtomicBool,
    is_made: AtomicBool,
    is_shared: AtomicBool,
}

impl Making {
    pub(crate) async fn begin(context: &Context, new: &NewFrame) -> Result<Arc<Self>> {
        let making = Arc::new(Self {
            id: new.id(),
            location: new.location.clone(),
            catalog: context.environment.catalog.clone(),
            meadow: context.environment.meadow.clone(),
            aside: Aside::of(context),
            kept: AtomicBool::new(false),
            is_made: AtomicBool::new(false),
            is_shared: AtomicBool::new(false),
        });
        making.catalog.begin_making(new).await?;
        Ok(making)
    }

    fn keep(&self, kept: bool) {
        self.kept.store(kept, Ordering::SeqCst);
    }

    /// Other nodes put cells there too. One that is killed leaves some that nobody here knows of, so
    /// unless the frame is made, which leads to them as well, the mark stays for the Keeper.
    pub(crate) fn share(&self) {
        self.is_shared.store(true, Ordering::SeqCst);
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        let is_made = self.is_made.load(Ordering::SeqCst);
        let is_shared = self.is_shared.load(Ordering::SeqCst) && !is_made;
        if self.kept.load(Ordering::SeqCst) || is_shared {
            return;
        }
        let (catalog, id, location) = (self.catalog.clone(), self.id, self.location.clone());
        let meadow = self.meadow.clone();
        let discarded = (!is_made).then_some(location);
        self.aside.spawn(async move {
            // Cells of a write that was cancelled lead nowhere without the mark.
            meadow.quiet().await;
            if let Err(error) = catalog.end_making(id, discarded.as_deref()).await {
                tracing::warn!(%id, %error, "the mark of a frame in the making was not taken back");
            }
        });
    }
}

/// Cells that are uploaded and in no ledger, as soon as there are some; deleted when dropped, unless a
/// commit may name them.
pub(crate) struct Uploaded {
    pub(crate) cells: WrittenCells,
    location: String,
    making: Option<Arc<Making>>,
    meadow: Meadow,
    aside: Aside,
    kept: bool,
}

impl Uploaded {
    /// With the mark of the frame, when it is not made yet.
    pub(crate) fn new(context: &Context, location: &str, making: Option<Arc<Making>>) -> Self {
        Self {
            cells: WrittenCells::default(),
            location: location.to_string(),
            making,
            meadow: context.environment.meadow.clone(),
            aside: Aside::of(context),
            kept: false,
        }
    }

    /// Whether the cells stay when this goes, and the mark with them.
    fn keep(&mut self, kept: bool) {
        self.kept = kept;
        if let Some(making) = &self.making {
            making.keep(kept);
        }
    }

    /// A frame names the cells now: they stay, and the mark goes.
    fn is_made(&mut self) {
        self.kept = true;
        if let Some(making) = self.making.take() {
            making.is_made.store(true, Ordering::SeqCst);
            making.keep(false);
        }
    }

    /// Takes on the cells of another stretch of the same write.
    pub(crate) fn add(&mut self, mut more: Self) {
        let more = std::mem::take(&mut more.cells);
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
        uploaded.keep(true);
        let guess = base.clone();
        let outcome = ledger.commit(base, intent).await;
        uploaded.keep(match &outcome {
            // Another commit holds these rows.
            Ok(committed) => !committed.recorded_before,
            Err(error) => error.kind() == ErrorKind::OutcomeUnknown,
        });
        let outcome = match outcome {
            Err(error)
                if error.kind() == ErrorKind::OutcomeUnknown && planted!(UnknownIsSuccess) =>
            {
                Ok(Committed {
                    version: guess.version + 1,
                    snapshot: guess,
                    attempts: 1,
                    already: false,
                    recorded_before: false,
                })
            }
            outcome => outcome,
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
        uploaded.keep(true);
        let adds = uploaded.cells.adds.clone();
        let outcome = catalog.create_filled(&new, &schema, adds).await;
        match &outcome {
            Ok(_) => uploaded.is_made(),
            Err(error) => uploaded.keep(error.kind() == ErrorKind::OutcomeUnknown),
        }
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
        let (adds, making) = (std::mem::take(&mut self.cells.adds), self.making.take());
        // What this does not reach is an orphan, which the Keeper may sweep.
        self.aside.spawn(async move {
            delete_cells(meadow, location, adds).await;
            drop(making);
        });
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
