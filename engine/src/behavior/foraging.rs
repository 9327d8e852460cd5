//! Foraging: which tasks of one distributed query a node runs, and which outputs it looks for. Pure;
//! the caller reads, claims and runs.
//!
//! The node that a task was placed on just starts, as soon as a bee is free for it. Others leave it alone for a patience that grows with
//! their distance from the task, then claim it; so does everybody when the beats of whoever has it
//! stop listing it, or list it without progress. Claims only save work: whichever attempt commits
//! first has the output.
//!
//! Invariants: a task is started only when every output that it reads is known to be there, and one
//! that was placed elsewhere only when its own was just looked for and is not; a node runs one attempt
//! at a task at a time; a task that is not done is sooner or later overdue for every
//! node with an idle bee, unless whoever has it is alive and gets on.

use super::membership::{NodeState, SwarmView};
use apiary_protocol::ids::NodeId;
use apiary_protocol::planted;
use apiary_protocol::query::{ATTEMPTS_MAX, QueryPlan, TaskKey};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a task is left to whoever should have it: two beats of a busy node.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// What each place in the order of distance adds.
const PATIENCE_STEP: Duration = Duration::from_millis(150);
/// Between two looks of a busy node.
const LOOK: Duration = Duration::from_secs(2);
/// So many nodes see at every look whether whoever has a task that gets on still has it.
const NEAR_COUNT: usize = 3;
/// Nodes whose beats are read at a look: by one with an idle bee, and by one without.
const WATCHED_IDLE: usize = 32;
const WATCHED_BUSY: usize = 8;
/// How old the knowledge that an output is missing may be for an attempt that was not placed here.
const MISSED_FRESH: Duration = Duration::from_secs(2);
/// Outputs that a node without work looks for, to see how far a query is.
const IDLE_LOOKS: usize = 16;
/// How long a task that is too large for this node is left to larger ones.
const LARGER_PATIENCE: Duration = Duration::from_secs(30);
/// A running attempt is late when it takes so many hundredths of what most of its stage took, from its
/// opening on: that is when so many of so many outputs are there. One is begun again up to this attempt.
const LATENESS: u32 = 130;
const MOST: usize = 3;
const MOST_OF: usize = 4;
const LATE_ATTEMPT_MAX: u32 = 1;
/// Nodes behind this rank wait no longer than it.
const RANK_MAX: usize = 64;
/// How long a running attempt may show no progress.
const STALL: Duration = Duration::from_secs(60);

/// How a node chooses among tasks that it was not given. Experiments compare [`Policy::default`] with
/// plain ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub order: Order,
    /// How long a task is left to whoever should have it.
    pub patience: Duration,
    /// How long a running attempt may show no progress.
    pub stall: Duration,
    /// One that gets on is begun a second time after so many hundredths of what most of its stage took;
    /// never when nought.
    pub lateness: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            order: Order::Nearest,
            patience: PATIENCE,
            stall: STALL,
            lateness: LATENESS,
        }
    }
}

/// What a node takes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Another thing than the others, who leave it alone for a while.
    Nearest,
    Random,
    Oldest,
}

/// An attempt to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    pub key: TaskKey,
    pub attempt: u32,
    /// Only after a claim was created; the placed node needs none.
    pub must_claim: bool,
    /// After its output was looked for and not there.
    pub has_looked: bool,
    /// It was given up here, and nobody else took it: what fails now fails the query.
    pub is_last: bool,
}

/// Bees of a node that could take an attempt.
#[derive(Clone, Copy, Debug)]
pub struct Bees {
    /// Those that run no attempt of a distributed query.
    pub free: usize,
    /// Of these, those that are known to do nothing else either.
    pub idle: usize,
}

#[derive(Clone, Debug)]
struct Task {
    preferred: Option<NodeId>,
    memory_bytes: u64,
    state: State,
    /// Number of the next attempt.
    attempt: u32,
    /// Whoever is known to have claimed it, and since when.
    holder: Option<(NodeId, Duration)>,
    /// When this node found it to be too large for its memory.
    gave_up_at: Option<Duration>,
    /// When an attempt of this node began.
    started_at: Option<Duration>,
    /// When its output was looked for last, and was not there.
    missed_at: Option<Duration>,
    /// The progress that its holder's beats show, and when it was first seen.
    progress: Option<(u64, Duration)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Mine,
    Done,
}

