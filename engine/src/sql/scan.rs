//! The leaf operator: cells of one snapshot of one frame.
//!
//! It carries its cells by reference to the ledger's own description of them (path, size, time,
//! partition values, deletion vector) and makes DataFusion's Parquet scan of them when it first runs.
//! Until then the scan is a *template* without files, to which projections, filters and limits are
//! pushed; so planning costs the same for ten cells and for a hundred thousand.
//!
//! It never reads a cell that pruning left out, never splits rows of one row group, and never
//! returns fewer rows than the snapshot has: a missing, resized or unreadable cell is an error.

mod display;

use super::bounds::{partition_array, partition_text};
use super::deletions::{Deletions, LiveRows, LiveSource};
use super::pieces::{Piece, partition_cells};
use super::reader::{CellReaders, name_cells};
use super::{Caches, MEADOW_URL};
use crate::error::{Error, Result};
use crate::ledger::{self, Cell};
use crate::store::Meadow;
use apiary_protocol::cache::CellIdentity;
use apiary_protocol::keys;
use arrow::datatypes::FieldRef;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion::common::config::{ConfigOptions, TableParquetOptions};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ScalarValue, Statistics};
use datafusion::datasource::listing::{FileRange, PartitionedFile};
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_expr_common::sort_expr::PhysicalSortExpr;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation,
};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sort_pushdown::SortOrderPushdownResult;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, PlanProperties};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::OnceCell;

type DfResult<T> = datafusion::common::Result<T>;

/// What is scanned, apart from the cells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanIdentity {
    /// `hive.box.frame`, for people.
    pub frame: String,
    pub frame_id: String,
    /// Relative to the meadow's root.
    pub location: String,
    pub version: u64,
    /// Cells and bytes of the whole snapshot, and why fewer are read.
    pub cells_total: usize,
    pub bytes_total: u64,
    pub pruned_by_partition: usize,
    pub pruned_by_statistics: usize,
}

/// See the module.
#[derive(Debug)]
pub struct FrameScanExec {
    pub(super) identity: Arc<ScanIdentity>,
    pub(super) cells: Arc<Vec<Arc<Cell>>>,
    /// Pieces of each partition.
    pub(super) partitions: Arc<Vec<Vec<Piece>>>,
    /// A `DataSourceExec` over no files, in the form that the optimizer gave it.
    pub(super) template: Arc<dyn ExecutionPlan>,
    readers: Arc<CellReaders>,
    meadow: Meadow,
    properties: Arc<PlanProperties>,
    /// The real scan, made when the first partition runs and shared by all: they take work from one
    /// another.
    scan: Arc<OnceCell<Arc<dyn ExecutionPlan>>>,
}

/// The scan without files of a table with these columns. Statistics are for the table's columns in
/// their order: file columns, then partition columns.
pub(super) fn template(
    table: &TableSchema,
    statistics: Statistics,
    projection: Option<Vec<usize>>,
    limit: Option<usize>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let mut options = TableParquetOptions::default();
    options.global.enable_page_index = true;
    // Cells of ours have none, and looking for them costs each cell a second reader.
    options.global.bloom_filter_on_read = false;
    // Spark's old timestamps; as nanoseconds they would end in the year 2262.
    options.global.coerce_int96 = Some("us".into());
    let source = ParquetSource::new(table.clone()).with_table_parquet_options(options);
    let config = FileScanConfigBuilder::new(meadow_url()?, Arc::new(source))
        .with_statistics(statistics)
        .with_limit(limit)
        .with_projection_indices(projection)?
        .build();
    Ok(DataSourceExec::from_data_source(config))
}

/// The one synthetic store under which every meadow is known to DataFusion.
fn meadow_url() -> Result<ObjectStoreUrl> {
    Ok(ObjectStoreUrl::parse(MEADOW_URL)?)
}

