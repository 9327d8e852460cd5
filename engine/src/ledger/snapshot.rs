//! One version of a frame, as a value.
//!
//! A snapshot is immutable and shares structure with its neighbours, so that the next version of a
//! large frame costs what changed, and a query keeps its version as long as it likes.

use super::cell::{ByKey, Cell, KeyRef, Tombstone};
use super::conflict::Footprint;
use crate::schema::FrameSchema;
use apiary_protocol::delta::paths::decode_path;
use apiary_protocol::delta::{DeletionVector, DomainMetadata, Metadata, Protocol, Txn};
use apiary_protocol::registry::DROPPED_PROPERTY;
use imbl::{OrdMap, OrdSet, Vector};
use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

const TOMBSTONE_RETENTION: &str = "delta.deletedFileRetentionDuration";
const TOMBSTONE_RETENTION_MS_DEFAULT: i64 = 7 * 24 * 3_600_000;

/// One version of a frame. Immutable; shares structure with its neighbours.
#[derive(Clone)]
pub struct Snapshot {
    pub location: String,
    pub version: u64,
    pub protocol: Protocol,
    pub metadata: Arc<Metadata>,
    pub schema: Arc<FrameSchema>,
    /// Largest commit timestamp up to here, milliseconds.
    pub timestamp_ms: i64,
    pub(super) cells: OrdSet<ByKey<Arc<Cell>>>,
    pub(super) tombstones: OrdSet<ByKey<Arc<Tombstone>>>,
    pub(super) txns: OrdMap<String, Txn>,
    pub(super) domains: OrdMap<String, DomainMetadata>,
    pub(super) totals: Totals,
    /// The last commits that led here, oldest first: conflicts with them need no reading.
    pub(super) recent: Vector<Arc<Footprint>>,
    pub(super) derived: OnceLock<Arc<dyn Any + Send + Sync>>,
}

/// Sums over live cells, kept up with every change. Wide enough for any count of `i64` sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub bytes: i128,
    pub rows: i128,
    /// Cells whose row count is not known.
    pub uncounted: i128,
}

impl Totals {
    pub fn count(&mut self, cell: &Cell) {
        self.change(cell, 1);
    }

    pub fn discount(&mut self, cell: &Cell) {
        self.change(cell, -1);
    }

    fn change(&mut self, cell: &Cell, sign: i128) {
        self.bytes += sign * i128::from(cell.size_bytes());
        match cell.live_rows() {
            Some(rows) => self.rows += sign * i128::from(rows),
            None => self.uncounted += sign,
        }
    }
}

impl Snapshot {
    /// Live cells in path order.
    pub fn cells(&self) -> impl Iterator<Item = &Arc<Cell>> {
        self.cells.iter().map(|cell| &cell.0)
    }

    pub fn cell_count(&self) -> usize {
        self.cells.len()
    }

    /// The live cell that an `add.path` and a deletion vector name.
    pub fn cell(&self, path: &str, vector: Option<&DeletionVector>) -> Option<&Arc<Cell>> {
        let path = decode_path(path).ok()?;
        self.cells
            .get(&KeyRef::new(&path, vector))
            .map(|cell| &cell.0)
    }

    /// Sum of the cells' sizes.
    pub fn total_bytes(&self) -> u64 {
        u64::try_from(self.totals.bytes).unwrap_or(u64::MAX)
    }

    /// Rows in the snapshot, deletion vectors subtracted; `None` when a cell has no count.
    pub fn row_count(&self) -> Option<u64> {
        if self.totals.uncounted == 0 {
            u64::try_from(self.totals.rows).ok()
        } else {
            None
        }
    }

    /// Last version that an application committed with `txn`.
    pub fn txn_version(&self, app_id: &str) -> Option<i64> {
        self.txns.get(app_id).map(|txn| txn.version)
    }

    /// Whether the frame was dropped: a marker in its properties says so.
    pub fn is_dropped(&self) -> bool {
        is_dropped(&self.metadata)
    }

    /// A value that is derived from this snapshot: built once, kept and shared with it. One type of
    /// value is kept per snapshot; asking for a second builds it each time.
    pub fn derived<T: Send + Sync + 'static>(&self, build: impl Fn(&Self) -> T) -> Arc<T> {
        let kept = self.derived.get_or_init(|| Arc::new(build(self)));
        match Arc::clone(kept).downcast::<T>() {
            Ok(value) => value,
            Err(_) => Arc::new(build(self)),
        }
    }

    /// Takes the paths that this version names, as live or as removed, out of a map.
    pub(super) fn forget_named(&self, paths: &mut BTreeMap<String, i64>) {
        if paths.is_empty() {
            return;
        }
        for live in &self.cells {
            paths.remove(live.0.physical_path());
        }
        for removed in &self.tombstones {
            paths.remove(removed.0.path());
        }
    }

    /// Removes that a checkpoint still has to name, in path order.
    pub(super) fn retained_tombstones(&self) -> impl Iterator<Item = &Arc<Tombstone>> {
        let since = self
            .timestamp_ms
            .saturating_sub(tombstone_retention_ms(&self.metadata));
        let all = self.tombstones.iter().map(|tombstone| &tombstone.0);
        all.filter(move |tombstone| tombstone.deleted_at_ms() > since)
    }
}

impl fmt::Debug for Snapshot {
    /// Short: a snapshot can hold a hundred thousand cells.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("location", &self.location)
            .field("version", &self.version)
            .field("cells", &self.cells.len())
            .finish_non_exhaustive()
    }
}

pub(super) fn is_dropped(metadata: &Metadata) -> bool {
    metadata
        .configuration
        .get(DROPPED_PROPERTY)
        .and_then(|value| value.as_deref())
        == Some("true")
}

/// How long removes are kept, in milliseconds. What does not parse counts as the default.
pub(super) fn tombstone_retention_ms(metadata: &Metadata) -> i64 {
    let text = metadata
        .configuration
        .get(TOMBSTONE_RETENTION)
        .and_then(|value| value.as_deref());
    text.and_then(parse_interval_ms)
        .unwrap_or(TOMBSTONE_RETENTION_MS_DEFAULT)
}

/// `interval 1 week`, `interval 36 hours 10 minutes`.
fn parse_interval_ms(text: &str) -> Option<i64> {
    let text = text.trim().to_ascii_lowercase();
    let words: Vec<&str> = text.strip_prefix("interval")?.split_whitespace().collect();
    if words.is_empty() {
        return None;
    }
    words.chunks(2).try_fold(0_i64, |sum, pair| {
        let [count, unit] = pair else { return None };
        let unit_ms = match unit.trim_end_matches('s') {
            "week" => 7 * 24 * 3_600_000,
            "day" => 24 * 3_600_000,
            "hour" => 3_600_000,
            "minute" => 60_000,
            "second" => 1_000,
            "millisecond" => 1,
            _ => return None,
        };
        let count: i64 = count.parse().ok().filter(|count| *count >= 0)?;
        sum.checked_add(count.checked_mul(unit_ms)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_intervals_are_understood() {
        assert_eq!(parse_interval_ms("interval 1 week"), Some(604_800_000));
        assert_eq!(
            parse_interval_ms("INTERVAL 2 hours 30 minutes"),
            Some(9_000_000)
        );
        for text in [
            "1 week",
            "interval",
            "interval week",
            "interval -1 day",
            "interval 1 moon",
        ] {
            assert_eq!(parse_interval_ms(text), None, "{text}");
        }
    }
}
