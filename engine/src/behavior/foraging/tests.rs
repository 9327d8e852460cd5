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
        read_at: Some(Duration::MAX),
    }
}

/// Looks for what is wanted, in vain, and starts.
fn start(at: u64, one: &mut Foraging, idle: usize, budget: u64, swarm: &SwarmView) -> Vec<Start> {
    for key in one.wanted(seconds(at), true, swarm) {
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
    let mut one = Foraging::new(
        seconds(0),
        node(1),
        &plan(),
        Some(vec![2]),
        Policy::default(),
    );
    assert_eq!(
        keys(&one.start(seconds(0), bees(1), 10, &swarm)),
        [(key(1, 0), false)]
    );
    assert!(one.start(seconds(0), bees(1), 10, &swarm).is_empty());
    // It reads stage 1 for its own task, and stage 2 for the head.
    assert_eq!(
        one.wanted(seconds(0), true, &swarm),
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
    let mut one = Foraging::new(seconds(0), node(1), &plan, Some(vec![2]), Policy::default());
    let mut late = Foraging::new(seconds(0), node(3), &plan, None, Policy::default());
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
    late.observe(seconds(5), query(), &swarm(5));
    let taken = start(5, &mut late, 2, 10, &swarm(5));
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
        let mut one = Foraging::new(seconds(0), node(1), &plan(), None, Policy::default());
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
    let mut one = Foraging::new(seconds(0), node(1), &plan(), None, Policy::default());
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
fn a_task_is_not_taken_from_a_node_whose_beat_is_older_than_its_patience() {
    let swarm = |read_at| {
        let mut silent = member(2, NodeState::Alive, vec![]);
        silent.read_at = Some(seconds(read_at));
        SwarmView {
            members: vec![silent],
            ..SwarmView::default()
        }
    };
    let mut one = Foraging::new(seconds(0), node(1), &plan(), None, Policy::default());
    start(0, &mut one, 1, 10, &swarm(0));
    one.done(seconds(0), key(1, 0));
    assert!(start(9, &mut one, 1, 10, &swarm(1)).is_empty());
    assert_eq!(
        keys(&start(9, &mut one, 1, 10, &swarm(9))),
        [(key(1, 1), true)]
    );
}

#[test]
fn a_node_watches_those_whose_tasks_it_could_take_and_no_more_of_them_than_it_can_read() {
    const NODES: u8 = 200;
    let mut plan = plan();
    let task = plan.stages[0].tasks[0].clone();
    plan.stages.truncate(1);
    plan.stages[0].tasks = (1..NODES)
        .map(|byte| TaskPlan {
            preferred: Some(node(byte)),
            ..task.clone()
        })
        .collect();
    let members = (1..NODES).map(|byte| member(byte, NodeState::Alive, vec![]));
    let swarm = SwarmView {
        members: members.collect(),
        ..SwarmView::default()
    };
    let mut watchers = BTreeMap::new();
    for byte in 1..NODES {
        let one = Foraging::new(seconds(0), node(byte), &plan, None, Policy::default());
        // While nobody is late only those watch who are near.
        for watched in one.watched(seconds(0), true, &swarm) {
            assert_ne!(watched, node(byte));
            *watchers.entry(watched).or_insert(0) += 1;
        }
        assert_eq!(one.watched(seconds(20), true, &swarm).len(), WATCHED_IDLE);
        assert_eq!(one.watched(seconds(20), false, &swarm).len(), WATCHED_BUSY);
    }
    let watching: usize = watchers.values().sum();
    assert!(
        watching <= (NEAR_COUNT + 1) * usize::from(NODES),
        "{watching}"
    );
    assert!(
        watchers.len() >= usize::from(NODES) - 2,
        "somebody is near to everything"
    );
}

#[test]
fn the_last_of_a_stage_is_begun_again_when_it_takes_much_longer_than_the_others() {
    let mut plan = plan();
    let task = plan.stages[0].tasks[1].clone();
    plan.stages[0].tasks = vec![task; 8];
    let run = |policy| {
        let mut one = Foraging::new(seconds(0), node(1), &plan, None, policy);
        // The last task gets on all the time.
        let mut began = Vec::new();
        for at in 0..40 {
            let claims = vec![(key(1, 7), at)];
            let swarm = SwarmView {
                members: vec![member(2, NodeState::Alive, claims)],
                ..SwarmView::default()
            };
            if at == 10 {
                (0..7).for_each(|task| one.done(seconds(10), key(1, task)));
            }
            one.observe(seconds(at), query(), &swarm);
            let starts = start(at, &mut one, 1, 10, &swarm);
            began.extend(starts.iter().map(|start| (at, start.key)));
            for start in starts {
                one.claimed(seconds(at), start.key, node(2), start.attempt);
                one.observe(seconds(at), query(), &swarm);
            }
        }
        began.retain(|(_, key)| key.task == 7);
        began
    };
    // Most took ten seconds; whoever took it over has as long.
    let began = run(Policy::default());
    assert!(
        matches!(began[..], [(13 | 14, _), (26..=29, _)]),
        "{began:?}"
    );
    let never = Policy {
        lateness: 0,
        ..Policy::default()
    };
    assert_eq!(run(never), []);
}

#[test]
fn nobody_starts_without_an_idle_bee_or_with_too_little_memory() {
    let swarm = SwarmView {
        members: vec![member(2, NodeState::Dead, vec![])],
        ..SwarmView::default()
    };
    let mut three = Foraging::new(seconds(0), node(3), &plan(), None, Policy::default());
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
    let mut one = Foraging::new(seconds(0), node(1), &plan, None, Policy::default());
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
    let mut one = Foraging::new(
        seconds(0),
        node(1),
        &plan(),
        Some(vec![2]),
        Policy::default(),
    );
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
    let mut one = Foraging::new(
        seconds(0),
        node(1),
        &plan(),
        Some(vec![2]),
        Policy::default(),
    );
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
    let mut one = Foraging::new(seconds(0), node(3), &plan(), None, Policy::default());
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
