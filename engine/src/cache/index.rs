//! Which parts are on disk, which of them are being read, and which go first.
//!
//! Invariants: the files of all parts have at most `bytes_max` bytes together and are at most
//! `parts_max`; a part that is being read makes no room; of the others, the one whose last use is
//! longest ago goes first.

use apiary_protocol::cache::{
    CachedCells, CellDigest, PART_HEADER_BYTES_MAX, PartId, PartName, UseOrder,
};
use std::collections::BTreeMap;

/// File systems give out no less at a time.
const BLOCK_BYTES: u64 = 4 << 10;
/// Memory that an entry takes in the maps, about.
pub(super) const ENTRY_MEMORY_BYTES: u64 = 160;

#[derive(Debug)]
pub struct PartIndex {
    bytes_max: u64,
    parts_max: usize,
    entries: BTreeMap<PartId, Entry>,
    /// Parts that nobody reads, by their last use.
    by_use: BTreeMap<u64, PartId>,
    uses: u64,
    bytes: u64,
    /// Of parts that are being read.
    pinned_bytes: u64,
}

#[derive(Debug)]
struct Entry {
    length: u32,
    used: u64,
    pins: u32,
}

/// What a part's file takes of the disk.
fn file_bytes(length: u32) -> u64 {
    (u64::from(length) + PART_HEADER_BYTES_MAX).next_multiple_of(BLOCK_BYTES)
}

impl PartIndex {
    /// For files of at most `bytes_max` bytes, and an index of at most `memory_bytes`.
    pub fn new(bytes_max: u64, memory_bytes: u64) -> Self {
        Self {
            bytes_max,
            parts_max: (memory_bytes / ENTRY_MEMORY_BYTES).max(1) as usize,
            entries: BTreeMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            bytes: 0,
            pinned_bytes: 0,
        }
    }

    /// Takes over what an earlier process left; gives what has to go. Parts that its order does not
    /// name were used after those that it names.
    pub fn adopt(&mut self, found: Vec<PartName>, order: &UseOrder) -> Vec<PartName> {
        let mut found: BTreeMap<PartId, u32> = found
            .into_iter()
            .map(|name| (name.part, name.length))
            .collect();
        let mut names = Vec::with_capacity(found.len());
        for part in order.parts() {
            if let Some(length) = found.remove(&part) {
                names.push(PartName { part, length });
            }
        }
        let later = found.into_iter();
        names.extend(later.map(|(part, length)| PartName { part, length }));
        for name in names {
            self.enter(name);
        }
        self.shrink(self.bytes_max, self.parts_max)
    }

    pub fn used_bytes(&self) -> u64 {
        self.bytes
    }

    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    pub fn part_count(&self) -> usize {
        self.entries.len()
    }

    pub fn holds(&self, part: PartId) -> bool {
        self.entries.contains_key(&part)
    }

    /// Takes a part for reading; false when it is not here. Each success wants one [`Self::unpin`].
    pub fn pin(&mut self, part: PartId) -> bool {
        let Some(entry) = self.entries.get_mut(&part) else {
            return false;
        };
        if entry.pins == 0 {
            self.by_use.remove(&entry.used);
            self.pinned_bytes += file_bytes(entry.length);
        }
        entry.pins += 1;
        true
    }

    /// The part was read. One that went meanwhile is no error.
    pub fn unpin(&mut self, part: PartId) {
        let Some(entry) = self.entries.get_mut(&part).filter(|entry| entry.pins > 0) else {
            return;
        };
        entry.pins -= 1;
        if entry.pins == 0 {
            self.uses += 1;
            entry.used = self.uses;
            self.by_use.insert(entry.used, part);
            self.pinned_bytes -= file_bytes(entry.length);
        }
    }

    /// Makes room for a part; gives the parts that go for it, which are here no longer. `None` when
    /// there is none to be made, and then nothing goes.
    pub fn make_room(&mut self, length: u32) -> Option<Vec<PartName>> {
        let wanted = file_bytes(length);
        let pinned = self.entries.len() - self.by_use.len();
        if self.pinned_bytes + wanted > self.bytes_max || pinned >= self.parts_max {
            return None;
        }
        Some(self.shrink(self.bytes_max - wanted, self.parts_max - 1))
    }

    /// Gives what has to go until so much is left. What is being read stays.
    fn shrink(&mut self, bytes_max: u64, parts_max: usize) -> Vec<PartName> {
        let mut gone = Vec::new();
        while self.bytes > bytes_max || self.entries.len() > parts_max {
            let Some((_, part)) = self.by_use.first_key_value() else {
                break;
            };
            gone.extend(self.remove(*part));
        }
        gone
    }

    /// Notes a part that has been written, as the last one used.
    pub fn insert(&mut self, name: PartName) {
        self.remove(name.part);
        self.enter(name);
    }

    fn enter(&mut self, name: PartName) {
        self.uses += 1;
        let (length, used) = (name.length, self.uses);
        self.by_use.insert(used, name.part);
        self.bytes += file_bytes(length);
        let pins = 0;
        self.entries.insert(name.part, Entry { length, used, pins });
    }

    /// Takes a part out, also while it is read.
    pub fn remove(&mut self, part: PartId) -> Option<PartName> {
        let Entry { length, used, pins } = self.entries.remove(&part)?;
        self.bytes -= file_bytes(length);
        if pins == 0 {
            self.by_use.remove(&used);
        } else {
            self.pinned_bytes -= file_bytes(length);
        }
        Some(PartName { part, length })
    }

    /// Takes out all parts of a cell.
    pub fn remove_cell(&mut self, cell: CellDigest) -> Vec<PartName> {
        let first = PartId { cell, index: 0 };
        let last = PartId {
            cell,
            index: u32::MAX,
        };
        let parts: Vec<PartId> = self
            .entries
            .range(first..=last)
            .map(|(id, _)| *id)
            .collect();
        parts
            .into_iter()
            .filter_map(|part| self.remove(part))
            .collect()
    }

    /// Parts by their last use; those that are being read come last.
    pub fn order(&self) -> UseOrder {
        let pinned = self.entries.iter().filter(|(_, entry)| entry.pins > 0);
        UseOrder::new(
            self.by_use
                .values()
                .copied()
                .chain(pinned.map(|(id, _)| *id)),
        )
    }

    /// What others are told.
    pub fn cells(&self) -> CachedCells {
        let mut cells: BTreeMap<CellDigest, usize> = BTreeMap::new();
        for part in self.entries.keys() {
            *cells.entry(part.cell).or_default() += 1;
        }
        CachedCells::new(cells)
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
