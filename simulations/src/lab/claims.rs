//! Who has which task: ours against whoever comes first, in a random order or the oldest task first, and
//! against whoever has most of a task's cells on its disk. Nodes have one to four cores and a cache.

use super::stealing::Met;
use super::swarm::{Requests, SETTLED_AFTER, Swarm, board, prepare};
use super::table::{self, Options, dollars, measure};
use super::tables::{CUSTOMER, ORDERS, Q1, Q3, Q6};
use crate::world::World;
use apiary_engine::behavior::foraging::{Order, Policy};
use apiary_engine::behavior::placement::Placing;
use apiary_engine::settings::Settings;
use std::io;
use std::time::Duration;

const SCENARIO: &str = "lab-claims";
const PAUSE: Duration = Duration::from_secs(70);
/// Enough for what a node reads.
const CACHE_BYTES: u64 = 64 << 20;
const CORES_MAX: u64 = 4;

const POLICIES: [(&str, Placing, Order); 4] = [
    ("ours", Placing::Shares, Order::Nearest),
    ("random", Placing::Nowhere, Order::Random),
    ("oldest first", Placing::Nowhere, Order::Oldest),
    ("greedy locality", Placing::Cached, Order::Random),
];

pub fn run(world: &mut World) -> Result<(), String> {
    let nodes = world.parameter("nodes", 20);
    let policy = POLICIES.get(world.parameter("policy", 0) as usize);
    let (_, placing, order) = *policy.ok_or("no such policy")?;
    world.laboratory.placing = placing;
    world.laboratory.foraging = Policy {
        order,
        ..Policy::default()
    };
    let (tables, _) = prepare(
        world,
        world.parameter("cells", 256),
        &[&Q1, &Q6, &Q3, &ORDERS, &CUSTOMER],
    )?;
    let settings = Settings {
        cache_bytes_max: Some(CACHE_BYTES),
        ..Settings::default()
    };
    let mut swarm = Swarm::start(world, nodes, &settings, |world, index| {
        board(world, (1 + index % CORES_MAX) as usize)
    })?;
    swarm.live(world, SETTLED_AFTER);
    // The logs are known, and everybody is awake.
    for query in [&ORDERS, &CUSTOMER, &Q6] {
        swarm.ask(world, 0, query, &tables)?;
    }
    swarm.live(world, PAUSE);
    let (before, met_before) = (Requests::of(world), Met::of(world));
    // What the first brings to the disks the second finds there, when tasks come to the same nodes.
    for (name, query) in [("cold_ms", &Q1), ("warm_ms", &Q1), ("join_ms", &Q3)] {
        let took = swarm.ask(world, 0, query, &tables)?;
        world.trace.count(name, took.as_millis() as u64);
        // All nodes beat, and say what they have.
        swarm.live(world, PAUSE);
    }
    let (requests, met) = (Requests::of(world).since(before), Met::of(world));
    world.trace.count("gets", requests.gets);
    world.trace.count("puts", requests.puts);
    met.count_since(met_before, world);
    Ok(())
}

pub fn table(options: &Options) -> io::Result<bool> {
    let mut is_well = true;
    table::head(&[
        "nodes",
        "policy",
        "Q1 s",
        "Q1 again s",
        "Q3 s",
        "claims",
        "refused",
        "outputs for nothing",
        "GET",
        "PUT and LIST",
        "dollars",
    ]);
    for nodes in &options.nodes {
        for (index, (name, ..)) in POLICIES.iter().enumerate() {
            let parameters = [("nodes", *nodes), ("policy", index as u64)];
            let Some(measured) = measure(SCENARIO, &parameters, options)? else {
                is_well = false;
                continue;
            };
            let count = |name: &'static str| measured.spread(0, |run| run.count(name));
            let seconds = |name: &'static str| measured.spread(1, |run| run.count(name) / 1_000.0);
            let cost = measured.median(|run| dollars(run.count("gets"), run.count("puts")));
            table::row(&[
                nodes.to_string(),
                name.to_string(),
                seconds("cold_ms"),
                seconds("warm_ms"),
                seconds("join_ms"),
                count("made_claims"),
                count("made_refused"),
                count("made_duplicates"),
                count("gets"),
                count("puts"),
                format!("{cost:.4}"),
            ]);
        }
    }
    Ok(is_well)
}
