//! Which cells of a snapshot a query must read, and what is known of their rows without reading.
//!
//! The ledger's statistics become arrays column by column, only for columns that somebody asks for,
//! and stay with the snapshot. Pruning itself is
//! DataFusion's pruning predicate.
//!
//! Invariants:
//! - A cell that holds a row for which the filter is true is kept, whatever the statistics lack.
//! - A number that is marked exact is the number that a full scan would find.

use super::bounds::{
    Bounds, BoundsBuilder, partition_array, partition_bounds, partition_text, push_statistics,
};
use crate::error::{Error, Result};
use crate::ledger::{Cell, Snapshot, total_bytes};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt64Array, make_comparator};
use arrow::compute::SortOptions;
use arrow::datatypes::{SchemaRef, UInt64Type};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{Column, ColumnStatistics, ScalarValue, Statistics};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{PhysicalExpr, conjunction, split_conjunction};
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use parking_lot::Mutex;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// The cells of one snapshot with the bounds that queries asked for so far.
#[derive(Debug)]
pub(super) struct CellIndex {
    pub cells: Arc<Vec<Arc<Cell>>>,
    pub total_bytes: u64,
    logical: SchemaRef,
    partition_columns: BTreeSet<String>,
    location: String,
    /// Rows in the files, deleted ones included.
    rows: ArrayRef,
    columns: Mutex<BTreeMap<String, Arc<Bounds>>>,
}

/// The cells that are left, and why the others are not.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    /// Places of the kept cells among all; `None` when all are kept.
    places: Option<Vec<usize>>,
    pub cells: Arc<Vec<Arc<Cell>>>,
    pub bytes: u64,
    pub pruned_by_partition: usize,
    pub pruned_by_statistics: usize,
}

impl CellIndex {
    pub fn new(snapshot: &Snapshot) -> Self {
        let cells: Vec<Arc<Cell>> = snapshot.cells().cloned().collect();
        Self {
            total_bytes: total_bytes(&cells),
            logical: Arc::clone(&snapshot.schema.logical),
            partition_columns: snapshot.schema.partition_columns.iter().cloned().collect(),
            location: snapshot.location.clone(),
            rows: Arc::new(cells.iter().map(|cell| cell.rows).collect::<UInt64Array>()),
            columns: Mutex::default(),
            cells: Arc::new(cells),
        }
    }

    /// Bounds of the named columns; unknown names are left out. Each column is read once.
    fn bounds(&self, names: &BTreeSet<String>) -> Result<BTreeMap<String, Arc<Bounds>>> {
        let mut columns = self.columns.lock();
        let mut builders = vec![];
        for name in names {
            if columns.contains_key(name) {
                continue;
            }
            let Ok(field) = self.logical.field_with_name(name) else {
                continue;
            };
            if self.partition_columns.contains(name) {
                let texts = self
                    .cells
                    .iter()
                    .map(|cell| partition_text(cell, name))
                    .collect();
                let values = partition_array(texts, field.data_type()).map_err(|error| {
                    Error::corrupt(
                        &self.location,
                        format!("a value of partition column {name}: {error}"),
                    )
                })?;
                let rows: Vec<_> = self.cells.iter().map(|cell| cell.rows).collect();
                columns.insert(name.clone(), Arc::new(partition_bounds(values, &rows)));
            } else {
                let count = self.cells.len();
                builders.push(BoundsBuilder::new(name, field.data_type(), count));
            }
        }
        if !builders.is_empty() {
            for cell in self.cells.iter() {
                push_statistics(cell.stats(), &mut builders);
            }
            for builder in builders {
                columns.insert(builder.column.clone(), Arc::new(builder.finish()));
            }
        }
        Ok(names
            .iter()
            .filter_map(|name| Some((name.clone(), Arc::clone(columns.get(name)?))))
            .collect())
    }

    /// Leaves out the cells for which the filters cannot be true. Filters refer to `schema` by name.
    pub fn prune(&self, filters: &[Arc<dyn PhysicalExpr>], schema: &SchemaRef) -> Result<Kept> {
        let conjuncts = filters
            .iter()
            .flat_map(|filter| split_conjunction(filter))
            .map(Arc::clone);
        let (by_partition, by_statistics): (Vec<_>, Vec<_>) = conjuncts.partition(|conjunct| {
            collect_columns(conjunct)
                .iter()
                .all(|column| self.partition_columns.contains(column.name()))
        });
        let mut mask = vec![true; self.cells.len()];
        let pruned_by_partition = self.apply(by_partition, schema, &mut mask)?;
        let pruned_by_statistics = self.apply(by_statistics, schema, &mut mask)?;
        if pruned_by_partition + pruned_by_statistics == 0 {
            return Ok(Kept {
                places: None,
                cells: Arc::clone(&self.cells),
                bytes: self.total_bytes,
                pruned_by_partition,
                pruned_by_statistics,
            });
        }
        let places: Vec<usize> = (0..mask.len()).filter(|place| mask[*place]).collect();
        let cells: Vec<Arc<Cell>> = places
            .iter()
            .map(|place| Arc::clone(&self.cells[*place]))
            .collect();
        Ok(Kept {
            bytes: total_bytes(&cells),
            cells: Arc::new(cells),
            places: Some(places),
            pruned_by_partition,
            pruned_by_statistics,
        })
    }