impl FrameScanExec {
    pub(super) fn new(
        identity: Arc<ScanIdentity>,
        cells: Arc<Vec<Arc<Cell>>>,
        partitions: Vec<Vec<Piece>>,
        template: Arc<dyn ExecutionPlan>,
        meadow: &Meadow,
        caches: &Caches,
    ) -> Self {
        let readers = CellReaders::new(meadow, caches);
        Self {
            properties: properties(&template, partitions.len()),
            identity,
            cells,
            partitions: Arc::new(partitions),
            template,
            readers: Arc::new(readers),
            meadow: meadow.clone(),
            scan: Arc::default(),
        }
    }

    /// The scans of so many tasks, of as many partitions each: every row is in exactly one of them.
    pub(crate) fn split(&self, tasks: usize) -> Vec<Arc<dyn ExecutionPlan>> {
        let count = self.partitions.len().max(1);
        let mut pieces = partition_cells(&self.cells, tasks * count, 1);
        pieces.resize(tasks * count, vec![]);
        let share = |pieces: &[Vec<Piece>]| {
            let scan = self.with_pieces(pieces);
            Arc::new(scan) as Arc<dyn ExecutionPlan>
        };
        pieces.chunks(count).map(share).collect()
    }

    /// The same scan of some of its cells.
    fn with_pieces(&self, partitions: &[Vec<Piece>]) -> Self {
        let mut cells: Vec<Arc<Cell>> = Vec::new();
        let mut places = BTreeMap::new();
        let mut place = |piece: &Piece| {
            let next = cells.len() as u32;
            let cell = *places.entry(piece.cell).or_insert(next);
            if cell == next {
                cells.extend(self.cells.get(piece.cell as usize).cloned());
            }
            Piece { cell, ..*piece }
        };
        let partitions = partitions
            .iter()
            .map(|pieces| pieces.iter().map(&mut place).collect())
            .collect();
        Self {
            cells: Arc::new(cells),
            partitions: Arc::new(partitions),
            ..self.with_template(Arc::clone(&self.template))
        }
    }

    /// The same cells in another form of the scan.
    fn with_template(&self, template: Arc<dyn ExecutionPlan>) -> Self {
        Self {
            properties: properties(&template, self.partitions.len()),
            template,
            identity: Arc::clone(&self.identity),
            cells: Arc::clone(&self.cells),
            partitions: Arc::clone(&self.partitions),
            readers: Arc::clone(&self.readers),
            meadow: self.meadow.clone(),
            scan: Arc::default(),
        }
    }

    /// Bytes of the cells that are left after pruning.
    pub fn kept_bytes(&self) -> u64 {
        ledger::total_bytes(&self.cells)
    }

    fn has_deletions(&self) -> bool {
        let mut cells = self.cells.iter();
        cells.any(|cell| cell.deletion_vector().is_some())
    }

    /// Whether its readers look into a cache of the node first.
    pub fn has_cache(&self) -> bool {
        self.readers.has_cache()
    }

    /// The cells that it reads, with the bytes of each and as many of them as are its to read.
    pub fn cells_to_read(&self) -> Vec<(CellIdentity, u64)> {
        let Some(meadow) = self.meadow.id() else {
            return Vec::new();
        };
        let mut bytes: BTreeMap<u32, u64> = BTreeMap::new();
        for piece in self.partitions.iter().flatten() {
            let size = self.cells.get(piece.cell as usize);
            let (start, end) = piece
                .range
                .unwrap_or((0, size.map_or(0, |cell| cell.size_bytes())));
            *bytes.entry(piece.cell).or_default() += end.saturating_sub(start);
        }
        let cells = bytes.into_iter().filter_map(|(index, bytes)| {
            let cell = self.cells.get(index as usize)?;
            let key = cell_key(&self.identity.location, cell.add_path()).ok()?;
            let modified_ms = modified_at(cell).timestamp_millis();
            let identity = CellIdentity::new(meadow, key.as_ref(), cell.size_bytes(), modified_ms);
            Some((identity, bytes))
        });
        cells.collect()
    }

    /// Cells that are left after pruning.
    pub fn kept_cells(&self) -> usize {
        self.cells.len()
    }

    pub fn identity(&self) -> &ScanIdentity {
        &self.identity
    }

