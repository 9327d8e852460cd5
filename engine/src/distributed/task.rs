//! Running one task of a distributed query: decode, execute all partitions together, encode the rows or
//! write them as cells.

use super::input::Inputs;
use super::output::{Made, PartitionWriter, Sink, chunk_bytes, inline_bytes};
use super::sink::CellWriteExec;
use super::write::write_task;
use crate::behavior::abandonment::{SpillingJoins, Strategy};
use crate::error::{Error, Result};
use crate::sql::{self, CacheTotals, Environment};
use apiary_protocol::ids::QueryId;
use apiary_protocol::query::{Chunk, TaskKey};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, SessionStateBuilder, TaskContext};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::TryStreamExt;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::task::JoinSet;

/// How often a running task's progress is noted.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// The functions that a plan may name. A session of its own for every task costs more than many tasks.
static FUNCTIONS: LazyLock<Arc<TaskContext>> = LazyLock::new(|| {
    let state = SessionStateBuilder::new().with_session_id("apiary".into());
    state.with_default_features().build().task_ctx()
});

/// One attempt at a task.
#[derive(Clone, Debug)]
pub struct TaskJob {
    pub query: QueryId,
    pub key: TaskKey,
    pub options: Arc<BTreeMap<String, String>>,
    /// As [`sql::encode_plan`] writes it.
    pub plan: Vec<u8>,
    /// Partitions that the output must have.
    pub partitions: usize,
    pub strategy: Strategy,
    pub inputs: Arc<Inputs>,
    /// Grows while the task gets on: rows that went out, bytes that were read and spilled.
    pub progress: Arc<AtomicU64>,
}

/// A task that ran to its end.
#[derive(Debug)]
pub struct Finished {
    pub made: Made,
    pub rows: u64,
    /// What the node's cache gave of the cells.
    pub cached: CacheTotals,
    /// Of scans and of inputs together.
    pub read_bytes: u64,
    pub requests: u64,
    /// Outputs were read beyond what came with their indexes.
    pub has_fetched: bool,
}

/// Runs a task with the memory and scratch of `runtime`. Uploads what does not fit into one object, and
/// the cells of a write; commits nothing. What was uploaded of cells is deleted again when this, or what
/// it gives, is dropped.
pub async fn run_task(
    environment: &Environment,
    job: TaskJob,
    runtime: Arc<RuntimeEnv>,
    budget_bytes: u64,
) -> Result<Finished> {
    let inputs = Arc::clone(&job.inputs);
    let (plan, context) = ready_plan(
        environment,
        &job.plan,
        &job.options,
        inputs,
        job.strategy,
        runtime,
    )?;
    let partitions = plan.output_partitioning().partition_count();
    if partitions != job.partitions {
        let reason = format!("{partitions} partitions, not {}", job.partitions);
        return Err(Error::corrupt("a serialised plan", reason));
    }
    let rows = Arc::new(AtomicU64::new(0));
    let made = {
        let work = async {
            match plan.downcast_ref::<CellWriteExec>() {
                Some(write) => {
                    let rows = Arc::clone(&rows);
                    let query = job.query;
                    let written = write_task(environment, write, query, context, rows).await;
                    let (cells, owned) = written?;
                    Ok(Made::of_cells(&environment.host, cells, owned))
                }
                None => store_rows(environment, &job, &plan, context, budget_bytes, &rows).await,
            }
        };
        watched(&job, &plan, &rows, work).await?
    };
    let totals = sql::scan_totals(&plan)?;
    let (input_bytes, input_requests) = job.inputs.totals();
    Ok(Finished {
        made,
        rows: rows.load(Ordering::Relaxed),
        cached: totals.cached.unwrap_or_default(),
        read_bytes: totals.read_bytes + input_bytes,
        requests: totals.requests + input_requests,
        has_fetched: job.inputs.has_fetched(),
    })
}

/// Does the work of a task, and notes meanwhile that it gets on.
async fn watched<T>(
    job: &TaskJob,
    plan: &Arc<dyn ExecutionPlan>,
    rows: &AtomicU64,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut work = std::pin::pin!(work);
    let mut look = tokio::time::interval(PROGRESS_INTERVAL);
    loop {
        tokio::select! {
            biased;
            outcome = &mut work => return outcome,
            _ = look.tick() => {
                let totals = sql::scan_totals(plan)?;
                let got_on = rows.load(Ordering::Relaxed)
                    + totals.got_bytes()
                    + totals.spilled_bytes
                    + job.inputs.totals().0;
                job.progress.store(got_on, Ordering::Relaxed);
            }
        }
    }
}

/// All partitions of a task together, as its output.
async fn store_rows(
    environment: &Environment,
    job: &TaskJob,
    plan: &Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    budget_bytes: u64,
    stored_rows: &Arc<AtomicU64>,
) -> Result<Made> {
    let partitions = job.partitions;
    let (host, meadow) = (&environment.host, &environment.meadow);
    let inline_bytes = inline_bytes(budget_bytes);
    let sink = Sink::new(host, meadow, job.query, job.key, inline_bytes);
    let chunk_bytes = chunk_bytes(budget_bytes, partitions);
    let held = MemoryConsumer::new("task output").register(context.memory_pool());
    held.try_grow(chunk_bytes * partitions + inline_bytes as usize)?;
    let mut running = JoinSet::new();
    for partition in 0..partitions {
        let rows = plan.execute(partition, Arc::clone(&context))?;
        let writer = PartitionWriter::new(Arc::clone(&sink), plan.schema(), chunk_bytes);
        let stored = Arc::clone(stored_rows);
        running.spawn(async move { (partition, store(rows, writer, &stored).await) });
    }
    let mut stored = vec![Vec::new(); partitions];
    while let Some(ended) = running.join_next().await {
        let (partition, result) = ended.map_err(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Error::Cancelled,
        })?;
        stored[partition] = result?;
    }
    sink.finish(stored.into_iter().collect()).await
}

/// A part of a cut plan out of its bytes, to be run once: in the session of the planning node, over
/// outputs of earlier stages, as a strategy wants it.
pub fn ready_plan(
    environment: &Environment,
    plan: &[u8],
    options: &BTreeMap<String, String>,
    inputs: Arc<Inputs>,
    strategy: Strategy,
    runtime: Arc<RuntimeEnv>,
) -> Result<(Arc<dyn ExecutionPlan>, Arc<TaskContext>)> {
    let config = super::restored(options)?.with_extension(inputs);
    let batch_rows = config.batch_size().min(strategy.batch_rows.max(1));
    let context = sql::task_context(&FUNCTIONS, config.with_batch_size(batch_rows), runtime);
    let mut plan = sql::decode_plan(environment, plan, &context)?;
    if strategy.spilling_joins != SpillingJoins::None {
        plan = sql::spill_joins(plan, strategy.spilling_joins, &context)?;
    }
    plan = sql::with_yielding_joins(plan, context.session_config().options())?;
    Ok((plan, context))
}

async fn store(
    mut rows: SendableRecordBatchStream,
    mut writer: PartitionWriter,
    progress: &AtomicU64,
) -> Result<Vec<Chunk>> {
    while let Some(batch) = rows.try_next().await? {
        writer.write(&batch).await?;
        progress.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
    }
    writer.finish().await
}
