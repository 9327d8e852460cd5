//! One write: routes accepted rows to the open cells of their partitions and keeps within its budget.

use super::accept::Acceptance;
use super::encode::{CellWriter, Format};
use super::partition::{Partition, Partitioner};
use super::sort::PartitionSort;
use super::upload::Upload;
use super::{WriteSpec, WrittenCells};
use crate::behavior::leafcutter::{self, WriteBudget};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::store::Meadow;
use apiary_protocol::delta::Add;
use apiary_protocol::delta::paths::encode_path;
use apiary_protocol::ids::QueryId;
use apiary_protocol::keys;
use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::DataType;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows that are encoded at once, at most.
const CHUNK_ROWS_MAX: usize = 64 * 1024;
/// A write that cannot get this much memory fails.
const BUDGET_BYTES_MIN: u64 = 1 << 20;
/// Uploads of finished cells that run while the next cell is made.
const UPLOADS_MAX: usize = 8;

pub struct Writing {
    host: Host,
    meadow: Meadow,
    location: String,
    query: Option<QueryId>,
    target_cell_bytes: u64,
    max_partitions: usize,
    partition_columns: Vec<String>,
    /// Indices of the columns that go to the file.
    stored_columns: Vec<usize>,
    format: Arc<Format>,
    budget: WriteBudget,
    reservation: MemoryReservation,
    uploads: FuturesUnordered<BoxFuture<'static, Result<Uploaded>>>,
    uploading_bytes: usize,
    /// Keys that may exist, for cleaning up.
    keys: Vec<String>,
    adds: Vec<Add>,
    rows: u64,
}

struct Uploaded {
    add: Add,
    rows: u64,
    held_bytes: usize,
}

/// The open cell of one partition and rows that wait for it.
#[derive(Default)]
struct Slot {
    cell: Option<(CellWriter, String)>,
    waiting: Vec<RecordBatch>,
    waiting_rows: usize,
    waiting_bytes: usize,
}

impl Slot {
    fn memory_bytes(&self) -> usize {
        self.waiting_bytes
            + self
                .cell
                .as_ref()
                .map_or(0, |(cell, _)| cell.memory_bytes())
    }
}

impl Writing {
    pub fn new(
        host: &Host,
        meadow: &Meadow,
        spec: &WriteSpec,
        acceptance: &Acceptance,
        context: &TaskContext,
    ) -> Result<Self> {
        let partitioned = !spec.schema.partition_columns.is_empty();
        let (budget, reservation) = reserve(context, &spec.location, partitioned)?;
        let written = &acceptance.written;
        let stored_columns: Vec<usize> = (0..written.fields().len())
            .filter(|index| {
                !spec
                    .schema
                    .is_partition_column(written.field(*index).name())
            })
            .collect();
        let stored = written
            .project(&stored_columns)
            .map_err(|error| Error::Bug(format!("a frame's columns: {error}")))?;
        let format = Format::new(
            Arc::new(stored),
            spec.codec,
            spec.row_group_rows_max,
            budget.row_group_bytes as usize,
            context.session_config().target_partitions(),
            host.runtimes.query.clone(),
        )?;
        Ok(Self {
            host: host.clone(),
            meadow: meadow.clone(),
            location: spec.location.clone(),
            query: spec.query,
            target_cell_bytes: spec.target_cell_bytes,
            max_partitions: spec.max_partitions.min(super::sort::PARTITIONS_MAX),
            partition_columns: spec.schema.partition_columns.clone(),
            stored_columns,
            format: Arc::new(format),
            budget,
            reservation,
            uploads: FuturesUnordered::new(),
            uploading_bytes: 0,
            keys: Vec::new(),
            adds: Vec::new(),
            rows: 0,
        })
    }

