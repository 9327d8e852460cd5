//! Taking over what others have: after a patience when they have not begun, after a standstill, when
//! they are late compared with the rest of the stage; against leaving it to them. On a store with a
//! heavy tail, with nodes that are alike and with some that are ten times slower than they should be.

use super::swarm::{Requests, SETTLED_AFTER, Swarm, board, prepare};
use super::table::{self, Options, dollars, measure};
use super::tables::{CUSTOMER, ORDERS, Q1, Q3, Q6};
use crate::world::World;
use apiary_engine::behavior::foraging::Policy;
use apiary_engine::settings::Settings;
use std::io;
use std::time::Duration;

const SCENARIO: &str = "lab-stealing";
const NEVER: Duration = Duration::from_secs(24 * 3_600);
const PAUSE: Duration = Duration::from_secs(10);
/// Every so many nodes one is slow, by so much.
const SLOW_ONE_OF: u64 = 10;
const SLOW_TIMES: u64 = 10;

fn policies() -> [(&'static str, Policy); 3] {
    let ours = Policy::default();
    let what_was_not_begun = Policy {
        stall: NEVER,
        lateness: 0,
        ..ours
    };
    let nothing = Policy {
        patience: NEVER,
        ..what_was_not_begun
    };
    [
        ("nothing", nothing),
        ("what was not begun", what_was_not_begun),
        ("ours: also what stands still or is late", ours),
    ]
}

pub fn run(world: &mut World) -> Result<(), String> {
    let nodes = world.parameter("nodes", 20);
    let policies = policies();
    let policy = policies.get(world.parameter("policy", 2) as usize);
    world.laboratory.foraging = policy.ok_or("no such policy")?.1;
    let has_slow = world.parameter("slow", 0) == 1;
    let cells = world.parameter("cells", 256);
    let (tables, small_world) = prepare(world, cells, &[&Q1, &Q6, &Q3, &ORDERS, &CUSTOMER])?;
    let mut swarm = Swarm::start(world, nodes, &Settings::default(), |world, index| {
        let is_slow = has_slow && index % SLOW_ONE_OF == SLOW_ONE_OF - 1;
        let mut own = small_world;
        if is_slow {
            own.core_bytes_per_second /= SLOW_TIMES;
        }
        world.laboratory.small_world = Some(own);
        board(world, 2)
    })?;
    swarm.live(world, SETTLED_AFTER);
    // The logs are known, and everybody is awake.
    for query in [&ORDERS, &CUSTOMER, &Q6] {
        swarm.ask(world, 0, query, &tables)?;
    }
    swarm.live(world, PAUSE);
    let (before, met_before) = (Requests::of(world), Met::of(world));
    let mut took = Duration::ZERO;
    for query in [&Q1, &Q6, &Q3] {
        took += swarm.ask(world, 0, query, &tables)?;
        swarm.live(world, PAUSE);
    }
    let (requests, met) = (Requests::of(world).since(before), Met::of(world));
    world.trace.count("took_ms", took.as_millis() as u64);
    world.trace.count("gets", requests.gets);
    world.trace.count("puts", requests.puts);
    met.count_since(met_before, world);
    Ok(())
}

/// How nodes met.
#[derive(Clone, Copy, Debug, Default)]
pub struct Met {
    claims: u64,
    refused: u64,
    duplicates: u64,
}

impl Met {
    pub fn of(world: &World) -> Self {
        let coverage = world.trace.coverage();
        let of = |what: &str| coverage.get(what).copied().unwrap_or(0);
        Self {
            claims: of("claims") + of("reclaims"),
            refused: of("claims_met"),
            duplicates: of("duplicate_outputs"),
        }
    }

    pub fn count_since(self, before: Self, world: &World) {
        let count = |name, after: u64, before: u64| world.trace.count(name, after - before);
        count("made_claims", self.claims, before.claims);
        count("made_refused", self.refused, before.refused);
        count("made_duplicates", self.duplicates, before.duplicates);
    }
}

pub fn table(options: &Options) -> io::Result<bool> {
    let mut is_well = true;
    table::head(&[
        "nodes",
        "what is taken over",
        "Q1, Q6 and Q3 s",
        "claims",
        "refused",
        "outputs for nothing",
        "GET",
        "PUT and LIST",
        "dollars",
    ]);
    for nodes in &options.nodes {
        for (slow, kind) in [(0, "alike"), (1, "one of ten slow")] {
            for (index, (name, _)) in policies().iter().enumerate() {
                let parameters = [("nodes", *nodes), ("slow", slow), ("policy", index as u64)];
                let Some(measured) = measure(SCENARIO, &parameters, options)? else {
                    is_well = false;
                    continue;
                };
                let count = |name: &'static str| measured.spread(0, |run| run.count(name));
                let cost = measured.median(|run| dollars(run.count("gets"), run.count("puts")));
                table::row(&[
                    format!("{nodes}, {kind}"),
                    name.to_string(),
                    measured.spread(1, |run| run.count("took_ms") / 1_000.0),
                    count("made_claims"),
                    count("made_refused"),
                    count("made_duplicates"),
                    count("gets"),
                    count("puts"),
                    format!("{cost:.4}"),
                ]);
            }
        }
    }
    Ok(is_well)
}