/// One query as one node sees it.
#[derive(Clone, Debug)]
pub struct Foraging {
    me: NodeId,
    policy: Policy,
    /// Stages that the head reads, when this node is the coordinator.
    head: Option<Vec<u32>>,
    /// By stage, counted from 1: what it reads.
    inputs: Vec<Vec<u32>>,
    /// By stage: when its inputs were all there.
    opened_at: Vec<Option<Duration>>,
    /// By stage: when most of its outputs were seen to be there.
    mostly_done_at: Vec<Option<Duration>>,
    tasks: BTreeMap<TaskKey, Task>,
}

impl Foraging {
    /// `head` for the coordinator: the stages that it reads itself.
    pub fn new(
        now: Duration,
        me: NodeId,
        plan: &QueryPlan,
        head: Option<Vec<u32>>,
        policy: Policy,
    ) -> Self {
        let task = |key: TaskKey| {
            let planned = plan.task(key)?;
            let task = Task {
                preferred: planned.preferred,
                memory_bytes: planned.memory_bytes,
                state: State::Open,
                attempt: 0,
                holder: None,
                gave_up_at: None,
                started_at: None,
                missed_at: None,
                progress: None,
            };
            Some((key, task))
        };
        let mut foraging = Self {
            me,
            policy,
            head,
            inputs: plan
                .stages
                .iter()
                .map(|stage| stage.inputs.clone())
                .collect(),
            opened_at: vec![None; plan.stages.len()],
            mostly_done_at: vec![None; plan.stages.len()],
            tasks: plan.keys().filter_map(task).collect(),
        };
        foraging.open_stages(now);
        foraging
    }

    /// Its output is there.
    pub fn done(&mut self, now: Duration, key: TaskKey) {
        if let Some(task) = self.tasks.get_mut(&key) {
            task.state = State::Done;
        }
        self.open_stages(now);
        let is_mostly_done = self.is_mostly_done(key.stage);
        if let Some(at) = self
            .mostly_done_at
            .get_mut((key.stage as usize).wrapping_sub(1))
            && is_mostly_done
        {
            at.get_or_insert(now);
        }
    }

    fn is_mostly_done(&self, stage: u32) -> bool {
        let done = self.tasks_of(stage);
        let done = done.filter(|(_, task)| task.state == State::Done).count();
        let all = self.tasks_of(stage).count();
        done * MOST_OF >= all * MOST
    }

    /// Its output was looked for and is not there.
    pub fn missed(&mut self, now: Duration, key: TaskKey) {
        if let Some(task) = self.tasks.get_mut(&key) {
            task.missed_at = Some(now);
        }
    }

    /// An own attempt ended without an output; another may follow.
    pub fn released(&mut self, now: Duration, key: TaskKey) {
        let me = self.me;
        if let Some(task) = self.tasks.get_mut(&key)
            && task.state == State::Mine
        {
            task.state = State::Open;
            task.attempt += 1;
            // Others first: here it has just failed.
            task.holder = Some((me, now));
        }
    }

    /// An own attempt found that it needs more memory than this node has. Larger ones go first.
    pub fn gave_up(&mut self, now: Duration, key: TaskKey) {
        self.released(now, key);
        if let Some(task) = self.tasks.get_mut(&key) {
            task.gave_up_at = Some(now);
        }
    }

    /// Somebody else's claim was there first, for this attempt.
    pub fn claimed(&mut self, now: Duration, key: TaskKey, by: NodeId, attempt: u32) {
        if let Some(task) = self.tasks.get_mut(&key)
            && task.state != State::Done
        {
            task.state = State::Open;
            task.attempt = attempt.saturating_add(1);
            task.holder = Some((by, now));
            task.progress = None;
        }
    }

    /// What the beats say of claims.
    pub fn observe(
        &mut self,
        now: Duration,
        query: apiary_protocol::ids::QueryId,
        swarm: &SwarmView,
    ) {
        for member in &swarm.members {
            // The last beat of a dead node still lists what it ran.
            let beat = member
                .beat
                .as_ref()
                .filter(|_| member.state != NodeState::Dead);
            let Some(beat) = beat else { continue };
            for claim in beat.claims.iter().filter(|claim| claim.query == query) {
                let key = TaskKey {
                    stage: claim.stage,
                    task: claim.task,
                };
                let Some(task) = self.tasks.get_mut(&key) else {
                    continue;
                };
                if task.state != State::Open {
                    continue;
                }
                let held = task.responsible().filter(|node| *node != member.node);
                if held
                    .is_some_and(|node| is_alive(node, swarm) && is_listed(node, key, task, swarm))
                {
                    // Two run it: the first is watched.
                    continue;
                }
                if task.responsible() != Some(member.node) {
                    task.holder = Some((member.node, now));
                    task.progress = None;
                }
                task.attempt = task.attempt.max(claim.attempt);
                match task.progress {
                    Some((seen, _)) if seen == claim.progress => {}
                    _ => task.progress = Some((claim.progress, now)),
                }
            }
        }
    }