    fn table(&self) -> DfResult<(&FileScanConfig, &TableSchema)> {
        let config = self
            .template
            .downcast_ref::<DataSourceExec>()
            .and_then(|exec| exec.data_source().downcast_ref::<FileScanConfig>())
            .ok_or_else(|| Error::Bug("a frame scan without a file scan inside".into()))?;
        Ok((config, config.file_source().table_schema()))
    }

    /// DataFusion's scan of the cells: the template with files.
    fn make_scan(&self, pool: &Arc<dyn MemoryPool>) -> DfResult<Arc<dyn ExecutionPlan>> {
        let (config, table) = self.table()?;
        let values = self.partition_values(table)?;
        let mut files = Vec::with_capacity(self.cells.len());
        for (index, cell) in self.cells.iter().enumerate() {
            let partition_values = values
                .iter()
                .map(|column| ScalarValue::try_from_array(column, index))
                .collect::<DfResult<Vec<_>>>()?;
            let key = cell_key(&self.identity.location, cell.add_path())?;
            let mut file = PartitionedFile::new_from_meta(ObjectMeta {
                location: key,
                last_modified: modified_at(cell),
                size: cell.size_bytes(),
                e_tag: None,
                version: None,
            })
            .with_partition_values(partition_values);
            if cell.deletion_vector().is_some() {
                file = file.with_extension(Deletions(Arc::clone(cell)));
            }
            files.push(file);
        }
        let group = |pieces: &Vec<Piece>| {
            FileGroup::new(
                pieces
                    .iter()
                    .filter_map(|piece| {
                        let mut file = files.get(piece.cell as usize)?.clone();
                        file.range = piece.range.map(|(start, end)| FileRange {
                            start: start as i64,
                            end: end as i64,
                        });
                        Some(file)
                    })
                    .collect(),
            )
        };
        let mut config = config.clone();
        config.file_groups = self.partitions.iter().map(group).collect();
        let source = config
            .file_source()
            .downcast_ref::<ParquetSource>()
            .ok_or_else(|| Error::Bug("a frame scan over something else than Parquet".into()))?
            .clone()
            .with_parquet_file_reader_factory(Arc::clone(&self.readers) as _);
        config.file_source = Arc::new(source);
        if self.has_deletions() {
            config.file_source = Arc::new(LiveSource {
                inner: config.file_source,
                live: LiveRows {
                    readers: Arc::clone(&self.readers),
                    meadow: self.meadow.clone(),
                    location: self.identity.location.clone(),
                    pool: Arc::clone(pool),
                },
            });
        }
        Ok(DataSourceExec::from_data_source(config))
    }

    fn partition_values(&self, table: &TableSchema) -> Result<Vec<arrow::array::ArrayRef>> {
        let column = |field: &FieldRef| {
            let texts = self
                .cells
                .iter()
                .map(|cell| partition_text(cell, field.name()))
                .collect();
            partition_array(texts, field.data_type()).map_err(|error| {
                let reason = format!("a value of partition column {}: {error}", field.name());
                Error::corrupt(&self.identity.location, reason)
            })
        };
        table.table_partition_cols().iter().map(column).collect()
    }

    async fn run(
        self: Arc<Self>,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DfResult<SendableRecordBatchStream> {
        let make = async || self.make_scan(context.memory_pool());
        let scan = self.scan.get_or_try_init(make).await?;
        scan.execute(partition, context)
    }
}

/// A handle for running: everything of a scan but its place in the plan.
impl Clone for FrameScanExec {
    fn clone(&self) -> Self {
        Self {
            scan: Arc::clone(&self.scan),
            ..self.with_template(Arc::clone(&self.template))
        }
    }
}

/// The key of a cell, checked: an `add.path` cannot leave its frame's location.
fn cell_key(location: &str, path: &str) -> Result<Path> {
    let key = keys::added_cell(location, path).map_err(|error| Error::corrupt(location, error))?;
    Path::parse(key).map_err(|error| Error::corrupt(location, error))
}

fn modified_at(cell: &Cell) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(cell.modification_time).unwrap_or_default()
}

