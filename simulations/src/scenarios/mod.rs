//! What a simulation does, by name.

mod commit_faults;
mod ddl_crash;
mod disk_full;
mod ledger_damage;
mod node;
mod power_cuts;
mod smoke;
mod sql_alone;
mod swarm;
mod unfit_store;

use crate::lab;
use crate::world::World;

/// A scenario; its error says which invariant broke and where.
#[derive(Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    pub run: fn(&mut World) -> Result<(), String>,
    /// It is set up to violate an invariant: what shows that the checkers can fail.
    pub is_sabotaged: bool,
}

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "sql-alone",
        about: "DataFusion without a node: joins, groups, windows, a sort that spills",
        run: sql_alone::run,
        is_sabotaged: false,
    },
    Scenario {
        name: "smoke",
        about: "one node: DDL, writes, queries checked against DataFusion on the rows, a clean stop",
        run: smoke::run,
        is_sabotaged: false,
    },
    Scenario {
        name: "power-cuts",
        about: "one node on a disk that loses power ten times while clients write and read",
        run: power_cuts::run,
        is_sabotaged: false,
    },
    Scenario {
        name: "commit-faults",
        about: "three nodes on an object store that errs, loses replies, refuses and throttles",
        run: commit_faults::run,
        is_sabotaged: false,
    },
    Scenario {
        name: "ddl-crash",
        about: "frames are created, dropped and made anew; the power goes at any step",
        run: ddl_crash::run,
        is_sabotaged: false,
    },
    Scenario {
        name: "disk-full",
        about: "one node on a disk that is full now and then: writes fail, nothing else does",
        run: disk_full::run,
        is_sabotaged: false,
    },
    Scenario {
        name: "swarm",
        about: "two to six nodes share queries and writes while they crash, freeze and stop",
        run: swarm::run,
        is_sabotaged: false,
    },
    Scenario {
        name: "swarm-damage",
        about: "the same on sound nodes; what they write under _swarm/ is damaged",
        run: swarm::run_damaged,
        is_sabotaged: false,
    },
    Scenario {
        name: "ledger-damage",
        about: "commits, checkpoints, cells, registry and manifest are damaged and read",
        run: ledger_damage::run,
        is_sabotaged: false,
    },
    Scenario {
        name: "unfit-store",
        about: "a store that ignores create-if-absent, which no node may take for a meadow",
        run: unfit_store::run,
        is_sabotaged: false,
    },
    Scenario {
        name: "unsynced",
        about: "power-cuts with syncing switched off, which must lose or tear something",
        run: power_cuts::run_unsynced,
        is_sabotaged: true,
    },
];

/// What is measured and not only checked; not part of a soak.
const MEASURED: &[Scenario] = &[
    Scenario {
        name: "lab-idle",
        about: "hours of nodes with nothing to do, then a query",
        run: lab::idle::run,
        is_sabotaged: false,
    },
    Scenario {
        name: "lab-scaling",
        about: "queries of three shapes by so many nodes",
        run: lab::scaling::run,
        is_sabotaged: false,
    },
    Scenario {
        name: "lab-stealing",
        about: "queries by nodes some of which are slow",
        run: lab::stealing::run,
        is_sabotaged: false,
    },
    Scenario {
        name: "lab-claims",
        about: "queries by nodes with caches",
        run: lab::claims::run,
        is_sabotaged: false,
    },
    Scenario {
        name: "lab-temperature",
        about: "many queries at once",
        run: lab::temperature::run,
        is_sabotaged: false,
    },
];

/// Of so many seeds of a soak, those that each scenario gets: more where more can go wrong.
const SHARES: [(&str, usize); 10] = [
    ("swarm", 10),
    ("commit-faults", 8),
    ("swarm-damage", 6),
    ("ddl-crash", 4),
    ("power-cuts", 4),
    ("ledger-damage", 2),
    ("smoke", 2),
    ("disk-full", 2),
    ("sql-alone", 1),
    ("unfit-store", 1),
];

/// The scenarios of a soak, in turn: each as often as its share, spread over the whole turn.
pub fn turn() -> Vec<&'static str> {
    let mut places: Vec<(usize, &str)> = Vec::new();
    for (name, share) in SHARES {
        places.extend((0..share).map(|index| ((2 * index + 1) * 1_000 / share, name)));
    }
    places.sort_unstable();
    places.into_iter().map(|(_, name)| name).collect()
}

pub fn find(name: &str) -> Option<&'static Scenario> {
    let mut all = ALL.iter().chain(MEASURED);
    all.find(|scenario| scenario.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_soak_runs_every_scenario_that_must_hold() {
        let turn = turn();
        for scenario in ALL {
            let runs = turn.iter().filter(|name| **name == scenario.name).count();
            assert_eq!(runs > 0, !scenario.is_sabotaged, "{}", scenario.name);
        }
        assert!(turn.iter().all(|name| find(name).is_some()));
    }
}
