//! Parts of cells on a node's own disk: whose they are, their names and bytes, the order in which they
//! were used; and what a node tells others of them.
//!
//! A part is [`PART_BYTES`] of a cell, counted from its beginning; a cell's last one is shorter. Only
//! the process that has the directory's lock writes there. It may be killed at any moment and syncs
//! nothing, so a part is believed when its checksum is right, it says that it is of the cell that is
//! asked for, and it has the length that such a part has; else it is read from the meadow again.

use crate::envelope::{self, Body};
use crate::format::FormatError;
use crate::ids::MeadowId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Bytes of a cell in one part.
pub const PART_BYTES: u64 = 512 << 10;
/// Most bytes of a part's file before the bytes of the cell.
pub const PART_HEADER_BYTES_MAX: u64 = 2 << 10;
/// Most cells that a heartbeat tells of.
pub const CACHED_CELLS_MAX: usize = 1024;

const MAGIC: &[u8; 8] = b"APIARYP1";
const HEADER_BYTES: usize = 20;
const DIGEST_DIGITS: usize = 32;
const ORDER_RECORD_BYTES: usize = 20;
const CELL_RECORD_BYTES: usize = 6;

/// Tells a cell from every other one, of whatever meadow, and from one that took its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellIdentity {
    text: String,
    size_bytes: u64,
    digest: CellDigest,
}

/// A short form of [`CellIdentity`], for names and maps. Two cells could share one, and a part says in
/// full whose it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CellDigest(u128);

impl fmt::Debug for CellDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl CellIdentity {
    /// Key, size and modification time are what the ledger says of the cell.
    pub fn new(meadow: MeadowId, key: &str, size_bytes: u64, modified_ms: i64) -> Self {
        let text = format!("{meadow}\n{size_bytes}\n{modified_ms}\n{key}");
        Self {
            digest: CellDigest(hash(text.as_bytes())),
            text,
            size_bytes,
        }
    }

    pub fn digest(&self) -> CellDigest {
        self.digest
    }

    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The bytes of the cell that a part holds; empty behind its end.
    pub fn part_range(&self, index: u32) -> std::ops::Range<u64> {
        let start = (u64::from(index) * PART_BYTES).min(self.size_bytes);
        start..(start + PART_BYTES).min(self.size_bytes)
    }

    pub fn part(&self, index: u32) -> PartId {
        PartId {
            cell: self.digest,
            index,
        }
    }

    pub fn part_name(&self, index: u32) -> PartName {
        let range = self.part_range(index);
        PartName {
            part: self.part(index),
            length: (range.end - range.start) as u32,
        }
    }

    /// What a part's file has before the bytes of the cell.
    pub fn part_header(&self, index: u32, bytes: &[u8]) -> Vec<u8> {
        let mut header = Vec::with_capacity(HEADER_BYTES + self.text.len());
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&[0; 4]);
        header.extend_from_slice(&index.to_le_bytes());
        header.extend_from_slice(&(self.text.len() as u32).to_le_bytes());
        header.extend_from_slice(self.text.as_bytes());
        let crc = checksum(&header[12..], bytes);
        header[8..12].copy_from_slice(&crc.to_le_bytes());
        header
    }

    /// Bytes of a part's file.
    pub fn part_file_bytes(&self, index: u32) -> u64 {
        let range = self.part_range(index);
        (HEADER_BYTES + self.text.len()) as u64 + range.end - range.start
    }

    /// Where in a part's file the bytes of the cell begin, after checking all of it.
    pub fn open_part(&self, index: u32, file: &[u8]) -> Result<usize, FormatError> {
        let length = file.len();
        if length as u64 != self.part_file_bytes(index) {
            return Err(FormatError::Torn { length });
        }
        let (header, bytes) = file.split_at(HEADER_BYTES + self.text.len());
        let is_sound = header == self.part_header(index, bytes);
        match is_sound || crate::planted!(CacheUnchecked) {
            true => Ok(header.len()),
            false => Err(FormatError::Corrupt(
                "it is not the part that was written".into(),
            )),
        }
    }
}

/// A part of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartId {
    pub cell: CellDigest,
    pub index: u32,
}

/// A part's file: `{digest}-{index}-{length}` in hexadecimal digits, in the directory of the digest's
/// first two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartName {
    pub part: PartId,
    /// Bytes of the cell that it holds.
    pub length: u32,
}

impl PartName {
    pub fn directory(&self) -> String {
        format!("{:02x}", self.part.cell.0 >> 120)
    }

    /// `None` for a name that this build would not give.
    pub fn parse(name: &str) -> Option<Self> {
        let mut fields = name.split('-');
        let (cell, index, length) = (fields.next()?, fields.next()?, fields.next()?);
        let found = Self {
            part: PartId {
                cell: CellDigest(u128::from_str_radix(cell, 16).ok()?),
                index: u32::from_str_radix(index, 16).ok()?,
            },
            length: u32::from_str_radix(length, 16).ok()?,
        };
        let is_sound = u64::from(found.length) <= PART_BYTES && found.length > 0;
        (is_sound && cell.len() == DIGEST_DIGITS && found.to_string() == name).then_some(found)
    }
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PartId { cell, index } = self.part;
        write!(f, "{:032x}-{index:x}-{:x}", cell.0, self.length)
    }
}

