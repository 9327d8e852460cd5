//! Cells with deletion vectors: which rows of them a scan reads.
//!
//! A vector is read when its cell is opened, not before: a scan holds those of the cells that it has
//! open, reserved in the memory pool, and partitions read theirs at the same time. A vector that
//! cannot be read whole, or that names rows which the cell has not, is an error.

use super::reader::CellReaders;
use crate::error::{Error, Result};
use crate::ledger::{self, Cell};
use crate::store::Meadow;
use arrow::array::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::ParquetRowSelection;
use datafusion::datasource::physical_plan::{
    FileOpenFuture, FileOpener, FileScanConfig, FileSource,
};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::DisplayFormatType;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use roaring::RoaringTreemap;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

type DfResult<T> = datafusion::common::Result<T>;
type Rows = BoxStream<'static, DfResult<RecordBatch>>;

/// Whose live rows a file of a scan has; an extension of the file.
pub(super) struct Deletions(pub Arc<Cell>);

/// What finding live rows takes.
#[derive(Clone)]
pub(super) struct LiveRows {
    pub readers: Arc<CellReaders>,
    pub meadow: Meadow,
    pub location: String,
    pub pool: Arc<dyn MemoryPool>,
}

impl LiveRows {
    /// The file with the selection of its live rows, and the memory that the selection takes.
    async fn select(
        &self,
        file: PartitionedFile,
    ) -> Result<(PartitionedFile, Option<MemoryReservation>)> {
        let Some(cell) = file.extension::<Deletions>().map(|of| Arc::clone(&of.0)) else {
            return Ok((file, None));
        };
        let Some(vector) = cell.deletion_vector() else {
            return Ok((file, None));
        };
        let key = &file.object_meta.location;
        let rows = match cell.rows {
            Some(rows) => rows,
            None => {
                let footer = self.readers.footer(&file.object_meta).await?;
                u64::try_from(footer.file_metadata().num_rows()).unwrap_or(0)
            }
        };
        let reservation = MemoryConsumer::new("deletion vector").register(&self.pool);
        // As it is stored and as it is looked at.
        let stored = usize::try_from(vector.size_in_bytes).unwrap_or(0);
        reservation.try_grow(2 * stored)?;
        let deleted = ledger::read_deletion_vector(&self.meadow, &self.location, vector).await?;
        if let Some(row) = deleted.max().filter(|row| *row >= rows) {
            let reason = format!("its deletion vector names row {row} and it has {rows}");
            return Err(Error::corrupt(key.as_ref(), reason));
        }
        // A skip and a select for each run, in the selection and again by row group.
        let selection_bytes = 4 * size_of::<RowSelector>() * runs(&deleted).count();
        reservation.try_grow(selection_bytes)?;
        let selection = live_rows(key, &deleted, rows)?;
        drop(deleted);
        reservation.try_resize(selection_bytes)?;
        Ok((
            file.with_extension(ParquetRowSelection::new(selection)),
            Some(reservation),
        ))
    }
}

/// Runs of consecutive rows: the first and the one behind the last.
fn runs(rows: &RoaringTreemap) -> impl Iterator<Item = (u64, u64)> + '_ {
    let mut rows = rows.iter().peekable();
    std::iter::from_fn(move || {
        let start = rows.next()?;
        let mut end = start + 1;
        while rows.next_if_eq(&end).is_some() {
            end += 1;
        }
        Some((start, end))
    })
}

/// The rows that are not deleted; all deleted ones are below `rows`.
fn live_rows(key: &Path, deleted: &RoaringTreemap, rows: u64) -> Result<RowSelection> {
    let to_usize = |count: u64| {
        usize::try_from(count).map_err(|_| Error::corrupt(key.as_ref(), "it has too many rows"))
    };
    let mut selectors = vec![];
    let mut next = 0;
    for (start, end) in runs(deleted) {
        if start > next {
            selectors.push(RowSelector::select(to_usize(start - next)?));
        }
        selectors.push(RowSelector::skip(to_usize(end - start)?));
        next = end;
    }
    if rows > next {
        selectors.push(RowSelector::select(to_usize(rows - next)?));
    }
    Ok(RowSelection::from(selectors))
}

