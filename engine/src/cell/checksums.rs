//! Checksums of a cell, inside the cell: a changed bit is an error, not another answer.
//!
//! Parquet's own page checksums are optional and its Rust writer has none. So the footer's key-value
//! metadata carries, under [`KEY`], a CRC-32 of every [`BLOCK_BYTES`] of each column chunk, one of
//! the page indexes (all between the last chunk and the footer) and one of the footer itself,
//! computed while the field that holds it is zero. Blocks start anew with each chunk, so that a
//! reader of whole chunks reads no byte more; a reader of some pages reads to the next block edge.
//!
//! Other readers ignore the key. Cells of other writers have no such key and are not checked.

use parquet::file::metadata::{KeyValue, ParquetMetaData, RowGroupMetaData};
use std::collections::BTreeMap;
use std::ops::Range;

pub const KEY: &str = "apiary.checksums";
pub const BLOCK_BYTES: u64 = 128 << 10;
const FIELD_ZERO: &str = "00000000";
const FIELD_CHARS: usize = 8;
/// The footer's length and the magic that end a Parquet file.
const TRAILER_BYTES: usize = 8;
/// The magic that begins a Parquet file.
pub const HEADER_BYTES: u64 = 4;

/// Collects what the footer will carry.
#[derive(Debug, Default)]
pub struct Recorder {
    blocks: Vec<u32>,
}

impl Recorder {
    /// The next column chunk, in the order of the file.
    pub fn add_chunk(&mut self, bytes: &[u8]) {
        self.blocks
            .extend(bytes.chunks(BLOCK_BYTES as usize).map(crc32fast::hash));
    }

    /// The footer's entry, with zeros where [`seal`] puts what is only known in the end.
    pub fn entry(&self) -> KeyValue {
        let blocks: String = self.blocks.iter().map(|crc| format!("{crc:08x}")).collect();
        KeyValue::new(KEY.into(), head(FIELD_ZERO, FIELD_ZERO) + &blocks)
    }
}

fn head(index: &str, footer: &str) -> String {
    format!("crc32/{BLOCK_BYTES} index={index} footer={footer} blocks=")
}

/// Puts the checksums of page indexes and footer in. `tail`: the file from the end of its last
/// column chunk, which is after `index_at` bytes of it.
///
/// `None` when the tail is none that holds a [`Recorder::entry`].
pub fn seal(tail: &mut [u8], index_at: usize) -> Option<()> {
    let footer_at = footer_at(tail)?;
    let index = format!(
        "{:08x}",
        crc32fast::hash(tail.get(index_at.min(footer_at)..footer_at)?)
    );
    let footer = tail.get_mut(footer_at..)?;
    let zeros = head(FIELD_ZERO, FIELD_ZERO);
    let at = find_last(footer, zeros.as_bytes())?;
    let sealed = head(&index, FIELD_ZERO);
    footer
        .get_mut(at..at + sealed.len())?
        .copy_from_slice(sealed.as_bytes());
    let sealed = head(&index, &format!("{:08x}", crc32fast::hash(footer)));
    footer
        .get_mut(at..at + sealed.len())?
        .copy_from_slice(sealed.as_bytes());
    Some(())
}

/// Where the footer begins in the end of a file.
fn footer_at(tail: &[u8]) -> Option<usize> {
    let trailer_at = tail.len().checked_sub(TRAILER_BYTES)?;
    let length = tail.get(trailer_at..trailer_at + 4)?.try_into().ok()?;
    trailer_at.checked_sub(u32::from_le_bytes(length) as usize)
}

/// User values in the footer's statistics stand before the key-value metadata.
fn find_last(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .rposition(|window| window == wanted)
}

/// The checksums of one cell.
#[derive(Debug)]
pub struct Checksums {
    block_bytes: u64,
    /// First byte to the chunk's end and the index of its first block.
    chunks: BTreeMap<u64, (u64, usize)>,
    blocks: Vec<u32>,
    index: Range<u64>,
    index_crc: u32,
}

