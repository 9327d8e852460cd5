//! A bucket that is slow, busy, forgetful, or gone for a while.

use super::ground::Ground;
use super::{JOINED, SUMS, number, wait_for, with_frame};
use apiary_tests::Node;
use std::time::Duration;

/// What lies between a home and a region of a cloud.
const LATENCY: Duration = Duration::from_millis(20);

/// Queries and commits go well while something is wrong, and nothing is left of either.
fn all_goes_well(ground: &Ground, nodes: Vec<Node>) {
    let (sums, joined) = (ground.sql(SUMS), ground.sql(JOINED));
    for round in 0..number("APIARY_TEST_ROUNDS", 2) {
        for (text, expected) in [(SUMS, &sums), (JOINED, &joined)] {
            let finished = ground.share(text).finish().success();
            assert_eq!(finished.stdout, *expected, "{}", finished.stderr);
        }
        ground.sql(&format!("INSERT INTO log VALUES ({round})"));
        let counted = ground.sql("SELECT count(*) AS n, count(DISTINCT r) AS d FROM log");
        assert_eq!(counted, format!("n,d\n{0},{0}\n", round + 1));
    }
    ground.all_are_well(&["a", "b"]);
    nodes.into_iter().for_each(Node::stop);
    ground.nothing_is_left();
}

fn started() -> (Ground, Vec<Node>) {
    let ground = Ground::bucket(number("APIARY_TEST_SEED", 5));
    with_frame(&ground);
    ground.sql("CREATE TABLE log (r BIGINT)");
    ground.proxy().set_latency(LATENCY);
    let nodes = vec![ground.start("a"), ground.start("b")];
    ground.warm_up(&nodes, JOINED);
    (ground, nodes)
}

#[test]
fn a_bucket_that_refuses_one_request_in_five_costs_time_only() {
    let (ground, nodes) = started();
    ground.proxy().refuse_one_in(5);
    all_goes_well(&ground, nodes);
}

#[test]
fn a_bucket_that_loses_one_answer_in_twenty_costs_time_only() {
    let (ground, nodes) = started();
    ground.proxy().lose_one_in(20);
    all_goes_well(&ground, nodes);
}

#[test]
fn a_bucket_that_is_gone_for_twenty_seconds_in_the_middle_of_a_query_costs_time_only() {
    let (ground, nodes) = started();
    let expected = ground.sql(JOINED);
    let published = || {
        let log = ground.proxy().log();
        let is_plan = |key: Option<String>| key.is_some_and(|key| key.ends_with("/plan"));
        log.iter()
            .filter(|logged| logged.kind() == "put" && is_plan(logged.key("home")))
            .count()
    };
    let before = published();
    let mut query = ground.share(JOINED);
    wait_for("its plan", Duration::from_secs(60), || {
        (published() > before).then_some(())
    });
    std::thread::sleep(Duration::from_millis(300));
    assert!(!query.has_ended(), "in the middle");
    ground.proxy().set_unreachable(true);
    std::thread::sleep(Duration::from_secs(20));
    ground.proxy().set_unreachable(false);
    let finished = query.finish().success();
    assert_eq!(finished.stdout, expected, "{}", finished.stderr);
    all_goes_well(&ground, nodes);
}