/// A source that looks up a file's live rows before the source inside opens it.
pub(super) struct LiveSource {
    pub inner: Arc<dyn FileSource>,
    pub live: LiveRows,
}

impl FileSource for LiveSource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> DfResult<Arc<dyn FileOpener>> {
        let inside = Arc::new(self.inner.create_morselizer(store, config, partition)?);
        let read = move |file: PartitionedFile| {
            let inside = Arc::clone(&inside);
            async move {
                let planners = vec![inside.plan_file(file)?];
                let rows = futures::stream::try_unfold(
                    (planners, VecDeque::new()),
                    |(mut planners, mut ready)| async move {
                        loop {
                            if let Some(morsel) = ready.pop_front() {
                                return DfResult::Ok(Some((morsel, (planners, ready))));
                            }
                            let Some(planner) = planners.pop() else {
                                return Ok(None);
                            };
                            let Some(mut plan) = planner.plan()? else {
                                continue;
                            };
                            let streams = plan.take_morsels().into_iter();
                            ready.extend(streams.map(|morsel| morsel.into_stream()));
                            planners.extend(plan.take_ready_planners().into_iter().rev());
                            if let Some(pending) = plan.take_pending_planner() {
                                planners.push(pending.await?);
                            }
                        }
                    },
                );
                Ok(rows.try_flatten().boxed())
            }
            .boxed()
        };
        Ok(Arc::new(LiveOpener {
            live: self.live.clone(),
            read: Arc::new(read),
        }))
    }

    fn table_schema(&self) -> &TableSchema {
        self.inner.table_schema()
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(Self {
            inner: self.inner.with_batch_size(batch_size),
            live: self.live.clone(),
        })
    }

    fn filter(&self) -> Option<Arc<dyn PhysicalExpr>> {
        self.inner.filter()
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.inner.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.inner.metrics()
    }

    fn file_type(&self) -> &str {
        self.inner.file_type()
    }

    fn fmt_extra(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_extra(kind, f)
    }

    fn reorder_files(&self, files: Vec<PartitionedFile>) -> Vec<PartitionedFile> {
        self.inner.reorder_files(files)
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        self.inner.apply_expressions(f)
    }
}

type Read = dyn Fn(PartitionedFile) -> BoxFuture<'static, DfResult<Rows>> + Send + Sync;

struct LiveOpener {
    live: LiveRows,
    read: Arc<Read>,
}

impl FileOpener for LiveOpener {
    fn open(&self, file: PartitionedFile) -> DfResult<FileOpenFuture> {
        let (live, read) = (self.live.clone(), Arc::clone(&self.read));
        let open = async move {
            let (file, reservation) = live.select(file).await?;
            let rows = read(file).await?;
            // The selection lives as long as the file is read.
            let rows = rows.inspect(move |_| {
                let _held = &reservation;
            });
            Ok(rows.boxed())
        };
        Ok(open.boxed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_deleted_rows_is_one_skip() {
        let key = Path::from("c");
        let deleted: RoaringTreemap = (0..1000).chain(1001..1003).chain([2000]).collect();
        let selection = live_rows(&key, &deleted, 2001).unwrap();
        let selectors: Vec<RowSelector> = selection.into();
        assert_eq!(
            selectors,
            [
                RowSelector::skip(1000),
                RowSelector::select(1),
                RowSelector::skip(2),
                RowSelector::select(997),
                RowSelector::skip(1),
            ]
        );
        let none = live_rows(&key, &RoaringTreemap::new(), 3).unwrap();
        assert_eq!(none.row_count(), 3);
    }
}