impl Checksums {
    /// Those that a footer carries, after checking the footer itself; `None` when it carries none.
    /// `tail` is the end of the file, `size_bytes` of the whole.
    ///
    /// # Errors
    /// What is wrong, in words that follow the cell's key.
    pub fn read(
        metadata: &ParquetMetaData,
        tail: &[u8],
        size_bytes: u64,
    ) -> Result<Option<Self>, String> {
        let entries = metadata.file_metadata().key_value_metadata();
        let entry = entries.and_then(|entries| entries.iter().find(|entry| entry.key == KEY));
        let Some(text) = entry.and_then(|entry| entry.value.as_deref()) else {
            return Ok(None);
        };
        let parsed = parse(text).ok_or("its checksums cannot be read")?;
        let (block_bytes, index_crc, footer_crc, hex) = parsed;
        let footer_at = footer_at(tail).ok_or("its footer is cut")?;
        check_footer(&tail[footer_at..], text, footer_crc)?;
        let blocks = hex
            .as_bytes()
            .chunks(FIELD_CHARS)
            .map(|field| u32::from_str_radix(std::str::from_utf8(field).ok()?, 16).ok());
        let blocks: Option<Vec<u32>> = blocks.collect();
        let blocks = blocks.ok_or("its checksums cannot be read")?;
        let mut chunks = BTreeMap::new();
        let (mut next, mut end) = (0, HEADER_BYTES);
        for range in metadata.row_groups().iter().flat_map(chunk_ranges) {
            chunks.insert(range.start, (range.end, next));
            next += (range.end - range.start).div_ceil(block_bytes) as usize;
            end = end.max(range.end);
        }
        if next != blocks.len() {
            return Err(format!(
                "it has {next} blocks and {} checksums",
                blocks.len()
            ));
        }
        let index = end..size_bytes - (tail.len() - footer_at) as u64;
        Ok(Some(Self {
            block_bytes,
            chunks,
            blocks,
            index,
            index_crc,
        }))
    }

    /// The page indexes, which are checked as one.
    pub fn index(&self) -> Range<u64> {
        self.index.clone()
    }

    pub fn memory_bytes(&self) -> usize {
        self.blocks.len() * size_of::<u32>() + self.chunks.len() * 48 + size_of::<Self>()
    }

    /// What must be read to check `range`: to the edges of its blocks. `None` when it lies in no
    /// column chunk and not in the page indexes.
    pub fn widen(&self, range: &Range<u64>) -> Option<Range<u64>> {
        if self.index.start <= range.start && range.end <= self.index.end {
            return Some(self.index.clone());
        }
        let (start, (end, _)) = self.chunks.range(..=range.start).next_back()?;
        if range.end > *end || range.start > range.end {
            return None;
        }
        let down = range.start - (range.start - start) % self.block_bytes;
        let up = start + (range.end - start).next_multiple_of(self.block_bytes);
        Some(down..up.min(*end))
    }

    /// Whether bytes are those that were written; `range` is one that [`Checksums::widen`] gave.
    pub fn are_right(&self, range: &Range<u64>, bytes: &[u8]) -> bool {
        if *range == self.index {
            return crc32fast::hash(bytes) == self.index_crc;
        }
        let Some((start, (_, first))) = self.chunks.range(..=range.start).next_back() else {
            return false;
        };
        let first = first + ((range.start - start) / self.block_bytes) as usize;
        let mut blocks = bytes.chunks(self.block_bytes as usize).enumerate();
        blocks.all(|(index, block)| self.blocks.get(first + index) == Some(&crc32fast::hash(block)))
    }
}

/// Column chunks' bytes, in the order of the file.
pub fn chunk_ranges(group: &RowGroupMetaData) -> impl Iterator<Item = Range<u64>> + '_ {
    group.columns().iter().map(|column| {
        let start = column.dictionary_page_offset();
        let start = start.unwrap_or_else(|| column.data_page_offset());
        // Negative numbers are no place in a file; an empty range has no blocks.
        let start = u64::try_from(start).unwrap_or(0);
        let length = u64::try_from(column.compressed_size()).unwrap_or(0);
        start..start.saturating_add(length)
    })
}

/// Block size, checksum of the page indexes, of the footer, and the blocks' in hexadecimal digits.
fn parse(text: &str) -> Option<(u64, u32, u32, &str)> {
    let rest = text.strip_prefix("crc32/")?;
    let (block_bytes, rest) = rest.split_once(" index=")?;
    let (index, rest) = rest.split_once(" footer=")?;
    let (footer, blocks) = rest.split_once(" blocks=")?;
    let block_bytes = block_bytes.parse().ok().filter(|&bytes| bytes > 0)?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    let is_whole = blocks.len().is_multiple_of(FIELD_CHARS);
    is_whole.then_some((block_bytes, number(index)?, number(footer)?, blocks))
}

fn check_footer(footer: &[u8], text: &str, expected: u32) -> Result<(), String> {
    let at = find_last(footer, text.as_bytes()).ok_or("its checksums cannot be found")?;
    let field = text
        .find(" footer=")
        .ok_or("its checksums cannot be read")?
        + " footer=".len();
    let (start, end) = (at + field, at + field + FIELD_CHARS);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&footer[..start]);
    crc.update(FIELD_ZERO.as_bytes());
    crc.update(footer.get(end..).ok_or("its footer is cut")?);
    match crc.finalize() == expected {
        true => Ok(()),
        false => Err("its footer does not have the bytes that were written".into()),
    }
}
