//! What may be swept: the decisions of the Keeper.
//!
//! All times are the store's own modification times in milliseconds, "now" among them, so no clock of
//! a node takes part. One assumption carries it: a cell is committed, or given up, within the sweep
//! age of its upload. Settings are refused that would break it.
//!
//! Invariant: what a version ever named is not swept. LEDGER-4 follows from it.

use apiary_protocol::keys::LOG_DIRECTORY;
use std::collections::{BTreeMap, BTreeSet};

/// Whether an object has not been written to for longer than the sweep age.
pub fn is_old(modified_ms: i64, now_ms: i64, sweep_age_ms: i64) -> bool {
    now_ms.saturating_sub(modified_ms) > sweep_age_ms
}

/// Whether a path below a frame's location is a cell's: by Delta's rule, names that begin with `_` or
/// `.` are somebody's own business, unless they are partition directories.
pub fn is_cell_path(path: &str) -> bool {
    path.ends_with(".parquet")
        && path
            .split('/')
            .all(|part| !part.starts_with(['_', '.']) || part.contains('='))
        && !path
            .split('/')
            .next_back()
            .is_some_and(|file| file.starts_with(['_', '.']))
}

/// The commits that may have named one of the candidates (path and modification time): those
/// within a sweep age of it. Versions in order.
pub fn plan_evidence(
    candidates: &BTreeMap<String, i64>,
    commits: &[(u64, i64)],
    sweep_age_ms: i64,
) -> Vec<u64> {
    if apiary_protocol::planted!(NamedCellSwept) {
        return Vec::new();
    }
    let times: BTreeSet<i64> = candidates.values().copied().collect();
    let may_name = |written_ms: i64| {
        let near =
            written_ms.saturating_sub(sweep_age_ms)..=written_ms.saturating_add(sweep_age_ms);
        times.range(near).next().is_some()
    };
    let mut versions: Vec<u64> = commits
        .iter()
        .filter(|(_, written_ms)| may_name(*written_ms))
        .map(|(version, _)| *version)
        .collect();
    versions.sort_unstable();
    versions
}

/// What a maker may have left where its frame was to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unmade {
    /// Cells that are old enough: path below the location and modification time.
    pub old: BTreeMap<String, i64>,
    /// Whether some are not.
    pub is_young: bool,
    /// Whether a log is there, which may name them.
    pub is_in_log: bool,
}

/// Of what lies there (path below the location and modification time), the cells that came after the
/// maker's mark and within a sweep age of it: nobody makes a frame for longer.
pub fn plan_unmade(
    listed: &BTreeMap<String, i64>,
    mark_ms: i64,
    now_ms: i64,
    sweep_age_ms: i64,
) -> Unmade {
    let its_time = mark_ms..=mark_ms.saturating_add(sweep_age_ms);
    let mut unmade = Unmade::default();
    for (path, modified_ms) in listed {
        unmade.is_in_log |= path.split('/').any(|part| part == LOG_DIRECTORY);
        if !is_cell_path(path) || !its_time.contains(modified_ms) {
            continue;
        }
        if is_old(*modified_ms, now_ms, sweep_age_ms) {
            unmade.old.insert(path.clone(), *modified_ms);
        } else {
            unmade.is_young = true;
        }
    }
    unmade
}

