//! Thresholds of temperature that differ a little from node to node, against the same on all. Whoever is
//! warm takes no work of others; so that all cool and warm in step, every node asks several questions at
//! once and the memory of all rises and falls together. Only a node of many bees can be warm with one idle.

use super::stealing::Met;
use super::swarm::{Requests, SETTLED_AFTER, Swarm, board, prepare};
use super::table::{self, Options, measure};
use super::tables::{CUSTOMER, ORDERS, Q1, Q3, Q6, Query};
use crate::host::Hardware;
use crate::world::World;
use apiary_engine::settings::Settings;
use std::io;
use std::time::Duration;

const SCENARIO: &str = "lab-temperature";
const CORES: usize = 8;
const RESIDENT_PERCENT: (u64, u64) = (75, 100);
/// Questions that each node asks at once.
const QUESTIONS: usize = 3;
const SAMPLE: Duration = Duration::from_millis(500);

pub fn run(world: &mut World) -> Result<(), String> {
    let nodes = world.parameter("nodes", 10);
    world.laboratory.has_own_thresholds = world.parameter("own", 0) == 1;
    let cells = world.parameter("cells", 128);
    let (tables, _) = prepare(world, cells, &[&Q1, &Q6, &Q3, &ORDERS, &CUSTOMER])?;
    let mut swarm = Swarm::start(world, nodes, &Settings::default(), |world, _| Hardware {
        resident_percent: RESIDENT_PERCENT,
        ..board(world, CORES)
    })?;
    swarm.live(world, SETTLED_AFTER);
    for query in [&ORDERS, &CUSTOMER, &Q6] {
        swarm.ask(world, 0, query, &tables)?;
    }
    swarm.live(world, Duration::from_secs(10));
    for index in 0..nodes as usize {
        let (node, trace) = (swarm.node(index)?, world.trace.clone());
        swarm.spawn(index, async move {
            let mut last = String::new();
            loop {
                tokio::time::sleep(SAMPLE).await;
                let Ok(status) = node.status().await else {
                    return;
                };
                let is_other = !last.is_empty() && last != status.regulation;
                trace.count("regulation_changes", u64::from(is_other));
                trace.count("samples", 1);
                let is_warm = !matches!(status.regulation.as_str(), "cold" | "ideal");
                trace.count("samples_warm", u64::from(is_warm));
                last = status.regulation;
            }
        });
    }
    let before = (Requests::of(world), Met::of(world));
    let all: [&Query; 3] = [&Q1, &Q6, &Q3];
    let questions: Vec<(usize, &Query)> = (0..nodes as usize * QUESTIONS)
        .map(|number| (number / QUESTIONS, all[number % QUESTIONS]))
        .collect();
    let took = swarm.ask_all(world, &questions, &tables)?;
    let requests = Requests::of(world).since(before.0);
    world.trace.count("took_ms", took.as_millis() as u64);
    world.trace.count("gets", requests.gets);
    world.trace.count("puts", requests.puts);
    Met::of(world).count_since(before.1, world);
    Ok(())
}

pub fn table(options: &Options) -> io::Result<bool> {
    let mut is_well = true;
    table::head(&[
        "nodes",
        "thresholds",
        "all answers after s",
        "changes of regulation a node and minute",
        "of a hundred looks warm or hotter",
        "claims",
        "refused",
        "outputs for nothing",
        "GET",
        "PUT and LIST",
    ]);
    for nodes in &options.nodes {
        for (own, name) in [(0, "ours: the same"), (1, "each node its own")] {
            let parameters = [("nodes", *nodes), ("own", own)];
            let Some(measured) = measure(SCENARIO, &parameters, options)? else {
                is_well = false;
                continue;
            };
            let count = |name: &'static str| measured.spread(0, |run| run.count(name));
            let samples_a_minute = 60.0 / SAMPLE.as_secs_f64();
            table::row(&[
                nodes.to_string(),
                name.to_string(),
                measured.spread(1, |run| run.count("took_ms") / 1_000.0),
                measured.spread(2, |run| {
                    run.count("regulation_changes") / run.count("samples") * samples_a_minute
                }),
                measured.spread(1, |run| {
                    run.count("samples_warm") / run.count("samples") * 100.0
                }),
                count("made_claims"),
                count("made_refused"),
                count("made_duplicates"),
                count("gets"),
                count("puts"),
            ]);
        }
    }
    Ok(is_well)
}