    fn open_stages(&mut self, now: Duration) {
        for index in 0..self.inputs.len() {
            if self.opened_at[index].is_none()
                && self.inputs[index]
                    .iter()
                    .all(|stage| self.is_stage_done(*stage))
            {
                self.opened_at[index] = Some(now);
            }
        }
    }

    fn tasks_of(&self, stage: u32) -> impl Iterator<Item = (&TaskKey, &Task)> {
        let first = TaskKey { stage, task: 0 };
        let last = TaskKey {
            stage,
            task: u32::MAX,
        };
        self.tasks.range(first..=last)
    }

    fn is_stage_done(&self, stage: u32) -> bool {
        self.tasks_of(stage)
            .all(|(_, task)| task.state == State::Done)
            || (planted!(AbsentIsEmpty)
                && self
                    .tasks_of(stage)
                    .any(|(_, task)| task.state == State::Done))
    }

    fn opened_at(&self, key: TaskKey) -> Option<Duration> {
        *self.opened_at.get((key.stage as usize).checked_sub(1)?)?
    }

    /// Whether all that the head reads is there.
    pub fn is_head_ready(&self) -> bool {
        let head = self.head.as_deref();
        head.is_some_and(|stages| stages.iter().all(|stage| self.is_stage_done(*stage)))
    }

    /// A task that had all its attempts, and whose last holder had its time.
    pub fn exhausted(&self, now: Duration, swarm: &SwarmView) -> Option<TaskKey> {
        let mut tasks = self.tasks.iter();
        let is_exhausted = |(key, task): &(&TaskKey, &Task)| {
            task.state == State::Open
                && task.attempt > ATTEMPTS_MAX
                && self.is_overdue(now, **key, task, swarm)
        };
        tasks.find(is_exhausted).map(|(key, _)| *key)
    }

    /// Puts first what this node would take first: others begin with something else.
    pub fn nearest_first(&self, keys: &mut [TaskKey]) {
        keys.sort_by_cached_key(|key| distance(self.me, *key));
    }

    /// Whether nobody but the head reads a task's output: then to anybody else it is enough that it is
    /// there.
    pub fn is_for_head(&self, key: TaskKey) -> bool {
        self.inputs
            .iter()
            .all(|inputs| !inputs.contains(&key.stage))
    }

    /// Attempts of this node that run.
    pub fn running(&self) -> usize {
        self.tasks
            .values()
            .filter(|task| task.state == State::Mine)
            .count()
    }

    /// Outputs to look for now. Without an idle bee nobody else's task could be begun, whatever is there.
    pub fn wanted(&self, now: Duration, has_idle: bool, swarm: &SwarmView) -> Vec<TaskKey> {
        let mut stages: BTreeSet<u32> = self.head.iter().flatten().copied().collect();
        let mut wanted = BTreeSet::new();
        for (key, task) in &self.tasks {
            if task.state != State::Open {
                continue;
            }
            match self.opened_at(*key) {
                None if task.preferred == Some(self.me) => {
                    stages.extend(&self.inputs[key.stage as usize - 1]);
                }
                Some(_) if has_idle && self.is_overdue(now, *key, task, swarm) => {
                    wanted.insert(*key);
                }
                _ => {}
            }
        }
        for stage in &stages {
            wanted.extend(self.tasks_of(*stage).map(|(key, _)| *key));
        }
        if stages.is_empty() && self.running() == 0 {
            let opened = |(key, task): &(&TaskKey, &Task)| {
                task.state == State::Open && self.opened_at(**key).is_some()
            };
            let opened = self.tasks.iter().filter(opened).take(IDLE_LOOKS);
            wanted.extend(opened.map(|(key, _)| *key));
        }
        // What takes long here may be done elsewhere meanwhile.
        let takes_long = |task: &Task| {
            task.state == State::Mine
                && task
                    .started_at
                    .is_some_and(|at| now.saturating_sub(at) >= PATIENCE)
        };
        let late = self.tasks.iter().filter(|(_, task)| takes_long(task));
        wanted.extend(late.map(|(key, _)| *key));
        wanted.retain(|key| {
            let task = &self.tasks[key];
            task.state == State::Open || takes_long(task)
        });
        wanted.into_iter().collect()
    }