/// FNV-1a of 128 bits, stirred, since its upper half hardly knows the last bytes. Nobody relies on more
/// than that it spreads.
fn hash(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    const STIR: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
    let hash = bytes.iter().fold(OFFSET, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(PRIME)
    });
    let hash = (hash ^ (hash >> 64)).wrapping_mul(STIR);
    let hash = (hash ^ (hash >> 64)).wrapping_mul(STIR);
    hash ^ (hash >> 64)
}

fn checksum(header: &[u8], bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(header);
    crc.update(bytes);
    crc.finalize()
}

/// The file `order`: parts by their last use, oldest first. Advice: what is not in it was used later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UseOrder {
    /// Records of 20 bytes, little-endian: digest, index.
    #[serde(with = "crate::binary")]
    records: Vec<u8>,
}

impl Body for UseOrder {
    const KIND: u16 = 8;
    const NAME: &'static str = "order of cached parts";
    const FORMAT: u16 = 1;
}

impl UseOrder {
    pub fn new(parts: impl IntoIterator<Item = PartId>) -> Self {
        let mut records = Vec::new();
        for PartId { cell, index } in parts {
            records.extend_from_slice(&cell.0.to_le_bytes());
            records.extend_from_slice(&index.to_le_bytes());
        }
        Self { records }
    }

    pub fn parts(&self) -> impl Iterator<Item = PartId> + '_ {
        let (records, _) = self.records.as_chunks::<ORDER_RECORD_BYTES>();
        records.iter().map(|record| {
            let (mut cell, mut index) = ([0; 16], [0; 4]);
            cell.copy_from_slice(&record[..16]);
            index.copy_from_slice(&record[16..]);
            PartId {
                cell: CellDigest(u128::from_le_bytes(cell)),
                index: u32::from_le_bytes(index),
            }
        })
    }

    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        envelope::seal(self)
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        envelope::open(bytes)
    }
}

/// The cells of which most is cached, and roughly how much. 32 bits tell cells apart: now and then two
/// are taken for one another, and a task runs where less is cached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CachedCells {
    /// Records of 6 bytes, little-endian, in growing order: upper half of the digest's upper half,
    /// parts.
    #[serde(with = "crate::binary")]
    records: Vec<u8>,
}

