//! The driver of a write: admit, validate and upload cells in a chamber, commit one version.
//!
//! Invariants: a write that got an error is either wholly in or wholly out, and the error says
//! which, or that it is unknown (LEDGER-2); cells of a write that is known to be out are deleted;
//! cells whose commit is unknown are left alone.

use crate::answer::{WriteOptions, WriteReport};
use crate::bees::TaskEnd;
use crate::chamber::Chamber;
use crate::context::{Context, Ladder, in_chamber};
use crate::feed::Feed;
use apiary_engine::behavior::leafcutter;
use apiary_engine::behavior::temperature::NewWork;
use apiary_engine::catalog::FrameEntry;
use apiary_engine::cell::{WriteSpec, WrittenCells, write_cells};
use apiary_engine::error::{Error, ErrorKind, Result};
use apiary_engine::ledger::{Committed, Intent, Reads, Snapshot};
use apiary_engine::schema::FrameSchema;
use apiary_engine::sql::{Session, Snapshots};
use apiary_engine::store::Meadow;
use apiary_protocol::delta::{Add, paths::decode_path};
use apiary_protocol::ids::CommitId;
use apiary_protocol::names::FrameName;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement as SqlStatement;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;

const COMMITTED_BEFORE: &str = "this transaction was committed before; nothing was written";

/// Where the rows come from.
pub(crate) enum Source {
    /// A caller's stream: columns by name. It cannot be read twice, so there is one attempt.
    Stream(SendableRecordBatchStream),
    Query(QuerySource),
}

#[derive(Clone)]
pub(crate) struct QuerySource {
    pub(crate) session: Session,
    pub(crate) statement: Box<SqlStatement>,
    /// The frame's columns that the query's columns go to, by position; empty for all in order.
    pub(crate) columns: Vec<String>,
}

pub(crate) struct WriteJob {
    pub(crate) frame: FrameName,
    pub(crate) options: WriteOptions,
    pub(crate) label: String,
    pub(crate) deadline: Duration,
}

/// A `CREATE TABLE … AS`.
pub(crate) struct CreateJob {
    pub(crate) source: QuerySource,
    pub(crate) partition_by: Vec<String>,
    pub(crate) if_not_exists: bool,
    pub(crate) write: WriteJob,
}

/// Told when the commit begins: from then on a driver that is lost leaves an unknown outcome.
pub(crate) type Committing = Arc<AtomicBool>;

/// A target that was resolved for one write.
struct Target {
    entry: FrameEntry,
    snapshot: Arc<Snapshot>,
}

/// Cells that are uploaded and in no ledger; deleted when dropped before [`Uploaded::keep`].
struct Uploaded {
    cells: WrittenCells,
    location: String,
    meadow: Meadow,
    control: Handle,
    kept: bool,
}

/// Writes into a frame.
pub(crate) async fn write(
    context: &Context,
    job: WriteJob,
    source: Source,
    committing: Committing,
) -> Result<WriteReport> {
    let started_at = context.environment.host.clock.monotonic();
    check_deadline(context, job.deadline)?;
    let backpressure = job
        .options
        .backpressure
        .unwrap_or(context.environment.settings.backpressure);
    let prepared = async {
        let temperature = context.bees.admit(NewWork::Write(backpressure)).await?;
        let target = resolve(context, &job.frame).await?;
        if already_committed(&job.options, &target.snapshot) {
            return Ok((temperature, target, None));
        }
        let (uploaded, base) = upload(context, &job, &target, source).await?;
        Ok((temperature, target, Some((uploaded, base))))
    };
    let prepared = tokio::time::timeout(job.deadline, prepared).await;
    let (temperature, target, prepared) = prepared.unwrap_or(Err(Error::Deadline(job.deadline)))?;
    let mut report = WriteReport {
        version: target.snapshot.version,
        rows_written: 0,
        cells_written: 0,
        bytes_written: 0,
        duration_ms: 0,
        temperature,
        warnings: Vec::new(),
    };
    match prepared {
        None => report.warnings.push(COMMITTED_BEFORE.into()),
        Some((uploaded, base)) => {
            committing.store(true, Ordering::SeqCst);
            commit(context, &job.options, uploaded, base, &mut report).await?;
        }
    }
    let elapsed = context
        .environment
        .host
        .clock
        .monotonic()
        .saturating_sub(started_at);
    report.duration_ms = elapsed.as_millis() as u64;
    Ok(report)
}

/// Cells of a write that takes longer could be swept before they are committed.
fn check_deadline(context: &Context, deadline: Duration) -> Result<()> {
    let longest = context.environment.settings.write_deadline_max();
    if deadline > longest {
        return Err(Error::rejected(format!(
            "a write may take {} ms at most and not {} ms: what is not committed by then is swept; \
             raise sweep_age",
            longest.as_millis(),
            deadline.as_millis()
        )));
    }
    Ok(())
}

