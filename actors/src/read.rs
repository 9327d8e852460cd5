//! The driver of a statement that gives rows: admit, plan, run in a crew, retry or abandon.
//!
//! The client gets its answer as soon as the statement is planned; rows run ahead of it.
//!
//! Invariants: an answer ends with all rows or with an error (QUERY-1); it always ends (QUERY-3).

use crate::answer::Progress;
use crate::bees::TaskEnd;
use crate::chamber::Chamber;
use crate::context::{Context, Ladder, in_chamber};
use crate::mailbox::Reply;
use crate::results::{Reader, Writer, run_ahead};
use crate::shared::{self, Unanswered};
use apiary_engine::behavior::abandonment::Strategy;
use apiary_engine::behavior::temperature::NewWork;
use apiary_engine::error::{Error, Result};
use apiary_engine::sql::{PlannedQuery, Session, explain_rows, scan_totals};
use arrow::array::{ArrayRef, StringArray};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::analyze::AnalyzeExec;
use datafusion::physical_plan::execute_stream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::sql::parser::Statement as SqlStatement;
use futures::{StreamExt, TryStreamExt};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Share of a bee's budget that an answer may hold in memory.
const RESULT_SHARE: u64 = 32;
const RESULT_BYTES_MIN: u64 = 256 << 10;
/// How often a query is run in all whose tasks' outputs cannot be read.
pub(crate) const EXECUTIONS_MAX: u32 = 2;
/// How often the counters of a running plan are read.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

pub(crate) struct ReadJob {
    pub(crate) session: Session,
    pub(crate) statement: Box<SqlStatement>,
    pub(crate) label: String,
    pub(crate) deadline: Duration,
    pub(crate) progress: Arc<Progress>,
    pub(crate) presented: Option<fn(&Schema) -> SchemaRef>,
}

/// Where the outcome goes: to the caller until the statement is planned, then into its answer.
enum Outlet {
    Caller(Reply<Result<(SchemaRef, Reader)>>),
    Answer(SchemaRef, Writer),
    /// Between the two, and after the caller has gone.
    Nobody,
}

/// Drives one statement to its end.
pub(crate) async fn drive(
    context: Arc<Context>,
    job: ReadJob,
    reply: Reply<Result<(SchemaRef, Reader)>>,
) {
    let mut outlet = Outlet::Caller(reply);
    let ended = tokio::time::timeout(job.deadline, attempts(&context, &job, &mut outlet)).await;
    let result = ended.unwrap_or(Err(Error::Deadline(job.deadline)));
    match (outlet, result) {
        (Outlet::Answer(_, writer), result) => writer.finish(result),
        (Outlet::Caller(reply), Err(error)) => {
            let _ = reply.send(Err(error));
        }
        _ => {}
    }
}

async fn attempts(context: &Context, job: &ReadJob, outlet: &mut Outlet) -> Result<()> {
    context.bees.admit(NewWork::Query).await?;
    let mut ladder = Ladder::new();
    let mut executions_lost = 0;
    loop {
        let planned = context
            .plan(&job.session, &job.statement, ladder.strategy)
            .await?;
        let Some(mut writer) = announce(context, job, outlet, &planned.schema)? else {
            return Ok(());
        };
        if let Some(shared) = shared::begin(context, job, &planned).await? {
            let ended = shared::run(context, job, shared, &mut writer).await;
            let error = match ended {
                Ok(()) => return Ok(()),
                Err(Unanswered::Failed(error)) => return Err(error),
                Err(Unanswered::LostInput(error)) => error,
            };
            executions_lost += 1;
            match writer.restart() {
                Some(next) if executions_lost < EXECUTIONS_MAX => {
                    tracing::warn!(%error, "the query is run once more");
                    if let Outlet::Answer(_, writer) = &mut *outlet {
                        *writer = next;
                    }
                    continue;
                }
                _ => return Err(error),
            }
        }
        let notes = shared::explain(context, job).await?;
        let (wanted, least) = context.crew(planned.scan_bytes, ladder.strategy);
        let (into, progress) = (writer.clone(), job.progress.clone());
        let strategy = ladder.strategy;
        let work = move |chamber: Chamber| async move {
            run_explained(&planned, &chamber, strategy, into, progress, notes).await
        };
        let failure = match context
            .bees
            .run(job.label.clone(), wanted, least, work)
            .await
        {
            TaskEnd::Done((), facts) => {
                tracing::debug!(
                    bee = facts.bee,
                    peak_bytes = facts.peak_bytes,
                    budget_bytes = facts.budget_bytes,
                    spilled_bytes = facts.spilled_bytes,
                    duration_ms = facts.duration.as_millis() as u64,
                    "the plan ended"
                );
                return Ok(());
            }
            TaskEnd::Failed(error, facts) => Some((error, facts)),
            TaskEnd::Lost => None,
        };
        // Forgetting the rows is what decides: the client may take one at any moment.
        let next = writer.restart();
        let delivered = next.is_none();
        if let (Outlet::Answer(_, writer), Some(next)) = (&mut *outlet, next) {
            *writer = next;
        }
        ladder.failed(&context.planner, failure, delivered)?;
    }
}

