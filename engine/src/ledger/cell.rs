//! A cell of a snapshot, and the order in which a snapshot keeps cells.
//!
//! The identity of a cell is its *decoded* path and its deletion vector: writers spell one path in
//! several ways (`%20` or a blank), and a remove must find the add that it means.

use apiary_protocol::delta::paths::{PathError, decode_path};
use apiary_protocol::delta::statistics::Statistics;
use apiary_protocol::delta::{Add, DeletionVector, Remove};
use equivalent::{Comparable, Equivalent};
use std::cmp::Ordering;
use std::sync::Arc;

/// A cell of a snapshot: its `add` action and what of it is looked at often.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    pub add: Add,
    /// Rows by the statistics, before deletion vectors; `None` when a foreign writer left them out.
    pub rows: Option<u64>,
}

impl Cell {
    pub fn size_bytes(&self) -> u64 {
        u64::try_from(self.add.size).unwrap_or(0)
    }

    /// Rows that the deletion vector leaves; `None` when they are not known.
    pub fn live_rows(&self) -> Option<u64> {
        match &self.add.deletion_vector {
            Some(vector) => self
                .rows?
                .checked_sub(u64::try_from(vector.cardinality).ok()?),
            None => self.rows,
        }
    }
}

/// Bytes of cells by the log, which may claim anything: a sum that overflows is as good as infinite.
pub fn total_bytes(cells: &[Arc<Cell>]) -> u64 {
    cells
        .iter()
        .fold(0, |sum, cell| sum.saturating_add(cell.size_bytes()))
}

/// A cell as a snapshot keeps it.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub cell: Arc<Cell>,
    /// The decoded path where it differs from `add.path`.
    decoded: Option<Arc<str>>,
}

impl Live {
    /// Refuses a path that leaves the location.
    pub fn new(add: Add) -> Result<Self, PathError> {
        let decoded = decode_path(&add.path)?;
        let decoded = (decoded != add.path).then(|| decoded.into());
        let rows = add.stats.as_deref().and_then(Statistics::parse_row_count);
        // No file has more, and SQL could not count them.
        let rows = rows.filter(|rows| i64::try_from(*rows).is_ok());
        Ok(Self {
            cell: Arc::new(Cell { add, rows }),
            decoded,
        })
    }

    /// The physical path below the frame's location, decoded.
    pub fn path(&self) -> &str {
        self.decoded.as_deref().unwrap_or(&self.cell.add.path)
    }
}

/// A removed cell, kept for checkpoints until its retention is over.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tombstone {
    pub remove: Remove,
    decoded: Option<Box<str>>,
}

impl Tombstone {
    /// A path that does not decode names no cell of ours; it is kept as it is written.
    pub fn new(remove: Remove) -> Self {
        let decoded = decode_path(&remove.path)
            .ok()
            .filter(|decoded| *decoded != remove.path);
        Self {
            remove,
            decoded: decoded.map(String::into_boxed_str),
        }
    }

    /// The physical path, decoded where it can be.
    pub fn path(&self) -> &str {
        self.decoded.as_deref().unwrap_or(&self.remove.path)
    }

    /// By the protocol, absence means "long ago".
    pub fn deleted_at_ms(&self) -> i64 {
        self.remove.deletion_timestamp.unwrap_or(0)
    }
}

/// What a cell is found by. For one path, no deletion vector sorts first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyRef<'a> {
    pub path: &'a str,
    vector: Option<(&'a str, &'a str, Option<i32>)>,
}

impl<'a> KeyRef<'a> {
    pub fn new(path: &'a str, vector: Option<&'a DeletionVector>) -> Self {
        let vector = vector.map(|v| (&*v.storage_type, &*v.path_or_inline_dv, v.offset));
        Self { path, vector }
    }
}

pub(super) trait Keyed {
    fn key_ref(&self) -> KeyRef<'_>;
}

impl Keyed for Live {
    fn key_ref(&self) -> KeyRef<'_> {
        KeyRef::new(self.path(), self.cell.add.deletion_vector.as_ref())
    }
}

impl Keyed for Arc<Tombstone> {
    fn key_ref(&self) -> KeyRef<'_> {
        KeyRef::new(self.path(), self.remove.deletion_vector.as_ref())
    }
}

/// A value that is ordered by its key.
#[derive(Clone, Debug)]
pub(super) struct ByKey<T>(pub T);

impl<T: Keyed> PartialEq for ByKey<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl<T: Keyed> Eq for ByKey<T> {}
impl<T: Keyed> PartialOrd for ByKey<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T: Keyed> Ord for ByKey<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key_ref().cmp(&other.0.key_ref())
    }
}
impl<T: Keyed> Equivalent<ByKey<T>> for KeyRef<'_> {
    fn equivalent(&self, other: &ByKey<T>) -> bool {
        *self == other.0.key_ref()
    }
}
impl<T: Keyed> Comparable<ByKey<T>> for KeyRef<'_> {
    fn compare(&self, other: &ByKey<T>) -> Ordering {
        self.cmp(&other.0.key_ref())
    }
}
