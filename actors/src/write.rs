//! The driver of a write: admit, validate and upload cells in a chamber, commit one version.
//!
//! Invariants: a write that got an error is either wholly in or wholly out, and the error says
//! which, or that it is unknown (LEDGER-2); cells of a write that is known to be out are deleted;
//! cells whose commit is unknown are left alone.

use crate::answer::{Progress, WriteOptions, WriteReport};
use crate::bees::TaskEnd;
use crate::chamber::Chamber;
use crate::commit::{self, Committing, Making, Uploaded};
use crate::context::{Context, Ladder, in_chamber};
use crate::feed::Feed;
use crate::read::{counted, follow};
use crate::shared::shared_write;
use apiary_engine::behavior::abandonment::Strategy;
use apiary_engine::behavior::leafcutter;
use apiary_engine::behavior::temperature::NewWork;
use apiary_engine::catalog::NewFrame;
use apiary_engine::cell::{WriteSpec, WrittenCells, write_cells};
use apiary_engine::error::{Error, Result};
use apiary_engine::ledger::{Intent, Reads, Snapshot};
use apiary_engine::schema::FrameSchema;
use apiary_engine::sql::{Environment, PlannedQuery, Session, Snapshots};
use apiary_protocol::ids::{CommitId, FrameId};
use apiary_protocol::names::FrameName;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement as SqlStatement;
use std::sync::Arc;
use std::time::Duration;

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
    pub(crate) progress: Arc<Progress>,
}

/// A `CREATE TABLE … AS`.
pub(crate) struct CreateJob {
    pub(crate) source: QuerySource,
    pub(crate) partition_by: Vec<String>,
    pub(crate) if_not_exists: bool,
    pub(crate) write: WriteJob,
}

/// Where the cells of one write go, and what fits there.
pub(crate) struct Target {
    /// Of a frame of our own: tasks on other nodes may put cells there. What they leave in somebody
    /// else's table when they are killed, nobody would sweep.
    pub(crate) frame: Option<FrameId>,
    pub(crate) location: String,
    pub(crate) schema: Arc<FrameSchema>,
    /// Of a frame that is not made yet.
    pub(crate) making: Option<Arc<Making>>,
}

impl Target {
    /// For cells that are going to be written here: made before them and given to who writes them, so
    /// that at no moment nobody owns them, and the mark outlives them.
    pub(crate) fn uploaded(&self, context: &Context) -> Uploaded {
        Uploaded::new(context, &self.location, self.making.clone())
    }
}

/// Cells of one write, and what the statement that gave the rows has read.
pub(crate) struct Gathered {
    pub(crate) uploaded: Uploaded,
    pub(crate) read: Vec<(FrameName, Arc<Snapshot>)>,
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
    let prepared = async {
        let temperature = admit(context, &job.options).await?;
        let (frame, snapshot) = resolve(context, &job.frame).await?;
        if already_committed(&job.options, &snapshot) {
            return Ok((temperature, snapshot, None));
        }
        let target = Target {
            frame,
            location: snapshot.location.clone(),
            schema: snapshot.schema.clone(),
            making: None,
        };
        let gathered = gather(context, &job, &target, source).await?;
        Ok((temperature, snapshot, Some(gathered)))
    };
    let prepared = tokio::time::timeout(job.deadline, prepared).await;
    let (temperature, snapshot, gathered) =
        prepared.unwrap_or(Err(Error::Deadline(job.deadline)))?;
    let mut report = WriteReport::new(snapshot.version, temperature);
    match gathered {
        None => report.warnings.push(COMMITTED_BEFORE.into()),
        Some(gathered) => {
            let base = Base::of(&job.frame, snapshot, &gathered.read);
            let uploaded = gathered.uploaded;
            commit(
                context,
                &job.options,
                uploaded,
                base,
                &committing,
                &mut report,
            )
            .await?;
        }
    }
    report.duration_ms = elapsed_ms(context, started_at);
    Ok(report)
}

/// The temperature at which a write was let in.
async fn admit(context: &Context, options: &WriteOptions) -> Result<f64> {
    let default = context.environment.settings.backpressure;
    let backpressure = options.backpressure.unwrap_or(default);
    context.bees.admit(NewWork::Write(backpressure)).await
}