/// Whether a checkpoint that was due up to `version` is missing.
pub fn is_checkpoint_missing(version: u64, newest_checkpoint: Option<u64>, interval: u64) -> bool {
    let due = version - version % interval.max(1);
    due > newest_checkpoint.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: i64 = 1_000;

    /// SplitMix64.
    fn draw(state: &mut u64, below: i64) -> i64 {
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % below as u64) as i64
    }

    /// Random histories: cells are uploaded, committed within the age or never, and removed at some
    /// later time. The sweep only sees modification times and the commits it asked for.
    #[test]
    fn exactly_the_old_cells_that_no_version_named_are_swept() {
        for seed in 0..2_000 {
            let mut state = seed;
            let now = draw(&mut state, 20 * AGE);
            // (name, uploaded, what became of it)
            let mut cells = Vec::new();
            let mut commits: Vec<(i64, String)> = Vec::new();
            let mut live = BTreeSet::new();
            for index in 0..draw(&mut state, 12) {
                let (name, uploaded) = (format!("{index}.parquet"), draw(&mut state, now + 1));
                let committed = uploaded + draw(&mut state, AGE);
                let named = draw(&mut state, 2) == 0 && committed <= now;
                if named {
                    commits.push((committed, name.clone()));
                    let removed = committed + draw(&mut state, 10 * AGE);
                    if removed > now {
                        live.insert(name.clone());
                    }
                }
                cells.push((name, uploaded, named));
            }
            commits.sort();
            let candidates: BTreeMap<String, i64> = cells
                .iter()
                .filter(|(name, uploaded, _)| is_old(*uploaded, now, AGE) && !live.contains(name))
                .map(|(name, uploaded, _)| (name.clone(), *uploaded))
                .collect();
            let times: Vec<(u64, i64)> = (0..).zip(commits.iter().map(|commit| commit.0)).collect();
            let mut swept = candidates.clone();
            for version in plan_evidence(&candidates, &times, AGE) {
                swept.remove(&commits[version as usize].1);
            }
            let wanted: BTreeSet<&str> = cells
                .iter()
                .filter(|(_, uploaded, named)| !named && now - uploaded > AGE)
                .map(|(name, ..)| name.as_str())
                .collect();
            let swept: BTreeSet<&str> = swept.keys().map(String::as_str).collect();
            assert_eq!(swept, wanted, "seed {seed}");
        }
    }

    #[test]
    fn a_maker_left_the_cells_of_its_time_and_nothing_else() {
        let plan = |now_ms, paths: &[(&str, i64)]| {
            let listed = paths.iter().map(|(path, ms)| (path.to_string(), *ms));
            plan_unmade(&listed.collect(), 500, now_ms, AGE)
        };
        let old = |unmade: &Unmade| unmade.old.keys().cloned().collect::<Vec<_>>();
        assert_eq!(plan(9_000, &[]), Unmade::default());
        let unmade = plan(
            9_000,
            &[
                ("mine.parquet", 499),
                ("d=1/a.parquet", 500),
                ("b.parquet", 1_500),
                ("later.parquet", 1_501),
                ("notes.txt", 800),
            ],
        );
        assert_eq!(old(&unmade), ["b.parquet", "d=1/a.parquet"]);
        assert!(!unmade.is_young && !unmade.is_in_log);
        let unmade = plan(1_700, &[("a.parquet", 600), ("b.parquet", 800)]);
        assert_eq!(old(&unmade), ["a.parquet"]);
        assert!(unmade.is_young);
        for log in [
            "_delta_log/00000000000000000000.json",
            "x/_delta_log/_last_checkpoint",
        ] {
            assert!(plan(9_000, &[("a.parquet", 600), (log, 600)]).is_in_log);
        }
    }

    #[test]
    fn without_candidates_no_commit_is_read_and_far_ones_never() {
        let commits = [(0, 0), (1, 5_000), (2, 9_000)];
        assert!(plan_evidence(&BTreeMap::new(), &commits, AGE).is_empty());
        let one = BTreeMap::from([("a".to_string(), 4_500)]);
        assert_eq!(plan_evidence(&one, &commits, AGE), [1]);
    }

    #[test]
    fn hidden_names_are_nobodys_cells() {
        for path in ["part-1.parquet", "d=1/part-1.parquet", "_d=1/x.parquet"] {
            assert!(is_cell_path(path), "{path}");
        }
        for path in [
            "_delta_log/00000000000000000010.checkpoint.parquet",
            "_change_data/x.parquet",
            "d=1/_temporary/x.parquet",
            "_x=1.parquet",
            ".x.parquet",
            "deletion_vector_1.bin",
            "notes.txt",
        ] {
            assert!(!is_cell_path(path), "{path}");
        }
    }

    #[test]
    fn a_checkpoint_is_missing_when_a_due_one_is_not_there() {
        assert!(!is_checkpoint_missing(99, None, 100));
        assert!(is_checkpoint_missing(100, None, 100));
        assert!(is_checkpoint_missing(250, Some(100), 100));
        assert!(!is_checkpoint_missing(250, Some(200), 100));
        assert!(!is_checkpoint_missing(250, Some(237), 100));
        assert!(!is_checkpoint_missing(0, None, 0));
    }
}
