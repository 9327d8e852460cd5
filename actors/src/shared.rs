//! A query that is shared with the swarm: decide, cut, place, publish; then run the head.
//!
//! The head, the last stage, runs in a crew of this node like any other plan; all before it is the
//! Forager's. Whatever keeps a query from being shared is no error: it runs here, and the reason is
//! logged.
//!
//! Invariants: the head starts when all that it reads is there; an answer is of one execution of the
//! query; a query that was published is ended, however its driver ends.

mod analysis;
mod writing;

pub(crate) use writing::shared_write;

use crate::answer::Progress;
use crate::bee::Facts;
use crate::bees::TaskEnd;
use crate::chamber::Chamber;
use crate::context::{Context, Ladder};
use crate::forager::{Coordinated, Known};
use crate::read::{ReadJob, run_plan, text_rows};
use crate::results::Writer;
use analysis::Analysis;
use apiary_engine::behavior::abandonment::Strategy;
use apiary_engine::behavior::mason::BUDGET_BYTES_MIN;
use apiary_engine::behavior::membership::{Member, NodeState, SwarmView, by_age};
use apiary_engine::behavior::placement::{Distribute, Worker, is_worth, place, workers};
use apiary_engine::distributed::{
    self, CutStage, CutWrite, Inputs, Sink, Spread, Writes, is_lost_input, ready_plan,
};
use apiary_engine::error::{Error, Result};
use apiary_engine::sql::{self, PlannedQuery};
use apiary_protocol::cache::CachedCells;
use apiary_protocol::format::BUILD;
use apiary_protocol::ids::QueryId;
use apiary_protocol::keys;
use apiary_protocol::query::{EndReason, QueryPlan, StagePlan, TaskPlan};
use arrow::datatypes::SchemaRef;
use datafusion::physical_plan::displayable;
use datafusion::sql::parser::{ExplainStatement, Statement as DfStatement};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// A scan below this is not worth looking at the swarm.
const SCAN_BYTES_LEAST: u64 = 64 << 20;
/// What a request to the meadow takes, until it was seen.
const REQUEST: Duration = Duration::from_millis(10);
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

/// What is scanned again rather than sent, where requests cost nothing.
const REPEATED_BYTES: u64 = 8 << 20;
/// How fast a bee scans.
const REPEATED_BYTES_PER_SECOND: f64 = 64e6;

/// Who could take part.
struct Offer {
    workers: Vec<Worker>,
    /// Bees of nodes that were not seen to be alive yet: what is left for them is nobody's.
    open_bees: usize,
    /// What a request to the meadow takes.
    request: Duration,
}

impl Offer {
    fn bees(&self) -> usize {
        self.workers
            .iter()
            .map(|worker| worker.bees.max(1))
            .sum::<usize>()
            + self.open_bees
    }

    /// A stage is some milliseconds of a node's work, and three requests after each other.
    fn repeated_bytes_max(&self) -> u64 {
        let waiting = self.request.as_secs_f64() * 3.0;
        REPEATED_BYTES + (waiting * REPEATED_BYTES_PER_SECOND) as u64
    }

    fn is_wanted(&self, distribute: Distribute, scan_bytes: u64) -> bool {
        if distribute == Distribute::On {
            return true;
        }
        let mut workers = self.workers.clone();
        workers.push(Worker {
            idle_bees: self.open_bees,
            ..self.workers[0].clone()
        });
        scan_bytes >= SCAN_BYTES_LEAST && is_worth(scan_bytes, &workers, self.request)
    }
}

