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
/// How old the knowledge that an output is missing may be for an attempt that was not placed here.
const MISSED_FRESH: Duration = Duration::from_secs(2);
/// Outputs that a node without work looks for, to see how far a query is.
const IDLE_LOOKS: usize = 16;
/// How long a task that is too large for this node is left to larger ones.
const LARGER_PATIENCE: Duration = Duration::from_secs(30);
/// How long a running attempt may show no progress.
const STALL: Duration = Duration::from_secs(60);

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
    /// Stages that the head reads, when this node is the coordinator.
    head: Option<Vec<u32>>,
    /// By stage, counted from 1: what it reads.
    inputs: Vec<Vec<u32>>,
    /// By stage: when its inputs were all there.
    opened_at: Vec<Option<Duration>>,
    tasks: BTreeMap<TaskKey, Task>,
}

impl Foraging {
    /// `head` for the coordinator: the stages that it reads itself.
    pub fn new(now: Duration, me: NodeId, plan: &QueryPlan, head: Option<Vec<u32>>) -> Self {
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
            head,
            inputs: plan
                .stages
                .iter()
                .map(|stage| stage.inputs.clone())
                .collect(),
            opened_at: vec![None; plan.stages.len()],
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

    /// Attempts of this node that run.
    pub fn running(&self) -> usize {
        self.tasks
            .values()
            .filter(|task| task.state == State::Mine)
            .count()
    }

    /// Outputs to look for now.
    pub fn wanted(&self, now: Duration, swarm: &SwarmView) -> Vec<TaskKey> {
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
                Some(_) if self.is_overdue(now, *key, task, swarm) => {
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
                        must_claim: now >= opened_at + PATIENCE,
                        has_looked: false,
                        is_last: false,
                    });
                }
            } else if (task.is_nobodys() || task.was_missed(now))
                && self.is_overdue(now, *key, task, swarm)
            {
                // Nodes that are hungry together begin with different tasks.
                others.push((distance(self.me, *key), *key));
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

    /// Whether this node may take a task that is somebody else's, or nobody's.
    fn is_overdue(&self, now: Duration, key: TaskKey, task: &Task, swarm: &SwarmView) -> bool {
        let Some(opened_at) = self.opened_at(key) else {
            return false;
        };
        if task.gave_up_at.is_some_and(|at| now < at + LARGER_PATIENCE) {
            return false;
        }
        let far = PATIENCE_STEP * self.rank(key, swarm);
        let Some(node) = task.responsible() else {
            return now >= opened_at + far;
        };
        if planted!(ClaimKept) {
            return false;
        }
        let since = task
            .holder
            .map_or(opened_at, |(_, since)| since.max(opened_at));
        let state = swarm.member(node).map(|member| member.state);
        match state {
            Some(NodeState::Dead) => now >= opened_at + far,
            Some(NodeState::Alive) if node != self.me && is_listed(node, key, task, swarm) => {
                let moved_at = task.progress.map_or(since, |(_, at)| at);
                now >= moved_at + STALL + far
            }
            _ => now >= since + PATIENCE + far,
        }
    }

    /// How many nodes are nearer to a task than this one.
    fn rank(&self, key: TaskKey, swarm: &SwarmView) -> u32 {
        let mine = distance(self.me, key);
        let alive = swarm
            .members
            .iter()
            .filter(|member| member.state == NodeState::Alive);
        let nearer = alive.filter(|member| distance(member.node, key) < mine);
        nearer.count().min(64) as u32
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
    let text = format!("{node}/{}/{}", key.stage, key.task);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::super::membership::Member;
    use super::*;
    use apiary_protocol::heartbeat::{CacheSummary, ClaimProgress, Heartbeat, Load};
    use apiary_protocol::ids::QueryId;
    use apiary_protocol::query::{StagePlan, TaskPlan};
    use std::sync::Arc;

    fn bees(count: usize) -> Bees {
        Bees {
            free: count,
            idle: count,
        }
    }

    impl Foraging {
        fn is_over(&self) -> bool {
            self.tasks.values().all(|task| task.state == State::Done)
        }
    }

    fn node(byte: u8) -> NodeId {
        NodeId::from_random([byte; 16])
    }

    fn query() -> QueryId {
        QueryId::from_random([9; 16])
    }

    fn key(stage: u32, task: u32) -> TaskKey {
        TaskKey { stage, task }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Two stages of two tasks; the first of each is node 1's, the second node 2's.
    fn plan() -> QueryPlan {
        let task = |byte| TaskPlan {
            plan: vec![],
            preferred: Some(node(byte)),
            reason: String::new(),
            memory_bytes: 10,
            scan_bytes: 0,
        };
        let stage = |stage, inputs| StagePlan {
            stage,
            inputs,
            partitions: 1,
            is_read_whole: false,
            tasks: vec![task(1), task(2)],
        };
        QueryPlan {
            query: query(),
            coordinator: node(1),
            build: "b".into(),
            deadline_ms: 1,
            options: BTreeMap::new(),
            stages: vec![stage(1, vec![]), stage(2, vec![1])],
        }
    }

    fn member(byte: u8, state: NodeState, claims: Vec<(TaskKey, u64)>) -> Member {
        let claim = |(key, progress): (TaskKey, u64)| ClaimProgress {
            query: query(),
            stage: key.stage,
            task: key.task,
            attempt: 0,
            progress,
        };
        let beat = Heartbeat {
            node: node(byte),
            name: "n".into(),
            build: "b".into(),
            sequence: 1,
            next_beat_ms: 2_000,
            cores: 1,
            memory_bytes: 1,
            bee_budget_bytes: 1,
            load: Load::default(),
            temperature: 0.0,
            draining: false,
            claims: claims.into_iter().map(claim).collect(),
            cache: CacheSummary::default(),
        };
        Member {
            node: node(byte),
            state,
            silence: Duration::ZERO,
            written_ms: None,
            beat: Some(Arc::new(beat)),
        }
    }

    /// Looks for what is wanted, in vain, and starts.
    fn start(
        at: u64,
        one: &mut Foraging,
        idle: usize,
        budget: u64,
        swarm: &SwarmView,
    ) -> Vec<Start> {
        for key in one.wanted(seconds(at), swarm) {
            one.missed(seconds(at), key);
        }
        one.start(seconds(at), bees(idle), budget, swarm)
    }

    fn keys(starts: &[Start]) -> Vec<(TaskKey, bool)> {
        starts
            .iter()
            .map(|start| (start.key, start.must_claim))
            .collect()
    }

    #[test]
    fn a_node_begins_what_it_was_given_and_waits_for_the_inputs_of_the_rest() {
        let swarm = SwarmView::default();
        let mut one = Foraging::new(seconds(0), node(1), &plan(), Some(vec![2]));
        assert_eq!(
            keys(&one.start(seconds(0), bees(1), 10, &swarm)),
            [(key(1, 0), false)]
        );
        assert!(one.start(seconds(0), bees(1), 10, &swarm).is_empty());
        // It reads stage 1 for its own task, and stage 2 for the head.
        assert_eq!(
            one.wanted(seconds(0), &swarm),
            [key(1, 1), key(2, 0), key(2, 1)]
        );
        one.done(seconds(1), key(1, 0));
        one.done(seconds(2), key(1, 1));
        assert_eq!(
            keys(&one.start(seconds(2), bees(1), 10, &swarm)),
            [(key(2, 0), false)]
        );
        one.done(seconds(3), key(2, 0));
        assert!(!one.is_head_ready());
        one.done(seconds(3), key(2, 1));
        assert!(one.is_head_ready() && one.is_over());
    }

    #[test]
    fn what_a_node_was_given_and_has_no_bee_for_is_anybodys_after_a_patience() {
        let mut plan = plan();
        plan.stages[0].tasks[1].preferred = Some(node(1));
        let mut one = Foraging::new(seconds(0), node(1), &plan, Some(vec![2]));
        let mut late = Foraging::new(seconds(0), node(3), &plan, None);
        let first = one.start(seconds(0), bees(1), 10, &SwarmView::default());
        assert_eq!(keys(&first), [(key(1, 0), false)]);
        // Its beats list what it has begun.
        let swarm = |at| SwarmView {
            members: vec![member(1, NodeState::Alive, vec![(key(1, 0), at)])],
            ..SwarmView::default()
        };
        for at in 0..4 {
            late.observe(seconds(at), query(), &swarm(at));
            assert!(
                start(at, &mut late, 2, 10, &swarm(at)).is_empty(),
                "at {at}"
            );
        }
        late.observe(seconds(4), query(), &swarm(4));
        let taken = start(4, &mut late, 2, 10, &swarm(4));
        assert_eq!(keys(&taken), [(key(1, 1), true)]);
        // Whoever it was given to asks first from then on.
        one.done(seconds(6), key(1, 0));
        let second = one.start(seconds(6), bees(1), 10, &SwarmView::default());
        assert_eq!(keys(&second), [(key(1, 1), true)]);
    }

    #[test]
    fn a_task_of_a_dead_node_is_claimed_at_once_and_of_a_silent_one_after_a_patience() {
        for (state, from) in [
            (Some(NodeState::Dead), 0),
            (Some(NodeState::Alive), 4),
            (Some(NodeState::Suspect), 4),
            (None, 4),
        ] {
            let members = state.map(|state| member(2, state, vec![]));
            let swarm = SwarmView {
                members: members.into_iter().collect(),
                ..SwarmView::default()
            };
            let mut one = Foraging::new(seconds(0), node(1), &plan(), None);
            start(0, &mut one, 1, 10, &swarm);
            one.done(seconds(0), key(1, 0));
            for at in 0..from {
                assert!(
                    start(at, &mut one, 1, 10, &swarm).is_empty(),
                    "{state:?} at {at}"
                );
            }
            let starts = start(from + 1, &mut one, 1, 10, &swarm);
            assert_eq!(keys(&starts), [(key(1, 1), true)], "{state:?}");
        }
    }

    #[test]
    fn a_claim_that_gets_on_is_left_alone_and_one_that_stands_still_is_not() {
        let mut one = Foraging::new(seconds(0), node(1), &plan(), None);
        start(0, &mut one, 1, 10, &SwarmView::default());
        one.done(seconds(0), key(1, 0));
        let swarm = |progress| SwarmView {
            members: vec![member(2, NodeState::Alive, vec![(key(1, 1), progress)])],
            ..SwarmView::default()
        };
        for at in 0..500 {
            let swarm = swarm(at);
            one.observe(seconds(at), query(), &swarm);
            assert!(start(at, &mut one, 1, 10, &swarm).is_empty(), "at {at}");
        }
        let swarm = swarm(499);
        one.observe(seconds(500), query(), &swarm);
        assert!(start(550, &mut one, 1, 10, &swarm).is_empty());
        assert_eq!(
            keys(&start(565, &mut one, 1, 10, &swarm)),
            [(key(1, 1), true)]
        );
        // It was claimed meanwhile, by a node that then falls silent.
        one.claimed(seconds(565), key(1, 1), node(3), 0);
        assert!(start(566, &mut one, 1, 10, &SwarmView::default()).is_empty());
        let again = start(570, &mut one, 1, 10, &SwarmView::default());
        assert_eq!((again[0].key, again[0].attempt), (key(1, 1), 1));
    }

    #[test]
    fn nobody_starts_without_an_idle_bee_or_with_too_little_memory() {
        let swarm = SwarmView {
            members: vec![member(2, NodeState::Dead, vec![])],
            ..SwarmView::default()
        };
        let mut three = Foraging::new(seconds(0), node(3), &plan(), None);
        assert!(start(99, &mut three, 0, 10, &swarm).is_empty());
        assert!(start(99, &mut three, 1, 9, &swarm).is_empty());
        assert_eq!(start(99, &mut three, 1, 10, &swarm).len(), 1);
    }

    #[test]
    fn a_task_that_is_nobodys_is_claimed_without_a_look_and_one_that_was_claimed_is_not() {
        let mut plan = plan();
        for task in plan.stages.iter_mut().flat_map(|stage| &mut stage.tasks) {
            task.preferred = None;
        }
        let swarm = SwarmView::default();
        let mut one = Foraging::new(seconds(0), node(1), &plan, None);
        let starts = one.start(seconds(1), bees(2), 10, &swarm);
        assert_eq!(starts.len(), 2);
        assert!(
            starts
                .iter()
                .all(|start| start.must_claim && !start.has_looked)
        );
        one.claimed(seconds(1), key(1, 0), node(2), 0);
        assert!(one.start(seconds(9), bees(2), 10, &swarm).is_empty());
        one.missed(seconds(9), key(1, 0));
        let again = one.start(seconds(9), bees(2), 10, &swarm);
        assert!(again[0].has_looked && again[0].attempt == 1);
    }

    #[test]
    fn a_task_that_is_too_large_is_left_to_others_before_it_is_tried_for_the_last_time() {
        let swarm = SwarmView {
            members: vec![member(2, NodeState::Alive, vec![])],
            ..SwarmView::default()
        };
        let mut one = Foraging::new(seconds(0), node(1), &plan(), Some(vec![2]));
        let first = start(0, &mut one, 1, 10, &swarm);
        assert_eq!(keys(&first), [(key(1, 0), false)]);
        assert!(!first[0].is_last);
        one.gave_up(seconds(1), key(1, 0));
        one.done(seconds(1), key(1, 1));
        for at in 1..31 {
            assert!(start(at, &mut one, 1, 10, &swarm).is_empty(), "at {at}");
        }
        // Nobody has taken it.
        let last = start(32, &mut one, 1, 10, &swarm);
        assert_eq!(keys(&last), [(key(1, 0), true)]);
        assert!(last[0].is_last && last[0].attempt == 1);
    }

    /// A node whose attempts all fail is always the first to claim the next one.
    #[test]
    fn a_task_of_which_every_attempt_was_somebodys_is_exhausted_in_the_end() {
        let swarm = SwarmView::default();
        let mut one = Foraging::new(seconds(0), node(1), &plan(), Some(vec![2]));
        one.done(seconds(0), key(1, 0));
        for attempt in 0..=ATTEMPTS_MAX {
            let at = u64::from(attempt) * 10;
            assert_eq!(one.exhausted(seconds(at), &swarm), None);
            one.claimed(seconds(at), key(1, 1), node(2), attempt);
        }
        let last = u64::from(ATTEMPTS_MAX) * 10;
        assert_eq!(one.exhausted(seconds(last), &swarm), None);
        assert!(start(last + 10, &mut one, 1, 10, &swarm).is_empty());
        let exhausted = one.exhausted(seconds(last + 10), &swarm);
        assert_eq!(exhausted, Some(key(1, 1)));
    }

    /// Whoever dies when, the query ends as long as one node is left.
    #[test]
    fn one_node_that_is_left_finishes_everything() {
        let mut one = Foraging::new(seconds(0), node(3), &plan(), None);
        let swarm = SwarmView {
            members: vec![
                member(1, NodeState::Dead, vec![]),
                member(2, NodeState::Dead, vec![]),
            ],
            ..SwarmView::default()
        };
        let mut at = 0;
        while !one.is_over() {
            at += 1;
            assert!(at < 100, "{one:?}");
            for start in start(at, &mut one, 1, 10, &swarm) {
                match at % 3 {
                    0 => one.released(seconds(at), start.key),
                    _ => one.done(seconds(at), start.key),
                }
            }
        }
    }
}
