//! The ledger's invariants as predicates: for debug assertions, tests and simulations.
//!
//! Each gives the first thing that is wrong, in words.

use super::Snapshot;
use super::cell::ByKey;
use super::snapshot::Totals;

/// Cells up to which a debug assertion goes through all of a snapshot.
pub const CELLS_CHECKED_MAX: usize = 1_000;

/// LEDGER-1: versions start at 0 and leave none out.
pub fn check_dense(versions: &[u64]) -> Result<(), String> {
    for (expected, found) in (0_u64..).zip(versions) {
        if *found != expected {
            return Err(format!("version {found} stands where {expected} must be"));
        }
    }
    Ok(())
}

/// All that holds of a snapshot by itself, unless it is large.
pub(super) fn check_small(snapshot: &Snapshot) -> Result<(), String> {
    if snapshot.cell_count() > CELLS_CHECKED_MAX {
        return Ok(());
    }
    check_no_duplicate_cells(snapshot)?;
    check_totals(snapshot)
}

/// LEDGER-3: no file is live twice, with whatever deletion vectors.
pub fn check_no_duplicate_cells(snapshot: &Snapshot) -> Result<(), String> {
    let mut previous: Option<&str> = None;
    for live in &snapshot.cells {
        if previous == Some(live.0.physical_path()) {
            return Err(format!("{} is live twice", live.0.physical_path()));
        }
        previous = Some(live.0.physical_path());
    }
    Ok(())
}

/// The sums that a snapshot keeps are those of its cells.
pub fn check_totals(snapshot: &Snapshot) -> Result<(), String> {
    let mut totals = Totals::default();
    snapshot.cells().for_each(|cell| totals.count(cell));
    match totals == snapshot.totals {
        true => Ok(()),
        false => Err(format!(
            "the cells sum up to {totals:?} and not to {:?}",
            snapshot.totals
        )),
    }
}

/// LEDGER-1: one version has one content, whatever way it was read.
pub fn check_same_content(a: &Snapshot, b: &Snapshot) -> Result<(), String> {
    let differs = |what: &str| {
        Err(format!(
            "versions {} and {}: {what} differ",
            a.version, b.version
        ))
    };
    if a.version != b.version || a.timestamp_ms != b.timestamp_ms {
        return differs("versions or timestamps");
    }
    if a.protocol != b.protocol || a.metadata != b.metadata {
        return differs("protocol or metadata");
    }
    if a.txns != b.txns || a.domains != b.domains {
        return differs("transactions or domains");
    }
    // A checkpoint clears `dataChange`, which says nothing about the snapshot.
    let same = |(a, b): (&super::Cell, &super::Cell)| {
        let (mut add, other) = (a.add(), b.add());
        add.data_change = other.data_change;
        add == other && a.rows == b.rows
    };
    let pairs = a.cells().zip(b.cells());
    if a.cell_count() != b.cell_count() || !pairs.map(|(a, b)| (&**a, &**b)).all(same) {
        return differs("cells");
    }
    let tombstones = |snapshot: &Snapshot| -> Vec<_> {
        snapshot
            .retained_tombstones()
            .map(|tombstone| ByKey(tombstone.clone()))
            .collect()
    };
    if tombstones(a) != tombstones(b) {
        return differs("tombstones");
    }
    Ok(())
}
