//! Several writers, one log, a store that loses answers: against a model.
//!
//! The model is the set of tokens (rows) that acknowledged writes left. Every cell's path says which
//! tokens it holds, so a rewrite is visible as the same tokens in another cell.

use super::faults::RandomFaults;
use super::*;
use crate::host::testing::SeededEntropy;
use crate::ledger::{Reads, invariants};
use crate::store::testing::FaultyStore;
use apiary_protocol::keys;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

const WRITERS: u64 = 4;
const STEPS: u64 = 25;

/// What a writer did, by the version that says so.
#[derive(Clone, Debug)]
enum Done {
    Appended(Vec<String>),
    Replaced(Vec<String>),
    Removed(Vec<String>),
    Rewrote,
}

struct Writer {
    ledger: Ledger,
    entropy: SeededEntropy,
    name: u64,
    written: u64,
}

impl Writer {
    /// A path that holds the given tokens.
    fn path(&mut self, tokens: &[String]) -> String {
        self.written += 1;
        format!("w{}-{}_{}", self.name, self.written, tokens.join("_"))
    }

    fn fresh(&mut self) -> (String, Add) {
        let token = format!("t{}.{}", self.name, self.written);
        let add = add(&self.path(std::slice::from_ref(&token)), 1);
        (token, add)
    }

    /// Plans a step from a snapshot.
    fn plan(&mut self, base: &Snapshot) -> (Intent, Done) {
        let cells: Vec<String> = paths(base);
        let chosen: Vec<String> = cells.iter().take(2).cloned().collect();
        let reads = || Reads::Cells(chosen.iter().map(|path| (path.clone(), None)).collect());
        match self.entropy.below(10) {
            0 => {
                let (token, add) = self.fresh();
                let intent = Intent::append(id(&self.ledger), vec![add]);
                (
                    Intent {
                        replaces_all: true,
                        ..intent
                    },
                    Done::Replaced(vec![token]),
                )
            }
            1 if !chosen.is_empty() => {
                let actions = chosen.iter().map(|path| remove(base, path, true)).collect();
                let intent = Intent {
                    actions,
                    reads: reads(),
                    ..append(&self.ledger, &[])
                };
                (
                    intent,
                    Done::Removed(chosen.iter().flat_map(|path| tokens(path)).collect()),
                )
            }
            2 | 3 if chosen.len() == 2 => {
                let mut actions: Vec<Action> = chosen
                    .iter()
                    .map(|path| remove(base, path, false))
                    .collect();
                let all: Vec<String> = chosen.iter().flat_map(|path| tokens(path)).collect();
                let merged = add(&self.path(&all), all.len() as u64);
                actions.push(Action::Add(Add {
                    data_change: false,
                    ..merged
                }));
                (
                    Intent {
                        actions,
                        reads: reads(),
                        ..append(&self.ledger, &[])
                    },
                    Done::Rewrote,
                )
            }
            _ => {
                let (first, second) = (self.fresh(), self.fresh());
                let intent = Intent::append(id(&self.ledger), vec![first.1, second.1]);
                (intent, Done::Appended(vec![first.0, second.0]))
            }
        }
    }
}

fn tokens(path: &str) -> Vec<String> {
    path.split('_').skip(1).map(str::to_string).collect()
}