    /// Attempts to begin now, which are this node's from here on: of those that it was given as many as
    /// it has free bees, of others as many as it has idle ones. What it was given and has no bee for is
    /// in none of its beats, so that whoever is idle takes it after a patience. `budget_bytes` is what a
    /// bee has.
    pub fn start(
        &mut self,
        now: Duration,
        bees: Bees,
        budget_bytes: u64,
        swarm: &SwarmView,
    ) -> Vec<Start> {
        let mut starts = Vec::new();
        let mut others: Vec<(u64, TaskKey)> = Vec::new();
        for (key, task) in &self.tasks {
            let Some(opened_at) = self.opened_at(*key) else {
                continue;
            };
            let is_ready = task.state == State::Open
                && task.attempt <= ATTEMPTS_MAX
                // The coordinator tries everything: nobody else may be left.
                && (self.head.is_some() || task.memory_bytes <= budget_bytes);
            if !is_ready {
                continue;
            }
            let is_given =
                task.preferred == Some(self.me) && task.attempt == 0 && task.holder.is_none();
            if is_given {
                if starts.len() < bees.free {
                    starts.push(Start {
                        key: *key,
                        attempt: 0,
                        // From then on others may have it.
                        must_claim: now >= opened_at + self.policy.patience,
                        has_looked: false,
                        is_last: false,
                    });
                }
            } else if (task.is_nobodys() || task.was_missed(now))
                && self.is_overdue(now, *key, task, swarm)
            {
                // Nodes that are hungry together begin with different tasks.
                let place = match self.policy.order {
                    Order::Nearest | Order::Random => distance(self.me, *key),
                    Order::Oldest => 0,
                };
                others.push((place, *key));
            }
        }
        others.sort_unstable();
        let free = bees.idle.saturating_sub(starts.len());
        starts.extend(others.into_iter().take(free).map(|(_, key)| Start {
            key,
            attempt: self.tasks[&key].attempt,
            must_claim: true,
            has_looked: !self.tasks[&key].is_nobodys(),
            is_last: self.tasks[&key].gave_up_at.is_some(),
        }));
        for start in &starts {
            if let Some(task) = self.tasks.get_mut(&start.key) {
                task.state = State::Mine;
                task.started_at = Some(now);
                task.attempt = start.attempt;
            }
        }
        starts
    }

    /// Whether this node may take a task that is somebody else's, or nobody's. What is known of whoever
    /// has it may be old: it is left to them until a beat says that it is not theirs, or stands still.
    fn is_overdue(&self, now: Duration, key: TaskKey, task: &Task, swarm: &SwarmView) -> bool {
        let Some(from) = self.open_from(key, task, swarm) else {
            return false;
        };
        if now < from || now < from + self.far(key, swarm) {
            return false;
        }
        let node = task.responsible().filter(|node| *node != self.me);
        match node.and_then(|node| swarm.member(node)) {
            Some(member) if member.beat.is_some() && member.state != NodeState::Dead => {
                let read_at = member.read_at.unwrap_or_default();
                read_at >= from
            }
            _ => true,
        }
    }

    /// From when on a task that is not done may be anybody's, as far as is known; the nearest go first.
    /// `None` when it cannot begin yet.
    fn open_from(&self, key: TaskKey, task: &Task, swarm: &SwarmView) -> Option<Duration> {
        let opened_at = self.opened_at(key)?;
        let left_until = task.gave_up_at.map_or(opened_at, |at| at + LARGER_PATIENCE);
        let Some(node) = task.responsible() else {
            return Some(left_until);
        };
        if planted!(ClaimKept) {
            return None;
        }
        let since = task
            .holder
            .map_or(opened_at, |(_, since)| since.max(opened_at));
        let state = swarm.member(node).map(|member| member.state);
        let from = match state {
            Some(NodeState::Dead) => opened_at,
            Some(NodeState::Alive) if node != self.me && is_listed(node, key, task, swarm) => {
                let moved_at = task.progress.map_or(since, |(_, at)| at);
                let stalled_from = moved_at + self.policy.stall;
                let late_from = self.late_from(key, task, since).unwrap_or(stalled_from);
                stalled_from.min(late_from)
            }
            _ => since + self.policy.patience,
        };
        Some(from.max(left_until))
    }

