//! Runs of an experiment, and how their measures are shown.

use crate::parent::{self, Job, Report};
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

/// What Amazon asks in its first region, in dollars (S3 standard, requests): a GET, and a PUT or LIST.
const DOLLARS_PER_GET: f64 = 0.000_000_4;
const DOLLARS_PER_PUT: f64 = 0.000_005;

/// Runs of many nodes take long.
const HANGS_AFTER: Duration = Duration::from_secs(3_600);

/// How much of a table is made.
#[derive(Clone, Debug)]
pub struct Options {
    pub seeds: u64,
    pub nodes: Vec<u64>,
    /// Cells of the largest frame, when not as many as the whole table has.
    pub cells: Option<u64>,
    pub processes: usize,
}

/// One seed of a row.
#[derive(Debug)]
pub struct Run {
    counts: BTreeMap<String, u64>,
    pub cpu: Duration,
    pub resident_bytes_max: u64,
}

impl Run {
    /// What was counted under a name.
    pub fn count(&self, name: &str) -> f64 {
        self.counts.get(name).copied().unwrap_or(0) as f64
    }
}

/// All seeds of a row.
#[derive(Debug)]
pub struct Measured(Vec<Run>);

/// Runs a scenario with these parameters and each of the seeds; `None` when one of them failed, which
/// is printed.
pub fn measure(
    scenario: &'static str,
    parameters: &[(&'static str, u64)],
    options: &Options,
) -> io::Result<Option<Measured>> {
    let mut parameters = parameters.to_vec();
    parameters.extend(options.cells.map(|cells| ("cells", cells)));
    let jobs = (0..options.seeds).map(|seed| Job {
        parameters: parameters.clone(),
        hangs_after: HANGS_AFTER,
        ..Job::new(scenario, seed)
    });
    let mut reports: Vec<Report> = Vec::new();
    parent::run_each(jobs, options.processes, |report| reports.push(report))?;
    reports.sort_by_key(|report| report.job.seed);
    let mut runs = Vec::new();
    for report in reports {
        match (report.failure(), &report.result) {
            (None, Some(result)) => runs.push(Run {
                counts: result.coverage.clone(),
                cpu: report.cpu,
                resident_bytes_max: report.resident_bytes_max,
            }),
            (failure, _) => {
                report.print_failure(&failure.unwrap_or("no result".into()));
                println!("not measured: {scenario} {parameters:?}");
                return Ok(None);
            }
        }
    }
    Ok(Some(Measured(runs)))
}

impl Measured {
    /// The median over the seeds.
    pub fn median(&self, value: impl Fn(&Run) -> f64) -> f64 {
        let values = self.sorted(value);
        let middle = values.len() / 2;
        match (values.len().is_multiple_of(2), values.as_slice()) {
            (_, []) => 0.0,
            (true, values) => (values[middle - 1] + values[middle]) / 2.0,
            (false, values) => values[middle],
        }
    }

    /// The median with the least and the most, when they are not one.
    pub fn spread(&self, digits: usize, value: impl Fn(&Run) -> f64) -> String {
        let values = self.sorted(&value);
        let shown = |value: f64| format!("{value:.digits$}");
        let median = shown(self.median(&value));
        match (
            values.first().copied().map(shown),
            values.last().copied().map(shown),
        ) {
            (Some(least), Some(most)) if least != most => format!("{median} ({least}–{most})"),
            _ => median,
        }
    }

    fn sorted(&self, value: impl Fn(&Run) -> f64) -> Vec<f64> {
        let mut values: Vec<f64> = self.0.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values
    }
}

/// What so many requests cost.
pub fn dollars(gets: f64, puts: f64) -> f64 {
    gets * DOLLARS_PER_GET + puts * DOLLARS_PER_PUT
}

/// The head of a table.
pub fn head(columns: &[&str]) {
    println!("| {} |", columns.join(" | "));
    println!("|{}", "---|".repeat(columns.len()));
}

/// A row of one.
pub fn row(cells: &[String]) {
    println!("| {} |", cells.join(" | "));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(values: &[u64]) -> Measured {
        let run = |value: &u64| Run {
            counts: BTreeMap::from([("what".to_string(), *value)]),
            cpu: Duration::ZERO,
            resident_bytes_max: 0,
        };
        Measured(values.iter().map(run).collect())
    }

    #[test]
    fn a_cell_shows_the_median_and_how_far_the_seeds_are_apart() {
        let shown = |values: &[u64]| measured(values).spread(1, |run| run.count("what"));
        assert_eq!(shown(&[3, 1, 2]), "2.0 (1.0–3.0)");
        assert_eq!(shown(&[4, 1]), "2.5 (1.0–4.0)");
        assert_eq!(shown(&[7]), "7.0");
        assert_eq!(shown(&[7, 7]), "7.0");
        assert_eq!(measured(&[]).median(|run| run.count("what")), 0.0);
    }
}
