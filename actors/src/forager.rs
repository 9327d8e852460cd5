//! Tasks of distributed queries: this node's own queries, and open tasks of others for idle bees.
//!
//! Parent: Node. Messages: `Ring`, `Coordinate` and `Finish`, of a query of this node, from its driver;
//! `Poll`, `Round` from timers; `Polled`, `Planned`, `Rounded`, `Attempted`, `Cleaned` from its own work;
//! `Claims` and `Watched` from the Heartbeat; `Drain` at the node's stop; `Observe`. Reads the bell, plans, outputs
//! and ends under `_swarm/queries/`; writes claims, outputs, failures and ends, and deletes what is
//! under a query that is over. When it crashes, its attempts are aborted: others find their claims
//! missing; drivers of its queries see a lost answer and begin anew; what the queries left is swept
//! like a dead node's.
//!
//! Invariants: an attempt begins when its inputs are there; one attempt at a task at a time here; one
//! round of requests of a query at a time; a query that has ended starts nothing; what this node
//! commits after a query's end it deletes. Cells in a frame are their attempt's until its output is
//! committed, and then the coordinator's: nobody else deletes them but the Keeper, by their age.

mod attempt;
mod ending;
mod finding;
mod handle;
mod requests;
mod tracked;

pub(crate) use handle::{Coordinated, ForagerHandle, Known};

use crate::bees::BeesHandle;
use crate::chamber::Chambers;
use crate::heartbeat::SwarmHandle;
use crate::mailbox::{Alive, Census, Reply, remind, spawn_report};
use apiary_engine::behavior::foraging::{Bees, Policy};
use apiary_engine::behavior::listening::least_pause;
use apiary_engine::distributed::Writes;
use apiary_engine::error::{Error, Result};
use apiary_engine::sql::Environment;
use apiary_protocol::heartbeat::ClaimProgress;
use apiary_protocol::ids::{NodeId, QueryId};
use apiary_protocol::query::{EndReason, QueryPlan, TaskKey};
use attempt::AttemptEnd;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use requests::{Polled, Round};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;
use tracked::Tracked;

/// How long a query may be without a living coordinator before it is ended.
const ORPHAN_AGE: Duration = Duration::from_secs(10);

type Outcome<T> = std::result::Result<Result<T>, String>;

pub(crate) enum Message {
    /// A query of this node, whose plan is in the meadow: answers when all is there that the head, which
    /// reads these stages, needs.
    Coordinate {
        plan: Arc<QueryPlan>,
        head: Vec<u32>,
        reply: Reply<Result<Known>>,
    },
    /// A query of this node is about to be there.
    Ring {
        query: QueryId,
    },
    /// It is over for its coordinator.
    Finish {
        query: QueryId,
        ending: Ending,
    },
    Poll,
    Polled {
        result: Outcome<Polled>,
    },
    Planned {
        query: QueryId,
        result: Outcome<Option<QueryPlan>>,
    },
    Round {
        query: QueryId,
    },
    Rounded {
        query: QueryId,
        result: Outcome<Round>,
    },
    Attempted {
        query: QueryId,
        key: TaskKey,
        result: std::result::Result<AttemptEnd, String>,
    },
    Clean {
        query: QueryId,
        end: Option<Ending>,
    },
    Cleaned {
        query: QueryId,
        end: Option<Ending>,
        result: Outcome<()>,
    },
    Claims {
        reply: Reply<Vec<ClaimProgress>>,
    },
    /// Whose beats the next look of the Heartbeat should read.
    Watched {
        reply: Reply<BTreeSet<NodeId>>,
    },
    Drain {
        reply: Reply<()>,
    },
}

/// How a query is ended, and what goes with it.
#[derive(Clone)]
pub(crate) struct Ending {
    reason: EndReason,
    /// Tasks whose cells no version is going to name. Only its coordinator knows that.
    discards: Option<Arc<Writes>>,
}

impl From<EndReason> for Ending {
    fn from(reason: EndReason) -> Self {
        Self {
            reason,
            discards: None,
        }
    }
}

#[derive(Clone)]
pub(crate) struct Arguments {
    pub(crate) node_id: NodeId,
    /// Looks for other nodes' queries.
    pub(crate) is_resident: bool,
    pub(crate) environment: Environment,
    pub(crate) bees: BeesHandle,
    pub(crate) chambers: Arc<Chambers>,
    pub(crate) swarm: SwarmHandle,
    pub(crate) census: Census,
}

pub(crate) struct State {
    with: Arguments,
    queries: BTreeMap<QueryId, Tracked>,
    /// Queries whose plan is being read, or that are of no use here.
    ignored: BTreeMap<QueryId, Ignored>,
    cleaning: BTreeMap<QueryId, Cleaning>,
    /// The last sign of a query.
    active_at: Option<Duration>,
    listed_at: Option<Duration>,
    bell: Option<String>,
    /// Queries that the bell named before, in its order.
    rung: Vec<QueryId>,
    /// When the bell was read last, so that it named these.
    heard_at: Option<Duration>,
    polled_at: Duration,
    poll: Option<AbortOnDropHandle<()>>,
    draining: Option<Vec<Reply<()>>>,
    /// Bees that had nothing to do at the last look.
    idle_bees: usize,
    /// What the Heartbeat was told.
    was_busy: Option<bool>,
    _alive: Alive,
}