    /// When whoever has had a task since then is late with it, compared with the rest of its stage: it is
    /// slow, or what it waits for is. Twice is enough: a task that is larger than the others is slow
    /// everywhere.
    fn late_from(&self, key: TaskKey, task: &Task, since: Duration) -> Option<Duration> {
        let mostly_done_at = (*self
            .mostly_done_at
            .get((key.stage as usize).checked_sub(1)?)?)?;
        let took = mostly_done_at.saturating_sub(self.opened_at(key)?);
        let is_allowed = self.policy.lateness > 0 && task.attempt <= LATE_ATTEMPT_MAX;
        let late = (took * self.policy.lateness / 100).max(self.policy.patience);
        is_allowed.then_some(since + late)
    }

    /// How much longer than the nearest this node leaves a task alone.
    fn far(&self, key: TaskKey, swarm: &SwarmView) -> Duration {
        match self.policy.order {
            Order::Nearest => PATIENCE_STEP * self.rank(key, swarm, RANK_MAX),
            Order::Random | Order::Oldest => Duration::ZERO,
        }
    }

    /// Whose beats this node should read at its next look: of those that have what it could take, the
    /// nearest; and of those that get on with what it is near to. In a large swarm that is few of many.
    pub fn watched(&self, now: Duration, has_idle: bool, swarm: &SwarmView) -> Vec<NodeId> {
        let mut watched: Vec<(u64, NodeId)> = Vec::new();
        for (key, task) in &self.tasks {
            let node = task.responsible().filter(|node| *node != self.me);
            let (State::Open, Some(node)) = (task.state, node) else {
                continue;
            };
            let Some(from) = self.open_from(*key, task, swarm) else {
                continue;
            };
            let soon = now + LOOK;
            let is_due = soon >= from && soon >= from + self.far(*key, swarm);
            if is_due || self.rank(*key, swarm, NEAR_COUNT) < NEAR_COUNT as u32 {
                watched.push((distance(self.me, *key), node));
            }
        }
        watched.sort_unstable();
        let most = if has_idle { WATCHED_IDLE } else { WATCHED_BUSY };
        let mut nodes = Vec::new();
        for (_, node) in watched {
            if nodes.len() < most && !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        nodes
    }

    /// How many nodes are nearer to a task than this one; nobody counts further than `most`.
    fn rank(&self, key: TaskKey, swarm: &SwarmView, most: usize) -> u32 {
        let mine = distance(self.me, key);
        let alive = swarm
            .members
            .iter()
            .filter(|member| member.state == NodeState::Alive);
        let nearer = alive.filter(|member| distance(member.node, key) < mine);
        nearer.take(most).count() as u32
    }
}

impl Task {
    fn was_missed(&self, now: Duration) -> bool {
        self.missed_at
            .is_some_and(|at| now.saturating_sub(at) <= MISSED_FRESH)
    }

    /// Whether the first claim of it is all that there can be: whoever has an output has claimed it.
    fn is_nobodys(&self) -> bool {
        self.preferred.is_none() && self.holder.is_none() && self.attempt == 0
    }

    /// Who should be running it.
    fn responsible(&self) -> Option<NodeId> {
        self.holder.map(|(node, _)| node).or(self.preferred)
    }
}

fn is_alive(node: NodeId, swarm: &SwarmView) -> bool {
    let member = swarm.member(node);
    member.is_some_and(|member| member.state == NodeState::Alive)
}

/// Whether the newest beat of whoever has a task lists it. Progress is noted for such claims only.
fn is_listed(node: NodeId, key: TaskKey, task: &Task, swarm: &SwarmView) -> bool {
    let beat = swarm.member(node).and_then(|member| member.beat.as_deref());
    task.progress.is_some()
        && beat.is_some_and(|beat| {
            let mut claims = beat.claims.iter();
            claims.any(|claim| (claim.stage, claim.task) == (key.stage, key.task))
        })
}

/// A pseudo-random order of nodes for each task, the same on all of them (FNV-1a).
fn distance(node: NodeId, key: TaskKey) -> u64 {
    let numbers = [key.stage, key.task].map(u32::to_le_bytes);
    let bytes = node.as_bytes().iter().chain(numbers.iter().flatten());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
