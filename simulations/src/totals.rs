//! What many simulations come to: by scenario, what they cost; of each kind of fault, how often it really
//! happened, in all and in how many runs.

use crate::parent::{Job, Report};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What simulations are for: a summary shows it also when it never happened.
const NEVER_MISSED: [&str; 10] = [
    "attempts_failed",
    "claims",
    "commit_conflicts",
    "coordinators_killed",
    "duplicate_outputs",
    "objects_damaged",
    "power_cuts_with_something_unsynced",
    "reclaims",
    "replies_lost_on_commits",
    "spill_files",
];

/// Sums over many simulations.
#[derive(Debug, Default)]
pub struct Totals {
    pub failure_count: u64,
    pub forbidden_count: u64,
    /// How often what happened.
    pub coverage: BTreeMap<String, u64>,
    /// In how many runs.
    covered: BTreeMap<String, u64>,
    sums: Sums,
    by_scenario: BTreeMap<&'static str, Sums>,
    /// What failed, a line each.
    failures: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    run_count: u64,
    failure_count: u64,
    simulated_ms: u64,
    node_ms: u64,
    event_count: u64,
    cpu: Duration,
    /// The most that one of them had.
    resident_bytes_max: u64,
}

impl Sums {
    fn add(&mut self, report: &Report, has_failed: bool) {
        self.run_count += 1;
        self.failure_count += u64::from(has_failed);
        self.cpu += report.cpu;
        self.resident_bytes_max = self.resident_bytes_max.max(report.resident_bytes_max);
        if let Some(result) = &report.result {
            self.simulated_ms += result.simulated_ms;
            self.node_ms += result.node_ms;
            self.event_count += result.event_count;
        }
    }

    fn node_seconds(&self) -> f64 {
        self.node_ms as f64 / 1_000.0
    }

    fn node_seconds_a_second(&self) -> f64 {
        self.node_seconds() / self.cpu.as_secs_f64().max(0.001)
    }

    fn runs(&self) -> f64 {
        self.run_count.max(1) as f64
    }
}

impl Totals {
    /// Prints what failed as soon as it is known.
    pub fn add(&mut self, report: &Report) {
        self.forbidden_count += u64::from(report.forbidden);
        let failure = report.failure();
        let Job { scenario, seed, .. } = report.job;
        if let Some(failure) = &failure {
            self.failure_count += 1;
            report.print_failure(failure);
            let first = failure.lines().next().unwrap_or_default();
            self.failures
                .push(format!("{scenario} seed {seed}: {first}"));
        }
        self.sums.add(report, failure.is_some());
        let of_scenario = self.by_scenario.entry(scenario).or_default();
        of_scenario.add(report, failure.is_some());
        let covered = report.result.iter().flat_map(|result| &result.coverage);
        for (what, count) in covered.filter(|(_, count)| **count > 0) {
            *self.coverage.entry(what.clone()).or_default() += count;
            *self.covered.entry(what.clone()).or_default() += 1;
        }
    }

    pub fn print(&self, took: Duration) {
        if self.forbidden_count > 0 {
            println!(
                "{} skipped: address randomisation cannot be switched off here",
                self.forbidden_count
            );
        }
        let sums = &self.sums;
        println!(
            "{} runs, {} failed, {} events, {:.1} simulated seconds in {:.1} s",
            sums.run_count,
            self.failure_count,
            sums.event_count,
            sums.simulated_ms as f64 / 1_000.0,
            took.as_secs_f64()
        );
        println!(
            "{:.2} node-hours in {:.1} s of one core: {:.0} node-seconds a second",
            sums.node_seconds() / 3_600.0,
            sums.cpu.as_secs_f64(),
            sums.node_seconds_a_second()
        );
        self.print_scenarios();
        self.print_coverage();
        for failure in &self.failures {
            println!("FAILED {failure}");
        }
    }

    fn print_scenarios(&self) {
        println!(
            "\n| scenario | runs | failed | core s a run | MiB at most | node-hours | node-seconds a second |"
        );
        println!("|---|---|---|---|---|---|---|");
        for (scenario, sums) in &self.by_scenario {
            println!(
                "| `{scenario}` | {} | {} | {:.2} | {} | {:.1} | {:.0} |",
                sums.run_count,
                sums.failure_count,
                sums.cpu.as_secs_f64() / sums.runs(),
                sums.resident_bytes_max >> 20,
                sums.node_seconds() / 3_600.0,
                sums.node_seconds_a_second()
            );
        }
    }

    fn print_coverage(&self) {
        println!("\n| what happened | in all | a 1,000 runs | in so many of 1,000 runs |");
        println!("|---|---|---|---|");
        let mut all: BTreeSet<&str> = BTreeSet::from(NEVER_MISSED);
        all.extend(self.coverage.keys().map(String::as_str));
        for what in all {
            let (count, runs) = (self.coverage.get(what), self.covered.get(what));
            let (count, runs) = (count.copied().unwrap_or(0), runs.copied().unwrap_or(0));
            let a_thousand = |count: u64| count as f64 * 1_000.0 / self.sums.runs();
            println!(
                "| {what} | {count} | {:.0} | {:.0} |",
                a_thousand(count),
                a_thousand(runs)
            );
        }
    }
}