    /// Clears the mask where the conjunction cannot be true; returns how many it cleared.
    fn apply(
        &self,
        conjuncts: Vec<Arc<dyn PhysicalExpr>>,
        schema: &SchemaRef,
        mask: &mut [bool],
    ) -> Result<usize> {
        if conjuncts.is_empty() || self.cells.is_empty() {
            return Ok(0);
        }
        // A filter that the predicate cannot use (a subquery's result, a function of two columns)
        // prunes nothing, which is right.
        let builder = PruningPredicateBuilder::new().with_file_schema(Arc::clone(schema));
        let Ok(predicate) = builder.try_build(conjunction(conjuncts)) else {
            return Ok(0);
        };
        if predicate.always_true() {
            return Ok(0);
        }
        let names = collect_columns(predicate.orig_expr())
            .iter()
            .map(|column| column.name().to_string())
            .collect();
        let statistics = IndexStatistics {
            bounds: self.bounds(&names)?,
            rows: &self.rows,
            count: self.cells.len(),
        };
        let Ok(kept) = predicate.prune(&statistics) else {
            return Ok(0);
        };
        let mut cleared = 0;
        for (slot, is_kept) in mask.iter_mut().zip(kept) {
            if *slot && !is_kept {
                *slot = false;
                cleared += 1;
            }
        }
        Ok(cleared)
    }

    /// What is known of the kept cells' rows, for `columns` of `schema`; the others are unknown.
    pub fn statistics(
        &self,
        kept: &Kept,
        schema: &SchemaRef,
        columns: &BTreeSet<String>,
    ) -> Result<Statistics> {
        let bounds = self.bounds(columns)?;
        let rows = sum_of_known(kept.cells.iter().map(|cell| cell.live_rows()));
        let has_deletions = kept
            .cells
            .iter()
            .any(|cell| cell.deletion_vector().is_some());
        let summary = |bounds: &Arc<Bounds>| match &kept.places {
            // Many queries read all cells of a frame: what is known of all is found out once.
            None => bounds
                .of_all
                .get_or_init(|| summary(bounds, 0..self.cells.len(), &self.rows))
                .clone(),
            Some(places) => summary(bounds, places.iter().copied(), &self.rows),
        };
        let column_statistics = schema.fields().iter().map(|field| {
            let statistics = bounds.get(field.name()).map(&summary);
            match statistics {
                Some(statistics) if has_deletions => statistics.to_inexact(),
                Some(statistics) => statistics,
                None => ColumnStatistics::new_unknown(),
            }
        });
        Ok(Statistics {
            num_rows: rows.and_then(|rows| usize::try_from(rows).ok()).into(),
            total_byte_size: Precision::Inexact(usize::try_from(kept.bytes).unwrap_or(usize::MAX)),
            column_statistics: column_statistics.collect(),
        })
    }
}

/// `None` when one is unknown, or when together they are more than there can be: then the log is wrong
/// about one of them.
fn sum_of_known(mut counts: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    counts.try_fold(0_u64, |sum, count| sum.checked_add(count?))
}

/// What the bounds of the cells at `places` say together. Deletions are not looked at.
fn summary(
    bounds: &Bounds,
    places: impl Iterator<Item = usize> + Clone,
    rows: &ArrayRef,
) -> ColumnStatistics {
    let nulls = bounds.null_count.as_primitive::<UInt64Type>();
    let rows = rows.as_primitive::<UInt64Type>();
    // A cell of nulls alone has no bounds and needs none.
    let is_bounded = |place: &usize| {
        let (nulls_known, rows_known) = (nulls.is_valid(*place), rows.is_valid(*place));
        !(nulls_known && rows_known && nulls.value(*place) == rows.value(*place))
    };
    let extreme = |values: &Option<ArrayRef>, wanted: Ordering| {
        let places = places.clone().filter(is_bounded);
        let value = values
            .as_ref()
            .and_then(|values| extreme_of(values, places, wanted));
        match (value, bounds.is_exact) {
            (Some(value), true) => Precision::Exact(value),
            (Some(value), false) => Precision::Inexact(value),
            (None, _) => Precision::Absent,
        }
    };
    let null_counts = places
        .clone()
        .map(|place| nulls.is_valid(place).then(|| nulls.value(place)));
    let null_count = sum_of_known(null_counts).and_then(|count| usize::try_from(count).ok());
    ColumnStatistics::new_unknown()
        .with_min_value(extreme(&bounds.min, Ordering::Less))
        .with_max_value(extreme(&bounds.max, Ordering::Greater))
        .with_null_count(null_count.map_or(Precision::Absent, Precision::Exact))
}

/// The least or greatest of the values at `indexes`; `None` when one is unknown or there are none.
fn extreme_of(
    values: &ArrayRef,
    indexes: impl Iterator<Item = usize>,
    wanted: Ordering,
) -> Option<ScalarValue> {
    let compare = make_comparator(values, values, SortOptions::default()).ok()?;
    let mut best: Option<usize> = None;
    for index in indexes {
        if values.is_null(index) {
            return None;
        }
        if best.is_none_or(|best| compare(index, best) == wanted) {
            best = Some(index);
        }
    }
    ScalarValue::try_from_array(values, best?).ok()
}

struct IndexStatistics<'a> {
    bounds: BTreeMap<String, Arc<Bounds>>,
    rows: &'a ArrayRef,
    count: usize,
}

impl PruningStatistics for IndexStatistics<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds.get(&column.name)?.min.clone()
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds.get(&column.name)?.max.clone()
    }

    fn num_containers(&self) -> usize {
        self.count
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        Some(Arc::clone(&self.bounds.get(&column.name)?.null_count))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::clone(self.rows))
    }

    fn contained(&self, _column: &Column, _values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
