//! How the bytes of one cell get here: by requests to the meadow, or through the node's cache.
//!
//! A cell that is missing or has another size than the ledger says is an error that names it.

use crate::cache::{CellParts, PartSource, PartsRead};
use crate::error::Error;
use apiary_protocol::cache::{CellIdentity, PART_BYTES};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use datafusion::physical_plan::metrics::Count;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// A read of more parts, in a cell that makes one believe in so much, passes the cache by.
const PARTS_MAX: u64 = 4096;

#[derive(Clone, Debug)]
pub(super) struct Source {
    pub store: Arc<dyn ObjectStore>,
    pub key: Path,
    pub size_bytes: u64,
    pub requests: Count,
    pub read_bytes: Count,
}

impl Source {
    pub fn corrupt(&self, reason: impl ToString) -> Error {
        Error::corrupt(self.key.as_ref(), reason)
    }

    /// What a failed request means: a cell that the ledger names must be there, as large as it says.
    async fn explain(&self, error: object_store::Error) -> Error {
        if let object_store::Error::NotFound { .. } = error {
            return self.corrupt("the ledger names this cell and it does not exist");
        }
        self.requests.add(1);
        match self.store.head(&self.key).await {
            Ok(meta) if meta.size != self.size_bytes => self.wrong_size(meta.size),
            _ => Error::Store {
                action: "reading",
                key: self.key.to_string(),
                source: error,
            },
        }
    }

    fn wrong_size(&self, found: u64) -> Error {
        self.corrupt(format!(
            "the ledger says {} bytes and it has {found}",
            self.size_bytes
        ))
    }

    /// What is wrong with a cell that the ledger says is empty.
    pub async fn explain_empty(&self) -> Error {
        match self.store.head(&self.key).await {
            Ok(meta) if meta.size > 0 => self.wrong_size(meta.size),
            Err(error) => self.explain(error).await,
            Ok(_) => self.corrupt("it is empty"),
        }
    }

    /// Reads a range with one request.
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes, Error> {
        let length = range.end.saturating_sub(range.start);
        self.check(&range)?;
        self.requests.add(1);
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            ..GetOptions::default()
        };
        let result = match self.store.get_opts(&self.key, options).await {
            Ok(result) => result,
            Err(error) => return Err(self.explain(error).await),
        };
        if result.meta.size != self.size_bytes {
            return Err(self.wrong_size(result.meta.size));
        }
        let bytes = match result.bytes().await {
            Ok(bytes) => bytes,
            Err(error) => return Err(self.explain(error).await),
        };
        self.read_bytes.add(bytes.len());
        if bytes.len() as u64 != length {
            return Err(self.corrupt(format!("{} bytes came back for {length}", bytes.len())));
        }
        Ok(bytes)
    }

    /// Reads ranges, those that lie close together with one request.
    pub async fn read_ranges(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, Error> {
        if let [range] = ranges {
            return Ok(vec![self.read(range.clone()).await?]);
        }
        ranges.iter().try_for_each(|range| self.check(range))?;
        self.requests.add(1);
        match self.store.get_ranges(&self.key, ranges).await {
            Ok(parts) => {
                self.read_bytes.add(parts.iter().map(Bytes::len).sum());
                Ok(parts)
            }
            Err(error) => Err(self.explain(error).await),
        }
    }

    fn check(&self, range: &Range<u64>) -> Result<(), Error> {
        match range.start <= range.end && range.end <= self.size_bytes {
            true => Ok(()),
            false => Err(self.corrupt(format!("its footer points at bytes {range:?}"))),
        }
    }
}

#[async_trait]
impl PartSource for Source {
    async fn fetch(&self, range: Range<u64>) -> Result<Bytes, Error> {
        self.read(range).await
    }
}

/// The node's cache, for one cell.
#[derive(Debug)]
pub(super) struct Cached {
    parts: Arc<dyn CellParts>,
    cell: Arc<CellIdentity>,
    hits: Count,
    hit_bytes: Count,
    requests_saved: Count,
}

