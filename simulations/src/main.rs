//! Whole nodes, the real actors and the real engine with DataFusion inside, in one thread on
//! simulated time, over simulated disks and object stores, from one seed.
//!
//! A simulation is a process of its own (`one`), whose standard output is its trace; the other
//! commands start such processes and report on them. It starts no thread; whatever differs between
//! two runs of one seed is a defect of the simulator or of the code under it; nothing of a crashed
//! node runs on.

mod checkers;
mod child;
mod clock;
mod files;
mod host;
mod lab;
mod object_store;
mod parent;
#[cfg(feature = "planted")]
mod planted;
mod process;
mod rng;
mod scenarios;
mod spill;
mod totals;
mod trace;
mod workload;
mod world;

use clap::{Parser, Subcommand};
use parent::Job;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

/// Seeds that once failed, with the reason.
const SEEDS: &str = include_str!("../seeds.txt");

#[derive(Parser)]
#[command(
    name = "apiary-simulations",
    about = "Runs whole nodes on simulated time, from one seed"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one scenario with one seed, or with several
    Run {
        scenario: String,
        /// The first seed
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// How many seeds, from the first on
        #[arg(long, default_value_t = 1)]
        seeds: u64,
        /// Prints the whole trace
        #[arg(long)]
        trace: bool,
        #[arg(long, default_value_t = 2)]
        processes: usize,
    },
    /// Runs all scenarios, each by its share, and reports at the end what failed and what was covered
    Soak {
        /// Begins no seed after so many minutes
        #[arg(long, required_unless_present = "seeds")]
        minutes: Option<u64>,
        /// So many seeds over all scenarios
        #[arg(long)]
        seeds: Option<u64>,
        /// The first seed; one that nobody has seen when absent
        #[arg(long)]
        first: Option<u64>,
        #[arg(long, default_value_t = 2)]
        processes: usize,
    },
    /// Runs a seed in two processes and requires byte-identical traces
    Meta {
        scenario: String,
        #[arg(long, default_value_t = 0)]
        seed: u64,
        #[arg(long, default_value_t = 1)]
        seeds: u64,
    },
    /// Runs the seeds that once failed
    Seeds {
        #[arg(long, default_value_t = 2)]
        processes: usize,
    },
    /// Runs the planted mistakes, each until it is found
    #[cfg(feature = "planted")]
    Planted {
        /// This one alone
        name: Option<String>,
        #[arg(long, default_value_t = 2)]
        processes: usize,
    },
    /// Measures in simulated time, and prints a table
    Lab {
        experiment: String,
        /// How many seeds; as many as the whole table has, when nobody says
        #[arg(long)]
        seeds: Option<u64>,
        /// Numbers of nodes, likewise
        #[arg(long, value_delimiter = ',')]
        nodes: Option<Vec<u64>>,
        /// How many cells the largest frame has, likewise
        #[arg(long)]
        cells: Option<u64>,
        #[arg(long, default_value_t = 2)]
        processes: usize,
    },
    /// Names the scenarios
    List,
    /// Runs one simulation in this process
    #[command(hide = true)]
    One { scenario: String, seed: u64 },
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    // Before anything that hashes or reads the clock.
    if arguments.get(1).is_some_and(|command| command == "one") {
        return child::main(&arguments[2..]);
    }
    if let Err(error) = process::fix_addresses() {
        println!("skipped: address randomisation cannot be switched off here: {error}");
        return ExitCode::from(child::EXIT_FORBIDDEN);
    }
    match command(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn command(command: Command) -> Result<ExitCode, Box<dyn std::error::Error>> {
    match command {
        Command::Run {
            scenario,
            seed,
            seeds: _,
            trace: true,
            ..
        } => print_trace(&scenario, seed),
        Command::Run {
            scenario,
            seed,
            seeds,
            processes,
            ..
        } => {
            let scenario = known(&scenario)?;
            let jobs = (seed..seed.saturating_add(seeds)).map(move |seed| Job::new(scenario, seed));
            run_all(jobs, processes)
        }
        Command::Soak {
            minutes,
            seeds,
            first,
            processes,
        } => soak(minutes, seeds, first, processes),
        Command::Meta {
            scenario,
            seed,
            seeds,
        } => {
            let scenario = known(&scenario)?;
            for seed in seed..seed.saturating_add(seeds) {
                if !same_twice(&Job::new(scenario, seed))? {
                    return Ok(ExitCode::FAILURE);
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Seeds { processes } => run_all(kept_seeds()?.into_iter(), processes),
        #[cfg(feature = "planted")]
        Command::Planted { name, processes } => {
            let all_found = planted::run_all(processes, name.as_deref())?;
            Ok(if all_found {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Command::Lab {
            experiment,
            seeds,
            nodes,
            cells,
            processes,
        } => {
            let found = lab::find(&experiment).ok_or_else(|| {
                let each =
                    |known: &lab::Experiment| format!("\n  {:<12} {}", known.name, known.about);
                format!(
                    "no experiment {experiment:?}:{}",
                    lab::ALL.iter().map(each).collect::<String>()
                )
            })?;
            let is_well = (found.table)(&lab::Options {
                seeds: seeds.unwrap_or(found.seeds),
                nodes: nodes.unwrap_or(found.nodes.to_vec()),
                cells,
                processes,
            })?;
            Ok(if is_well {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Command::List => {
            for scenario in scenarios::ALL {
                let mark = if scenario.is_sabotaged {
                    " (sabotaged)"
                } else {
                    ""
                };
                println!("{:<16} {}{mark}", scenario.name, scenario.about);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::One { .. } => Err("`one` comes first on the command line".into()),
    }
}

fn known(name: &str) -> Result<&'static str, String> {
    let scenario = scenarios::find(name);
    scenario
        .map(|scenario| scenario.name)
        .ok_or(format!("no scenario {name:?}; `list` names them"))
}

/// `scenario seed reason…`, a line each; `#` begins a comment.
fn kept_seeds() -> Result<Vec<Job>, String> {
    let lines = SEEDS
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let wrong = || format!("seeds.txt: {line:?} is not `scenario seed reason`");
            let mut words = line.split_whitespace();
            let scenario = known(words.next().ok_or_else(wrong)?)?;
            let seed = words
                .next()
                .and_then(|word| word.parse().ok())
                .ok_or_else(wrong)?;
            words.next().ok_or_else(wrong)?;
            Ok(Job::new(scenario, seed))
        })
        .collect()
}

fn run_all(
    jobs: impl Iterator<Item = Job> + Send,
    processes: usize,
) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let start = Instant::now();
    let totals = parent::run_all(jobs, processes)?;
    totals.print(start.elapsed());
    Ok(match (totals.failure_count, totals.forbidden_count) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(child::EXIT_FORBIDDEN),
        _ => ExitCode::FAILURE,
    })
}

/// All scenarios, until one of the limits is reached.
fn soak(
    minutes: Option<u64>,
    seeds: Option<u64>,
    first: Option<u64>,
    processes: usize,
) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let start = Instant::now();
    let limit = minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let first = first.unwrap_or(since_epoch.as_micros() as u64);
    let seeds = first..first.saturating_add(seeds.unwrap_or(u64::MAX));
    let in_time = seeds.take_while(|_| limit.is_none_or(|limit| start.elapsed() < limit));
    let jobs = in_time.zip(scenarios::turn().into_iter().cycle());
    run_all(
        jobs.map(|(seed, scenario)| Job::new(scenario, seed)),
        processes,
    )
}

fn print_trace(scenario: &str, seed: u64) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let report = parent::run(&Job::new(known(scenario)?, seed), true)?;
    std::io::stdout().write_all(&report.trace)?;
    eprint!("{}", report.stderr);
    Ok(if report.failure().is_some() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn same_twice(job: &Job) -> Result<bool, Box<dyn std::error::Error>> {
    let (one, other) = (parent::run(job, true)?, parent::run(job, true)?);
    let Job { scenario, seed, .. } = job;
    if one.forbidden {
        println!("{scenario} seed {seed} skipped: {}", one.stderr.trim_end());
        return Ok(true);
    }
    for report in [&one, &other] {
        if let Some(failure) = report.failure() {
            report.print_failure(&failure);
            return Ok(false);
        }
    }
    match parent::first_difference(&one.trace, &other.trace) {
        None => {
            let events = one.result.map_or(0, |result| result.event_count);
            println!(
                "{scenario} seed {seed}: {events} events, {} bytes, the same twice",
                one.trace.len()
            );
            Ok(true)
        }
        Some((line, a, b)) => {
            println!("{scenario} seed {seed} differs in line {line}:\n  {a}\n  {b}");
            println!("replay: cargo run -p apiary-simulations -- meta {scenario} --seed {seed}");
            Ok(false)
        }
    }
}
