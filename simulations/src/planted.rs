//! Planted mistakes: each is the kind of bug that an invariant exists for. The list is run with one
//! command, which says by which checker and at which seed each was found.

use crate::checkers;
use crate::parent::{self, Job};
use apiary_protocol::planted::{MARK, Mistake};
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Seeds after which a mistake counts as not found.
pub const SEEDS_MAX: u64 = 500;

/// How much of a violation is shown.
const SHOWN: usize = 160;

/// A mistake, and where it should be found.
#[derive(Debug)]
pub struct Planted {
    pub name: &'static str,
    pub mistake: Mistake,
    pub scenario: &'static str,
    /// The invariants that it breaks: whatever else finds it has not found it.
    pub finders: &'static [&'static str],
}

macro_rules! planted {
    ($name:literal, $mistake:ident, $scenario:literal, $($finder:literal),+) => {
        Planted {
            name: $name,
            mistake: Mistake::$mistake,
            scenario: $scenario,
            finders: &[$($finder),+],
        }
    };
}

pub const ALL: &[Planted] = &[
    planted!(
        "no-read-back",
        NoReadBack,
        "commit-faults",
        "LEDGER-2",
        "LEDGER-3",
        "LEDGER-4"
    ),
    planted!(
        "refusal-is-ours",
        RefusalIsOurs,
        "commit-faults",
        "LEDGER-1",
        "LEDGER-2"
    ),
    planted!(
        "no-sync",
        NoSync,
        "power-cuts",
        "LEDGER-1",
        "LEDGER-2",
        "LEDGER-4",
        "NODE-1"
    ),
    // An answer that is lost is not read back either.
    planted!(
        "commit-overwritten",
        CommitOverwritten,
        "commit-faults",
        "LEDGER-1",
        "LEDGER-2",
        "LEDGER-4"
    ),
    planted!(
        "registry-overwritten",
        RegistryOverwritten,
        "commit-faults",
        "LEDGER-1"
    ),
    planted!(
        "stale-rebase",
        StaleRebase,
        "commit-faults",
        "LEDGER-2",
        "LEDGER-3",
        "QUERY-1"
    ),
    planted!(
        "lost-is-landed",
        LostIsLanded,
        "commit-faults",
        "LEDGER-1",
        "LEDGER-2"
    ),
    planted!(
        "transaction-forgotten",
        TransactionForgotten,
        "commit-faults",
        "LEDGER-3"
    ),
    planted!("commit-skipped", CommitSkipped, "commit-faults", "QUERY-1"),
    planted!("stale-snapshot", StaleSnapshot, "commit-faults", "QUERY-1"),
    planted!("named-cell-swept", NamedCellSwept, "ddl-crash", "LEDGER-4"),
    planted!(
        "place-reused",
        PlaceReused,
        "ddl-crash",
        "LEDGER-1",
        "LEDGER-2",
        "LEDGER-3"
    ),
    planted!("no-mark", NoMark, "ddl-crash", "KEEPER-1"),
    planted!("output-overwritten", OutputOverwritten, "swarm", "QUERY-2"),
    // Changed rows are wrong or cannot be decoded.
    planted!(
        "chunk-unchecked",
        ChunkUnchecked,
        "swarm-damage",
        "QUERY-1",
        "QUERY-3"
    ),
    // The rows of another task are other rows, or of another shape.
    planted!(
        "output-unchecked",
        OutputUnchecked,
        "swarm-damage",
        "QUERY-1",
        "QUERY-3"
    ),
    planted!(
        "producer-missed",
        ProducerMissed,
        "swarm",
        "QUERY-1",
        "LEDGER-2"
    ),
    planted!(
        "absent-is-empty",
        AbsentIsEmpty,
        "swarm",
        "QUERY-1",
        "LEDGER-2"
    ),
    planted!("claim-kept", ClaimKept, "swarm", "QUERY-3", "SWARM-1"),
    planted!("lost-input-kept", LostInputKept, "swarm-damage", "QUERY-3"),
    planted!("cancel-lost", CancelLost, "swarm", "KEEPER-1"),
    planted!("live-query-swept", LiveQuerySwept, "swarm", "QUERY-3"),
    planted!("heartbeat-kept", HeartbeatKept, "smoke", "KEEPER-1"),
    planted!(
        "unknown-is-success",
        UnknownIsSuccess,
        "commit-faults",
        "LEDGER-1",
        "LEDGER-2"
    ),
    planted!(
        "cache-unchecked",
        CacheUnchecked,
        "commit-faults",
        "CACHE-1",
        "QUERY-1"
    ),
    planted!("wall-clock", WallClock, "swarm", "MEMBER-1"),
    planted!(
        "commit-unchecked",
        CommitUnchecked,
        "ledger-damage",
        "QUERY-1"
    ),
];

pub fn find(name: &str) -> Option<&'static Planted> {
    ALL.iter().find(|planted| planted.name == name)
}

/// What became of one.
struct Found {
    seed: u64,
    violation: String,
}

/// Runs the list; true when all were found by a checker that should.
pub fn run_all(processes: usize, only: Option<&str>) -> io::Result<bool> {
    println!("{MARK}\n\n| mistake | scenario | first seed | found by |\n|---|---|---|---|");
    let list: Vec<&Planted> = ALL
        .iter()
        .filter(|planted| only.is_none_or(|only| only == planted.name))
        .collect();
    let (next, all_found) = (AtomicUsize::new(0), Mutex::new(true));
    let work = || -> io::Result<()> {
        while let Some(planted) = list.get(next.fetch_add(1, Ordering::Relaxed)) {
            let found = hunt(planted)?;
            let is_right = matches!(&found, Some(found) if is_finder(planted, &found.violation));
            println!("{}", told(planted, found.as_ref(), is_right));
            if !is_right && let Ok(mut all) = all_found.lock() {
                *all = false;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..processes.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            let ended = worker.join();
            ended.unwrap_or_else(|_| Err(io::Error::other("a worker panicked")))
        })
    })?;
    all_found
        .into_inner()
        .map_err(|_| io::Error::other("a worker panicked"))
}

/// The first seed at which something is wrong.
fn hunt(planted: &Planted) -> io::Result<Option<Found>> {
    for seed in 0..SEEDS_MAX {
        let job = Job {
            planted: Some(planted.name),
            ..Job::new(planted.scenario, seed)
        };
        let report = parent::run(&job, false)?;
        if let Some(violation) = report.failure() {
            return Ok(Some(Found { seed, violation }));
        }
    }
    Ok(None)
}

fn is_finder(planted: &Planted, violation: &str) -> bool {
    let broken = checkers::invariant_of(violation);
    broken.is_some_and(|invariant| planted.finders.contains(&invariant))
}

/// A row of a table.
fn told(planted: &Planted, found: Option<&Found>, is_right: bool) -> String {
    let Planted { name, scenario, .. } = planted;
    let Some(Found { seed, violation }) = found else {
        return format!("| {name} | `{scenario}` | not found in {SEEDS_MAX} seeds | |");
    };
    let wrong = if is_right { "" } else { "NOT BY ITS CHECKER: " };
    let first = violation.lines().next().unwrap_or_default();
    let shown: String = first.chars().take(SHOWN).collect();
    format!("| {name} | `{scenario}` | {seed} | {wrong}{shown} |")
}