fn elapsed_ms(context: &Context, started_at: Duration) -> u64 {
    let now = context.environment.host.clock.monotonic();
    now.saturating_sub(started_at).as_millis() as u64
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

/// Makes a frame with a query's columns and rows. `None` when it was there and that is no error.
pub(crate) async fn create_as(
    context: &Context,
    job: CreateJob,
    committing: Committing,
) -> Result<Option<WriteReport>> {
    let deadline = job.write.deadline;
    let if_not_exists = job.if_not_exists;
    let created = async {
        let planned = tokio::time::timeout(deadline, plan_created(context, &job)).await;
        let (new, schema) = planned.unwrap_or(Err(Error::Deadline(deadline)))?;
        let source = Source::Query(job.source);
        create_filled(context, new, schema, job.write, source, committing).await
    };
    match created.await {
        Err(Error::AlreadyExists { .. }) if if_not_exists => Ok(None),
        created => created.map(Some),
    }
}

/// The place and the columns of a frame that a query makes. Whether it is there already comes first.
async fn plan_created(context: &Context, job: &CreateJob) -> Result<(NewFrame, FrameSchema)> {
    let catalog = &context.environment.catalog;
    let new = catalog.plan_frame(&job.write.frame).await?;
    let strategy = Ladder::new().strategy;
    let planned = context
        .plan(&job.source.session, &job.source.statement, strategy)
        .await?;
    let schema = FrameSchema::new(planned.schema, job.partition_by.clone())?;
    Ok((new, schema))
}

/// Makes a frame of a schema with a stream's rows.
pub(crate) async fn create_from(
    context: &Context,
    job: WriteJob,
    schema: FrameSchema,
    input: SendableRecordBatchStream,
    committing: Committing,
) -> Result<WriteReport> {
    let planning = context.environment.catalog.plan_frame(&job.frame);
    let planned = tokio::time::timeout(job.deadline, planning).await;
    let new = planned.unwrap_or(Err(Error::Deadline(job.deadline)))?;
    let source = Source::Stream(input);
    create_filled(context, new, schema, job, source, committing).await
}

/// Uploads the rows to where the frame will lie, then makes it with them: nobody sees it without.
async fn create_filled(
    context: &Context,
    new: NewFrame,
    schema: FrameSchema,
    job: WriteJob,
    source: Source,
    committing: Committing,
) -> Result<WriteReport> {
    let started_at = context.environment.host.clock.monotonic();
    check_deadline(context, job.deadline)?;
    let schema = Arc::new(schema);
    let prepared = async {
        let temperature = admit(context, &job.options).await?;
        let target = Target {
            frame: Some(new.id()),
            location: new.location.clone(),
            schema: schema.clone(),
            making: Some(Making::begin(context, &new).await?),
        };
        Ok((temperature, gather(context, &job, &target, source).await?))
    };
    let prepared = tokio::time::timeout(job.deadline, prepared).await;
    let (temperature, gathered) = prepared.unwrap_or(Err(Error::Deadline(job.deadline)))?;
    let (snapshot, cells) =
        commit::create(context, new, schema, gathered.uploaded, &committing).await?;
    let mut report = WriteReport::new(snapshot.version, temperature);
    report.count(&cells);
    report.warnings = cells.warnings;
    report.duration_ms = elapsed_ms(context, started_at);
    Ok(report)
}

/// A frame's snapshot, and its id when it is one of our own.
async fn resolve(context: &Context, name: &FrameName) -> Result<(Option<FrameId>, Arc<Snapshot>)> {
    let view = context.environment.catalog.view().await?;
    let entry = view.frame(name)?;
    let snapshot = context.ledger.snapshot(entry).await?;
    Ok(((!entry.attached).then_some(entry.id), snapshot))
}

fn already_committed(options: &WriteOptions, snapshot: &Snapshot) -> bool {
    let committed =
        |(app_id, version): &(String, i64)| snapshot.txn_version(app_id) >= Some(*version);
    options.txn.as_ref().is_some_and(committed)
}

pub(crate) fn write_spec(context: &Context, target: &Target) -> WriteSpec {
    let settings = &context.environment.settings;
    let budget = context.chambers.division().budget_per_bee_bytes;
    WriteSpec {
        location: target.location.clone(),
        schema: target.schema.clone(),
        codec: settings.codec,
        target_cell_bytes: settings
            .target_cell_bytes
            .unwrap_or_else(|| leafcutter::target_cell_bytes(budget)),
        row_group_rows_max: settings.row_group_rows_max,
        max_partitions: settings.max_partitions,
        rows_before: 0,
        query: None,
    }
}

/// What the commit assumes: the snapshot it was made against, and whether it read the frame.
struct Base {
    snapshot: Arc<Snapshot>,
    reads: Reads,
}

impl Base {
    /// A statement that reads its own target commits against what it read there.
    fn of(frame: &FrameName, snapshot: Arc<Snapshot>, read: &[(FrameName, Arc<Snapshot>)]) -> Self {
        match read.iter().find(|(name, _)| name == frame) {
            Some((_, read)) => Self {
                snapshot: read.clone(),
                reads: Reads::Everything,
            },
            None => Self {
                snapshot,
                reads: Reads::Nothing,
            },
        }
    }
}

async fn gather(
    context: &Context,
    job: &WriteJob,
    target: &Target,
    source: Source,
) -> Result<Gathered> {
    match source {
        Source::Stream(input) => Ok(Gathered {
            uploaded: upload_stream(context, job, target, input).await?,
            read: Vec::new(),
        }),
        Source::Query(source) => upload_query(context, job, target, source).await,
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
    let mut all = target.uploaded(context);
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
            let uploaded = target.uploaded(context);
            let rows = feed.stretch();
            all.add(write_stretch(context, job, spec, bees, rows, uploaded).await?);
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
    mut uploaded: Uploaded,
) -> Result<Uploaded> {
    let (host, meadow) = (
        context.environment.host.clone(),
        context.environment.meadow.clone(),
    );
    let work = move |chamber: Chamber| async move {
        let config = SessionConfig::new().with_target_partitions(chamber.bees);
        let inside = TaskContext::default()
            .with_session_config(config)
            .with_runtime(chamber.runtime.clone());
        uploaded.cells = write_cells(&host, &meadow, &spec, rows, Arc::new(inside)).await?;
        Ok(uploaded)
    };
    let failure = match context.bees.run(job.label.clone(), bees, 1, work).await {
        TaskEnd::Done(uploaded, _) => return Ok(uploaded),
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
) -> Result<Gathered> {
    let mut ladder = Ladder::new();
    let mut may_share = true;
    loop {
        let schema = target.schema.clone();
        let planned = context
            .plan_insert(&source, schema, ladder.strategy)
            .await?;
        if std::mem::take(&mut may_share)
            && let Some(gathered) = shared_write(context, job, target, &source, &planned).await?
        {
            return Ok(gathered);
        }
        let read = planned.frames.snapshots();
        let (wanted, least) = context.crew(planned.scan_bytes, ladder.strategy);
        let (environment, progress) = (context.environment.clone(), job.progress.clone());
        let (spec, strategy) = (write_spec(context, target), ladder.strategy);
        let mut uploaded = target.uploaded(context);
        let work = move |chamber: Chamber| async move {
            uploaded.cells =
                write_rows(&environment, &planned, &chamber, strategy, &spec, &progress).await?;
            Ok(uploaded)
        };
        let failure = match context
            .bees
            .run(job.label.clone(), wanted, least, work)
            .await
        {
            TaskEnd::Done(uploaded, _) => return Ok(Gathered { uploaded, read }),
            TaskEnd::Failed(error, facts) => Some((error, facts)),
            TaskEnd::Lost => None,
        };
        ladder.failed(&context.planner, failure, false)?;
    }
}

/// Runs a plan in a chamber, and its rows into cells.
pub(crate) async fn write_rows(
    environment: &Environment,
    planned: &PlannedQuery,
    chamber: &Chamber,
    strategy: Strategy,
    spec: &WriteSpec,
    progress: &Arc<Progress>,
) -> Result<WrittenCells> {
    let inside = in_chamber(&planned.context, chamber, strategy);
    let rows = execute_stream(planned.plan.clone(), inside.clone())?;
    let rows = counted(rows, progress.clone());
    let Environment { host, meadow, .. } = environment;
    let write = write_cells(host, meadow, spec, rows, inside);
    follow(planned, progress, write).await
}

/// Commits what was uploaded and fills the report.
async fn commit(
    context: &Context,
    options: &WriteOptions,
    mut uploaded: Uploaded,
    base: Base,
    committing: &Committing,
    report: &mut WriteReport,
) -> Result<()> {
    report.warnings = std::mem::take(&mut uploaded.cells.warnings);
    if uploaded.cells.adds.is_empty() && !options.overwrite && options.txn.is_none() {
        return Ok(()); // No rows: nothing to say in the ledger.
    }
    let id = CommitId::from_random(context.environment.host.entropy.bytes());
    let intent = Intent {
        reads: base.reads,
        replaces_all: options.overwrite,
        txn: options.txn.clone(),
        ..Intent::append(id, uploaded.cells.adds.clone())
    };
    let landed = commit::commit(context, base.snapshot, intent, uploaded, committing).await?;
    report.version = landed.committed.version;
    if landed.committed.recorded_before {
        report.warnings.push(COMMITTED_BEFORE.into());
    } else {
        report.count(&landed.cells);
    }
    Ok(())
}

impl WriteReport {
    fn new(version: u64, temperature: f64) -> Self {
        Self {
            version,
            rows_written: 0,
            cells_written: 0,
            bytes_written: 0,
            duration_ms: 0,
            temperature,
            warnings: Vec::new(),
        }
    }

    fn count(&mut self, cells: &WrittenCells) {
        self.rows_written = cells.rows;
        self.cells_written = cells.adds.len() as u64;
        self.bytes_written = cells.bytes;
    }
}
