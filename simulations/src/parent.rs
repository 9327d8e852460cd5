//! Runs simulations as processes of their own, a process a seed, and reports on them.
//!
//! A process each, because counters inside DataFusion, ractor and tokio are global to a process.

use crate::child::{EXIT_FORBIDDEN, RESULT_MARK, SimulationResult};
use crate::process;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

const TAIL_LINES: usize = 40;
/// Real time after which a simulation is taken to hang, as a rule.
const HANGS_AFTER: Duration = Duration::from_secs(180);

/// What simulations are for: a summary shows it also when it never happened.
const NEVER_MISSED: [&str; 9] = [
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

/// One scenario with one seed.
#[derive(Clone, Debug)]
pub struct Job {
    pub scenario: &'static str,
    pub seed: u64,
    /// The mistake that is planted, by its name.
    pub planted: Option<&'static str>,
    /// Of an experiment.
    pub parameters: Vec<(&'static str, u64)>,
    /// Real time after which it is taken to hang.
    pub hangs_after: Duration,
}

impl Job {
    pub fn new(scenario: &'static str, seed: u64) -> Self {
        Self {
            scenario,
            seed,
            planted: None,
            parameters: Vec::new(),
            hangs_after: HANGS_AFTER,
        }
    }

    pub fn replay_command(&self) -> String {
        format!(
            "cargo run -p apiary-simulations -- run {} --seed {}",
            self.scenario, self.seed
        )
    }
}

/// What a simulation's process left.
#[derive(Debug)]
pub struct Report {
    pub job: Job,
    /// `None` for a process that ended without its last line, or was killed as hanging.
    pub result: Option<SimulationResult>,
    pub forbidden: bool,
    /// The last events, oldest first.
    pub tail: VecDeque<String>,
    /// The whole trace when asked for.
    pub trace: Vec<u8>,
    pub stderr: String,
    pub took: Duration,
    /// Processor time, and the most memory that it had.
    pub cpu: Duration,
    pub resident_bytes_max: u64,
}

impl Report {
    pub fn failure(&self) -> Option<String> {
        match &self.result {
            Some(result) => result.failure.clone(),
            None if self.forbidden => None,
            None if self.took >= self.job.hangs_after => Some("it hung and was killed".into()),
            None => Some("its process ended without a result".into()),
        }
    }

    /// Seed, last events and replay command.
    pub fn print_failure(&self, failure: &str) {
        println!(
            "FAILED {} seed {}: {failure}",
            self.job.scenario, self.job.seed
        );
        println!("last events, in microseconds of simulated time:");
        self.tail.iter().for_each(|line| println!("  {line}"));
        if !self.stderr.is_empty() {
            println!("standard error:\n{}", self.stderr.trim_end());
        }
        println!("replay: {}", self.job.replay_command());
    }
}

/// Runs one simulation to its end.
pub fn run(job: &Job, keep_trace: bool) -> io::Result<Report> {
    let start = Instant::now();
    let mut child = Command::new(process::OWN_PROGRAM)
        .arg0(process::OWN_PROGRAM)
        .args(["one", job.scenario, &job.seed.to_string()])
        .args(job.planted.map(|name| format!("mistake={name}")))
        .args(
            job.parameters
                .iter()
                .map(|(name, value)| format!("{name}={value}")),
        )
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (mut tail, mut trace, mut last) = (VecDeque::new(), Vec::new(), None);
    let child = Mutex::new(child);
    // Dropped when the output ends, which is what the watcher waits for.
    let (running, ended) = mpsc::channel::<()>();
    let stderr = std::thread::scope(|scope| {
        let watched = &child;
        scope.spawn(move || {
            if ended.recv_timeout(job.hangs_after) == Err(RecvTimeoutError::Timeout)
                && let Ok(mut child) = watched.lock()
            {
                let _ = child.kill(); // it may have ended by itself
            }
        });
        let errors = scope.spawn(|| {
            let mut text = String::new();
            let _ = stderr.map(|mut pipe| pipe.read_to_string(&mut text));
            text
        });
        for line in stdout
            .map(BufReader::new)
            .into_iter()
            .flat_map(|pipe| pipe.split(b'\n'))
        {
            let Ok(line) = line else { break };
            if let Some(json) = line.strip_prefix(RESULT_MARK.as_bytes()) {
                last = serde_json::from_slice(json).ok();
            }
            if keep_trace {
                trace.extend_from_slice(&line);
                trace.push(b'\n');
            }
            if tail.len() == TAIL_LINES {
                tail.pop_front();
            }
            tail.push_back(String::from_utf8_lossy(&line).into_owned());
        }
        drop(running);
        errors.join().unwrap_or_default()
    });
    let child = child
        .into_inner()
        .map_err(|_| io::Error::other("the watcher panicked"))?;
    let (status, usage) = reap(&child)?;
    Ok(Report {
        job: job.clone(),
        result: last,
        forbidden: status.code() == Some(i32::from(EXIT_FORBIDDEN)),
        tail,
        trace,
        stderr,
        took: start.elapsed(),
        cpu: cpu_of(&usage),
        resident_bytes_max: u64::try_from(usage.ru_maxrss).unwrap_or_default() << 10,
    })
}

/// Sums over many simulations.
#[derive(Debug, Default)]
pub struct Totals {
    pub run_count: u64,
    pub failure_count: u64,
    pub forbidden_count: u64,
    pub simulated_ms: u64,
    pub node_ms: u64,
    pub event_count: u64,
    pub coverage: BTreeMap<String, u64>,
}

impl Totals {
    fn add(&mut self, report: &Report) {
        self.run_count += 1;
        self.forbidden_count += u64::from(report.forbidden);
        if let Some(failure) = report.failure() {
            self.failure_count += 1;
            report.print_failure(&failure);
        }
        if let Some(result) = &report.result {
            self.simulated_ms += result.simulated_ms;
            self.node_ms += result.node_ms;
            self.event_count += result.event_count;
            for (what, count) in &result.coverage {
                *self.coverage.entry(what.clone()).or_default() += count;
            }
        }
    }

    pub fn print(&self, took: Duration) {
        if self.forbidden_count > 0 {
            println!(
                "{} skipped: address randomisation cannot be switched off here",
                self.forbidden_count
            );
        }
        println!(
            "{} runs, {} failed, {} events, {:.1} simulated seconds in {:.1} s",
            self.run_count,
            self.failure_count,
            self.event_count,
            self.simulated_ms as f64 / 1000.0,
            took.as_secs_f64()
        );
        let (node_seconds, cpu) = (self.node_ms as f64 / 1000.0, cpu_of_children());
        println!(
            "{:.2} node-hours in {:.1} s of one core: {:.0} node-seconds a second",
            node_seconds / 3_600.0,
            cpu.as_secs_f64(),
            node_seconds / cpu.as_secs_f64().max(0.001)
        );
        println!("  {:>10} {:>12}", "in all", "a 1,000 runs");
        let runs = self.run_count.max(1) as f64;
        for (what, count) in &self.coverage {
            println!(
                "  {count:>10} {:>12.1} {what}",
                *count as f64 * 1_000.0 / runs
            );
        }
        let missed = NEVER_MISSED
            .iter()
            .filter(|what| self.coverage.get(**what).is_none_or(|n| *n == 0));
        missed.for_each(|what| println!("  {:>10} {:>12} {what}", 0, 0));
    }
}

/// Processor time of all children that have ended.
fn cpu_of_children() -> Duration {
    // SAFETY: a plain structure of numbers, which the call fills.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage);
        usage
    };
    cpu_of(&usage)
}

fn cpu_of(usage: &libc::rusage) -> Duration {
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// Waits for the end of a child, for what it used besides how it ended.
fn reap(child: &Child) -> io::Result<(ExitStatus, libc::rusage)> {
    let id = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
    let mut status = 0;
    // SAFETY: a plain structure of numbers, which the call fills.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both point to what is on this stack.
        match unsafe { libc::wait4(id, &mut status, 0, &mut usage) } {
            found if found == id => return Ok((ExitStatus::from_raw(status), usage)),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// Runs jobs on several processes at a time until there is none left.
pub fn run_all(jobs: impl Iterator<Item = Job> + Send, processes: usize) -> io::Result<Totals> {
    let mut totals = Totals::default();
    run_each(jobs, processes, |report| totals.add(&report))?;
    Ok(totals)
}

/// The same, with the report of each as it comes.
pub fn run_each(
    jobs: impl Iterator<Item = Job> + Send,
    processes: usize,
    ended: impl FnMut(Report) + Send,
) -> io::Result<()> {
    let (jobs, ended) = (Mutex::new(jobs), Mutex::new(ended));
    std::thread::scope(|scope| {
        let work = || -> io::Result<()> {
            loop {
                let job = jobs.lock().ok().and_then(|mut jobs| jobs.next());
                let Some(job) = job else { return Ok(()) };
                let report = run(&job, false)?;
                if let Ok(mut ended) = ended.lock() {
                    ended(report);
                }
            }
        };
        let workers: Vec<_> = (0..processes.max(1)).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(_) => Err(io::Error::other("a worker panicked")),
            })
    })
}

/// The first line in which two traces differ.
pub fn first_difference(one: &[u8], other: &[u8]) -> Option<(usize, String, String)> {
    let text = |line: Option<&[u8]>| {
        line.map_or("(the end)".to_string(), |line| {
            String::from_utf8_lossy(line).into_owned()
        })
    };
    let (mut ones, mut others) = (one.split(|b| *b == b'\n'), other.split(|b| *b == b'\n'));
    for number in 1.. {
        match (ones.next(), others.next()) {
            (None, None) => return None,
            (a, b) if a == b => {}
            (a, b) => return Some((number, text(a), text(b))),
        }
    }
    None
}