/// One writer's run: what was acknowledged, and what nobody knows.
async fn run(mut writer: Writer) -> (Vec<(CommitId, u64, Done)>, BTreeMap<CommitId, Done>) {
    let ledger = writer.ledger.clone();
    let (mut acknowledged, mut unknown) = (Vec::new(), BTreeMap::new());
    let mut base = ledger.load().await.unwrap();
    for _ in 0..STEPS {
        if writer.entropy.below(3) == 0 {
            base = ledger.refresh(&base).await.unwrap();
        }
        let group_size = 1 + writer.entropy.below(3);
        let plans: Vec<(Intent, Done)> = (0..group_size).map(|_| writer.plan(&base)).collect();
        let (intents, done): (Vec<Intent>, Vec<Done>) = plans.into_iter().unzip();
        let ids: Vec<CommitId> = intents.iter().map(|intent| intent.id).collect();
        let stale = Arc::clone(&base);
        let (results, newest) = ledger.commit(stale, intents).await;
        for ((id, done), result) in ids.into_iter().zip(done).zip(results) {
            match result {
                Ok(committed) => acknowledged.push((id, committed.version, done)),
                Err(Error::Conflict(_)) => {}
                Err(error) if error.kind() == crate::ErrorKind::OutcomeUnknown => {
                    unknown.insert(id, done);
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        // Some bases stay stale on purpose.
        if writer.entropy.below(2) == 0 {
            base = newest;
        }
        if base.version > 0 && writer.entropy.below(8) == 0 {
            ledger.checkpoint(&base).await.unwrap();
        }
    }
    (acknowledged, unknown)
}

async fn check_run(seed: u64) -> u64 {
    let clean: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let faulty = Arc::new(FaultyStore::with(
        Arc::clone(&clean),
        RandomFaults::new(seed, 5),
    ));
    let observer = ledger_over(Arc::clone(&clean), seed ^ 0xffff);
    let start = create(&observer).await;
    let writers = (0..WRITERS).map(|name| {
        let store = Arc::clone(&faulty) as Arc<dyn ObjectStore>;
        let writer_seed = seed.wrapping_mul(31) + name;
        run(Writer {
            ledger: ledger_over(store, writer_seed),
            entropy: SeededEntropy::new(writer_seed + 1000),
            name,
            written: 0,
        })
    });
    let runs = futures::future::join_all(writers).await;
    let mut by_version: BTreeMap<u64, Vec<Done>> = BTreeMap::new();
    let (mut acknowledged, mut unknown) = (BTreeMap::new(), BTreeMap::new());
    for (done, lost) in runs {
        for (id, version, done) in done {
            acknowledged.insert(id, version);
            by_version.entry(version).or_default().push(done);
        }
        unknown.extend(lost);
    }
    let newest = observer.load().await.unwrap();
    check_log(&observer, &newest, &acknowledged, &unknown, &mut by_version).await;
    check_rows(&newest, &by_version);
    check_ways_of_reading(&observer, &start, &newest).await;
    faulty.faults.count.load(Ordering::Relaxed)
}

/// Dense versions; each acknowledged intent in exactly one of them, the one that it was told. What
/// was unknown and is found counts as done.
async fn check_log(
    ledger: &Ledger,
    newest: &Snapshot,
    acknowledged: &BTreeMap<CommitId, u64>,
    unknown: &BTreeMap<CommitId, Done>,
    by_version: &mut BTreeMap<u64, Vec<Done>>,
) {
    let prefix = keys::log_prefix(LOCATION);
    let listed = ledger.meadow.list(&prefix, None).await.unwrap();
    let names = listed.iter().filter_map(|meta| {
        let name = meta.location.filename()?.strip_suffix(".json")?;
        name.parse::<u64>().ok()
    });
    let versions: Vec<u64> = names.collect();
    invariants::check_dense(&versions).unwrap();
    assert_eq!(versions.last(), Some(&newest.version));
    let mut found: BTreeMap<CommitId, Vec<u64>> = BTreeMap::new();
    for version in versions {
        let commit = ledger.read_commit(version).await.unwrap().unwrap();
        for id in acknowledged
            .keys()
            .chain(unknown.keys())
            .filter(|id| commit.contains(**id))
        {
            found.entry(*id).or_default().push(version);
        }
    }
    for (id, version) in acknowledged {
        assert_eq!(
            found.get(id),
            Some(&vec![*version]),
            "{id} is not exactly once in the log"
        );
    }
    for (id, done) in unknown {
        if let Some(at) = found.get(id) {
            assert_eq!(at.len(), 1);
            by_version.entry(at[0]).or_default().push(done.clone());
        }
    }
}

fn check_rows(newest: &Snapshot, by_version: &BTreeMap<u64, Vec<Done>>) {
    let mut expected: BTreeSet<String> = BTreeSet::new();
    for done in by_version.values().flatten() {
        match done {
            Done::Appended(tokens) => expected.extend(tokens.iter().cloned()),
            Done::Replaced(tokens) => expected = tokens.iter().cloned().collect(),
            Done::Removed(tokens) => tokens.iter().for_each(|token| _ = expected.remove(token)),
            Done::Rewrote => {}
        }
    }
    let rows: Vec<String> = newest
        .cells()
        .flat_map(|cell| tokens(cell.add_path()))
        .collect();
    let distinct: BTreeSet<String> = rows.iter().cloned().collect();
    assert_eq!(distinct.len(), rows.len(), "a row is there twice");
    assert_eq!(distinct, expected);
    assert_eq!(newest.row_count(), Some(expected.len() as u64));
}

/// Full load, load from checkpoint, refresh from the start and from the middle agree.
async fn check_ways_of_reading(ledger: &Ledger, start: &Arc<Snapshot>, newest: &Arc<Snapshot>) {
    invariants::check_no_duplicate_cells(newest).unwrap();
    invariants::check_totals(newest).unwrap();
    let refreshed = ledger.refresh(start).await.unwrap();
    invariants::check_same_content(&refreshed, newest).unwrap();
    let middle = ledger.load_version(newest.version / 2).await.unwrap();
    let refreshed = ledger.refresh(&middle).await.unwrap();
    invariants::check_same_content(&refreshed, newest).unwrap();
    ledger.checkpoint(newest).await.unwrap();
    let from_checkpoint = ledger.load().await.unwrap();
    invariants::check_same_content(&from_checkpoint, newest).unwrap();
    // Without checkpoints, the log alone says the same.
    let prefix = keys::log_prefix(LOCATION);
    for meta in ledger.meadow.list(&prefix, None).await.unwrap() {
        if !meta.location.as_ref().ends_with(".json") {
            ledger.meadow.delete(meta.location.as_ref()).await.unwrap();
        }
    }
    invariants::check_same_content(&ledger.load().await.unwrap(), newest).unwrap();
}

#[test]
fn writers_over_a_faulty_store_commit_each_intent_exactly_once() {
    let mut faults = 0;
    for seed in 0..40 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        println!("seed {seed}");
        faults += runtime.block_on(check_run(seed));
    }
    assert!(faults > 1000, "only {faults} faults were injected");
}