/// Hands the answer out at the first plan; `None` when nobody wants it any more.
fn announce(
    context: &Context,
    job: &ReadJob,
    outlet: &mut Outlet,
    schema: &SchemaRef,
) -> Result<Option<Writer>> {
    match std::mem::replace(outlet, Outlet::Nobody) {
        Outlet::Caller(reply) => {
            let budget = context.chambers.division().budget_per_bee_bytes;
            let bytes_max = (budget / RESULT_SHARE).max(RESULT_BYTES_MIN);
            let given = match job.presented {
                Some(presented) => presented(schema),
                None => schema.clone(),
            };
            let (writer, reader) = run_ahead(given.clone(), bytes_max, context.results.clone());
            if reply.send(Ok((given, reader))).is_err() {
                return Ok(None);
            }
            *outlet = Outlet::Answer(schema.clone(), writer.clone());
            Ok(Some(writer))
        }
        Outlet::Answer(announced, writer) => {
            let same = announced == *schema;
            *outlet = Outlet::Answer(announced, writer.clone());
            if same {
                return Ok(Some(writer));
            }
            Err(Error::Busy {
                what: "a frame's columns changed while the query was tried again".into(),
                retry_after: Duration::from_millis(100),
            })
        }
        Outlet::Nobody => Ok(None),
    }
}

/// Runs a plan in a chamber to its end, whatever the client does.
pub(crate) async fn run_plan(
    planned: &PlannedQuery,
    chamber: &Chamber,
    strategy: Strategy,
    writer: &Writer,
    progress: Arc<Progress>,
) -> Result<()> {
    let scratch = chamber.runtime.disk_manager.clone();
    let context = in_chamber(&planned.context, chamber, strategy);
    let rows = execute_stream(planned.plan.clone(), context)?;
    let mut rows = counted(rows, progress.clone());
    let push = async {
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            if batch.num_rows() > 0 {
                writer.push(batch, &scratch)?;
            }
        }
        Ok(())
    };
    follow(planned, &progress, push).await
}

/// The same for EXPLAIN: below the plan come rows (what, text) about its run, or about how it would be
/// shared.
async fn run_explained(
    planned: &PlannedQuery,
    chamber: &Chamber,
    strategy: Strategy,
    writer: Writer,
    progress: Arc<Progress>,
    notes: Vec<(String, String)>,
) -> Result<()> {
    run_plan(planned, chamber, strategy, &writer, progress).await?;
    let scratch = &chamber.runtime.disk_manager;
    if planned.plan.is::<AnalyzeExec>() {
        writer.push(analyzed(planned, chamber)?, scratch)?;
    }
    if !notes.is_empty() {
        writer.push(text_rows(planned.schema.clone(), notes)?, scratch)?;
    }
    Ok(())
}

/// Rows of two columns of text.
pub(crate) fn text_rows(schema: SchemaRef, rows: Vec<(String, String)>) -> Result<RecordBatch> {
    let (names, values): (Vec<String>, Vec<String>) = rows.into_iter().unzip();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(names)),
        Arc::new(StringArray::from(values)),
    ];
    RecordBatch::try_new(schema, columns).map_err(|error| DataFusionError::from(error).into())
}

/// Counts the rows of a plan as they go by, from nought.
pub(crate) fn counted(
    rows: SendableRecordBatchStream,
    progress: Arc<Progress>,
) -> SendableRecordBatchStream {
    progress.rows_done.store(0, Ordering::Relaxed);
    let schema = rows.schema();
    let rows = rows.inspect_ok(move |batch| {
        let count = batch.num_rows() as u64;
        progress.rows_done.fetch_add(count, Ordering::Relaxed);
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, rows))
}

/// Does the work that a plan's rows are for, and sees meanwhile how much its scans have read.
pub(crate) async fn follow<T>(
    planned: &PlannedQuery,
    progress: &Progress,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let total = planned.scan_bytes;
    progress.bytes_total.store(total, Ordering::Relaxed);
    let mut work = std::pin::pin!(work);
    let mut look = tokio::time::interval(PROGRESS_INTERVAL);
    loop {
        tokio::select! {
            biased;
            outcome = &mut work => {
                progress.bytes_done.store(total, Ordering::Relaxed);
                return outcome;
            }
            _ = look.tick() => {
                let done = scan_totals(&planned.plan)?.got_bytes().min(total);
                progress.bytes_done.store(done, Ordering::Relaxed);
            }
        }
    }
}

/// What EXPLAIN ANALYZE says of the run as a whole, as rows below the plan.
fn analyzed(planned: &PlannedQuery, chamber: &Chamber) -> Result<RecordBatch> {
    let totals = scan_totals(&planned.plan)?;
    let rows = explain_rows(&totals, chamber.peak_bytes(), chamber.budget_bytes);
    text_rows(planned.schema.clone(), rows)
}
