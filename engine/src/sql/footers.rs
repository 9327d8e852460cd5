//! Footers of cells: what is kept of them in memory, and what of their statistics is believed.

use crate::cell::checksums::Checksums;
use object_store::path::Path;
use parking_lot::Mutex;
use parquet::basic::{LogicalType, Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bytes of footers that are kept in memory when nobody says how many.
const FOOTERS_BYTES_MAX: usize = 64 << 20;
/// What an entry takes besides its footer and its key, which is there twice.
const ENTRY_BYTES: usize = 256;

/// Footers by key, the least recently used one goes first.
#[derive(Debug)]
pub(super) struct FooterCache {
    inner: Mutex<FooterCacheInner>,
    bytes_max: usize,
}

impl Default for FooterCache {
    fn default() -> Self {
        Self::new(FOOTERS_BYTES_MAX)
    }
}

#[derive(Debug, Default)]
struct FooterCacheInner {
    entries: BTreeMap<Path, Footer>,
    by_use: BTreeMap<u64, Path>,
    uses: u64,
    bytes: usize,
}

/// What a cell says of itself.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub metadata: Arc<ParquetMetaData>,
    /// Cells of other writers have none.
    pub checksums: Option<Arc<Checksums>>,
}

impl Known {
    fn memory_bytes(&self) -> usize {
        let checksums = self.checksums.as_ref();
        self.metadata.memory_size() + checksums.map_or(0, |checksums| checksums.memory_bytes())
    }
}

#[derive(Debug)]
struct Footer {
    known: Known,
    size_bytes: u64,
    used: u64,
    memory_bytes: usize,
}

impl FooterCache {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            inner: Mutex::default(),
            bytes_max,
        }
    }

    /// Bytes that it holds now.
    pub fn used_bytes(&self) -> usize {
        self.inner.lock().bytes
    }

    pub fn get(&self, key: &Path, size_bytes: u64) -> Option<Known> {
        let mut inner = self.inner.lock();
        inner.uses += 1;
        let uses = inner.uses;
        let footer = inner
            .entries
            .get_mut(key)
            .filter(|footer| footer.size_bytes == size_bytes)?;
        let known = footer.known.clone();
        let before = std::mem::replace(&mut footer.used, uses);
        inner.by_use.remove(&before);
        inner.by_use.insert(uses, key.clone());
        Some(known)
    }

    pub fn put(&self, key: &Path, size_bytes: u64, known: &Known) {
        let memory_bytes = known.memory_bytes() + 2 * key.as_ref().len() + ENTRY_BYTES;
        if memory_bytes > self.bytes_max / 4 {
            return;
        }
        let mut inner = self.inner.lock();
        inner.remove(key);
        inner.uses += 1;
        let used = inner.uses;
        inner.bytes += memory_bytes;
        inner.by_use.insert(used, key.clone());
        let footer = Footer {
            known: known.clone(),
            size_bytes,
            used,
            memory_bytes,
        };
        inner.entries.insert(key.clone(), footer);
        while inner.bytes > self.bytes_max {
            let Some((_, oldest)) = inner.by_use.pop_first() else {
                break;
            };
            inner.remove(&oldest);
        }
    }
}

impl FooterCacheInner {
    fn remove(&mut self, key: &Path) {
        if let Some(footer) = self.entries.remove(key) {
            self.by_use.remove(&footer.used);
            self.bytes -= footer.memory_bytes;
        }
    }
}

/// The footer without statistics of float columns, but for those that hold no NaN: Parquet's leave it
/// out, it is above (or with its sign set, below) everything, and they do not say whether there is one.
/// Rows that only a NaN brings into an answer would be pruned with their row group or page.
pub(super) fn without_float_bounds(
    metadata: ParquetMetaData,
    without_nan: &BTreeSet<usize>,
) -> Result<ParquetMetaData, ParquetError> {
    let columns = metadata.file_metadata().schema_descr_ptr();
    let floats: Vec<usize> = (0..columns.num_columns())
        .filter(|index| !without_nan.contains(index))
        .filter(|index| {
            let column = columns.column(*index);
            matches!(column.physical_type(), Type::FLOAT | Type::DOUBLE)
                || column.logical_type_ref() == Some(&LogicalType::Float16)
        })
        .collect();
    if floats.is_empty() {
        return Ok(metadata);
    }
    let mut builder = metadata.into_builder();
    let mut groups = vec![];
    for group in builder.take_row_groups() {
        let mut group = group.into_builder();
        let chunks = group.take_columns().into_iter().enumerate();
        let chunks = chunks.map(|(index, chunk)| match floats.contains(&index) {
            true => chunk
                .into_builder()
                .clear_statistics()
                .set_column_index_offset(None)
                .set_column_index_length(None)
                .build(),
            false => Ok(chunk),
        });
        let chunks = chunks.collect::<Result<Vec<_>, _>>()?;
        groups.push(group.set_column_metadata(chunks).build()?);
    }
    let pages = builder.take_column_index().map(|mut pages| {
        for group in &mut pages {
            for index in &floats {
                if let Some(column) = group.get_mut(*index) {
                    *column = ColumnIndexMetaData::NONE;
                }
            }
        }
        pages
    });
    Ok(builder
        .set_row_groups(groups)
        .set_column_index(pages)
        .build())
}