/// A query that is over. What deletes its objects is never aborted: a put of its own that is on its way
/// would come after the deletions.
enum Cleaning {
    Later {
        end: Option<Ending>,
        _timer: AbortOnDropHandle<()>,
    },
    Now {
        _work: AbortOnDropHandle<()>,
    },
}

/// A query that this node does not work on.
enum Ignored {
    Reading {
        /// When it was first looked for.
        since: Duration,
        _work: AbortOnDropHandle<()>,
    },
    /// It is this node's, and nobody drives it.
    Own { since: Duration },
    /// Its plan is not there: not yet, or not any more.
    Planless {
        since: Duration,
        /// When it is looked for again; the pauses grow, because most such queries are over.
        again_at: Duration,
    },
    /// Its plan is of another build, or damaged: who coordinates it may still be watched.
    Foreign {
        coordinator: Option<NodeId>,
        since: Duration,
    },
}

pub(crate) struct Forager;

impl Actor for Forager {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        with: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let alive = with.census.enter();
        let mut state = State {
            queries: BTreeMap::new(),
            ignored: BTreeMap::new(),
            cleaning: BTreeMap::new(),
            active_at: None,
            listed_at: None,
            bell: None,
            rung: Vec::new(),
            heard_at: None,
            polled_at: Duration::ZERO,
            poll: None,
            draining: None,
            idle_bees: 0,
            was_busy: None,
            _alive: alive,
            with,
        };
        if state.with.is_resident {
            state.poll_after(&myself, least_pause(None));
        }
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Coordinate { plan, head, reply } => {
                state.coordinate(&myself, plan, head, reply);
            }
            Message::Ring { query } => state.ring(query),
            Message::Finish { query, ending } => state.finish(&myself, query, ending),
            Message::Poll => {
                state.was_busy = None;
                state.begin_poll(&myself);
            }
            Message::Polled { result } => state.polled(&myself, result),
            Message::Planned { query, result } => state.planned(&myself, query, result),
            Message::Round { query } => state.begin_round(&myself, query),
            Message::Rounded { query, result } => state.rounded(&myself, query, result),
            Message::Attempted { query, key, result } => {
                state.attempted(&myself, query, key, result);
            }
            Message::Clean { query, end } => state.clean(&myself, query, end, None),
            Message::Cleaned { query, end, result } => state.cleaned(&myself, query, end, result),
            Message::Claims { reply } => {
                let claims = state.queries.values().flat_map(Tracked::claims).collect();
                let _ = reply.send(claims);
            }
            Message::Watched { reply } => {
                let _ = reply.send(state.watched());
            }
            Message::Drain { reply } => state.drain(&myself, reply),
        }
        state.tell_busy();
        state.answer_drain();
        Ok(())
    }
}

impl State {
    fn tell_busy(&mut self) {
        let is_busy = !self.queries.is_empty();
        // Again at every poll: either of the two may have been restarted.
        if self.was_busy != Some(is_busy) {
            self.was_busy = Some(is_busy);
            self.with.swarm.set_busy(is_busy);
        }
    }

    /// Coordinators, and whoever has what this node could take.
    fn watched(&self) -> BTreeSet<NodeId> {
        let (now, swarm) = (self.now(), self.with.swarm.view());
        let queries = self.queries.values();
        let mut watched: BTreeSet<NodeId> = queries.map(Tracked::coordinator).collect();
        for tracked in self.queries.values() {
            watched.extend(tracked.watched(now, self.idle_bees > 0, &swarm));
        }
        watched
    }

    fn policy(&self) -> Policy {
        self.with.environment.host.laboratory.foraging
    }

    fn now(&self) -> Duration {
        self.with.environment.host.clock.monotonic()
    }

