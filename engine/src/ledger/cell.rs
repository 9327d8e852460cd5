//! A cell of a snapshot, and the order in which a snapshot keeps cells.
//!
//! The identity of a cell is its *decoded* path and its deletion vector: writers spell one path in
//! several ways (`%20` or a blank), and a remove must find the add that it means.

use apiary_protocol::delta::paths::{PathError, decode_path};
use apiary_protocol::delta::statistics::Statistics;
use apiary_protocol::delta::{Add, DeletionVector, Remove, StringMap};
use equivalent::{Comparable, Equivalent};
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// A cell of a snapshot. A snapshot may have a hundred thousand, so its texts share one allocation
/// and what few cells have is apart.
#[derive(Clone, PartialEq)]
pub struct Cell {
    /// `add.path`, the decoded path where it differs, the statistics, the partition values; each
    /// begins where the one before ends.
    texts: Box<str>,
    path_end: u32,
    decoded_end: u32,
    stats_end: u32,
    data_change: bool,
    has_stats: bool,
    size: i64,
    /// Milliseconds since the Unix epoch, as the log has it.
    pub modification_time: i64,
    /// Rows by the statistics, before deletion vectors; `None` when a foreign writer left them out.
    pub rows: Option<u64>,
    rare: Option<Box<Rare>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Rare {
    tags: Option<StringMap>,
    deletion_vector: Option<DeletionVector>,
    base_row_id: Option<i64>,
    default_row_commit_version: Option<i64>,
    clustering_provider: Option<String>,
}

impl Cell {
    /// Refuses a path that leaves the location.
    pub fn new(add: Add) -> Result<Self, PathError> {
        let rows = add.stats.as_deref().and_then(Statistics::parse_row_count);
        // No file has more, and SQL could not count them.
        let rows = rows.filter(|rows| i64::try_from(*rows).is_ok());
        Self::with_rows(add, rows)
    }

    /// A cell whose row count is known from elsewhere.
    pub fn with_rows(add: Add, rows: Option<u64>) -> Result<Self, PathError> {
        let decoded = decode_path(&add.path)?;
        let stats = add.stats.as_deref().unwrap_or_default();
        let mut texts = String::with_capacity(add.path.len() + stats.len() + 32);
        // More than four gigabytes of text for one cell cannot have been read.
        let end = |texts: &String| u32::try_from(texts.len()).unwrap_or(u32::MAX);
        texts.push_str(&add.path);
        let path_end = end(&texts);
        if *decoded != *add.path {
            texts.push_str(&decoded);
        }
        let decoded_end = end(&texts);
        texts.push_str(stats);
        let stats_end = end(&texts);
        push_partition(&add.partition_values, &mut texts);
        let rare = Rare {
            tags: add.tags,
            deletion_vector: add.deletion_vector,
            base_row_id: add.base_row_id,
            default_row_commit_version: add.default_row_commit_version,
            clustering_provider: add.clustering_provider,
        };
        Ok(Self {
            // A copy of exactly that size: a string that is shrunk keeps its place, which is larger.
            texts: texts.as_str().into(),
            path_end,
            decoded_end,
            stats_end,
            data_change: add.data_change,
            has_stats: add.stats.is_some(),
            size: add.size,
            modification_time: add.modification_time,
            rows,
            rare: (rare != Rare::default()).then(|| Box::new(rare)),
        })
    }

    fn text(&self, start: u32, end: u32) -> &str {
        self.texts
            .get(start as usize..end as usize)
            .unwrap_or_default()
    }

    /// `add.path`, as the log spells it.
    pub fn add_path(&self) -> &str {
        self.text(0, self.path_end)
    }

    /// The physical path below the frame's location.
    pub fn physical_path(&self) -> &str {
        match self.decoded_end > self.path_end {
            true => self.text(self.path_end, self.decoded_end),
            false => self.add_path(),
        }
    }

    /// `add.stats`.
    pub fn stats(&self) -> Option<&str> {
        self.has_stats
            .then(|| self.text(self.decoded_end, self.stats_end))
    }

    /// Partition columns and values, in the order of the names.
    pub fn partition_values(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let mut rest = self
            .texts
            .get(self.stats_end as usize..)
            .unwrap_or_default();
        std::iter::from_fn(move || {
            let name = take_text(&mut rest)??;
            Some((name, take_text(&mut rest)?))
        })
    }

    /// `None` when the log names no value for the column or a null.
    pub fn partition_value(&self, column: &str) -> Option<&str> {
        self.partition_values()
            .find_map(|(name, value)| (name == column).then_some(value))
            .flatten()
    }

