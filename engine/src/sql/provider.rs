//! A frame at one snapshot, as DataFusion's table.

use super::Caches;
use super::ForSwarm;
use super::pieces::partition_cells;
use super::pruning::CellIndex;
use super::scan::{FrameScanExec, ScanIdentity, template};
use crate::catalog::FrameEntry;
use crate::error::Result;
use crate::ledger::Snapshot;
use crate::store::Meadow;
use arrow::datatypes::{FieldRef, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::TableType;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// See the module. Never looks at the ledger again: what it was made with is what it shows.
pub(super) struct FrameProvider {
    pub entry: FrameEntry,
    pub snapshot: Arc<Snapshot>,
    meadow: Meadow,
    caches: Arc<Caches>,
}

impl fmt::Debug for FrameProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "FrameProvider({} at version {})",
            self.entry.name, self.snapshot.version
        )
    }
}

impl FrameProvider {
    pub fn new(
        entry: FrameEntry,
        snapshot: Arc<Snapshot>,
        meadow: Meadow,
        caches: Arc<Caches>,
    ) -> Self {
        Self {
            entry,
            snapshot,
            meadow,
            caches,
        }
    }

    /// Columns whose bounds are worth reading from the ledger: those that the query looks at.
    fn interesting(&self, projection: Option<&Vec<usize>>, filters: &[Expr]) -> BTreeSet<String> {
        let fields = self.snapshot.schema.logical.fields();
        let projected = |index: &usize| fields.get(*index).map(|field| field.name().clone());
        let mut names: BTreeSet<String> = match projection {
            Some(projection) => projection.iter().filter_map(projected).collect(),
            None => fields.iter().map(|field| field.name().clone()).collect(),
        };
        names.extend(
            filters
                .iter()
                .flat_map(Expr::column_refs)
                .map(|column| column.name.clone()),
        );
        names
    }

    fn physical_filters(
        &self,
        state: &dyn Session,
        filters: &[Expr],
        schema: &SchemaRef,
    ) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
        let schema = DFSchema::try_from(Arc::clone(schema))?;
        // What has no physical form yet (a subquery's result) prunes nothing; it stays above the scan.
        let usable = filters.iter().filter(|filter| !has_subquery(filter));
        Ok(usable
            .filter_map(|filter| state.create_physical_expr(filter.clone(), &schema).ok())
            .collect())
    }

    fn plan_scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let table = table_schema(&self.snapshot.schema);
        let schema = table.table_schema();
        let index: Arc<CellIndex> = self.snapshot.derived(CellIndex::new);
        let kept = index.prune(&self.physical_filters(state, filters, schema)?, schema)?;
        let statistics = index.statistics(&kept, schema, &self.interesting(projection, filters))?;
        let template = template(
            &table,
            statistics,
            self.table_indices(&table, projection)?,
            limit,
        )?;
        let identity = ScanIdentity {
            frame: self.entry.name.to_string(),
            frame_id: self.entry.id.to_string(),
            location: self.snapshot.location.clone(),
            version: self.snapshot.version,
            cells_total: index.cells.len(),
            bytes_total: index.total_bytes,
            pruned_by_partition: kept.pruned_by_partition,
            pruned_by_statistics: kept.pruned_by_statistics,
        };
        let options = state.config_options();
        let split_bytes_min = options.optimizer.repartition_file_min_size as u64;
        let target = state.config().target_partitions();
        let mut partitions = partition_cells(&kept.cells, target, split_bytes_min);
        if state.config().get_extension::<ForSwarm>().is_some() {
            partitions.resize(partitions.len().max(target), vec![]);
        }
        Ok(Arc::new(FrameScanExec::new(
            Arc::new(identity),
            kept.cells,
            partitions,
            template,
            &self.meadow,
            &self.caches,
        )))
    }

    /// The frame's columns in the order that users see, as columns of the scan, whose partition
    /// columns come last.
    fn table_indices(
        &self,
        table: &TableSchema,
        projection: Option<&Vec<usize>>,
    ) -> Result<Option<Vec<usize>>> {
        let fields = self.snapshot.schema.logical.fields();
        let all: Vec<usize>;
        let wanted = match projection {
            Some(projection) => projection,
            None => {
                all = (0..fields.len()).collect();
                &all
            }
        };
        let place = |index: &usize| -> Result<usize> {
            let name = fields[*index].name();
            Ok(table
                .table_schema()
                .index_of(name)
                .map_err(datafusion::error::DataFusionError::from)?)
        };
        wanted
            .iter()
            .map(place)
            .collect::<Result<Vec<_>>>()
            .map(Some)
    }
}

fn has_subquery(filter: &Expr) -> bool {
    let mut found = false;
    let _ = filter.apply(|part| {
        found |= matches!(
            part,
            Expr::ScalarSubquery(_)
                | Expr::InSubquery(_)
                | Expr::Exists(_)
                | Expr::SetComparison(_)
        );
        Ok(if found {
            TreeNodeRecursion::Stop
        } else {
            TreeNodeRecursion::Continue
        })
    });
    found
}

#[async_trait]
impl TableProvider for FrameProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.snapshot.schema.logical)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        Ok(self.plan_scan(state, projection, filters, limit)?)
    }

    /// Filters prune and stay: what the scan returns may still hold rows that they refuse.
    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> datafusion::common::Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}

/// The schema that cells have for DataFusion: file columns first, partition columns behind them.
fn table_schema(schema: &crate::schema::FrameSchema) -> TableSchema {
    let is_partition = |field: &FieldRef| {
        schema
            .partition_columns
            .iter()
            .any(|name| name == field.name())
    };
    let fields = schema.logical.fields();
    let file: Vec<FieldRef> = fields
        .iter()
        .filter(|field| !is_partition(field))
        .cloned()
        .collect();
    let partition = schema
        .partition_columns
        .iter()
        .filter_map(|name| fields.iter().find(|field| field.name() == name).cloned())
        .collect::<Vec<FieldRef>>();
    let file: SchemaRef = Arc::new(arrow::datatypes::Schema::new(file));
    TableSchema::builder(file)
        .with_table_partition_cols(partition)
        .build()
}
