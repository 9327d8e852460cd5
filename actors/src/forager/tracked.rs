//! One query that this node works on: what it knows of it, what it runs for it, when it asks again.

use super::attempt::{AttemptEnd, AttemptJob};
use super::handle::Known;
use super::requests::{Found, LATE_ROUNDS_MAX, OUTPUTS_FIRST, RoundPlan};
use crate::mailbox::Reply;
use apiary_engine::behavior::foraging::{Bees, Foraging, Policy, Start};
use apiary_engine::behavior::membership::SwarmView;
use apiary_engine::distributed::{StoredOutput, local_error};
use apiary_engine::error::{Error, Result};
use apiary_protocol::heartbeat::ClaimProgress;
use apiary_protocol::ids::NodeId;
use apiary_protocol::query::{ATTEMPTS_MAX, Outcome, Output, QueryPlan, TaskKey};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

const PAUSE_LEAST: Duration = Duration::from_millis(1);
const PAUSE_PER_OUTPUT: Duration = Duration::from_micros(250);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// When there is nothing to run and nothing to look for.
const PAUSE_IDLE_MAX: Duration = Duration::from_secs(4);
/// How often it is asked whether the query has ended.
const END_EVERY: Duration = Duration::from_secs(1);
/// Every so many of these the plan is looked for as well.
const ENDS_PER_PLAN: u32 = 4;
/// Bytes of outputs that are kept in memory with their indexes: at most, and as a share of the node's.
const HEADS_BYTES_MAX: u64 = 16 << 20;
const HEADS_SHARE: u64 = 32;
/// Operations until the plan is here: its put.
const PATH_OWN: u32 = 1;
/// Its put, a look at the bell or a list, its get.
const PATH_FOUND: u32 = 3;
/// Attempts that fail for want of storage before the task is given up here.
const RELEASES_MAX: u32 = 4;

pub(super) struct Tracked {
    me: NodeId,
    plan: Arc<QueryPlan>,
    options: Arc<BTreeMap<String, String>>,
    foraging: Foraging,
    known: BTreeMap<TaskKey, Arc<StoredOutput>>,
    heads_bytes: u64,
    heads_bytes_max: u64,
    attempts: BTreeMap<TaskKey, Running>,
    /// The driver of a query of this node.
    driver: Option<Reply<Result<Known>>>,
    head: Option<Vec<u32>>,
    has_run: bool,
    releases: BTreeMap<TaskKey, u32>,
    /// What the last round looked for, or the one under way does.
    asked: Vec<TaskKey>,
    /// The timer or the requests of a round.
    round: Option<AbortOnDropHandle<()>>,
    /// When something was learnt last: pauses grow from there.
    moved_at: Duration,
    end_asked_at: Duration,
    ends_asked: u32,
    rounds: usize,
    /// Rounds that ended with something still on its way, less those that did not.
    late_rounds: u32,
    began_at: Duration,
    silent_since: Option<Duration>,
}

struct Running {
    attempt: u32,
    progress: Arc<AtomicU64>,
    _work: AbortOnDropHandle<()>,
}

impl Tracked {
    pub(super) fn new(
        now: Duration,
        me: NodeId,
        memory_bytes: u64,
        plan: Arc<QueryPlan>,
        driver: Option<(Vec<u32>, Reply<Result<Known>>)>,
        policy: Policy,
    ) -> Self {
        let (head, driver) = driver.unzip();
        Self {
            me,
            options: Arc::new(plan.options.clone()),
            foraging: Foraging::new(now, me, &plan, head.clone(), policy),
            plan,
            known: BTreeMap::new(),
            heads_bytes: 0,
            heads_bytes_max: HEADS_BYTES_MAX.min(memory_bytes / HEADS_SHARE),
            attempts: BTreeMap::new(),
            driver,
            head,
            has_run: false,
            releases: BTreeMap::new(),
            asked: Vec::new(),
            round: None,
            moved_at: now,
            end_asked_at: now,
            ends_asked: 0,
            rounds: 0,
            late_rounds: 0,
            began_at: now,
            silent_since: None,
        }
    }

    pub(super) fn is_mine(&self) -> bool {
        self.head.is_some()
    }

    pub(super) fn has_run(&self) -> bool {
        self.has_run
    }

    pub(super) fn coordinator(&self) -> NodeId {
        self.plan.coordinator
    }

    pub(super) fn running(&self) -> usize {
        self.attempts.len()
    }

