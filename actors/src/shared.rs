//! A query that is shared with the swarm: decide, cut, place, publish; then run the head.
//!
//! The head, the last stage, runs in a crew of this node like any other plan; all before it is the
//! Forager's. Whatever keeps a query from being shared is no error: it runs here, and the reason is
//! logged.
//!
//! Invariants: the head starts when all that it reads is there; an answer is of one execution of the
//! query; a query that was published is ended, however its driver ends.

mod analysis;
mod explain;
mod head;
mod offer;
mod writing;

pub(crate) use explain::explain;
pub(crate) use head::{Unanswered, run};
pub(crate) use writing::shared_write;

use crate::context::Context;
use crate::forager::{Coordinated, Known};
use crate::read::ReadJob;
use analysis::Analysis;
use apiary_engine::behavior::mason::BUDGET_BYTES_MIN;
use apiary_engine::behavior::placement::{Distribute, Worker, place_by};
use apiary_engine::distributed::{
    self, CutStage, CutWrite, ONE_TASK_GROUPS_BYTES, Sink, Spread, Writes,
};
use apiary_engine::error::{Error, Result};
use apiary_engine::sql::{self, PlannedQuery};
use apiary_protocol::cache::CachedCells;
use apiary_protocol::format::BUILD;
use apiary_protocol::ids::QueryId;
use apiary_protocol::query::{QueryPlan, StagePlan, TaskPlan};
use arrow::datatypes::SchemaRef;
use offer::{Offer, is_considered, offer};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// A task gets at least so much to scan, unless all is to be shared.
const TASK_BYTES_LEAST: u64 = 16 << 20;

/// A query whose plan is published.
pub(crate) struct Shared {
    query: QueryId,
    coordinated: Coordinated,
    inputs: oneshot::Receiver<Result<Known>>,
    /// The head in bytes: each try decodes it anew.
    head: Vec<u8>,
    options: BTreeMap<String, String>,
    schema: SchemaRef,
    /// For EXPLAIN ANALYZE.
    analysis: Option<Arc<Analysis>>,
    /// Of a write: the tasks that put cells into the frame.
    writes: Option<Arc<Writes>>,
}

/// Shares a query, when it can be and should be.
pub(crate) async fn begin(
    context: &Context,
    job: &ReadJob,
    planned: &PlannedQuery,
) -> Result<Option<Shared>> {
    let distribute = context.environment.settings.distribute;
    let laboratory = &context.environment.host.laboratory;
    let scan_bytes = laboratory.large(planned.scan_bytes);
    if !is_considered(distribute, scan_bytes) {
        return Ok(None);
    }
    let analysis = Analysis::of(context, job, planned);
    let (job, wanted) = match &analysis {
        Some((inner, analysis)) => (inner, analysis.answer_schema()),
        None => (job, planned.schema.clone()),
    };
    let written = async {
        let swarm = context.swarm.recent().await?;
        let offer = offer(context, &swarm, distribute).await;
        if !offer.is_wanted(distribute, scan_bytes) {
            return Ok((offer, Err("it is not worth it".into())));
        }
        let planned = context
            .plan_shared(&job.session, &job.statement, &planned.frames)
            .await?;
        let written = cut(context, planned, &wanted, &offer, Rows::Answer).await?;
        Ok::<_, Error>((offer, written))
    };
    match written.await {
        Ok((offer, Ok(written))) => {
            let analysis = analysis.as_ref().map(|(_, analysis)| analysis.clone());
            publish(context, job.deadline, written, &offer, analysis, None)
                .await
                .map(Some)
        }
        Ok((_, Err(reason))) => {
            tracing::debug!(reason, query = job.label, "the query is not shared");
            Ok(None)
        }
        Err(error) => {
            tracing::warn!(%error, query = job.label, "the query is not shared");
            Ok(None)
        }
    }
}

/// What becomes of a query's rows.
enum Rows {
    Answer,
    /// Cells: of the tasks, where they may write some.
    Cells(Option<Sink>),
}

/// What [`cut`] gives: the plan in stages, in bytes.
struct Written {
    query: QueryId,
    stages: Vec<(CutStage, Vec<Vec<u8>>)>,
    head: Vec<u8>,
    inputs: Vec<u32>,
    options: BTreeMap<String, String>,
    schema: SchemaRef,
    /// The stage whose tasks write cells.
    writing: Option<u32>,
}

async fn cut(
    context: &Context,
    planned: PlannedQuery,
    wanted: &SchemaRef,
    offer: &Offer,
    rows: Rows,
) -> Result<std::result::Result<Written, String>> {
    if planned.schema != *wanted {
        return Ok(Err(
            "its columns are others when it is planned for several nodes".into(),
        ));
    }
    let laboratory = &context.environment.host.laboratory;
    let spread = Spread {
        tasks_max: offer.bees().max(2),
        bytes_per_task: match context.environment.settings.distribute {
            Distribute::On => 1,
            _ => laboratory.small(TASK_BYTES_LEAST),
        },
        repeated_bytes_max: laboratory.small(offer.repeated_bytes_max()),
        one_task_bytes_max: laboratory.small(ONE_TASK_GROUPS_BYTES),
    };
    let query = QueryId::from_random(context.environment.host.entropy.bytes());
    context
        .planning(async move {
            let cut = match rows {
                Rows::Answer => distributed::cut(&planned, spread, query)
                    .await?
                    .map(|cut| CutWrite { cut, stage: None }),
                Rows::Cells(sink) => distributed::cut_write(&planned, sink, spread, query).await?,
            };
            Ok(cut.and_then(|cut| write(&planned, cut, query)))
        })
        .await
}