/// Makes a frame with a query's columns and fills it; drops it again when filling fails. `None` when
/// it was there and that is no error.
pub(crate) async fn create_as(
    context: &Context,
    job: CreateJob,
    committing: Committing,
) -> Result<Option<WriteReport>> {
    let catalog = &context.environment.catalog;
    if job.if_not_exists && catalog.view().await?.frame(&job.write.frame).is_ok() {
        return Ok(None);
    }
    let strategy = Ladder::new().strategy;
    let planned = context
        .plan(&job.source.session, &job.source.statement, strategy)
        .await?;
    let schema = FrameSchema::new(planned.schema, job.partition_by)?;
    let frame = job.write.frame.clone();
    catalog.create_frame(&frame, &schema, false).await?;
    let written = write(context, job.write, Source::Query(job.source), committing).await;
    if let Err(error) = &written
        && error.kind() != ErrorKind::OutcomeUnknown
        && let Err(left) = catalog.drop_frame(&frame, true, true).await
    {
        tracing::warn!(%frame, %left, "a frame that could not be filled was not dropped");
    }
    written.map(Some)
}

async fn resolve(context: &Context, name: &FrameName) -> Result<Target> {
    let entry = context
        .environment
        .catalog
        .view()
        .await?
        .frame(name)?
        .clone();
    let snapshot = context.ledger.snapshot(&entry).await?;
    Ok(Target { entry, snapshot })
}

fn already_committed(options: &WriteOptions, snapshot: &Snapshot) -> bool {
    let committed =
        |(app_id, version): &(String, i64)| snapshot.txn_version(app_id) >= Some(*version);
    options.txn.as_ref().is_some_and(committed)
}

fn write_spec(context: &Context, target: &Target) -> WriteSpec {
    let settings = &context.environment.settings;
    let budget = context.chambers.division().budget_per_bee_bytes;
    WriteSpec {
        location: target.entry.location.clone(),
        schema: target.snapshot.schema.clone(),
        codec: settings.codec,
        target_cell_bytes: settings
            .target_cell_bytes
            .unwrap_or_else(|| leafcutter::target_cell_bytes(budget)),
        row_group_rows_max: settings.row_group_rows_max,
        max_partitions: settings.max_partitions,
        rows_before: 0,
    }
}

/// What the commit assumes: the snapshot it was made against, and whether it read the frame.
struct Base {
    snapshot: Arc<Snapshot>,
    reads: Reads,
}

async fn upload(
    context: &Context,
    job: &WriteJob,
    target: &Target,
    source: Source,
) -> Result<(Uploaded, Base)> {
    match source {
        Source::Stream(input) => {
            let uploaded = upload_stream(context, job, target, input).await?;
            let base = Base {
                snapshot: target.snapshot.clone(),
                reads: Reads::Nothing,
            };
            Ok((uploaded, base))
        }
        Source::Query(source) => upload_query(context, job, target, source).await,
    }
}

fn uploaded(context: &Context, target: &Target, cells: WrittenCells) -> Uploaded {
    Uploaded {
        cells,
        location: target.entry.location.clone(),
        meadow: context.environment.meadow.clone(),
        control: context.environment.host.runtimes.control.clone(),
        kept: false,
    }
}

/// One attempt, a stretch of the stream at a time (see [`crate::feed`]): each takes a crew of its own,
/// so that a caller who is slow, at the beginning or later, holds no bee while it is.
async fn upload_stream(
    context: &Context,
    job: &WriteJob,
    target: &Target,
    input: SendableRecordBatchStream,
) -> Result<Uploaded> {
    let feed = Feed::new(input);
    let query = context.environment.host.runtimes.query.clone();
    let mut all = uploaded(context, target, WrittenCells::default());
    let mut is_first = true;
    loop {
        let gathered = feed.gather(&query).await?;
        // An empty stream is judged by its columns.
        if is_first || !gathered.is_empty {
            let bees = match gathered.is_last {
                true => 1,
                false => context.chambers.division().bees,
            };
            let spec = WriteSpec {
                rows_before: all.cells.rows,
                ..write_spec(context, target)
            };
            let cells = write_stretch(context, job, spec, bees, feed.stretch()).await?;
            all.add(cells);
            all.check_partitions(context.environment.settings.max_partitions)?;
        }
        if gathered.is_last {
            return Ok(all);
        }
        is_first = false;
    }
}

