//! Queries of three TPC-H shapes by many nodes of two cores on a store like S3: how long they take,
//! and what they ask of the store, against the floor.

use super::floor::{self, Means};
use super::swarm::{Requests, SETTLED_AFTER, Swarm, board, objects, prepare, s3};
use super::table::{self, Measured, Options, Run, dollars, measure};
use super::tables::{CUSTOMER, ORDERS, Q1, Q3, Q6, Query};
use crate::world::World;
use apiary_engine::settings::Settings;
use std::io;
use std::time::Duration;

const SCENARIO: &str = "lab-scaling";
const CORES: u64 = 2;
/// Between two queries: what the first left is deleted.
const PAUSE: Duration = Duration::from_secs(10);
/// After the last one everybody listens closely for so long.
const AFTER: Duration = Duration::from_secs(330);

/// A query of the experiment, and the names of its measures.
struct Measure {
    query: &'static Query,
    ms: &'static str,
    floor_ms: &'static str,
}

const MEASURES: [Measure; 4] = [
    // Everybody is at rest, and hears of it late.
    Measure {
        query: &Q1,
        ms: "q1_rest_ms",
        floor_ms: "q1_rest_floor_ms",
    },
    Measure {
        query: &Q1,
        ms: "q1_ms",
        floor_ms: "q1_floor_ms",
    },
    Measure {
        query: &Q6,
        ms: "q6_ms",
        floor_ms: "q6_floor_ms",
    },
    Measure {
        query: &Q3,
        ms: "q3_ms",
        floor_ms: "q3_floor_ms",
    },
];

/// Requests, by what they are for, in the order of the table.
const SORTS: [&str; 7] = [
    "requests_of_cells",
    "requests_of_outputs",
    "requests_of_beats",
    "requests_of_the_bell",
    "requests_of_plans_and_ends",
    "requests_lists_of_outputs",
    "requests_lists_of_beats",
];
const SORTED: [&str; 7] = [
    "sort_cells",
    "sort_outputs",
    "sort_beats",
    "sort_bell",
    "sort_plans_and_ends",
    "sort_lists_of_outputs",
    "sort_lists_of_beats",
];

pub fn run(world: &mut World) -> Result<(), String> {
    let nodes = world.parameter("nodes", 1);
    let mut queries: Vec<&Query> = MEASURES.iter().map(|measure| measure.query).collect();
    queries.extend([&ORDERS, &CUSTOMER]);
    let (tables, small_world) = prepare(world, world.parameter("cells", 512), &queries)?;
    let objects = objects(world)?;
    let mut swarm = Swarm::start(world, nodes, &Settings::default(), |world, _| {
        board(world, CORES as usize)
    })?;
    swarm.live(world, SETTLED_AFTER);
    let means = Means {
        nodes,
        cores: nodes * CORES,
        store: s3(),
        world: small_world,
    };
    // The logs are known, and nobody is awake: a count comes from what they say.
    for frame in [&ORDERS, &CUSTOMER] {
        swarm.ask(world, 0, frame, &tables)?;
    }
    world.store.take_plans();
    let (before, sorts_before) = (Requests::of(world), sorts(world));
    for Measure {
        query,
        ms,
        floor_ms,
    } in &MEASURES
    {
        let took = swarm.ask(world, 0, query, &tables)?;
        swarm.live(world, PAUSE);
        let plans = world.store.take_plans();
        let plan = plans.last().map(|(_, plan)| plan);
        let floor = floor::of(query.reading(&objects)?, plan, means);
        world.trace.count(ms, took.as_millis() as u64);
        world.trace.count(floor_ms, floor.took.as_millis() as u64);
        world.trace.count("gets_floor", floor.gets);
        world.trace.count("puts_floor", floor.puts);
        let tasks = plan.map_or(0, |plan| plan.keys().count());
        world.trace.count("tasks", tasks as u64);
    }
    let (asked, sorts_asked) = (Requests::of(world), sorts(world));
    swarm.live(world, AFTER);
    let after = Requests::of(world).since(asked);
    let asked = asked.since(before);
    world.trace.count("gets", asked.gets);
    world.trace.count("puts", asked.puts);
    world.trace.count("gets_after", after.gets);
    world.trace.count("puts_after", after.puts);
    for ((name, before), after) in SORTED.iter().zip(sorts_before).zip(sorts_asked) {
        world.trace.count(name, after - before);
    }
    Ok(())
}