/// The plans as bytes; `Err` when an operator has no form in bytes.
fn write(
    planned: &PlannedQuery,
    CutWrite {
        cut,
        stage: writing,
    }: CutWrite,
    query: QueryId,
) -> std::result::Result<Written, String> {
    let unwritable = |error: Error| format!("a part of its plan cannot be written: {error}");
    let head = sql::encode_plan(&cut.head).map_err(unwritable)?;
    let mut stages = Vec::with_capacity(cut.stages.len());
    for stage in cut.stages {
        let plans = stage.tasks.iter().map(|task| sql::encode_plan(&task.plan));
        let plans = plans.collect::<Result<Vec<_>>>().map_err(unwritable)?;
        stages.push((stage, plans));
    }
    Ok(Written {
        query,
        stages,
        head,
        inputs: cut.inputs,
        options: distributed::saved(planned.context.session_config()),
        schema: planned.schema.clone(),
        writing,
    })
}

/// Writes the plan where all see it. `location` is where tasks put cells, when they do.
async fn publish(
    context: &Context,
    deadline: Duration,
    written: Written,
    offer: &Offer,
    analysis: Option<Analysis>,
    location: Option<&str>,
) -> Result<Shared> {
    let Written {
        query,
        stages,
        head,
        inputs,
        options,
        schema,
        writing,
    } = written;
    let writes = writing.zip(location).map(|(stage, location)| {
        let mut cuts = stages.iter().map(|(cut, _)| cut);
        let cut = cuts.find(|cut| cut.stage == stage);
        Arc::new(Writes {
            stage,
            tasks: cut.map_or(0, |cut| cut.tasks.len()),
            location: location.to_string(),
        })
    });
    let cut = stages.iter().map(|(stage, _)| stage);
    let analysis = analysis.map(|analysis| Arc::new(analysis.with_cut(query, cut, &inputs)));
    let stages = stages
        .into_iter()
        .map(|(stage, plans)| stage_plan(stage, plans, offer));
    let plan = QueryPlan {
        query,
        coordinator: context.node_id,
        build: BUILD.to_string(),
        deadline_ms: deadline.as_millis() as u64,
        options: options.clone(),
        stages: stages.collect(),
    };
    tracing::info!(
        %query,
        stages = plan.stages.len(),
        tasks = plan.keys().count(),
        nodes = offer.workers.len(),
        "the query is shared"
    );
    let (coordinated, inputs) = context
        .forager
        .coordinate(&context.environment, plan, inputs, writes.clone())
        .await?;
    Ok(Shared {
        query,
        coordinated,
        inputs,
        head,
        options,
        schema,
        analysis,
        writes,
    })
}

fn stage_plan(stage: CutStage, plans: Vec<Vec<u8>>, offer: &Offer) -> StagePlan {
    let mut places = offer.workers.clone();
    if offer.open_bees > 0 {
        let open = Worker {
            name: String::new(),
            bees: offer.open_bees,
            cached: CachedCells::default(),
            ..places[0].clone()
        };
        places.push(open);
    }
    let cells = stage
        .tasks
        .iter()
        .map(|task| sql::scanned_cells(&task.plan));
    let cells: Vec<_> = cells.map(Result::unwrap_or_default).collect();
    let chosen = place_by(offer.placing, &cells, &places);
    let tasks = stage
        .tasks
        .iter()
        .zip(plans)
        .zip(chosen)
        .map(|((task, plan), chosen)| {
            let worker = chosen.and_then(|chosen| offer.workers.get(chosen.worker));
            let cached_bytes = chosen.map_or(0, |chosen| chosen.cached_bytes);
            let budget = offer.workers.iter().map(|worker| worker.budget_bytes).min();
            let budget = worker.map_or(budget, |worker| Some(worker.budget_bytes));
            let wanted = (task.scan_bytes / 2).max(BUDGET_BYTES_MIN);
            TaskPlan {
                plan,
                preferred: worker.map(|worker| worker.node),
                reason: worker.map_or("for whoever comes first".into(), |worker| {
                    reason(worker, cached_bytes)
                }),
                memory_bytes: wanted.min(budget.unwrap_or(BUDGET_BYTES_MIN)),
                scan_bytes: task.scan_bytes,
            }
        });
    StagePlan {
        stage: stage.stage,
        inputs: stage.inputs,
        partitions: stage.partitions as u32,
        is_read_whole: stage.is_read_whole,
        tasks: tasks.collect(),
    }
}

/// Why a task is placed there.
fn reason(worker: &Worker, cached_bytes: u64) -> String {
    let (idle, bees) = (worker.idle_bees, worker.bees);
    match cached_bytes {
        0 => format!("{idle} of {bees} bees idle"),
        cached => format!("{cached} bytes cached, {idle} of {bees} bees idle"),
    }
}
