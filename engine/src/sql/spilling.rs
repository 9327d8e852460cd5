//! Joins that spill: hash joins of a finished plan become sort-merge joins.
//!
//! DataFusion can plan sort-merge joins itself, but its optimizer then moves the limit of a sort that
//! the join already satisfies below the join, and rows are missing (DataFusion 55, `pushdown_sorts`).
//! This rule comes after all others, when limits are where they are right for a hash join.
//!
//! Invariants: what a parent relies on, the order of rows and who has which, is kept, or the join
//! stays as it is; the plan passes DataFusion's sanity check afterwards.

use super::SpillingJoins;
use arrow::compute::SortOptions;
use arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::sanity_checker::SanityCheckPlan;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode, SortMergeJoinExec};
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, Partitioning};
use std::sync::Arc;

type Plan = Arc<dyn ExecutionPlan>;

#[derive(Debug)]
pub(super) struct SpillJoins(pub(super) SpillingJoins);

/// The same for a plan that was read back: the next attempt at a task.
pub fn spill_joins(
    plan: Plan,
    which: SpillingJoins,
    context: &TaskContext,
) -> crate::error::Result<Plan> {
    let options = context.session_config().options();
    let plan = SpillJoins(which).optimize(plan, options)?;
    Ok(SanityCheckPlan::new().optimize(plan, options)?)
}

impl PhysicalOptimizerRule for SpillJoins {
    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        plan.transform_up(|node| {
            let Some(join) = node.downcast_ref::<HashJoinExec>() else {
                return Ok(Transformed::no(node));
            };
            match sort_merge(join, self.0)? {
                Some(merged) if merged.schema() == node.schema() => Ok(Transformed::yes(merged)),
                _ => Ok(Transformed::no(node)),
            }
        })
        .data()
    }

    fn name(&self) -> &str {
        "apiary_spill_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The join as a sort-merge join; `None` when it must stay a hash join.
fn sort_merge(join: &HashJoinExec, which: SpillingJoins) -> Result<Option<Plan>> {
    let sortable = join.on().iter().all(|(left, right)| {
        let types = (
            left.data_type(&join.left().schema()),
            right.data_type(&join.right().schema()),
        );
        matches!(types, (Ok(left), Ok(right)) if can_merge(&left) && can_merge(&right))
    });
    // A parent may rely on the order in which a hash join leaves the rows of its probe side, and a
    // null-aware join has no merging form.
    if join.null_aware || !sortable || join.properties().output_ordering().is_some() {
        return Ok(None);
    }
    let sides = match (join.partition_mode(), which) {
        (PartitionMode::Partitioned, SpillingJoins::Large | SpillingJoins::All) => {
            Some((join.left().clone(), join.right().clone()))
        }
        (PartitionMode::CollectLeft, SpillingJoins::All) => collected_sides(join)?,
        _ => None,
    };
    let Some((left, right)) = sides else {
        return Ok(None);
    };
    let (left_keys, right_keys): (Vec<_>, Vec<_>) = join.on().iter().cloned().unzip();
    let merged = SortMergeJoinExec::try_new(
        sorted(left, left_keys),
        sorted(right, right_keys),
        join.on().to_vec(),
        join.filter().cloned(),
        *join.join_type(),
        vec![SortOptions::default(); join.on().len()],
        join.null_equality(),
    )?;
    let mut merged: Plan = Arc::new(merged);
    if let Some(columns) = &join.projection {
        let schema = merged.schema();
        let column = |index: &usize| {
            let name = schema.field(*index).name().clone();
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(&name, *index));
            (column, name)
        };
        let columns: Vec<_> = columns.iter().map(column).collect();
        merged = Arc::new(ProjectionExec::try_new(columns, merged)?);
    }
    if let Some(rows) = join.fetch() {
        merged = Arc::new(LocalLimitExec::new(merged, rows));
    }
    Ok(Some(merged))
}

/// The sides of a join whose left side was collected whole, partitioned alike. `None` when a parent
/// may rely on how the right side is partitioned.
fn collected_sides(join: &HashJoinExec) -> Result<Option<(Plan, Plan)>> {
    let (left, right) = (join.left().clone(), join.right().clone());
    let count = match right.output_partitioning() {
        Partitioning::UnknownPartitioning(count) | Partitioning::RoundRobinBatch(count) => *count,
        _ => return Ok(None),
    };
    if count == 1 {
        return Ok(Some((left, right)));
    }
    let left = match left.downcast_ref::<CoalescePartitionsExec>() {
        Some(collected) if collected.fetch().is_none() => collected.input().clone(),
        _ => left,
    };
    let (left_keys, right_keys): (Vec<_>, Vec<_>) = join.on().iter().cloned().unzip();
    let spread = |side: Plan, keys| RepartitionExec::try_new(side, Partitioning::Hash(keys, count));
    Ok(Some((
        Arc::new(spread(left, left_keys)?),
        Arc::new(spread(right, right_keys)?),
    )))
}

fn sorted(side: Plan, keys: Vec<Arc<dyn PhysicalExpr>>) -> Plan {
    let keys = keys
        .into_iter()
        .map(|key| PhysicalSortExpr::new(key, SortOptions::default()));
    match LexOrdering::new(keys) {
        Some(order) => Arc::new(SortExec::new(order, side).with_preserve_partitioning(true)),
        None => side,
    }
}

/// Types whose values DataFusion's sort-merge join compares.
fn can_merge(key: &DataType) -> bool {
    use DataType::*;
    matches!(
        key,
        Boolean
            | Int8
            | Int16
            | Int32
            | Int64
            | UInt8
            | UInt16
            | UInt32
            | UInt64
            | Float32
            | Float64
            | Binary
            | BinaryView
            | FixedSizeBinary(_)
            | LargeBinary
            | Utf8
            | Utf8View
            | LargeUtf8
            | Decimal128(..)
            | Timestamp(_, None)
            | Date32
            | Date64
    )
}
