//! Reading cells: Parquet readers over the meadow that check what they read against the ledger.
//!
//! A cell is immutable, so its footer is kept in memory (bounded) by key and size. A cell that is
//! missing, has another size than the ledger says, or cannot be understood is an error that names
//! it; it is never fewer rows.

use super::Caches;
use super::footers::{FooterCache, Known, without_float_bounds};
use super::source::{Cached, Source};
use crate::cache::CellParts;
use crate::cell::checksums::Checksums;
use crate::cell::nans::columns_without;
use crate::error::Error;
use crate::laboratory::Cores;
use crate::store::Meadow;
use apiary_protocol::ids::MeadowId;
use bytes::Bytes;
use datafusion::common::DataFusionError;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder};
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use parking_lot::Mutex;
use parquet::DecodeResult;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::FOOTER_SIZE;
use parquet::file::metadata::{
    FooterTail, PageIndexPolicy, ParquetMetaData, ParquetMetaDataPushDecoder,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// How much of a cell's end is read first: the footer and, in most cells, the page index.
const TAIL_BYTES: u64 = 256 << 10;

/// A cell of at most this size is read whole with its footer: one request instead of three.
const WHOLE_BYTES_MAX: u64 = 1 << 20;

/// Makes the readers of one scan.
#[derive(Debug)]
pub(super) struct CellReaders {
    store: Arc<dyn ObjectStore>,
    footers: Arc<FooterCache>,
    /// Where parts of this meadow's cells are kept.
    parts: Option<(MeadowId, Arc<dyn CellParts>)>,
    cores: Option<Arc<Cores>>,
    open: Arc<Mutex<OpenCells>>,
}

/// The cells that a decoding error of a partition can come from.
#[derive(Debug, Default)]
struct OpenCells {
    /// Readers by partition and cell.
    readers: BTreeMap<(usize, Path), usize>,
    /// The cell of each partition whose reader went last: an error may outlive its reader.
    last: BTreeMap<usize, Path>,
}

impl CellReaders {
    pub fn new(meadow: &Meadow, caches: &Caches) -> Self {
        Self {
            store: Arc::clone(meadow.object_store()),
            footers: Arc::clone(&caches.footers),
            parts: meadow.id().zip(caches.parts.clone()),
            cores: caches.cores.clone(),
            open: Arc::default(),
        }
    }

    pub fn has_cache(&self) -> bool {
        self.parts.is_some()
    }

    fn reader(
        &self,
        cell: &ObjectMeta,
        open: Option<Open>,
        counter: impl Fn(&'static str) -> Count,
    ) -> CellReader {
        let source = Source {
            store: Arc::clone(&self.store),
            key: cell.location.clone(),
            size_bytes: cell.size,
            requests: counter("meadow_requests"),
            read_bytes: counter("meadow_read_bytes"),
        };
        let parts = self.parts.as_ref();
        CellReader {
            cached: parts.map(|(meadow, parts)| Cached::new(parts, *meadow, cell, counter)),
            source,
            footers: Arc::clone(&self.footers),
            cores: self.cores.clone(),
            whole: None,
            checksums: None,
            open,
        }
    }

    /// Keys of the cells that a partition has open or has just closed.
    pub fn keys_of(&self, partition: usize) -> Vec<String> {
        let open = self.open.lock();
        let here = open.readers.keys().filter(|(of, _)| *of == partition);
        let mut keys: BTreeSet<String> = here.map(|(_, key)| key.to_string()).collect();
        keys.extend(open.last.get(&partition).map(ToString::to_string));
        keys.into_iter().collect()
    }

    /// The footer of a cell, for what needs it before a scan begins.
    pub async fn footer(&self, cell: &ObjectMeta) -> Result<Arc<ParquetMetaData>, Error> {
        let mut reader = self.reader(cell, None, |_| Count::new());
        reader.read_footer().await.map(|(known, _)| known.metadata)
    }
}

impl ParquetFileReaderFactory for CellReaders {
    fn create_reader(
        &self,
        partition_index: usize,
        file: PartitionedFile,
        _metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> datafusion::common::Result<Box<dyn AsyncFileReader + Send>> {
        let cell = file.object_meta;
        let open = Open {
            open: Arc::clone(&self.open),
            key: (partition_index, cell.location.clone()),
        };
        *open
            .open
            .lock()
            .readers
            .entry(open.key.clone())
            .or_default() += 1;
        let counter = |name| MetricBuilder::new(metrics).counter(name, partition_index);
        Ok(Box::new(self.reader(&cell, Some(open), counter)))
    }
}

/// Takes the cell off the list of open ones when its reader goes.
struct Open {
    open: Arc<Mutex<OpenCells>>,
    key: (usize, Path),
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        if let Some(readers) = open.readers.get_mut(&self.key) {
            *readers -= 1;
            if *readers == 0 {
                open.readers.remove(&self.key);
            }
        }
        let (partition, key) = self.key.clone();
        open.last.insert(partition, key);
    }
}

struct CellReader {
    source: Source,
    footers: Arc<FooterCache>,
    /// Until something that came out of it was not right.
    cached: Option<Cached>,
    cores: Option<Arc<Cores>>,
    /// All of a small cell.
    whole: Option<Bytes>,
    /// Known once the footer is.
    checksums: Option<Arc<Checksums>>,
    #[expect(dead_code, reason = "held for its drop")]
    open: Option<Open>,
}

impl CellReader {
    fn corrupt(&self, reason: impl ToString) -> Error {
        self.source.corrupt(reason)
    }

    /// Gives up what is cached of a cell that does not go together; true when what was read may have
    /// come from there.
    fn leaves_cache(&mut self, error: &Error) -> bool {
        if !matches!(error, Error::Corrupt { .. }) {
            return false;
        }
        let Some(cached) = self.cached.take() else {
            return false;
        };
        tracing::debug!(%error, "a cell is read again, past the cache");
        cached.forget();
        self.whole = None;
        true
    }

    /// Whether it is read whole. One that stands for a larger one is not.
    fn is_small(&self) -> bool {
        self.source.size_bytes <= WHOLE_BYTES_MAX && self.cores.is_none()
    }

    async fn read(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, Error> {
        match &self.cached {
            Some(cached) => cached.read_ranges(&self.source, ranges).await,
            None => self.source.read_ranges(ranges).await,
        }
    }

    async fn read_one(&self, range: Range<u64>) -> Result<Bytes, Error> {
        let mut parts = self.read(&[range]).await?;
        parts.pop().ok_or_else(|| self.corrupt("nothing came back"))
    }

    /// The footer, with the page index when that costs no further request; and the whole cell when it
    /// is small.
    async fn read_footer(&mut self) -> Result<(Known, Option<Bytes>), Error> {
        let (key, size_bytes) = (&self.source.key, self.source.size_bytes);
        if let Some(known) = self.footers.get(key, size_bytes) {
            return Ok((known, None));
        }
        if size_bytes == 0 {
            return Err(self.source.explain_empty().await);
        }
        match self.try_read_footer(size_bytes).await {
            Err(error) if self.leaves_cache(&error) => self.try_read_footer(size_bytes).await,
            read => read,
        }
    }

    async fn try_read_footer(&self, size_bytes: u64) -> Result<(Known, Option<Bytes>), Error> {
        let tail = if self.is_small() {
            size_bytes
        } else {
            TAIL_BYTES.min(size_bytes)
        };
        let mut range = size_bytes - tail..size_bytes;
        let mut bytes = self.read_one(range.clone()).await?;
        // The decoder takes the length that a footer gives from the size without a look at it.
        if footer_bytes(&bytes).is_some_and(|footer| footer > size_bytes) {
            return Err(self.corrupt("its footer would be larger than it"));
        }
        let metadata = loop {
            let mut decoder = self.decoder(PageIndexPolicy::Skip, &range, &bytes)?;
            match decoder.try_decode().map_err(|error| self.corrupt(error))? {
                DecodeResult::Data(metadata) => break metadata,
                DecodeResult::NeedsData(needed) => {
                    let start = needed
                        .iter()
                        .map(|range| range.start)
                        .min()
                        .unwrap_or(range.start);
                    if start >= range.start {
                        return Err(self.corrupt("its footer asks for bytes beyond its end"));
                    }
                    range = start..size_bytes;
                    bytes = self.read_one(range.clone()).await?;
                }
                DecodeResult::Finished => return Err(self.corrupt("it has no footer")),
            }
        };
        let checksums = Checksums::read(&metadata, &bytes, size_bytes)
            .map_err(|reason| self.corrupt(reason))?;
        if let Some(checksums) = &checksums {
            let index = checksums.index();
            if range.start <= index.start {
                let offset = |at: u64| (at - range.start) as usize;
                let bytes = bytes.get(offset(index.start)..offset(index.end));
                self.check(checksums, &index, bytes.unwrap_or_default())?;
            }
        }
        let mut decoder = self.decoder(PageIndexPolicy::Optional, &range, &bytes)?;
        let metadata = match decoder.try_decode() {
            Ok(DecodeResult::Data(with_index)) => with_index,
            _ => metadata,
        };
        // Only of a footer that is as we wrote it, and not of one that somebody copied the entry to.
        let without_nan = match &checksums {
            Some(_) => columns_without(&metadata),
            None => BTreeSet::new(),
        };
        let metadata = without_float_bounds(metadata, &without_nan);
        let known = Known {
            metadata: Arc::new(metadata.map_err(|error| self.corrupt(error))?),
            checksums: checksums.map(Arc::new),
        };
        self.footers.put(&self.source.key, size_bytes, &known);
        let whole = self.is_small() && range.start == 0;
        Ok((known, whole.then_some(bytes)))
    }

    fn check(&self, checksums: &Checksums, range: &Range<u64>, bytes: &[u8]) -> Result<(), Error> {
        match checksums.are_right(range, bytes) {
            true => Ok(()),
            false => Err(self.corrupt(format!("bytes {range:?} are not those that were written"))),
        }
    }

    fn decoder(
        &self,
        policy: PageIndexPolicy,
        range: &Range<u64>,
        bytes: &Bytes,
    ) -> Result<ParquetMetaDataPushDecoder, Error> {
        let mut decoder = ParquetMetaDataPushDecoder::try_new(self.source.size_bytes)
            .map_err(|error| self.corrupt(error))?
            .with_page_index_policy(policy);
        decoder
            .push_range(range.clone(), bytes.clone())
            .map_err(|error| self.corrupt(error))?;
        Ok(decoder)
    }

    /// Reads ranges and, in cells of ours, checks them.
    async fn read_checked(&mut self, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>, Error> {
        match self.try_read_checked(&ranges).await {
            Err(error) if self.leaves_cache(&error) => self.try_read_checked(&ranges).await,
            read => read,
        }
    }

    /// Takes the time that work on these bytes does, where that is simulated.
    async fn work_on(&self, parts: &[Bytes]) {
        if let Some(cores) = &self.cores {
            let bytes = parts.iter().map(|part| part.len() as u64).sum();
            cores.work_on(bytes).await;
        }
    }

    async fn try_read_checked(&mut self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, Error> {
        let Some(checksums) = self.checksums.clone() else {
            return self.read_many(ranges).await;
        };
        let widened = ranges.iter().map(|range| checksums.widen(range));
        let widened: Option<Vec<Range<u64>>> = widened.collect();
        let widened =
            widened.ok_or_else(|| self.corrupt("its footer points outside its columns"))?;
        let mut parts = self.read_many(&widened).await?;
        for ((range, widened), bytes) in ranges.iter().zip(&widened).zip(&mut parts) {
            self.check(&checksums, widened, bytes)?;
            let offset = |at: u64| (at - widened.start) as usize;
            if bytes.len() < offset(range.end) {
                return Err(self.corrupt(format!("bytes {widened:?} came back short")));
            }
            *bytes = bytes.slice(offset(range.start)..offset(range.end));
        }
        Ok(parts)
    }

    async fn read_many(&mut self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, Error> {
        if self.whole.is_none() && self.is_small() && ranges.len() > 1 {
            self.whole = Some(self.read_one(0..self.source.size_bytes).await?);
        }
        let Some(whole) = &self.whole else {
            return self.read(ranges).await;
        };
        let slice = |range: &Range<u64>| {
            let (start, end) = (
                usize::try_from(range.start).ok()?,
                usize::try_from(range.end).ok()?,
            );
            (start <= end && end <= whole.len()).then(|| whole.slice(start..end))
        };
        let slices: Option<Vec<Bytes>> = ranges.iter().map(slice).collect();
        slices.ok_or_else(|| self.corrupt("its footer points beyond its end"))
    }
}

/// How long the footer at the end of these bytes says that it is, with its own length and mark.
fn footer_bytes(bytes: &[u8]) -> Option<u64> {
    let tail: [u8; FOOTER_SIZE] = *bytes.last_chunk()?;
    let tail = FooterTail::try_new(&tail).ok()?;
    Some((tail.metadata_length() + FOOTER_SIZE) as u64)
}

fn external(error: Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for CellReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move {
            let mut parts = self.read_checked(vec![range]).await?;
            self.work_on(&parts).await;
            parts.pop().ok_or_else(|| self.corrupt("nothing came back"))
        }
        .map_err(external)
        .boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move {
            let parts = self.read_checked(ranges).await?;
            self.work_on(&parts).await;
            Ok(parts)
        }
        .map_err(external)
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let (known, whole) = self.read_footer().await?;
            (self.whole, self.checksums) = (whole, known.checksums);
            Ok(known.metadata)
        }
        .map_err(external)
        .boxed()
    }
}

/// An error out of a cell's bytes becomes one that names the cells it can come from; errors that
/// already say what they are pass.
pub(super) fn name_cells(
    error: DataFusionError,
    readers: &CellReaders,
    partition: usize,
    frame: &str,
) -> DataFusionError {
    let is_decoding = match error.find_root() {
        DataFusionError::ParquetError(error) => {
            !matches!(**error, parquet::errors::ParquetError::External(_))
        }
        DataFusionError::ArrowError(error, _) => matches!(
            **error,
            arrow::error::ArrowError::ParquetError(_)
                | arrow::error::ArrowError::InvalidArgumentError(_)
        ),
        _ => false,
    };
    if !is_decoding {
        return error;
    }
    let mut keys = readers.keys_of(partition).join(" or ");
    if keys.is_empty() {
        keys = format!("a cell of frame {frame}");
    }
    Error::corrupt(keys, error.strip_backtrace()).into()
}