fn sorts(world: &World) -> [u64; SORTS.len()] {
    let coverage = world.trace.coverage();
    SORTS.map(|sort| coverage.get(sort).copied().unwrap_or(0))
}

pub fn table(options: &Options) -> io::Result<bool> {
    let (mut rows, mut is_well) = (Vec::new(), true);
    for nodes in &options.nodes {
        match measure(SCENARIO, &[("nodes", *nodes)], options)? {
            Some(measured) => rows.push((*nodes, measured)),
            None => is_well = false,
        }
    }
    times(&rows);
    requests(&rows);
    by_sort(&rows);
    costs(&rows);
    Ok(is_well)
}

type Rows = [(u64, Measured)];

fn times(rows: &Rows) {
    table::head(&[
        "nodes",
        "Q1 at rest s",
        "floor",
        "ratio",
        "Q1 s",
        "floor",
        "ratio",
        "Q6 s",
        "floor",
        "ratio",
        "Q3 s",
        "floor",
        "ratio",
    ]);
    for (nodes, measured) in rows {
        let mut cells = vec![nodes.to_string()];
        for Measure { ms, floor_ms, .. } in &MEASURES {
            let took = |run: &Run| run.count(ms) / 1_000.0;
            let floor = measured.median(|run| run.count(floor_ms)) / 1_000.0;
            cells.push(measured.spread(1, took));
            cells.push(format!("{floor:.1}"));
            cells.push(format!("{:.1}", measured.median(took) / floor));
        }
        table::row(&cells);
    }
    println!();
}

fn requests(rows: &Rows) {
    table::head(&[
        "nodes",
        "tasks",
        "GET",
        "floor",
        "PUT and LIST",
        "floor",
        "dollars",
        "floor",
        "ratio",
        "dollars in the five minutes after",
    ]);
    for (nodes, measured) in rows {
        let count = |name: &'static str| measured.median(|run| run.count(name));
        let spread = |name: &'static str| measured.spread(0, |run| run.count(name));
        let (cost, floor) = (
            dollars(count("gets"), count("puts")),
            dollars(count("gets_floor"), count("puts_floor")),
        );
        table::row(&[
            nodes.to_string(),
            format!("{:.0}", count("tasks")),
            spread("gets"),
            format!("{:.0}", count("gets_floor")),
            spread("puts"),
            format!("{:.0}", count("puts_floor")),
            format!("{cost:.4}"),
            format!("{floor:.4}"),
            format!("{:.1}", cost / floor),
            format!("{:.4}", dollars(count("gets_after"), count("puts_after"))),
        ]);
    }
    println!();
}

fn by_sort(rows: &Rows) {
    table::head(&[
        "nodes",
        "GET of cells",
        "of outputs",
        "of heartbeats",
        "of the bell",
        "of plans and ends",
        "LIST of outputs",
        "of heartbeats",
    ]);
    for (nodes, measured) in rows {
        let counts = SORTED.map(|name| format!("{:.0}", measured.median(|run| run.count(name))));
        table::row(&[vec![nodes.to_string()], counts.to_vec()].concat());
    }
    println!();
}

/// What the simulation itself took.
fn costs(rows: &Rows) {
    table::head(&["nodes", "seconds of a core", "most memory MiB"]);
    for (nodes, measured) in rows {
        table::row(&[
            nodes.to_string(),
            measured.spread(0, |run| run.cpu.as_secs_f64()),
            measured.spread(0, |run| (run.resident_bytes_max >> 20) as f64),
        ]);
    }
}