    pub async fn run(
        &mut self,
        mut acceptance: Acceptance,
        input: SendableRecordBatchStream,
        context: Arc<TaskContext>,
    ) -> Result<WrittenCells> {
        if self.partition_columns.is_empty() {
            self.write_whole(&mut acceptance, input).await?;
        } else {
            self.write_partitioned(&mut acceptance, input, context)
                .await?;
        }
        while !self.uploads.is_empty() {
            self.collect_upload().await?;
        }
        if self.rows != acceptance.rows() {
            return Err(Error::Bug(format!(
                "{} rows were accepted and {} written",
                acceptance.rows(),
                self.rows
            )));
        }
        // They are the caller's from here on.
        self.keys.clear();
        let mut adds = std::mem::take(&mut self.adds);
        adds.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(WrittenCells {
            bytes: adds.iter().map(|add| add.size.max(0) as u64).sum(),
            adds,
            rows: self.rows,
            warnings: std::mem::take(&mut acceptance.warnings)
                .into_iter()
                .collect(),
        })
    }

    /// Deletes whatever may have been uploaded.
    pub async fn discard(&mut self) {
        self.uploads.clear();
        let keys = std::mem::take(&mut self.keys);
        if let Err(error) = self.meadow.discard(async {}, keys).await {
            tracing::error!(%error, "deleting the cells of a failed write ended early");
        }
    }

    async fn write_whole(
        &mut self,
        acceptance: &mut Acceptance,
        mut input: SendableRecordBatchStream,
    ) -> Result<()> {
        let partition = Partition::whole();
        let mut slot = Slot::default();
        while let Some(batch) = input.next().await {
            let batch = acceptance.accept(&batch?)?;
            self.push(&mut slot, &partition, batch).await?;
            self.account(slot.memory_bytes())?;
        }
        self.finish_slot(&mut slot, &partition).await
    }

    async fn write_partitioned(
        &mut self,
        acceptance: &mut Acceptance,
        mut input: SendableRecordBatchStream,
        context: Arc<TaskContext>,
    ) -> Result<()> {
        let mut partitioner = Partitioner::new(
            &acceptance.written,
            &self.partition_columns,
            self.max_partitions,
        )?;
        let mut slots: BTreeMap<u32, Slot> = BTreeMap::new();
        let mut sort: Option<PartitionSort> = None;
        while let Some(batch) = input.next().await {
            let (row_first, row_named) = (acceptance.rows(), acceptance.next_row());
            let batch = acceptance.accept(&batch?)?;
            let numbers = partitioner.number(&batch, row_named)?;
            let stored = batch
                .project(&self.stored_columns)
                .map_err(|error| Error::Bug(format!("a frame's columns: {error}")))?;
            let routes = self.route(&numbers);
            for (number, indices) in routes.open {
                let rows = select(&stored, &indices)?;
                let slot = slots.entry(number).or_default();
                self.push(slot, &partitioner.partitions[number as usize], rows)
                    .await?;
            }
            if !routes.rest.is_empty() {
                let rows = select(&stored, &routes.rest)?;
                let sort = match &mut sort {
                    Some(sort) => sort,
                    None => {
                        sort.insert(PartitionSort::start(&self.format.schema, context.clone())?)
                    }
                };
                sort.push(rows, &numbers, &routes.rest, row_first).await?;
            }
            self.stay_within(&mut slots).await?;
        }
        for (number, mut slot) in slots {
            self.finish_slot(&mut slot, &partitioner.partitions[number as usize])
                .await?;
        }
        match sort {
            Some(sort) => self.write_sorted(sort, &partitioner.partitions).await,
            None => Ok(()),
        }
    }

    /// Which rows go to open cells and which wait for the sort.
    fn route(&self, numbers: &[u32]) -> Routes {
        let mut routes = Routes::default();
        for (row, number) in numbers.iter().enumerate() {
            if (*number as usize) < self.budget.open_cells {
                routes.open.entry(*number).or_default().push(row as u32);
            } else {
                routes.rest.push(row as u32);
            }
        }
        routes
    }

    /// Partition after partition, as the sort gives them.
    async fn write_sorted(&mut self, sort: PartitionSort, partitions: &[Partition]) -> Result<()> {
        let mut runs = sort.finish();
        let mut slot = Slot::default();
        let mut current: Option<u32> = None;
        while let Some(run) = runs.next().await {
            for (number, rows) in run? {
                if let Some(previous) = current.filter(|current| *current != number) {
                    self.finish_slot(&mut slot, &partitions[previous as usize])
                        .await?;
                }
                current = Some(number);
                self.push(&mut slot, &partitions[number as usize], rows)
                    .await?;
                self.account(slot.memory_bytes())?;
            }
        }
        match current {
            Some(last) => {
                self.finish_slot(&mut slot, &partitions[last as usize])
                    .await
            }
            None => Ok(()),
        }
    }

