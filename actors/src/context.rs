//! What the drivers of statements share: handles, and the steps that both reading and writing take.
//!
//! Holds no state of its own. A driver runs beside a Query actor and may wait; no handler does.

use crate::bee::Facts;
use crate::bees::BeesHandle;
use crate::cache::CacheHandle;
use crate::chamber::{Chamber, Chambers};
use crate::forager::ForagerHandle;
use crate::heartbeat::SwarmHandle;
use crate::ledger::LedgerHandle;
use crate::mailbox::panic_text;
use crate::planner::PlannerHandle;
use crate::results::ResultsBudget;
use crate::write::QuerySource;
use apiary_engine::behavior::abandonment::{
    self, FailureClass, Record, SpillingJoins, Strategy, Verdict, plan_next,
};
use apiary_engine::behavior::mason::plan_crew;
use apiary_engine::error::{Error, Result};
use apiary_engine::schema::FrameSchema;
use apiary_engine::sql::{self, Crew, Environment, Frames, PlannedQuery, Session};
use apiary_engine::store::StoreTime;
use apiary_protocol::ids::NodeId;
use datafusion::execution::TaskContext;
use datafusion::sql::parser::Statement as SqlStatement;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinError;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::Instrument;

#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) node_id: NodeId,
    pub(crate) environment: Environment,
    pub(crate) bees: BeesHandle,
    pub(crate) ledger: LedgerHandle,
    pub(crate) planner: PlannerHandle,
    pub(crate) swarm: SwarmHandle,
    pub(crate) forager: ForagerHandle,
    /// Parts of cells on local disk, where they are kept.
    pub(crate) cache: Option<Arc<CacheHandle>>,
    pub(crate) chambers: Arc<Chambers>,
    pub(crate) results: Arc<ResultsBudget>,
    /// Commits under way; each runs to its end, whatever becomes of who asked for it.
    pub(crate) commits: TaskTracker,
    /// The store's clock.
    pub(crate) store_time: StoreTime,
}

impl Context {
    /// This node's name for people.
    pub(crate) fn node_name(&self) -> String {
        let name = self.environment.settings.name.clone();
        name.unwrap_or_else(|| self.environment.host.machine.host_name())
    }

    /// Plans a query. See [`Context::planning`].
    pub(crate) async fn plan(
        &self,
        session: &Session,
        statement: &SqlStatement,
        strategy: Strategy,
    ) -> Result<PlannedQuery> {
        let environment = self.environment.clone();
        let (session, statement, crew) = (
            session.clone(),
            statement.clone(),
            self.planning_crew(strategy),
        );
        self.planning(async move {
            sql::plan_query(&environment, &session, &statement, &crew, None).await
        })
        .await
    }

    /// Plans a query that is going to be cut into tasks, over the frames of its plan for this node. See
    /// [`Context::planning`].
    pub(crate) async fn plan_shared(
        &self,
        session: &Session,
        statement: &SqlStatement,
        frames: &Frames,
    ) -> Result<PlannedQuery> {
        let environment = self.environment.clone();
        let (session, statement, frames) = (session.clone(), statement.clone(), frames.clone());
        let crew = Crew {
            for_swarm: true,
            ..self.planning_crew(Strategy::FIRST)
        };
        self.planning(async move {
            sql::plan_query(&environment, &session, &statement, &crew, Some(&frames)).await
        })
        .await
    }

    /// Plans the rows of an INSERT into a frame of `schema`. See [`Context::planning`].
    pub(crate) async fn plan_insert(
        &self,
        source: &QuerySource,
        schema: Arc<FrameSchema>,
        strategy: Strategy,
    ) -> Result<PlannedQuery> {
        self.plan_insert_for(source, schema, self.planning_crew(strategy), None)
            .await
    }

    /// The same for rows that are going to be cut into tasks, over the frames of the other plan, if any.
    pub(crate) async fn plan_shared_insert(
        &self,
        source: &QuerySource,
        schema: Arc<FrameSchema>,
        frames: Option<Frames>,
    ) -> Result<PlannedQuery> {
        let crew = Crew {
            for_swarm: true,
            ..self.planning_crew(Strategy::FIRST)
        };
        self.plan_insert_for(source, schema, crew, frames).await
    }

