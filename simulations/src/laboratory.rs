//! Experiments: runs of one scenario with other parameters, and a table of what they measured.

use crate::parent::{self, Job};
use std::collections::BTreeMap;
use std::io;

/// What Amazon asks in its first region, in dollars (S3 standard, requests): a GET, and a PUT or LIST.
const DOLLARS_PER_GET: f64 = 0.000_000_4;
const DOLLARS_PER_PUT: f64 = 0.000_005;

/// A run of an experiment: what it is called, and its parameters.
struct Row {
    name: String,
    parameters: Vec<(&'static str, u64)>,
}

/// An experiment by name; `None` when there is none of that name.
pub fn run(name: &str, processes: usize) -> io::Result<Option<bool>> {
    match name {
        "idle" => idle(processes).map(Some),
        "scaling" => scaling(processes).map(Some),
        _ => Ok(None),
    }
}

pub const NAMES: [&str; 2] = ["idle", "scaling"];

/// What a month of a node costs that has nothing to do.
fn idle(processes: usize) -> io::Result<bool> {
    let rows = [1, 2, 4].map(|nodes| Row {
        name: format!("{nodes} nodes"),
        parameters: vec![("nodes", nodes)],
    });
    println!(
        "| nodes | GET a node and day | PUT and LIST a node and day | dollars a node and month |"
    );
    println!("|---|---|---|---|");
    table("lab-idle", &rows, processes, |row, measured| {
        let nodes = row.parameters[0].1 as f64;
        let (gets, puts) = (measured("day_gets") / nodes, measured("day_puts") / nodes);
        let dollars = 30.0 * (gets * DOLLARS_PER_GET + puts * DOLLARS_PER_PUT);
        format!("| {nodes} | {gets:.0} | {puts:.0} | {dollars:.3} |")
    })
}

/// Query time and requests by the number of nodes.
fn scaling(processes: usize) -> io::Result<bool> {
    let rows = [1, 2, 4, 8, 16, 32].map(|nodes| Row {
        name: format!("{nodes} nodes"),
        parameters: vec![("nodes", nodes)],
    });
    println!("| nodes | Q1 s | Q6 s | Q3 s | GET | PUT and LIST | dollars for the three |");
    println!("|---|---|---|---|---|---|---|");
    table("lab-scaling", &rows, processes, |row, measured| {
        let nodes = row.parameters[0].1;
        let seconds = |name: &str| measured(name) / 1_000.0;
        let (q1, q6, q3) = (seconds("q1_ms"), seconds("q6_ms"), seconds("q3_ms"));
        let (gets, puts) = (measured("query_gets"), measured("query_puts"));
        let dollars = gets * DOLLARS_PER_GET + puts * DOLLARS_PER_PUT;
        format!("| {nodes} | {q1:.1} | {q6:.1} | {q3:.1} | {gets:.0} | {puts:.0} | {dollars:.4} |")
    })
}

/// Runs all rows with three seeds each and prints their means; false when one failed.
fn table(
    scenario: &'static str,
    rows: &[Row],
    processes: usize,
    line: impl Fn(&Row, &dyn Fn(&str) -> f64) -> String,
) -> io::Result<bool> {
    const SEEDS: u64 = 3;
    let mut is_well = true;
    for row in rows {
        let jobs = (0..SEEDS).map(|seed| Job {
            parameters: row.parameters.clone(),
            ..Job::new(scenario, seed)
        });
        let totals = parent::run_all(jobs, processes)?;
        if totals.failure_count + totals.forbidden_count > 0 {
            println!("{}: not measured", row.name);
            is_well = false;
            continue;
        }
        let sums: BTreeMap<String, u64> = totals.coverage;
        let mean = |name: &str| sums.get(name).copied().unwrap_or(0) as f64 / SEEDS as f64;
        println!("{}", line(row, &mean));
    }
    Ok(is_well)
}