fn properties(template: &Arc<dyn ExecutionPlan>, partition_count: usize) -> Arc<PlanProperties> {
    let equivalences: EquivalenceProperties = template.properties().eq_properties.clone();
    let partitioning = Partitioning::UnknownPartitioning(partition_count);
    Arc::new(
        PlanProperties::new(
            equivalences,
            partitioning,
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative),
    )
}

#[async_trait]
impl ExecutionPlan for FrameScanExec {
    fn name(&self) -> &'static str {
        "FrameScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        self.template.apply_expressions(f)
    }

    fn reset_state(self: Arc<Self>) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(self.with_template(Arc::clone(&self.template))))
    }

    fn repartitioned(
        &self,
        target: usize,
        config: &ConfigOptions,
    ) -> DfResult<Option<Arc<dyn ExecutionPlan>>> {
        let split_bytes_min = config.optimizer.repartition_file_min_size as u64;
        let partitions = partition_cells(&self.cells, target, split_bytes_min);
        // A scan for several nodes has more partitions than its cells would fill.
        if partitions.len() <= self.partitions.len() {
            return Ok(None);
        }
        let mut scan = self.with_template(Arc::clone(&self.template));
        scan.properties = properties(&scan.template, partitions.len());
        scan.partitions = Arc::new(partitions);
        Ok(Some(Arc::new(scan)))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DfResult<SendableRecordBatchStream> {
        let scan = Arc::new(self.clone());
        let readers = Arc::clone(&self.readers);
        let frame = self.identity.frame.clone();
        let stream = futures::stream::once(scan.run(partition, context))
            .try_flatten()
            .map(move |batch| {
                batch.map_err(|error| name_cells(error, &readers, partition, &frame))
            });
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            stream,
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.template.metrics()
    }

    fn statistics_from_inputs(
        &self,
        _inputs: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> DfResult<Arc<Statistics>> {
        match args.partition() {
            Some(_) => Ok(Arc::new(Statistics::new_unknown(&self.schema()))),
            None => {
                StatisticsContext::new().compute(self.template.as_ref(), &StatisticsArgs::new())
            }
        }
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        Some(Arc::new(
            self.with_template(self.template.with_fetch(limit)?),
        ))
    }

    fn fetch(&self) -> Option<usize> {
        self.template.fetch()
    }

    fn try_swapping_with_projection(
        &self,
        projection: &ProjectionExec,
    ) -> DfResult<Option<Arc<dyn ExecutionPlan>>> {
        let swapped = self.template.try_swapping_with_projection(projection)?;
        Ok(
            swapped
                .map(|template| Arc::new(self.with_template(template)) as Arc<dyn ExecutionPlan>),
        )
    }

    fn handle_child_pushdown_result(
        &self,
        phase: FilterPushdownPhase,
        result: ChildPushdownResult,
        config: &ConfigOptions,
    ) -> DfResult<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        let pushed = self
            .template
            .handle_child_pushdown_result(phase, result, config)?;
        Ok(FilterPushdownPropagation {
            filters: pushed.filters,
            updated_node: pushed
                .updated_node
                .map(|template| Arc::new(self.with_template(template)) as _),
        })
    }

    fn try_pushdown_sort(
        &self,
        order: &[PhysicalSortExpr],
    ) -> DfResult<SortOrderPushdownResult<Arc<dyn ExecutionPlan>>> {
        // The template has no files, so what it says of exact orders would be said of nothing: only
        // its hint, to read promising row groups first, is taken.
        Ok(match self.template.try_pushdown_sort(order)? {
            SortOrderPushdownResult::Inexact { inner }
            | SortOrderPushdownResult::Exact { inner } => SortOrderPushdownResult::Inexact {
                inner: Arc::new(self.with_template(inner)),
            },
            SortOrderPushdownResult::Unsupported => SortOrderPushdownResult::Unsupported,
        })
    }

    fn try_to_proto(
        &self,
        context: &datafusion::physical_plan::proto::ExecutionPlanEncodeCtx<'_>,
    ) -> DfResult<Option<datafusion_proto::protobuf::PhysicalPlanNode>> {
        super::codec::encode_scan(self, context).map(Some)
    }
}
