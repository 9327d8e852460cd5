//! What a node costs that has nothing to do, and how long it then takes to hear of a query, by how it
//! listens.
//!
//! A look at the bell is one GET whatever it finds: S3 asks as much for one that is told that nothing has
//! changed. So there is no row for looks with a condition.

use super::swarm::{Requests, Swarm, board, prepare};
use super::table::{self, Options, dollars, measure};
use super::tables::Q1;
use crate::world::World;
use apiary_engine::behavior::listening::Listening;
use apiary_engine::settings::Settings;
use std::io;
use std::time::Duration;

const SCENARIO: &str = "lab-idle";
/// The first hour is not that of a node at rest.
const FIRST: Duration = Duration::from_secs(3_600);
const MEASURED: Duration = Duration::from_secs(4 * 3_600);
const HOURS_A_MONTH: f64 = 30.0 * 24.0;
/// After a query everybody listens closely for so long.
const AFTER: Duration = Duration::from_secs(330);
/// The query is so large that whoever hears of it last still has something to do.
const LARGER: u64 = 32;

fn policies() -> [(&'static str, Listening); 6] {
    let every = |seconds| Listening::Every(Duration::from_secs(seconds));
    [
        ("ours", Listening::Fading),
        ("every second", every(1)),
        ("every 5 s", every(5)),
        ("every 20 s", every(20)),
        ("every 60 s", every(60)),
        (
            "doubling from 1 to 60 s",
            Listening::Doubling(Duration::from_secs(60)),
        ),
    ]
}

pub fn run(world: &mut World) -> Result<(), String> {
    let count = world.parameter("nodes", 8);
    let policies = policies();
    let policy = policies.get(world.parameter("policy", 0) as usize);
    world.laboratory.listening = policy.ok_or("no such policy")?.1;
    let (tables, mut small_world) = prepare(world, world.parameter("cells", 64), &[&Q1])?;
    small_world.factor *= LARGER;
    world.laboratory.small_world = Some(small_world);
    let mut swarm = Swarm::start(world, count, &Settings::default(), |world, _| {
        board(world, 2)
    })?;
    swarm.live(world, FIRST);
    let before = Requests::of(world);
    swarm.live(world, MEASURED);
    let rest = Requests::of(world).since(before);
    world.trace.count("rest_gets", rest.gets);
    world.trace.count("rest_puts", rest.puts);
    // Anywhere between two looks.
    let pause = Duration::from_millis(world.rng.below(60_000));
    swarm.live(world, pause);
    world.store.take_plans();
    world.store.take_readers();
    let took = swarm.ask(world, 0, &Q1, &tables)?;
    world.trace.count("took_ms", took.as_millis() as u64);
    let (plans, mut readers) = (world.store.take_plans(), world.store.take_readers());
    // Who asks needs not hear of it.
    readers.remove("node-0");
    let (written_at, plan) = plans.first().ok_or("the query was not shared")?;
    let mut heard: Vec<Duration> = readers.values().map(|at| *at - *written_at).collect();
    heard.sort();
    let (Some(middle), Some(last)) = (heard.get(heard.len() / 2), heard.last()) else {
        return Err(format!("nobody has heard of query {}", plan.query));
    };
    world.trace.count("heard_ms", middle.as_millis() as u64);
    world.trace.count("heard_last_ms", last.as_millis() as u64);
    world.trace.count("heard", heard.len() as u64);
    let before = Requests::of(world);
    swarm.live(world, AFTER);
    let after = Requests::of(world).since(before);
    world.trace.count("after_gets", after.gets);
    world.trace.count("after_puts", after.puts);
    Ok(())
}

pub fn table(options: &Options) -> io::Result<bool> {
    let mut is_well = true;
    table::head(&[
        "nodes",
        "looks at the bell",
        "GET a node and day",
        "PUT and LIST a node and day",
        "dollars a node and month",
        "half of the others have heard after s",
        "the last after s",
        "the query took s",
        "dollars a node in the five minutes after it",
    ]);
    for nodes in &options.nodes {
        for (index, (name, _)) in policies().iter().enumerate() {
            let parameters = [("nodes", *nodes), ("policy", index as u64)];
            let Some(measured) = measure(SCENARIO, &parameters, options)? else {
                is_well = false;
                continue;
            };
            let each = |name: &'static str| measured.median(|run| run.count(name)) / *nodes as f64;
            let days = MEASURED.as_secs_f64() / 86_400.0;
            let hours = MEASURED.as_secs_f64() / 3_600.0;
            let (gets, puts) = (each("rest_gets"), each("rest_puts"));
            let seconds = |name: &'static str| measured.spread(1, |run| run.count(name) / 1_000.0);
            table::row(&[
                nodes.to_string(),
                name.to_string(),
                format!("{:.0}", gets / days),
                format!("{:.0}", puts / days),
                format!("{:.3}", dollars(gets, puts) / hours * HOURS_A_MONTH),
                seconds("heard_ms"),
                seconds("heard_last_ms"),
                seconds("took_ms"),
                format!("{:.5}", dollars(each("after_gets"), each("after_puts"))),
            ]);
        }
    }
    Ok(is_well)
}