    async fn push(
        &mut self,
        slot: &mut Slot,
        partition: &Partition,
        batch: RecordBatch,
    ) -> Result<()> {
        let bytes = batch_bytes(&batch);
        // A large batch is encoded in pieces, so that limits are looked at between them.
        let pieces = (bytes as u64)
            .div_ceil(self.budget.chunk_bytes.max(1))
            .max(1) as usize;
        let piece_rows = batch.num_rows().div_ceil(pieces).clamp(1, CHUNK_ROWS_MAX);
        let mut at = 0;
        while at < batch.num_rows() {
            let rows = piece_rows.min(batch.num_rows() - at);
            slot.waiting.push(batch.slice(at, rows));
            slot.waiting_rows += rows;
            slot.waiting_bytes += bytes / batch.num_rows() * rows;
            at += rows;
            if slot.waiting_rows >= CHUNK_ROWS_MAX
                || slot.waiting_bytes as u64 >= self.budget.chunk_bytes
            {
                self.encode(slot, partition).await?;
            }
        }
        Ok(())
    }

    /// Gives the waiting rows to the open cell; a cell that has reached its size is finished first.
    async fn encode(&mut self, slot: &mut Slot, partition: &Partition) -> Result<()> {
        if let Some((cell, _)) = &mut slot.cell {
            cell.settle().await?;
            if cell.encoded_bytes() >= self.target_cell_bytes {
                self.finish_cell(slot, partition).await?;
            }
        }
        if slot.waiting.is_empty() {
            return Ok(());
        }
        let (cell, _) = match &mut slot.cell {
            Some(cell) => cell,
            None => slot.cell.insert(self.open(partition)?),
        };
        slot.waiting_rows = 0;
        let bytes = std::mem::take(&mut slot.waiting_bytes);
        cell.write(std::mem::take(&mut slot.waiting), bytes).await
    }

    fn open(&mut self, partition: &Partition) -> Result<(CellWriter, String)> {
        let id = uuid::Builder::from_random_bytes(self.host.entropy.bytes()).into_uuid();
        let name = keys::cell_name(id, self.query);
        let path = format!("{}{name}", partition.directory);
        let key = keys::cell(&self.location, &path).map_err(|error| {
            Error::rejected(format!(
                "a cell at {:?} {}; partition by fewer columns or by shorter values",
                error.path, error.reason
            ))
        })?;
        let upload = Upload::new(&self.host, &self.meadow, &key)?;
        self.keys.push(key);
        Ok((CellWriter::new(self.format.clone(), upload)?, path))
    }

    async fn finish_slot(&mut self, slot: &mut Slot, partition: &Partition) -> Result<()> {
        self.encode(slot, partition).await?;
        self.finish_cell(slot, partition).await
    }

    async fn finish_cell(&mut self, slot: &mut Slot, partition: &Partition) -> Result<()> {
        let Some((cell, path)) = slot.cell.take() else {
            return Ok(());
        };
        let encoded = cell.finish().await?;
        let held_bytes = encoded.upload.held_bytes();
        self.uploading_bytes += held_bytes;
        let mut add = Add {
            path: encode_path(&path),
            partition_values: partition.values.clone(),
            size: 0,
            modification_time: self.host.clock.unix_ms(),
            data_change: true,
            stats: Some(encoded.stats),
            tags: None,
            deletion_vector: None,
            base_row_id: None,
            default_row_commit_version: None,
            clustering_provider: None,
        };
        let (upload, rows) = (encoded.upload, encoded.rows);
        self.uploads.push(Box::pin(async move {
            let size = upload.finish().await?;
            add.size = i64::try_from(size).unwrap_or(i64::MAX);
            Ok(Uploaded {
                add,
                rows,
                held_bytes,
            })
        }));
        while self.uploads.len() >= UPLOADS_MAX
            || self.uploading_bytes as u64 > self.budget.total_bytes / 4
        {
            self.collect_upload().await?;
        }
        Ok(())
    }

