//! Machines that sleep and wake up, coordinators that die, nodes that come in the middle.

use super::ground::Ground;
use super::{HEAVY, JOINED, SUMS, number, wait_for, with_frame};
use apiary_tests::{Node, Random};
use std::time::{Duration, Instant};

/// Tasks that run for longer than others leave them to whoever has them.
const LONGER: &str =
    "SELECT count(*) AS n, sum(abs(a.v - b.v)) AS s FROM t a JOIN t b ON a.k % 32 = b.k % 32";

/// Longer than the others take to call a coordinator dead, to make sure, and to end its query.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_node_that_comes_in_the_middle_of_a_query_takes_part() {
    let ground = Ground::directory();
    with_frame(&ground);
    let expected = ground.sql(HEAVY);
    // Work for two is cut when there are two.
    let _other = ground.start("other");
    let mut query = ground.share(HEAVY);
    wait_for("its plan", LONG, || ground.is_published().then_some(()));
    let node = ground.start("late");
    let has_worked = || ground.has_worked(&node).then_some(true);
    let takes_part = wait_for("its claim", LONG, || {
        has_worked().or_else(|| query.has_ended().then_some(false))
    });
    assert!(takes_part, "the query ended without it");
    assert_eq!(query.finish().success().stdout, expected);
    node.stop();
}

/// All tasks were given to the coordinator, which has one bee.
#[test]
fn a_node_that_comes_late_takes_what_a_busy_node_has_not_begun() {
    let ground = Ground::directory();
    with_frame(&ground);
    let expected = ground.sql(LONGER);
    let began_at = Instant::now();
    let mut query = ground.share_with(LONGER, &["bees=1"]);
    wait_for("its plan", LONG, || ground.is_published().then_some(()));
    let node = ground.start("late");
    let takes_part = wait_for("its claim", LONG, || {
        let has_worked = ground.has_worked(&node).then_some(true);
        has_worked.or_else(|| query.has_ended().then_some(false))
    });
    let took = began_at.elapsed();
    let finished = query.finish().success();
    assert_eq!(finished.stdout, expected);
    println!("took part after {took:?} of {:?}", began_at.elapsed());
    assert!(takes_part, "{}", finished.stderr);
    node.stop();
}

#[test]
fn a_node_that_is_stopped_with_a_claim_and_goes_on_later_harms_nothing() {
    let ground = Ground::directory();
    with_frame(&ground);
    let expected = ground.sql(HEAVY);
    let _other = ground.start("other");
    for _ in 0..number("APIARY_TEST_STOPS", 2) {
        let mut node = ground.start("sleeper");
        ground.warm_up(std::slice::from_ref(&node), JOINED);
        let began_at = ground.now();
        let mut query = ground.share(HEAVY);
        let holds = wait_for("its claim", LONG, || {
            let holds = ground.holds(&node, began_at);
            (holds || query.has_ended()).then_some(holds)
        });
        assert!(holds, "the query ended without it");
        node.signal("STOP");
        assert_eq!(query.finish().success().stdout, expected);
        // It comes back to a query that is over, with what it had in hand.
        node.signal("CONT");
        ground.nothing_is_left();
        assert!(node.is_running(), "{}", node.said());
        ground.all_are_well(&["other", "sleeper"]);
        node.stop();
    }
}

#[test]
fn a_coordinator_that_sleeps_until_it_is_called_dead_gives_the_right_answer_or_says_so() {
    let ground = Ground::directory();
    with_frame(&ground);
    let expected = ground.sql(LONGER);
    let nodes = [ground.start("a"), ground.start("b")];
    let mut random = Random(number("APIARY_TEST_SEED", 7));
    for _ in 0..number("APIARY_TEST_STOPS", 2) {
        let mut query = ground.share(LONGER);
        wait_for("its plan", LONG, || ground.is_published().then_some(()));
        std::thread::sleep(Duration::from_millis(random.below(2_000)));
        query.signal("STOP");
        assert!(!query.has_ended(), "it was stopped in the middle");
        ground.nothing_is_left();
        query.signal("CONT");
        let finished = query.finish();
        match finished.code {
            Some(0) => assert_eq!(finished.stdout, expected),
            _ => assert!(
                finished.stderr.contains("_swarm/queries/"),
                "{}",
                finished.stderr
            ),
        }
        ground.nothing_is_left();
        ground.all_are_well(&["a", "b"]);
    }
    nodes.into_iter().for_each(Node::stop);
}

/// Whoever ends a query for a node that seems dead takes its plan away first, and its outputs after that.
#[test]
fn a_query_that_was_ended_by_others_is_run_once_more() {
    let ground = Ground::directory();
    with_frame(&ground);
    let expected = ground.sql(HEAVY);
    let query = ground.share(HEAVY);
    let plan = wait_for("its plan", LONG, || {
        let mut left = ground.left_over().into_iter();
        left.find(|key| key.ends_with("/plan"))
    });
    std::fs::remove_file(ground.bench.meadow().join(plan)).expect("it is there");
    let finished = query.finish().success();
    assert_eq!(finished.stdout, expected);
    assert!(
        finished.stderr.contains("the query is run once more"),
        "{}",
        finished.stderr
    );
}

#[test]
fn what_killed_coordinators_leave_goes_and_the_others_stay_idle_and_healthy() {
    let ground = Ground::directory();
    with_frame(&ground);
    let expected = ground.sql(SUMS);
    let nodes = [ground.start("a"), ground.start("b")];
    let mut random = Random(number("APIARY_TEST_SEED", 7));
    let mut left = 0;
    for _ in 0..number("APIARY_TEST_STOPS", 2) {
        let query = ground.share(HEAVY);
        wait_for("its plan", LONG, || ground.is_published().then_some(()));
        std::thread::sleep(Duration::from_millis(random.below(2_000)));
        query.kill();
        left += usize::from(!ground.left_over().is_empty());
    }
    assert!(left > 0, "none was killed in the middle");
    ground.nothing_is_left();
    ground.all_are_well(&["a", "b"]);
    assert_eq!(ground.share(SUMS).finish().success().stdout, expected);
    nodes.into_iter().for_each(Node::stop);
}
