//! The laboratory: what is measured in simulated time, and printed as tables.
//!
//! An experiment is one file: the run of one seed, which counts what it measured like coverage, and
//! the table, which runs several seeds in processes of their own and shows medians. Runs check no
//! more than that answers are right. Whatever differs between two rows of a table is a parameter.

pub mod claims;
mod floor;
pub mod idle;
pub mod scaling;
pub mod stealing;
mod swarm;
mod table;
mod tables;
pub mod temperature;

use std::io;
pub use table::Options;

/// See the module.
#[derive(Debug)]
pub struct Experiment {
    pub name: &'static str,
    pub about: &'static str,
    /// Seeds and numbers of nodes of the whole table.
    pub seeds: u64,
    pub nodes: &'static [u64],
    /// Prints the table; false when a run failed.
    pub table: fn(&Options) -> io::Result<bool>,
}

pub const ALL: &[Experiment] = &[
    Experiment {
        name: "scaling",
        about: "queries of three TPC-H shapes by 1 to 200 nodes, against the floor",
        seeds: 1,
        nodes: &[1, 2, 5, 10, 20, 50, 200],
        table: scaling::table,
    },
    Experiment {
        name: "stealing",
        about: "taking over what others have, against leaving it to them",
        seeds: 4,
        nodes: &[20],
        table: stealing::table,
    },
    Experiment {
        name: "claims",
        about: "who has which task: ours against random, oldest first, greedy locality",
        seeds: 8,
        nodes: &[20],
        table: claims::table,
    },
    Experiment {
        name: "temperature",
        about: "thresholds of temperature with jitter against the same on all nodes",
        seeds: 4,
        nodes: &[10],
        table: temperature::table,
    },
    Experiment {
        name: "idle",
        about: "what a node costs that has nothing to do, and how soon it hears of a query",
        seeds: 2,
        nodes: &[8],
        table: idle::table,
    },
];

pub fn find(name: &str) -> Option<&'static Experiment> {
    ALL.iter().find(|experiment| experiment.name == name)
}