    pub(super) fn claims(&self) -> impl Iterator<Item = ClaimProgress> + '_ {
        self.attempts.iter().map(|(key, running)| ClaimProgress {
            query: self.plan.query,
            stage: key.stage,
            task: key.task,
            attempt: running.attempt,
            progress: running.progress.load(Ordering::Relaxed),
        })
    }

    /// Whether the query has had all the time that its coordinator gave it.
    pub(super) fn is_late(&self, now: Duration) -> bool {
        now.saturating_sub(self.began_at) > Duration::from_millis(self.plan.deadline_ms)
    }

    /// Whether the coordinator has been gone for too long.
    pub(super) fn is_orphan(&mut self, now: Duration, is_silent: bool, age: Duration) -> bool {
        if !is_silent && !apiary_protocol::planted!(LiveQuerySwept) {
            self.silent_since = None;
            return false;
        }
        let since = *self.silent_since.get_or_insert(now);
        now.saturating_sub(since) >= age
    }

    // Attempts.

    pub(super) fn start(
        &mut self,
        now: Duration,
        bees: Bees,
        budget_bytes: u64,
        swarm: &SwarmView,
    ) -> Vec<Start> {
        self.foraging.observe(now, self.plan.query, swarm);
        if let Some(TaskKey { stage, task }) = self.foraging.exhausted(now, swarm) {
            let what = format!("task {task} of stage {stage} had {ATTEMPTS_MAX} attempts");
            let retry_after = Duration::from_secs(1);
            self.fail(Error::Busy { what, retry_after });
        }
        self.foraging.start(now, bees, budget_bytes, swarm)
    }

    /// See [`Foraging::watched`].
    pub(super) fn watched(&self, now: Duration, has_idle: bool, swarm: &SwarmView) -> Vec<NodeId> {
        self.foraging.watched(now, has_idle, swarm)
    }

    pub(super) fn job(&self, start: Start) -> AttemptJob {
        let stage = self.plan.stage(start.key.stage);
        let inputs = stage.map_or(&[][..], |stage| stage.inputs.as_slice());
        AttemptJob {
            plan: Arc::clone(&self.plan),
            options: Arc::clone(&self.options),
            start,
            known: self.outputs_of(inputs),
            path: self.path_to(inputs) + u32::from(start.has_looked) + u32::from(start.must_claim),
            progress: Arc::default(),
        }
    }

    /// Storage operations that had to follow each other until all outputs of these stages were read.
    fn path_to(&self, stages: &[u32]) -> u32 {
        let read = self.known.values().map(|output| &output.output);
        let read = read.filter(|output| stages.contains(&output.key.stage));
        // Its own outputs are known here without a get.
        let get = |output: &Output| u32::from(output.node != self.me);
        let read = read.map(|output| output.facts.path.saturating_add(get(output)));
        let plan = if self.is_mine() { PATH_OWN } else { PATH_FOUND };
        read.max().unwrap_or(0).max(plan)
    }

    fn outputs_of(&self, stages: &[u32]) -> Known {
        let wanted = self
            .known
            .iter()
            .filter(|(key, _)| stages.contains(&key.stage));
        wanted
            .map(|(key, output)| (*key, Arc::clone(output)))
            .collect()
    }

    pub(super) fn begin(
        &mut self,
        start: Start,
        progress: Arc<AtomicU64>,
        work: AbortOnDropHandle<()>,
    ) {
        self.has_run = true;
        let running = Running {
            attempt: start.attempt,
            progress,
            _work: work,
        };
        self.attempts.insert(start.key, running);
    }

    pub(super) fn ended(&mut self, now: Duration, key: TaskKey, end: AttemptEnd) {
        self.attempts.remove(&key);
        self.moved_at = now;
        match end {
            AttemptEnd::Committed(output) => {
                if let Some(output) = output {
                    self.keep(key, output);
                }
                self.foraging.done(now, key);
            }
            AttemptEnd::Failed(error) => {
                self.foraging.done(now, key);
                self.fail(local_error(&error));
            }
            AttemptEnd::Claimed { by, attempt } => self.foraging.claimed(now, key, by, attempt),
            AttemptEnd::Released(error) => {
                tracing::warn!(%error, query = %self.plan.query, ?key, "an attempt was given back");
                let releases = self.releases.entry(key).or_default();
                *releases += 1;
                if *releases >= RELEASES_MAX {
                    self.fail(error);
                }
                self.foraging.released(now, key);
            }
            AttemptEnd::TooLarge => {
                tracing::info!(query = %self.plan.query, ?key, "a task is left to nodes with more memory");
                self.foraging.gave_up(now, key);
            }
        }
    }

    // Outputs.

    pub(super) fn found(
        &mut self,
        now: Duration,
        found: Vec<(TaskKey, Found)>,
        missed: &[TaskKey],
        is_late: bool,
    ) {
        // A line that is slow once is slow the next time too.
        self.late_rounds = match is_late {
            true => (self.late_rounds + 1).min(LATE_ROUNDS_MAX),
            false => self.late_rounds.saturating_sub(1),
        };
        for key in missed {
            self.foraging.missed(now, *key);
        }
        for (key, found) in found {
            self.moved_at = now;
            match found {
                Found::Unreadable(error) => {
                    self.fail(error);
                    continue;
                }
                Found::There => {}
                Found::Read(output) => {
                    if let Outcome::Failed(error) = &output.output.outcome {
                        self.fail(local_error(error));
                    }
                    self.keep(key, output);
                }
            }
            self.attempts.remove(&key);
            self.foraging.done(now, key);
        }
    }

    fn keep(&mut self, key: TaskKey, output: Arc<StoredOutput>) {
        let held = output.held_bytes() as u64;
        let output = match self.heads_bytes + held <= self.heads_bytes_max {
            true => {
                self.heads_bytes += held;
                output
            }
            false => Arc::new(output.without_data()),
        };
        self.known.insert(key, output);
    }

    /// Ends the query for its driver. What others coordinate is theirs to end.
    fn fail(&mut self, error: Error) {
        if let Some(driver) = self.driver.take() {
            let _ = driver.send(Err(error));
        }
    }

    /// Tells the driver when all that its head reads is there.
    pub(super) fn tell_head(&mut self) {
        if self.foraging.is_head_ready()
            && let Some(driver) = self.driver.take()
        {
            let head = self.head.clone().unwrap_or_default();
            let _ = driver.send(Ok(self.outputs_of(&head)));
        }
    }

    // Rounds.

    /// Nothing is asked while a round is under way or planned, nor for a driver that has its answer.
    pub(super) fn is_round_due(&self) -> bool {
        self.round.is_none() && !(self.is_mine() && self.driver.is_none())
    }

    /// Pauses grow with the time in which nothing was learnt: a tenth of it.
    pub(super) fn pause(&self, now: Duration) -> Duration {
        // Many outputs are not looked for at the pace of one.
        let least = PAUSE_LEAST.max(PAUSE_PER_OUTPUT * self.asked.len() as u32);
        let max = match self.attempts.is_empty() && self.asked.is_empty() {
            true => PAUSE_IDLE_MAX,
            false => PAUSE_MAX,
        };
        (now.saturating_sub(self.moved_at) / 10).clamp(least.min(max), max)
    }

    pub(super) fn wait(&mut self, timer: AbortOnDropHandle<()>) {
        self.round = Some(timer);
    }

    pub(super) fn requesting(&mut self, work: AbortOnDropHandle<()>) {
        self.round = Some(work);
    }

    pub(super) fn rested(&mut self) {
        self.round = None;
    }

    pub(super) fn plan_round(
        &mut self,
        now: Duration,
        has_idle: bool,
        swarm: &SwarmView,
    ) -> RoundPlan {
        let end = !self.is_mine() && now.saturating_sub(self.end_asked_at) >= END_EVERY;
        if end {
            self.end_asked_at = now;
            self.ends_asked = self.ends_asked.wrapping_add(1);
        }
        self.asked = self.foraging.wanted(now, has_idle, swarm);
        self.foraging.nearest_first(&mut self.asked);
        // Of many only the first are looked for: others each time.
        if let Some(first) = self.rounds.checked_rem(self.asked.len()) {
            self.asked.rotate_left(first);
        }
        self.rounds = self.rounds.wrapping_add(OUTPUTS_FIRST);
        let is_mine = self.is_mine();
        let is_read = |key: &TaskKey| is_mine || !self.foraging.is_for_head(*key);
        let is_whole = |key: &TaskKey| {
            let stage = self.plan.stage(key.stage);
            stage.is_some_and(|stage| stage.is_read_whole)
        };
        let (read, only_there): (Vec<TaskKey>, _) = self.asked.iter().partition(|key| is_read(key));
        RoundPlan {
            read: read.iter().map(|key| (*key, is_whole(key))).collect(),
            only_there,
            late_rounds: self.late_rounds,
            end,
            plan: end && self.ends_asked.is_multiple_of(ENDS_PER_PLAN),
        }
    }
}