impl Cached {
    pub fn new(
        parts: &Arc<dyn CellParts>,
        meadow: apiary_protocol::ids::MeadowId,
        cell: &ObjectMeta,
        counter: impl Fn(&'static str) -> Count,
    ) -> Self {
        let modified_ms = cell.last_modified.timestamp_millis();
        let cell = CellIdentity::new(meadow, cell.location.as_ref(), cell.size, modified_ms);
        Self {
            parts: Arc::clone(parts),
            cell: Arc::new(cell),
            hits: counter("cache_hits"),
            hit_bytes: counter("cache_bytes"),
            requests_saved: counter("cache_requests_saved"),
        }
    }

    /// Gives up what is cached of the cell.
    pub fn forget(&self) {
        self.parts.forget(&self.cell);
    }

    /// As [`Source::read_ranges`]. What lies around the ranges in their parts comes with them.
    pub async fn read_ranges(
        &self,
        source: &Source,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>, Error> {
        ranges.iter().try_for_each(|range| source.check(range))?;
        let Some(indexes) = indexes(ranges) else {
            return source.read_ranges(ranges).await;
        };
        let from: Arc<dyn PartSource> = Arc::new(source.clone());
        let read = self.parts.read(&self.cell, &indexes, &from).await?;
        self.hits.add(read.hits);
        self.hit_bytes.add(read.hit_bytes as usize);
        if read.hits == indexes.len() && !indexes.is_empty() {
            self.requests_saved.add(1);
        }
        let mut parts = Parts::new(&indexes, read, ranges);
        let wanted: Option<Vec<Bytes>> = ranges.iter().map(|range| parts.cut(range)).collect();
        wanted.ok_or_else(|| Error::Bug("a part of a cell was not given whole".into()))
    }
}

/// The parts that ranges touch; `None` when they are too many.
fn indexes(ranges: &[Range<u64>]) -> Option<Vec<u32>> {
    let mut indexes = BTreeSet::new();
    for range in ranges.iter().filter(|range| !range.is_empty()) {
        let (first, last) = (range.start / PART_BYTES, (range.end - 1) / PART_BYTES);
        if last - first >= PARTS_MAX || indexes.len() as u64 >= PARTS_MAX {
            return None;
        }
        let (first, last) = (u32::try_from(first).ok()?, u32::try_from(last).ok()?);
        indexes.extend(first..=last);
    }
    Some(indexes.into_iter().collect())
}

/// Parts out of which ranges are cut. A part goes with its last range, so that what was copied is not
/// held twice.
struct Parts<'a> {
    indexes: &'a [u32],
    parts: Vec<Bytes>,
    /// Ranges that still want each part.
    wanted_by: Vec<usize>,
}

impl<'a> Parts<'a> {
    fn new(indexes: &'a [u32], read: PartsRead, ranges: &[Range<u64>]) -> Self {
        let mut parts = Self {
            indexes,
            wanted_by: vec![0; read.parts.len()],
            parts: read.parts,
        };
        for range in ranges {
            for place in parts.places(range) {
                if let Some(wanted_by) = parts.wanted_by.get_mut(place) {
                    *wanted_by += 1;
                }
            }
        }
        parts
    }

    /// Where the parts of a range are. Its indexes are all there, so they are neighbours.
    fn places(&self, range: &Range<u64>) -> Range<usize> {
        if range.is_empty() {
            return 0..0;
        }
        let (first, last) = (range.start / PART_BYTES, (range.end - 1) / PART_BYTES);
        let start = self
            .indexes
            .partition_point(|index| u64::from(*index) < first);
        start..start + (last - first) as usize + 1
    }

    /// A range: a slice when it is in one part, a copy when it is in several.
    fn cut(&mut self, range: &Range<u64>) -> Option<Bytes> {
        let mut together = BytesMut::new();
        let places = self.places(range);
        for place in places.clone() {
            let part_at = u64::from(*self.indexes.get(place)?) * PART_BYTES;
            let start = range.start.saturating_sub(part_at) as usize;
            let end = (range.end - part_at).min(PART_BYTES) as usize;
            let part = self.parts.get_mut(place)?;
            if end > part.len() {
                return None;
            }
            let piece = part.slice(start..end);
            let wanted_by = self.wanted_by.get_mut(place)?;
            *wanted_by -= 1;
            if *wanted_by == 0 {
                *part = Bytes::new();
            }
            if places.len() == 1 {
                return Some(piece);
            }
            if together.is_empty() {
                together.reserve((range.end - range.start) as usize);
            }
            together.extend_from_slice(&piece);
        }
        Some(together.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parts: impl Iterator<Item = Bytes>) -> PartsRead {
        PartsRead {
            parts: parts.collect(),
            ..PartsRead::default()
        }
    }

    #[test]
    fn ranges_are_put_together_from_parts_of_any_number() {
        let size_bytes = 3 * PART_BYTES + 100;
        let byte = |at: u64| (at % 251) as u8;
        let part = |index: &u32| {
            let start = u64::from(*index) * PART_BYTES;
            (start..(start + PART_BYTES).min(size_bytes))
                .map(byte)
                .collect::<Bytes>()
        };
        let ranges = [
            0..1,
            0..size_bytes,
            PART_BYTES - 1..PART_BYTES + 1,
            PART_BYTES..2 * PART_BYTES,
            size_bytes - 1..size_bytes,
            7..7,
        ];
        for range in &ranges {
            let indexes = indexes(std::slice::from_ref(range)).unwrap();
            let twice = [range.clone(), range.clone()];
            let mut parts = Parts::new(&indexes, read(indexes.iter().map(part)), &twice);
            let wanted: Bytes = range.clone().map(byte).collect();
            for _ in 0..2 {
                assert_eq!(parts.cut(range).as_ref(), Some(&wanted), "{range:?}");
            }
            assert!(parts.parts.iter().all(Bytes::is_empty), "{range:?}");
        }
        let all = indexes(&ranges).unwrap();
        assert_eq!(all, [0, 1, 2, 3]);
        let mut parts = Parts::new(&all, read(all.iter().map(part)), &ranges);
        for range in &ranges {
            let wanted: Bytes = range.clone().map(byte).collect();
            assert_eq!(parts.cut(range), Some(wanted), "{range:?}");
        }
        let short = read([Bytes::from_static(b"x")].into_iter());
        assert_eq!(Parts::new(&[0], short, &ranges[..0]).cut(&(0..2)), None);
        let few = read([Bytes::from(vec![0; PART_BYTES as usize])].into_iter());
        let range = 0..PART_BYTES + 1;
        let mut parts = Parts::new(&[0], few, std::slice::from_ref(&range));
        assert_eq!(parts.cut(&range), None);
    }

    #[test]
    fn a_footer_that_asks_for_everything_there_could_be_is_not_planned_in_parts() {
        let everything = 0..u64::MAX;
        assert_eq!(indexes(std::slice::from_ref(&everything)), None);
        assert_eq!(indexes(&[0..0, 5..5]), Some(vec![]));
    }
}