    async fn collect_upload(&mut self) -> Result<()> {
        if let Some(uploaded) = self.uploads.next().await {
            let uploaded = uploaded?;
            self.uploading_bytes -= uploaded.held_bytes;
            self.rows += uploaded.rows;
            self.adds.push(uploaded.add);
        }
        Ok(())
    }

    /// Closes row groups of the largest cells until the budget holds.
    async fn stay_within(&mut self, slots: &mut BTreeMap<u32, Slot>) -> Result<()> {
        loop {
            let sizes: BTreeMap<u32, usize> = slots
                .iter()
                .map(|(number, slot)| (*number, slot.memory_bytes()))
                .collect();
            let used: usize = sizes.values().sum();
            let largest = sizes
                .iter()
                .max_by_key(|(number, bytes)| (**bytes, **number));
            let over = (used + self.uploading_bytes) as u64 > self.budget.total_bytes;
            let slot = largest
                .and_then(|(number, _)| slots.get_mut(number))
                .filter(|_| over);
            match slot.and_then(|slot| slot.cell.as_mut()) {
                Some((cell, _)) if cell.has_open_group() => cell.close_group().await?,
                _ => return self.account(used),
            }
        }
    }

    /// Asks the pool for more when a row was too large for the plan.
    fn account(&mut self, used_bytes: usize) -> Result<()> {
        let wanted = used_bytes + self.uploading_bytes;
        let planned = self.budget.total_bytes as usize;
        if wanted.max(planned) == self.reservation.size() {
            return Ok(());
        }
        self.reservation.try_resize(wanted.max(planned)).map_err(|error| {
            Error::ResourcesExhausted(format!(
                "writing cells of {} needs {wanted} bytes of memory: {error}; give it more memory \
                 or write smaller values",
                self.location
            ))
        })
    }
}

/// A write that is dropped was cancelled.
impl Drop for Writing {
    fn drop(&mut self) {
        let keys = std::mem::take(&mut self.keys);
        if keys.is_empty() {
            return;
        }
        // A put that is on its way would land after its deletion.
        let uploads = std::mem::take(&mut self.uploads);
        let landed = uploads.for_each(|_| std::future::ready(()));
        drop(self.meadow.discard(landed, keys));
    }
}

#[derive(Default)]
struct Routes {
    open: BTreeMap<u32, Vec<u32>>,
    rest: Vec<u32>,
}

/// Takes what the pool gives: half of it, or half of that, and so on.
fn reserve(
    context: &TaskContext,
    location: &str,
    partitioned: bool,
) -> Result<(WriteBudget, MemoryReservation)> {
    let pool = context.memory_pool();
    let limit = match pool.memory_limit() {
        MemoryLimit::Finite(bytes) => Some(bytes as u64),
        _ => None,
    };
    let reservation = MemoryConsumer::new(format!("cells of {location}")).register(pool);
    let mut budget = leafcutter::write_budget(limit, partitioned);
    loop {
        match reservation.try_resize(budget.total_bytes as usize) {
            Ok(()) => return Ok((budget, reservation)),
            Err(_) if budget.total_bytes >= 2 * BUDGET_BYTES_MIN => {
                budget = leafcutter::write_budget(Some(budget.total_bytes), partitioned);
            }
            Err(error) => {
                return Err(Error::ResourcesExhausted(format!(
                    "no memory is left to write cells of {location}: {error}"
                )));
            }
        }
    }
}

fn select(batch: &RecordBatch, indices: &[u32]) -> Result<RecordBatch> {
    if indices.len() == batch.num_rows() {
        return Ok(batch.clone());
    }
    take_record_batch(batch, &UInt32Array::from(indices.to_vec()))
        .map_err(|error| Error::Bug(format!("splitting a batch: {error}")))
}

/// Bytes of the rows themselves: a slice does not count what it shares.
fn batch_bytes(batch: &RecordBatch) -> usize {
    let columns = batch.columns().iter();
    columns
        .map(|column| match column.data_type() {
            DataType::Utf8View => 16 * column.len() + column.as_string_view().total_bytes_len(),
            DataType::BinaryView => 16 * column.len() + column.as_binary_view().total_bytes_len(),
            _ => column
                .to_data()
                .get_slice_memory_size()
                .unwrap_or_else(|_| column.get_array_memory_size()),
        })
        .sum()
}