impl CachedCells {
    /// Of all cells with their number of parts, those with most.
    pub fn new(cells: impl IntoIterator<Item = (CellDigest, usize)>) -> Self {
        let mut cells: Vec<(CellDigest, usize)> = cells.into_iter().collect();
        cells.sort_unstable_by_key(|(cell, parts)| (std::cmp::Reverse(*parts), *cell));
        cells.truncate(CACHED_CELLS_MAX);
        let short = cells.iter().map(|(cell, parts)| {
            let parts = u16::try_from(*parts).unwrap_or(u16::MAX);
            (short(*cell), parts)
        });
        let mut short: Vec<(u32, u16)> = short.collect();
        short.sort_unstable();
        // Of two that look the same the one with fewer parts comes first, and stays.
        short.dedup_by_key(|(cell, _)| *cell);
        let mut records = Vec::with_capacity(short.len() * CELL_RECORD_BYTES);
        for (cell, parts) in short {
            records.extend_from_slice(&cell.to_le_bytes());
            records.extend_from_slice(&parts.to_le_bytes());
        }
        Self { records }
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// About how many bytes of a cell are cached; at most its size.
    pub fn bytes_of(&self, cell: CellDigest, size_bytes: u64) -> u64 {
        let (records, _) = self.records.as_chunks::<CELL_RECORD_BYTES>();
        let found = records.binary_search_by_key(&short(cell), |record| fields(record).0);
        let parts = found.map_or(0, |at| fields(&records[at]).1);
        (u64::from(parts) * PART_BYTES).min(size_bytes)
    }

    /// Whether it is one that [`CachedCells::new`] could have given.
    pub(crate) fn is_sound(&self) -> bool {
        let (records, rest) = self.records.as_chunks::<CELL_RECORD_BYTES>();
        rest.is_empty()
            && records.len() <= CACHED_CELLS_MAX
            && records.is_sorted_by(|a, b| fields(a).0 < fields(b).0)
    }
}

fn short(cell: CellDigest) -> u32 {
    (cell.0 >> 96) as u32
}

fn fields(record: &[u8; CELL_RECORD_BYTES]) -> (u32, u16) {
    let [a, b, c, d, e, f] = *record;
    (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &[u8] = include_bytes!("../tests-data/part-1.bin");
    const GOLDEN_NAME: &str = "418d4f70c6bc4875b951df74f463f427-1-5";

    fn identity() -> CellIdentity {
        let meadow = MeadowId::from_random([0x11; 16]);
        CellIdentity::new(
            meadow,
            "a/b/part-1.parquet",
            PART_BYTES + 5,
            1_767_225_600_000,
        )
    }

    fn file(identity: &CellIdentity, index: u32, bytes: &[u8]) -> Vec<u8> {
        [identity.part_header(index, bytes), bytes.to_vec()].concat()
    }

    #[test]
    fn format_1_is_read_for_ever_and_written_the_same() {
        let identity = identity();
        assert_eq!(file(&identity, 1, b"later"), GOLDEN);
        assert_eq!(identity.part_name(1).to_string(), GOLDEN_NAME);
        let body_at = identity.open_part(1, GOLDEN);
        assert!(matches!(body_at, Ok(at) if &GOLDEN[at..] == b"later"));
    }

    #[test]
    fn a_part_of_which_anything_changed_is_not_believed() {
        let (identity, sound) = (identity(), file(&identity(), 1, b"later"));
        for at in 0..sound.len() {
            let mut changed = sound.clone();
            changed[at] ^= 1;
            assert!(identity.open_part(1, &changed).is_err(), "byte {at}");
            assert!(identity.open_part(1, &sound[..at]).is_err(), "{at} bytes");
        }
        assert!(identity.open_part(1, &[&sound[..], b"x"].concat()).is_err());
        assert!(identity.open_part(0, &sound).is_err());
        let meadow = MeadowId::from_random([0x11; 16]);
        let replaced = CellIdentity::new(
            meadow,
            "a/b/part-1.parquet",
            PART_BYTES + 5,
            1_767_225_600_001,
        );
        assert!(replaced.open_part(1, &sound).is_err());
        assert_ne!(replaced.digest(), identity.digest());
    }

    #[test]
    fn parts_cover_a_cell_without_gaps() {
        let identity = identity();
        assert_eq!(identity.part_range(0), 0..PART_BYTES);
        assert_eq!(identity.part_range(1), PART_BYTES..PART_BYTES + 5);
        assert!(identity.part_range(2).is_empty());
        assert!(identity.part_range(u32::MAX).is_empty());
    }

    #[test]
    fn cells_whose_names_differ_in_one_letter_are_told_apart_by_their_short_forms() {
        let meadow = MeadowId::from_random([0x11; 16]);
        let cell = |number: u32| CellIdentity::new(meadow, &format!("c-{number}"), 1, 0);
        let forms: std::collections::BTreeSet<u32> = (0..1_000)
            .map(|number| short(cell(number).digest()))
            .collect();
        assert_eq!(forms.len(), 1_000);
        let directories: std::collections::BTreeSet<String> = (0..1_000)
            .map(|number| cell(number).part_name(0).directory())
            .collect();
        assert!(directories.len() > 200, "{}", directories.len());
    }

    #[test]
    fn only_names_that_this_build_gives_are_names() {
        let name = identity().part_name(1);
        assert_eq!(PartName::parse(&name.to_string()), Some(name));
        assert!(name.to_string().starts_with(&name.directory()));
        for wrong in [
            "",
            "order",
            "1-1-1",
            &GOLDEN_NAME.to_uppercase(),
            &GOLDEN_NAME.replace("-5", "-0"),
            &GOLDEN_NAME.replace("-5", "-80001"),
            &GOLDEN_NAME.replace("-1-", "-01-"),
            &format!("{GOLDEN_NAME}-"),
        ] {
            assert_eq!(PartName::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_order_of_use_is_read_as_it_was_written() -> Result<(), FormatError> {
        let parts: Vec<PartId> = (0..3).map(|index| identity().part(index)).collect();
        let order = UseOrder::new(parts.clone());
        let read = UseOrder::from_bytes(&order.to_bytes()?)?;
        assert_eq!(read.parts().collect::<Vec<_>>(), parts);
        Ok(())
    }

    #[test]
    fn a_summary_tells_of_the_cells_with_most_parts_and_stays_small() {
        let cell = |number: u32| CellDigest(u128::from(number) << 96);
        let all = (0..5_000_u32).map(|number| (cell(number), number as usize + 1));
        let summary = CachedCells::new(all);
        assert!(summary.is_sound());
        assert_eq!(summary.records.len(), CACHED_CELLS_MAX * CELL_RECORD_BYTES);
        assert_eq!(summary.bytes_of(cell(0), u64::MAX), 0);
        assert_eq!(summary.bytes_of(cell(4_999), u64::MAX), 5_000 * PART_BYTES);
        assert_eq!(summary.bytes_of(cell(4_999), 7), 7);
        let mut torn = summary.clone();
        torn.records.pop();
        assert!(!torn.is_sound());
        let twice = CachedCells::new([(cell(1), 4), (CellDigest(cell(1).0 + 1), 2)]);
        assert_eq!(twice.bytes_of(cell(1), u64::MAX), 2 * PART_BYTES);
    }
}