    pub fn deletion_vector(&self) -> Option<&DeletionVector> {
        self.rare.as_ref()?.deletion_vector.as_ref()
    }

    pub fn size_bytes(&self) -> u64 {
        u64::try_from(self.size).unwrap_or(0)
    }

    /// Rows that the deletion vector leaves; `None` when they are not known.
    pub fn live_rows(&self) -> Option<u64> {
        match self.deletion_vector() {
            Some(vector) => self
                .rows?
                .checked_sub(u64::try_from(vector.cardinality).ok()?),
            None => self.rows,
        }
    }

    /// The action that names the cell.
    pub fn add(&self) -> Add {
        let rare = self.rare.as_deref().cloned().unwrap_or_default();
        let values = self.partition_values();
        Add {
            path: self.add_path().to_string(),
            partition_values: values
                .map(|(name, value)| (name, value.map(str::to_string)))
                .collect(),
            size: self.size,
            modification_time: self.modification_time,
            data_change: self.data_change,
            stats: self.stats().map(str::to_string),
            tags: rare.tags,
            deletion_vector: rare.deletion_vector,
            base_row_id: rare.base_row_id,
            default_row_commit_version: rare.default_row_commit_version,
            clustering_provider: rare.clustering_provider,
        }
    }

    /// The action that removes the cell now.
    pub fn remove(&self, deletion_timestamp: Option<i64>, data_change: bool) -> Remove {
        let add = self.add();
        Remove {
            path: add.path,
            deletion_timestamp,
            data_change,
            extended_file_metadata: Some(true),
            partition_values: Some(add.partition_values),
            size: Some(add.size),
            deletion_vector: add.deletion_vector,
        }
    }
}

/// Bytes of cells by the log, which may claim anything: a sum that overflows is as good as infinite.
pub fn total_bytes(cells: &[Arc<Cell>]) -> u64 {
    cells
        .iter()
        .fold(0, |sum, cell| sum.saturating_add(cell.size_bytes()))
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cell")
            .field("add", &self.add())
            .field("rows", &self.rows)
            .finish()
    }
}

/// Names and values one after the other, each behind its length; `-` stands for a null.
fn push_partition(values: &StringMap, texts: &mut String) {
    for (name, value) in values.iter() {
        for text in [Some(name), value.as_ref()] {
            match text {
                Some(text) => {
                    texts.push_str(&text.len().to_string());
                    texts.push(':');
                    texts.push_str(text);
                }
                None => texts.push('-'),
            }
        }
    }
}

/// Takes what [`push_partition`] wrote: `None` at the end, `Some(None)` for a null.
fn take_text<'a>(rest: &mut &'a str) -> Option<Option<&'a str>> {
    if let Some(behind) = rest.strip_prefix('-') {
        *rest = behind;
        return Some(None);
    }
    let (length, behind) = rest.split_once(':')?;
    let (text, behind) = behind.split_at_checked(length.parse().ok()?)?;
    *rest = behind;
    Some(Some(text))
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

impl Keyed for Arc<Cell> {
    fn key_ref(&self) -> KeyRef<'_> {
        KeyRef::new(self.physical_path(), self.deletion_vector())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_gives_back_the_action_that_it_was_made_of() {
        let bare = Add {
            path: "p=a%20b/x.parquet".into(),
            partition_values: StringMap::new(),
            size: 5,
            modification_time: 7,
            data_change: true,
            ..Add::default()
        };
        let full = Add {
            path: "x.parquet".into(),
            partition_values: [
                ("é:1".to_string(), Some("-\u{0}12:ü".to_string())),
                ("null".to_string(), None),
                (String::new(), Some(String::new())),
            ]
            .into(),
            data_change: false,
            stats: Some(r#"{"numRecords":3}"#.into()),
            tags: Some(StringMap::new()),
            deletion_vector: Some(DeletionVector {
                storage_type: "u".into(),
                path_or_inline_dv: "v".into(),
                offset: Some(1),
                size_in_bytes: 2,
                cardinality: 1,
            }),
            base_row_id: Some(0),
            ..bare.clone()
        };
        let empty_stats = Add {
            stats: Some(String::new()),
            ..bare.clone()
        };
        for add in [&bare, &full, &empty_stats] {
            assert_eq!(Cell::new(add.clone()).unwrap().add(), *add);
        }
        let cell = Cell::new(full).unwrap();
        assert_eq!(cell.partition_value("é:1"), Some("-\u{0}12:ü"));
        assert_eq!((cell.rows, cell.live_rows()), (Some(3), Some(2)));
        assert_eq!(Cell::new(bare).unwrap().physical_path(), "p=a b/x.parquet");
    }
}
