//! The last stage of a shared query: it waits for what it reads, runs in a crew of this node, and its
//! rows are the answer.

use super::Shared;
use super::analysis::Analysis;
use crate::answer::Progress;
use crate::bee::Facts;
use crate::bees::TaskEnd;
use crate::chamber::Chamber;
use crate::context::{Context, Ladder};
use crate::forager::{Coordinated, Known};
use crate::read::{ReadJob, run_plan, text_rows};
use crate::results::Writer;
use apiary_engine::behavior::abandonment::Strategy;
use apiary_engine::distributed::{Inputs, is_lost_input, ready_plan};
use apiary_engine::error::{Error, Result};
use apiary_engine::sql::{self, Frames, PlannedQuery};
use apiary_protocol::ids::QueryId;
use apiary_protocol::keys;
use apiary_protocol::query::EndReason;
use arrow::datatypes::SchemaRef;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

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
pub(super) fn ended<T>(
    coordinated: Coordinated,
    result: Result<T>,
) -> std::result::Result<T, Unanswered> {
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
    pub(super) async fn gathered(self) -> (Coordinated, Result<Head>) {
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
pub(super) async fn is_not_ended(context: &Context, query: QueryId) -> Result<()> {
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
pub(super) async fn tried<T, F>(
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
pub(super) struct Head {
    pub(super) query: QueryId,
    pub(super) plan: Arc<Vec<u8>>,
    pub(super) options: Arc<BTreeMap<String, String>>,
    pub(super) schema: SchemaRef,
    pub(super) known: Known,
    pub(super) analysis: Option<Arc<Analysis>>,
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

    pub(super) fn decode(
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
            frames: Frames::default(),
            literals: Vec::new(),
        })
    }
}