    fn spawn<T: Send + 'static>(
        &self,
        myself: &ActorRef<Message>,
        work: impl Future<Output = T> + Send + 'static,
        message: impl FnOnce(std::result::Result<T, String>) -> Message + Send + 'static,
    ) -> AbortOnDropHandle<()> {
        let control = &self.with.environment.host.runtimes.control;
        spawn_report(control, myself, work, message)
    }

    fn remind(
        &self,
        myself: &ActorRef<Message>,
        after: Duration,
        message: Message,
    ) -> AbortOnDropHandle<()> {
        remind(
            &self.with.environment.host.runtimes.control,
            myself,
            after,
            move || message,
        )
    }

    fn coordinate(
        &mut self,
        myself: &ActorRef<Message>,
        plan: Arc<QueryPlan>,
        head: Vec<u32>,
        reply: Reply<Result<Known>>,
    ) {
        if self.draining.is_some() {
            return;
        }
        let query = plan.query;
        self.active_at = Some(self.now());
        let tracked = self.track(plan, Some((head, reply)));
        self.queries.insert(query, tracked);
        self.advance(myself, query);
    }

    fn track(
        &self,
        plan: Arc<QueryPlan>,
        driver: Option<(Vec<u32>, Reply<Result<Known>>)>,
    ) -> Tracked {
        let memory_bytes = self.with.chambers.division().memory_bytes;
        let (now, policy) = (self.now(), self.policy());
        Tracked::new(now, self.with.node_id, memory_bytes, plan, driver, policy)
    }

    /// Starts what can be started, tells the driver, and plans the next round of requests.
    fn advance(&mut self, myself: &ActorRef<Message>, query: QueryId) {
        let (now, swarm) = (self.now(), self.with.swarm.view());
        let division = *self.with.chambers.division();
        let running: usize = self.queries.values().map(Tracked::running).sum();
        let Some(tracked) = self.queries.get_mut(&query) else {
            return;
        };
        let free = division.bees.saturating_sub(running);
        let idle = free.min(self.idle_bees);
        let bees = Bees { free, idle };
        let starts = tracked.start(now, bees, division.budget_per_bee_bytes, &swarm);
        for start in starts {
            let job = tracked.job(start);
            if !tracked.is_mine() {
                let TaskKey { stage, task } = start.key;
                tracing::info!(%query, stage, task, claimed = start.must_claim, "runs another node's task");
            }
            let progress = Arc::clone(&job.progress);
            let work = attempt::run(self.with.clone(), job);
            let key = start.key;
            let work = spawn_report(
                &self.with.environment.host.runtimes.control,
                myself,
                work,
                move |result| Message::Attempted { query, key, result },
            );
            tracked.begin(start, progress, work);
        }
        tracked.tell_head();
        if tracked.is_round_due() {
            let pause = tracked.pause(now);
            let timer = remind(
                &self.with.environment.host.runtimes.control,
                myself,
                pause,
                move || Message::Round { query },
            );
            tracked.wait(timer);
        }
    }

    fn begin_round(&mut self, myself: &ActorRef<Message>, query: QueryId) {
        let (now, swarm) = (self.now(), self.with.swarm.view());
        let meadow = self.with.environment.meadow.clone();
        let Some(tracked) = self.queries.get_mut(&query) else {
            return;
        };
        let plan = tracked.plan_round(now, self.idle_bees > 0, &swarm);
        let work = requests::round(meadow, self.with.bees.clone(), query, plan, swarm.request);
        let work = spawn_report(
            &self.with.environment.host.runtimes.control,
            myself,
            work,
            move |result| Message::Rounded { query, result },
        );
        tracked.requesting(work);
    }

    fn rounded(&mut self, myself: &ActorRef<Message>, query: QueryId, result: Outcome<Round>) {
        let now = self.now();
        let Some(tracked) = self.queries.get_mut(&query) else {
            return;
        };
        tracked.rested();
        match result {
            Ok(Ok(Round {
                found,
                missed,
                is_late,
                is_over,
                idle_bees,
            })) => {
                self.idle_bees = idle_bees;
                if is_over && !tracked.is_mine() {
                    return self.leave(myself, query);
                }
                tracked.found(now, found, &missed, is_late);
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, %query, "the state of a query cannot be read");
            }
            Err(panic) => tracing::error!(panic, "reading the state of a query panicked"),
        }
        let Some(tracked) = self.queries.get(&query) else {
            return;
        };
        if tracked.is_late(now) && !tracked.is_mine() {
            return self.leave(myself, query);
        }
        let (is_mine, node) = (tracked.is_mine(), tracked.coordinator());
        let silent = !is_mine && node != self.with.node_id && self.is_gone(node);
        if let Some(tracked) = self.queries.get_mut(&query)
            && tracked.is_orphan(now, silent, ORPHAN_AGE)
        {
            tracing::info!(%query, "a query without a coordinator is ended");
            self.queries.remove(&query);
            let end = Some(EndReason::Abandoned.into());
            return self.clean(myself, query, end, Some(node));
        }
        self.advance(myself, query);
    }

    fn attempted(
        &mut self,
        myself: &ActorRef<Message>,
        query: QueryId,
        key: TaskKey,
        result: std::result::Result<AttemptEnd, String>,
    ) {
        let now = self.now();
        self.active_at = Some(now);
        let Some(tracked) = self.queries.get_mut(&query) else {
            return;
        };
        let end = result.unwrap_or_else(|panic| AttemptEnd::Released(Error::Bug(panic)));
        tracked.ended(now, key, end);
        let others: Vec<QueryId> = self.queries.keys().copied().collect();
        for query in others {
            self.advance(myself, query);
        }
    }
}