async fn write_stretch(
    context: &Context,
    job: &WriteJob,
    spec: WriteSpec,
    bees: usize,
    rows: SendableRecordBatchStream,
) -> Result<WrittenCells> {
    let (host, meadow) = (
        context.environment.host.clone(),
        context.environment.meadow.clone(),
    );
    let work = move |chamber: Chamber| async move {
        let config = SessionConfig::new().with_target_partitions(chamber.bees);
        let inside = TaskContext::default()
            .with_session_config(config)
            .with_runtime(chamber.runtime.clone());
        write_cells(&host, &meadow, &spec, rows, Arc::new(inside)).await
    };
    let failure = match context.bees.run(job.label.clone(), bees, 1, work).await {
        TaskEnd::Done(cells, _) => return Ok(cells),
        TaskEnd::Failed(error, facts) => Some((error, facts)),
        TaskEnd::Lost => None,
    };
    // The stream is spent: as if rows had been delivered.
    match Ladder::new().failed(&context.planner, failure, true) {
        Err(error) => Err(error),
        Ok(()) => Err(Error::Bug("a spent stream was to be written again".into())),
    }
}

async fn upload_query(
    context: &Context,
    job: &WriteJob,
    target: &Target,
    source: QuerySource,
) -> Result<(Uploaded, Base)> {
    let mut ladder = Ladder::new();
    loop {
        let schema = target.snapshot.schema.clone();
        let planned = context
            .plan_insert(&source, schema, ladder.strategy)
            .await?;
        let own = planned.frames.iter().find(|(name, _)| *name == job.frame);
        // A statement that reads its own target commits against what it read there.
        let base = match own {
            Some((_, read)) => Base {
                snapshot: read.clone(),
                reads: Reads::Everything,
            },
            None => Base {
                snapshot: target.snapshot.clone(),
                reads: Reads::Nothing,
            },
        };
        let (wanted, least) = context.crew(planned.scan_bytes, ladder.strategy);
        let (host, meadow) = (
            context.environment.host.clone(),
            context.environment.meadow.clone(),
        );
        let spec = write_spec(context, target);
        let work = move |chamber: Chamber| async move {
            let inside = in_chamber(&planned.context, &chamber);
            let rows = execute_stream(planned.plan.clone(), inside.clone())?;
            write_cells(&host, &meadow, &spec, rows, inside).await
        };
        let failure = match context
            .bees
            .run(job.label.clone(), wanted, least, work)
            .await
        {
            TaskEnd::Done(cells, _) => return Ok((uploaded(context, target, cells), base)),
            TaskEnd::Failed(error, facts) => Some((error, facts)),
            TaskEnd::Lost => None,
        };
        ladder.failed(&context.planner, failure, false)?;
    }
}

/// Commits what was uploaded and fills the report.
async fn commit(
    context: &Context,
    options: &WriteOptions,
    mut uploaded: Uploaded,
    base: Base,
    report: &mut WriteReport,
) -> Result<()> {
    report.warnings = std::mem::take(&mut uploaded.cells.warnings);
    if uploaded.cells.adds.is_empty() && !options.overwrite && options.txn.is_none() {
        return Ok(()); // No rows: nothing to say in the ledger.
    }
    let id = CommitId::from_random(context.environment.host.entropy.bytes());
    let adds = uploaded.cells.adds.clone();
    let intent = Intent {
        reads: base.reads,
        replaces_all: options.overwrite,
        txn: options.txn.clone(),
        ..Intent::append(id, adds)
    };
    match context.ledger.commit(base.snapshot, intent).await {
        // The guard's drop deletes the cells: an earlier commit holds these rows.
        Ok(Committed {
            version,
            already: true,
            ..
        }) => {
            report.version = version;
            report.warnings.push(COMMITTED_BEFORE.into());
            Ok(())
        }
        Ok(Committed { version, .. }) => {
            uploaded.kept = true;
            report.version = version;
            report.rows_written = uploaded.cells.rows;
            report.cells_written = uploaded.cells.adds.len() as u64;
            report.bytes_written = uploaded.cells.bytes;
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::OutcomeUnknown => {
            uploaded.kept = true;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

impl Uploaded {
    /// Takes on the cells of another stretch of the same write.
    fn add(&mut self, more: WrittenCells) {
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
    fn check_partitions(&self, max_partitions: usize) -> Result<()> {
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

impl Drop for Uploaded {
    fn drop(&mut self) {
        if self.kept || self.cells.adds.is_empty() {
            return;
        }
        let (meadow, location) = (self.meadow.clone(), self.location.clone());
        let adds = std::mem::take(&mut self.cells.adds);
        // What this does not reach is an orphan, which the Keeper may sweep.
        drop(self.control.spawn(delete_cells(meadow, location, adds)));
    }
}

async fn delete_cells(meadow: Meadow, location: String, adds: Vec<Add>) {
    for add in adds {
        let deleted = match decode_path(&add.path) {
            Ok(path) => meadow.delete(&format!("{location}/{path}")).await,
            Err(error) => Err(Error::corrupt(add.path.clone(), error)),
        };
        if let Err(error) = deleted {
            tracing::warn!(location, path = add.path, %error, "a cell without a commit was not deleted");
        }
    }
}