/// Shares a query, when it can be and should be.
pub(crate) async fn begin(
    context: &Context,
    job: &ReadJob,
    planned: &PlannedQuery,
) -> Result<Option<Shared>> {
    let distribute = context.environment.settings.distribute;
    if !is_considered(distribute, planned.scan_bytes) {
        return Ok(None);
    }
    let analysis = Analysis::of(context, job, planned);
    let (job, wanted) = match &analysis {
        Some((inner, analysis)) => (inner, analysis.answer_schema()),
        None => (job, planned.schema.clone()),
    };
    let written = async {
        let swarm = context.swarm.refresh().await?;
        let offer = offer(context, &swarm, distribute).await;
        if !offer.is_wanted(distribute, planned.scan_bytes) {
            return Ok((offer, Err("it is not worth it".into())));
        }
        let planned = context.plan_shared(&job.session, &job.statement).await?;
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

/// Whether a statement that scans so much is shared at all.
fn is_considered(distribute: Distribute, scan_bytes: u64) -> bool {
    match distribute {
        Distribute::Off => false,
        Distribute::Auto => scan_bytes >= SCAN_BYTES_LEAST,
        Distribute::On => true,
    }
}

/// What becomes of a query's rows.
enum Rows {
    Answer,
    /// Cells: of the tasks, where they may write some.
    Cells(Option<Sink>),
}

async fn offer(context: &Context, swarm: &SwarmView, distribute: Distribute) -> Offer {
    let division = context.chambers.division();
    let cached = match &context.cache {
        Some(cache) => cache.observe().await.unwrap_or_default().cells,
        None => CachedCells::default(),
    };
    let own = Worker {
        node: context.node_id,
        name: "this node".into(),
        bees: division.bees,
        idle_bees: division.bees,
        budget_bytes: division.budget_per_bee_bytes,
        cached,
    };
    Offer {
        workers: workers(own, swarm, BUILD),
        open_bees: open_bees(context, swarm, distribute),
        request: swarm.request.unwrap_or(REQUEST),
    }
}

/// Bees of nodes that were not seen to be alive, and whose beat is fresh by the store's clock: what a
/// node left that died long ago helps nobody. Of unknown age they count when all is to be shared.
fn open_bees(context: &Context, swarm: &SwarmView, distribute: Distribute) -> usize {
    let now = context.environment.host.clock.monotonic();
    let is_fresh = |member: &Member| {
        let age = |written_ms| context.store_time.age(written_ms, now);
        match member.written_ms.map(age) {
            Some(age) => by_age(age, member.beat.as_deref()) == NodeState::Alive,
            None => distribute == Distribute::On,
        }
    };
    let members = swarm.members.iter();
    let open = members.filter(|member| member.state == NodeState::Unknown && is_fresh(member));
    let beats = open.filter_map(|member| member.beat.as_deref());
    beats
        .filter(|beat| beat.build == BUILD && !beat.draining)
        .map(|beat| beat.cores as usize)
        .sum()
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
    let spread = Spread {
        tasks_max: offer.bees().max(2),
        bytes_per_task: match context.environment.settings.distribute {
            Distribute::On => 1,
            _ => TASK_BYTES_LEAST,
        },
        repeated_bytes_max: offer.repeated_bytes_max(),
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
    let chosen = place(&cells, &places);
    let tasks = stage
        .tasks
        .iter()
        .zip(plans)
        .zip(chosen)
        .map(|((task, plan), chosen)| {
            let worker = offer.workers.get(chosen.worker);
            let budget = offer.workers.iter().map(|worker| worker.budget_bytes).min();
            let budget = worker.map_or(budget, |worker| Some(worker.budget_bytes));
            let wanted = (task.scan_bytes / 2).max(BUDGET_BYTES_MIN);
            TaskPlan {
                plan,
                preferred: worker.map(|worker| worker.node),
                reason: worker.map_or("for whoever comes first".into(), |worker| {
                    reason(worker, chosen.cached_bytes)
                }),
                memory_bytes: wanted.min(budget.unwrap_or(BUDGET_BYTES_MIN)),
                scan_bytes: task.scan_bytes,
            }
        });
    StagePlan {
        stage: stage.stage,
        inputs: stage.inputs,
        partitions: stage.partitions as u32,
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

/// What EXPLAIN says of sharing the statement that it explains: nothing when there is nobody to share
/// with.
pub(crate) async fn explain(context: &Context, job: &ReadJob) -> Result<Vec<(String, String)>> {
    let distribute = context.environment.settings.distribute;
    let DfStatement::Explain(explained) = job.statement.as_ref() else {
        return Ok(Vec::new());
    };
    if distribute == Distribute::Off || explained.options.analyze {
        return Ok(Vec::new());
    }
    let job = explained_job(job, explained);
    let offer = offer(context, context.swarm.refresh().await?.as_ref(), distribute).await;
    let is_alone = offer.workers.len() == 1 && offer.open_bees == 0;
    if distribute == Distribute::Auto && is_alone {
        return Ok(Vec::new());
    }
    let planned = context
        .plan(&job.session, &job.statement, Strategy::FIRST)
        .await?;
    let here = |reason: String| {
        Ok(vec![(
            "swarm".into(),
            format!("runs on this node: {reason}"),
        )])
    };
    if !offer.is_wanted(distribute, planned.scan_bytes) {
        let bytes = planned.scan_bytes;
        return here(format!("a scan of {bytes} bytes is not worth sharing"));
    }
    let shared = context.plan_shared(&job.session, &job.statement).await?;
    match cut(context, shared, &planned.schema, &offer, Rows::Answer).await? {
        Ok(written) => Ok(described(written, &offer)),
        Err(reason) => here(reason),
    }
}

/// The statement that an EXPLAIN is about.
fn explained_job(job: &ReadJob, explained: &ExplainStatement) -> ReadJob {
    ReadJob {
        statement: explained.statement.clone(),
        session: job.session.clone(),
        label: job.label.clone(),
        deadline: job.deadline,
        progress: job.progress.clone(),
    }
}

/// A row for the whole and one for each stage.
fn described(written: Written, offer: &Offer) -> Vec<(String, String)> {
    let tasks: usize = written
        .stages
        .iter()
        .map(|(stage, _)| stage.tasks.len())
        .sum();
    let mut rows = vec![(
        "swarm".to_string(),
        format!(
            "shared: {} stages of {tasks} tasks, {} nodes, and the head on this node",
            written.stages.len(),
            offer.workers.len()
        ),
    )];
    for (stage, plans) in written.stages {
        let shape = stage
            .tasks
            .first()
            .map(|task| displayable(task.plan.as_ref()).indent(false).to_string());
        let mut text = format!(
            "{} partitions, reads stages {:?}\n",
            stage.partitions, stage.inputs
        );
        let number = stage.stage;
        let shape = shape.unwrap_or_default();
        for (index, task) in stage_plan(stage, plans, offer).tasks.iter().enumerate() {
            let place = task
                .preferred
                .map_or("any node".into(), |node| node.short());
            text.push_str(&format!(
                "task {index} on {place} ({}), {} bytes to scan\n",
                task.reason, task.scan_bytes
            ));
        }
        rows.push((format!("stage {number}"), text + &shape));
    }
    rows
}

/// How an execution ended that gave no answer.
pub(crate) enum Unanswered {
    /// An output could not be read: the query may be run once more.
    LostInput(Error),
    Failed(Error),
}

/// Waits for what the head reads and runs it; its rows go to `writer`, which is replaced when a try is
/// repeated.
pub(crate) async fn run(
    context: &Context,
    job: &ReadJob,
    shared: Shared,
    writer: &mut Writer,
) -> std::result::Result<(), Unanswered> {
    let (coordinated, head) = shared.gathered().await;
    let result = match head {
        Ok(head) => {
            let lives = is_not_ended(context, head.query);
            let answered = head.answer(context, job, writer);
            futures::try_join!(answered, lives).map(|((), ())| ())
        }
        Err(error) => Err(error),
    };
    ended(coordinated, result)
}

/// Says how a query has ended.
fn ended<T>(coordinated: Coordinated, result: Result<T>) -> std::result::Result<T, Unanswered> {
    match result {
        Ok(answer) => {
            coordinated.end(EndReason::Answered);
            Ok(answer)
        }
        Err(error) => {
            coordinated.end(EndReason::Failed);
            Err(match is_lost_input(&error) {
                true => Unanswered::LostInput(error),
                false => Unanswered::Failed(error),
            })
        }
    }
}

impl Shared {
    /// Waits until all is there that the head reads.
    async fn gathered(self) -> (Coordinated, Result<Head>) {
        let lost = || Error::Busy {
            what: "the query was lost, because the actor that watched its tasks ended".into(),
            retry_after: Duration::from_millis(100),
        };
        let known = self.inputs.await.unwrap_or_else(|_| Err(lost()));
        let head = known.map(|known| Head {
            query: self.query,
            plan: Arc::new(self.head),
            options: Arc::new(self.options),
            schema: self.schema,
            known,
            analysis: self.analysis,
        });
        (self.coordinated, head)
    }
}

/// A node that was stopped for long may be taken for dead, and its query ended and deleted under its
/// hands. Attempts that came later then made outputs anew, with other rows in their partitions. Whoever
/// deletes begins with the plan: while it is there, after all that the head reads was found, each of the
/// outputs is the only one that its task has had.
async fn is_not_ended(context: &Context, query: QueryId) -> Result<()> {
    let key = keys::query_plan(query);
    match context.environment.meadow.has(&key).await? {
        true => Ok(()),
        false => Err(Error::corrupt(
            key,
            "it is gone: others took this node for dead, and ended its query",
        )),
    }
}

/// A try with the bees that a strategy asks for: what it gave, or for the [`Ladder`] why it failed. A
/// lost input ends the ladder.
async fn tried<T, F>(
    context: &Context,
    label: &str,
    strategy: Strategy,
    work: impl FnOnce(Chamber) -> F + Send + 'static,
) -> Result<std::result::Result<T, Option<(Error, Facts)>>>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let bees = context.chambers.division().bees;
    let least = if strategy.whole_crew { bees } else { 1 };
    match context.bees.run(label.to_string(), bees, least, work).await {
        TaskEnd::Done(made, _) => Ok(Ok(made)),
        TaskEnd::Failed(error, _) if is_lost_input(&error) => Err(error),
        TaskEnd::Failed(error, facts) => Ok(Err(Some((error, facts)))),
        TaskEnd::Lost => Ok(Err(None)),
    }
}

#[derive(Clone)]
struct Head {
    query: QueryId,
    plan: Arc<Vec<u8>>,
    options: Arc<BTreeMap<String, String>>,
    schema: SchemaRef,
    known: Known,
    analysis: Option<Arc<Analysis>>,
}

impl Head {
    async fn answer(&self, context: &Context, job: &ReadJob, writer: &mut Writer) -> Result<()> {
        let mut ladder = Ladder::new();
        loop {
            let (head, environment) = (self.clone(), context.environment.clone());
            let (strategy, into) = (ladder.strategy, writer.clone());
            let progress = job.progress.clone();
            let work =
                move |chamber: Chamber| head.run(environment, chamber, strategy, into, progress);
            let failure = match tried(context, &job.label, strategy, work).await? {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            let next = writer.restart();
            let delivered = next.is_none();
            if let Some(next) = next {
                *writer = next;
            }
            ladder.failed(&context.planner, failure, delivered)?;
        }
    }

    async fn run(
        self,
        environment: sql::Environment,
        chamber: Chamber,
        strategy: Strategy,
        writer: Writer,
        progress: Arc<Progress>,
    ) -> Result<()> {
        let planned = self.decode(&environment, &chamber, strategy)?;
        let clock = &environment.host.clock;
        let began_at = clock.monotonic();
        run_plan(&planned, &chamber, strategy, &writer, progress).await?;
        let Some(analysis) = self.analysis else {
            return Ok(());
        };
        let duration = clock.monotonic().saturating_sub(began_at);
        let rows = analysis
            .rows(&self.known, &planned, &chamber, duration)
            .await?;
        let rows = text_rows(planned.schema.clone(), rows)?;
        writer.push(rows, &chamber.runtime.disk_manager)
    }

    fn decode(
        &self,
        environment: &sql::Environment,
        chamber: &Chamber,
        strategy: Strategy,
    ) -> Result<PlannedQuery> {
        let inputs = Inputs::new(&environment.meadow, self.query, self.known.clone());
        let (mut plan, context) = ready_plan(
            environment,
            &self.plan,
            &self.options,
            inputs,
            strategy,
            chamber.runtime.clone(),
        )?;
        let mut schema = self.schema.clone();
        if let Some(analysis) = &self.analysis {
            plan = analysis.over(plan)?;
            schema = plan.schema();
        }
        Ok(PlannedQuery {
            scan_bytes: sql::scan_totals(&plan)?.bytes_kept,
            plan,
            context,
            schema,
            frames: Vec::new(),
            literals: Vec::new(),
        })
    }
}