    async fn plan_insert_for(
        &self,
        source: &QuerySource,
        schema: Arc<FrameSchema>,
        crew: Crew,
        frames: Option<Frames>,
    ) -> Result<PlannedQuery> {
        let environment = self.environment.clone();
        let source = source.clone();
        self.planning(async move {
            let QuerySource {
                session,
                statement,
                columns,
            } = source;
            let frames = frames.as_ref();
            sql::plan_insert(
                &environment,
                &session,
                &schema,
                &columns,
                &statement,
                &crew,
                frames,
            )
            .await
        })
        .await
    }

    /// Planning runs on the query runtime, outside any chamber: the crew's size follows from the
    /// plan, and the plan is moved into the crew's chamber to run.
    pub(crate) async fn planning<T: Send + 'static>(
        &self,
        planning: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let planning = self
            .environment
            .host
            .runtimes
            .query
            .spawn(planning.in_current_span());
        AbortOnDropHandle::new(planning)
            .await
            .unwrap_or_else(|error| Err(join_error(error)))
    }

    fn planning_crew(&self, strategy: Strategy) -> Crew {
        // With one partition DataFusion collects a side of every join, however large it is.
        let partitions_min = match strategy.spilling_joins {
            SpillingJoins::None => 1,
            SpillingJoins::Large | SpillingJoins::All => 2,
        };
        Crew {
            bees: self.chambers.division().bees.max(partitions_min),
            runtime: self.chambers.planning().clone(),
            spilling_joins: strategy.spilling_joins,
            batch_rows: strategy.batch_rows,
            for_swarm: false,
        }
    }

    /// How many bees an attempt wants, and with how few it begins.
    pub(crate) fn crew(&self, scan_bytes: u64, strategy: Strategy) -> (usize, usize) {
        let bees = self.chambers.division().bees;
        let scan_bytes = self.environment.host.laboratory.large(scan_bytes);
        if strategy.whole_crew {
            (bees, bees)
        } else {
            (plan_crew(scan_bytes, bees), 1)
        }
    }
}

/// The planned query's context with the chamber's memory, divided by the strategy, and its scratch.
pub(crate) fn in_chamber(
    context: &TaskContext,
    chamber: &Chamber,
    strategy: Strategy,
) -> Arc<TaskContext> {
    chamber.divide(strategy);
    sql::task_context(
        context,
        context.session_config().clone(),
        chamber.runtime.clone(),
    )
}

fn join_error(error: JoinError) -> Error {
    match error.try_into_panic() {
        Ok(panic) => Error::Bug(format!("planning panicked: {}", panic_text(panic))),
        Err(_) => Error::Cancelled,
    }
}

/// The attempts of one statement so far.
pub(crate) struct Ladder {
    history: Vec<Record>,
    pub(crate) strategy: Strategy,
}

impl Ladder {
    pub(crate) fn new() -> Self {
        Self {
            history: Vec::new(),
            strategy: Strategy::FIRST,
        }
    }

    /// Notes a failed attempt; `None` when its bee was lost. `Ok` when there is another attempt,
    /// with [`Ladder::strategy`]; otherwise the error that the statement ends with.
    pub(crate) fn failed(
        &mut self,
        planner: &PlannerHandle,
        failure: Option<(Error, Facts)>,
        rows_delivered: bool,
    ) -> Result<()> {
        let (class, error, facts) = match failure {
            Some((error, facts)) => (abandonment::classify(&error), Some(error), facts),
            None => (FailureClass::BeeLost, None, Facts::default()),
        };
        let text = error
            .as_ref()
            .map_or("its bee was lost".into(), ToString::to_string);
        tracing::warn!(
            bee = facts.bee,
            error = text,
            attempt = self.history.len() + 1,
            "an attempt failed"
        );
        planner.count_abandoned();
        self.history.push(Record {
            bee: facts.bee,
            strategy: self.strategy,
            class,
            error: text,
            budget_bytes: facts.budget_bytes,
            duration: facts.duration,
        });
        match plan_next(&self.history, rows_delivered) {
            Verdict::Again(strategy) => {
                self.strategy = strategy;
                Ok(())
            }
            Verdict::Abandon => Err(self.ended_with(class, error)),
        }
    }

    fn ended_with(&self, class: FailureClass, error: Option<Error>) -> Error {
        match (class, error) {
            (FailureClass::Final, Some(error)) => error,
            (FailureClass::Memory, _) => {
                Error::ResourcesExhausted(abandonment::report(&self.history))
            }
            (FailureClass::Panic, _) => Error::Bug(abandonment::report(&self.history)),
            _ => Error::Busy {
                what: abandonment::report(&self.history),
                retry_after: Duration::from_millis(100),
            },
        }
    }
}
