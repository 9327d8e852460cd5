//! kill -9 of a node with a claim, over the 22 TPC-H queries.

use super::ground::Ground;
use super::number;
use apiary_tests::{Node, Random, tpch_query};
use std::time::{Duration, Instant};

/// Large enough that tasks take a while, small enough for a build without optimisation.
const SCALE: f64 = 0.3;
/// Of a bucket, whose server takes its time.
const BUCKET_SCALE: f64 = 0.05;

/// Rows in an order of their own: that of equal sort keys is nobody's.
fn rows_of(answer: &str) -> Vec<&str> {
    let mut rows: Vec<&str> = answer.lines().collect();
    rows.sort_unstable();
    rows
}

fn in_box(text: &str) -> String {
    format!("USE HIVE demo; USE BOX tpch; {text}")
}

#[test]
fn every_tpch_answer_is_right_when_a_node_with_a_claim_is_killed() {
    let kills = number("APIARY_TEST_KILLS", 4);
    answers_stay_right(&Ground::directory(), SCALE, kills);
}

#[test]
fn answers_are_right_when_a_node_with_a_claim_is_killed_over_a_bucket() {
    let kills = number("APIARY_TEST_BUCKET_KILLS", 2);
    let ground = Ground::bucket(0);
    ground.proxy().set_latency(Duration::from_millis(5));
    answers_stay_right(&ground, BUCKET_SCALE, kills);
}

fn answers_stay_right(ground: &Ground, scale: f64, wanted: u64) {
    ground
        .run(&["demo", "--scale", &scale.to_string()])
        .success();
    let texts: Vec<String> = (1..=22)
        .map(|number| in_box(&tpch_query(number, scale)))
        .collect();
    let answers: Vec<String> = texts.iter().map(|text| ground.sql(text)).collect();
    let mut nodes = vec![ground.start("a"), ground.start("b")];
    ground.warm_up(&nodes, &texts[8]);
    let mut random = Random(number("APIARY_TEST_SEED", 22));
    let (mut kills, mut turn, mut unkilled) = (0, 0, 0);
    while kills < wanted {
        let number = turn % texts.len();
        turn += 1;
        let (began_at, then) = (Instant::now(), ground.now());
        let mut query = ground.share(&texts[number]);
        let moment = Duration::from_millis(random.below(200));
        let mut killed = false;
        while !query.has_ended() {
            if !killed
                && began_at.elapsed() > moment
                && let Some(index) = holder(ground, &nodes, then)
            {
                nodes.remove(index).kill();
                killed = true;
                // Somebody who comes in the middle.
                nodes.push(ground.start(&format!("n{turn}")));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let finished = query.finish().success();
        assert_eq!(
            rows_of(&finished.stdout),
            rows_of(&answers[number]),
            "query {}: {}",
            number + 1,
            finished.stderr
        );
        kills += u64::from(killed);
        unkilled += u64::from(!killed);
        assert!(
            unkilled < 20 + 5 * wanted,
            "{kills} kills in {turn} queries"
        );
    }
    println!("{kills} kills in {turn} queries");
    ground.nothing_is_left();
    nodes.into_iter().for_each(Node::stop);
}

/// A node that holds a claim right now. It is stopped for the look, so that it still does when it is
/// killed.
fn holder(ground: &Ground, nodes: &[Node], then: Duration) -> Option<usize> {
    nodes.iter().position(|node| {
        if !ground.holds(node, then) {
            return false;
        }
        node.signal("STOP");
        let holds = ground.holds(node, then);
        if !holds {
            node.signal("CONT");
        }
        holds
    })
}
