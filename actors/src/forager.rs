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
mod handle;
mod requests;
mod tracked;

pub(crate) use handle::{Coordinated, ForagerHandle, Known};

use crate::bees::BeesHandle;
use crate::chamber::Chambers;
use crate::heartbeat::SwarmHandle;
use crate::mailbox::{Alive, Census, Reply, remind, spawn_report};
use apiary_engine::behavior::foraging::{Bees, Policy};
use apiary_engine::behavior::listening::{Heard, least_pause, plan_list, plan_look};
use apiary_engine::behavior::membership::NodeState;
use apiary_engine::distributed::Writes;
use apiary_engine::error::{Error, Result};
use apiary_engine::sql::Environment;
use apiary_protocol::format::BUILD;
use apiary_protocol::heartbeat::ClaimProgress;
use apiary_protocol::ids::{NodeId, QueryId};
use apiary_protocol::query::{BELL_QUERIES_MAX, EndReason, QueryPlan, TaskKey};
use attempt::AttemptEnd;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use requests::{Polled, Round};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;
use tracked::Tracked;

/// How old what the bell named may be for whoever rings it: about as old as a read before the write.
const BELL_FRESH: Duration = Duration::from_millis(250);
/// How long after its bell a plan may come.
const PLAN_LATE: Duration = Duration::from_secs(5);
/// How long a query may be without a living coordinator before it is ended.
const ORPHAN_AGE: Duration = Duration::from_secs(10);
/// How long workers have to see that a query has ended before its objects go.
const GRACE: Duration = Duration::from_secs(2);

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

    // Finding queries.

    fn poll_after(&mut self, myself: &ActorRef<Message>, pause: Duration) {
        self.poll = Some(self.remind(myself, pause, Message::Poll));
    }

    /// Whether a bell came before its plan.
    fn awaits_plan(&self, now: Duration) -> bool {
        self.ignored.values().any(|ignored| match ignored {
            Ignored::Planless { since, .. } => now.saturating_sub(*since) < PLAN_LATE,
            _ => false,
        })
    }

    fn heard(&self) -> Heard {
        let (now, view) = (self.now(), self.with.swarm.view());
        let members = view.members.iter();
        let alive = members.filter(|member| member.state == NodeState::Alive);
        let running: usize = self.queries.values().map(Tracked::running).sum();
        Heard {
            quiet: self.active_at.map(|at| now.saturating_sub(at)),
            is_occupied: running >= self.with.chambers.division().bees && !self.awaits_plan(now),
            request: view.request,
            nodes: alive.count() + 1,
        }
    }

    fn begin_poll(&mut self, myself: &ActorRef<Message>) {
        if self.draining.is_some() {
            return;
        }
        let now = self.now();
        self.polled_at = now;
        let age = plan_list(&self.heard());
        let lists = self
            .listed_at
            .is_none_or(|at| now.saturating_sub(at) >= age);
        if lists {
            self.listed_at = Some(now);
        }
        let work = requests::poll(
            self.with.environment.meadow.clone(),
            self.bell.clone(),
            lists,
        );
        self.poll = Some(self.spawn(myself, work, |result| Message::Polled { result }));
    }

    fn polled(&mut self, myself: &ActorRef<Message>, result: Outcome<Polled>) {
        match result {
            Ok(Ok(Polled { bell, rung, listed })) => {
                if bell.is_some() {
                    self.bell = bell;
                }
                if let Some(listed) = listed {
                    let there: BTreeSet<QueryId> = listed.iter().copied().collect();
                    // One that is awaited is not listed yet.
                    self.ignored.retain(|query, ignored| {
                        there.contains(query) || !matches!(ignored, Ignored::Foreign { .. })
                    });
                    for query in listed {
                        self.found(myself, query, false);
                    }
                }
                let is_rung = !rung.is_empty();
                let new: Vec<QueryId> = rung
                    .iter()
                    .filter(|id| !self.rung.contains(id))
                    .copied()
                    .collect();
                if is_rung {
                    self.rung = rung;
                }
                self.heard_at = Some(self.polled_at);
                let awaited = self.awaited();
                for query in new {
                    self.found(myself, query, true);
                }
                for query in awaited {
                    self.found(myself, query, false);
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, "the bell cannot be read"),
            Err(panic) => tracing::error!(panic, "reading the bell panicked"),
        }
        let listening = self.with.environment.host.laboratory.listening;
        let pause = plan_look(listening, &self.heard());
        self.poll_after(myself, pause);
    }

    /// Tells the others of a query of this node.
    fn ring(&mut self, query: QueryId) {
        let now = self.now();
        let is_fresh = |at: Duration| now.saturating_sub(at) < BELL_FRESH;
        let named = self.heard_at.is_some_and(is_fresh);
        let named = named.then(|| self.rung.clone());
        if self.rung.len() == BELL_QUERIES_MAX {
            self.rung.remove(0);
        }
        self.rung.push(query);
        let ring = requests::ring(self.with.environment.clone(), query, named);
        // It has no result that this actor acts on.
        drop(self.with.environment.host.runtimes.control.spawn(ring));
    }

    /// Queries whose bell came before their plan.
    fn awaited(&self) -> Vec<QueryId> {
        let now = self.now();
        let is_due = |ignored: &Ignored| match ignored {
            Ignored::Planless { since, again_at } => {
                now.saturating_sub(*since) < PLAN_LATE && now >= *again_at
            }
            _ => false,
        };
        let awaited = self.ignored.iter().filter(|(_, ignored)| is_due(ignored));
        awaited.map(|(query, _)| *query).collect()
    }

    /// A query that somebody named.
    fn found(&mut self, myself: &ActorRef<Message>, query: QueryId, is_rung: bool) {
        if self.queries.contains_key(&query) || self.cleaning.contains_key(&query) {
            return;
        }
        let now = self.now();
        match self.ignored.get(&query) {
            Some(Ignored::Reading { .. }) => return,
            Some(Ignored::Own { since }) => {
                if now.saturating_sub(*since) > ORPHAN_AGE {
                    self.ignored.remove(&query);
                    self.clean(myself, query, Some(EndReason::Failed.into()), None);
                }
                return;
            }
            Some(Ignored::Planless { since, .. }) if now.saturating_sub(*since) > ORPHAN_AGE => {
                // What a dead node left behind, or a late worker.
                self.ignored.remove(&query);
                return self.clean(myself, query, None, None);
            }
            Some(Ignored::Foreign { coordinator, since }) => {
                let age = now.saturating_sub(*since);
                let coordinator = *coordinator;
                let is_gone = coordinator.is_some_and(|node| self.is_gone(node));
                // Nobody knows whose it is: older than any query may be.
                let is_ancient = coordinator.is_none() && age > self.ancient();
                if (is_gone && age > ORPHAN_AGE * 4) || is_ancient {
                    self.ignored.remove(&query);
                    let end = Some(EndReason::Abandoned.into());
                    self.clean(myself, query, end, coordinator);
                }
                return;
            }
            _ => {}
        }
        if is_rung {
            self.active_at = Some(now);
        }
        let since = match self.ignored.get(&query) {
            Some(Ignored::Planless { since, .. }) => *since,
            _ => now,
        };
        let work = requests::read_plan(self.with.environment.meadow.clone(), query);
        let work = self.spawn(myself, work, move |result| Message::Planned {
            query,
            result,
        });
        self.ignored
            .insert(query, Ignored::Reading { since, _work: work });
    }

    fn planned(
        &mut self,
        myself: &ActorRef<Message>,
        query: QueryId,
        result: Outcome<Option<QueryPlan>>,
    ) {
        let known = self.ignored.remove(&query);
        if self.queries.contains_key(&query) || self.draining.is_some() {
            return;
        }
        let now = self.now();
        let since = match known {
            Some(Ignored::Reading { since, .. }) => since,
            _ => now,
        };
        let foreign = |coordinator| Ignored::Foreign { coordinator, since };
        match result {
            // An earlier instance's, or one whose driver has not told yet.
            Ok(Ok(Some(plan))) if plan.coordinator == self.with.node_id => {
                self.ignored.insert(query, Ignored::Own { since });
            }
            Ok(Ok(Some(plan))) if plan.build == BUILD => {
                self.active_at = Some(now);
                let tracked = self.track(Arc::new(plan), None);
                self.queries.insert(query, tracked);
                self.advance(myself, query);
            }
            Ok(Ok(Some(plan))) => {
                let (build, node) = (&plan.build, plan.coordinator);
                tracing::info!(%query, build, "a query of another build is left to its own");
                self.ignored.insert(query, foreign(Some(node)));
            }
            // The bell may come before the plan.
            Ok(Ok(None)) => {
                let least = least_pause(self.with.swarm.view().request);
                let pause = (now.saturating_sub(since) / 2).max(least);
                let again_at = now + pause;
                self.ignored
                    .insert(query, Ignored::Planless { since, again_at });
            }
            Ok(Err(error @ Error::Corrupt { .. })) => {
                tracing::warn!(%error, "a query's plan cannot be read");
                self.ignored.insert(query, foreign(None));
            }
            // Read again when it is listed the next time.
            Ok(Err(error)) => tracing::debug!(%error, "a query's plan cannot be read now"),
            Err(panic) => tracing::error!(panic, "reading a query's plan panicked"),
        }
    }

    /// Longer than any query of this meadow may take.
    fn ancient(&self) -> Duration {
        self.with.environment.settings.query_deadline() * 2
    }

    /// Whether a node was seen to be dead, or was not seen at all.
    fn is_gone(&self, node: NodeId) -> bool {
        let view = self.with.swarm.view();
        view.member(node)
            .is_none_or(|member| member.state == NodeState::Dead)
    }

    // Running queries.

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

    // Ending queries.

    fn finish(&mut self, myself: &ActorRef<Message>, query: QueryId, ending: Ending) {
        self.active_at = Some(self.now());
        // Also one that an earlier instance knew.
        self.queries.remove(&query);
        self.ignored.remove(&query);
        self.clean(myself, query, Some(ending), None);
    }

    /// Another node's query is over. Its coordinator deletes what is there; what was on its way from
    /// here may come later than that.
    fn leave(&mut self, myself: &ActorRef<Message>, query: QueryId) {
        if let Some(tracked) = self.queries.remove(&query)
            && tracked.has_run()
        {
            drop(tracked);
            self.clean_later(myself, query, None);
        }
    }

    fn clean_later(&mut self, myself: &ActorRef<Message>, query: QueryId, end: Option<Ending>) {
        let message = Message::Clean {
            query,
            end: end.clone(),
        };
        let timer = self.remind(myself, GRACE * 2, message);
        self.cleaning
            .insert(query, Cleaning::Later { end, _timer: timer });
    }

    /// Deletes what is under a query, after saying that it is over; not when `unless_alive` is.
    fn clean(
        &mut self,
        myself: &ActorRef<Message>,
        query: QueryId,
        end: Option<Ending>,
        unless_alive: Option<NodeId>,
    ) {
        if let Some(Cleaning::Now { .. }) = self.cleaning.get(&query) {
            return;
        }
        let grace = match (&end, self.with.is_resident && self.draining.is_none()) {
            (Some(_), true) => GRACE,
            _ => Duration::ZERO,
        };
        let with = self.with.clone();
        let work = requests::clean(
            with.environment,
            with.node_id,
            query,
            end.clone(),
            unless_alive,
            grace,
        );
        let work = self.spawn(myself, work, move |result| Message::Cleaned {
            query,
            end,
            result,
        });
        self.cleaning.insert(query, Cleaning::Now { _work: work });
    }

    fn cleaned(
        &mut self,
        myself: &ActorRef<Message>,
        query: QueryId,
        end: Option<Ending>,
        result: Outcome<()>,
    ) {
        self.cleaning.remove(&query);
        match result {
            Ok(Ok(())) => tracing::debug!(%query, "what a query left is gone"),
            Ok(Err(error)) => {
                tracing::warn!(%error, %query, "what a query left stays for now");
                // One that was to be abandoned is found again, and its coordinator asked again.
                let is_abandoned = |end: &Ending| end.reason == EndReason::Abandoned;
                if self.draining.is_none() && !end.as_ref().is_some_and(is_abandoned) {
                    self.clean_later(myself, query, end);
                }
            }
            Err(panic) => tracing::error!(panic, "cleaning up after a query panicked"),
        }
    }

    /// Hands other nodes' tasks back and ends what is left of this node's queries.
    fn drain(&mut self, myself: &ActorRef<Message>, reply: Reply<()>) {
        self.draining.get_or_insert_default().push(reply);
        self.poll = None;
        self.ignored.clear();
        let waiting: Vec<(QueryId, Option<Ending>)> = self
            .cleaning
            .iter()
            .filter_map(|(query, cleaning)| match cleaning {
                Cleaning::Later { end, .. } => Some((*query, end.clone())),
                Cleaning::Now { .. } => None,
            })
            .collect();
        for (query, tracked) in std::mem::take(&mut self.queries) {
            if tracked.is_mine() {
                self.clean(myself, query, Some(EndReason::Cancelled.into()), None);
            } else if tracked.has_run() {
                // Only what is over is deleted.
                self.clean(myself, query, None, None);
            }
        }
        // At once: whoever is late cleans up after itself.
        for (query, end) in waiting {
            self.clean(myself, query, end, None);
        }
    }

    fn answer_drain(&mut self) {
        if self.cleaning.is_empty() {
            for reply in self
                .draining
                .iter_mut()
                .flat_map(|replies| replies.drain(..))
            {
                let _ = reply.send(());
            }
        }
    }
}
