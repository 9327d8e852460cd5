//! Nested loop joins whose answer does not depend on memory, and cross joins that spill.
//!
//! When the left side of a nested loop join does not fit, DataFusion 55 runs it once more and goes over
//! it piece by piece. Two things are wrong with that:
//!
//! - What runs once more is the plan that has run, which gives what is left of it. So the left side is
//!   one that runs anew.
//! - Each partition of the right side then decides alone which rows on the left found no partner: with
//!   several, a left row comes out once for each that has none, or beside its partner. So a join that
//!   must know of all partners gets the right side as one partition.
//!
//! A cross join collects its left side whole and cannot spill. As a nested loop join without a
//! condition it can.
//!
//! Invariant: the rows are those of the plan before, whatever memory there is.

use super::anew::AnewExec;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{JoinType, Result};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{CrossJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions,
};
use std::sync::Arc;

type Plan = Arc<dyn ExecutionPlan>;

#[derive(Debug)]
pub(super) struct NestedLoops {
    /// Whether cross joins must be able to spill.
    pub spills_cross_joins: bool,
}

impl PhysicalOptimizerRule for NestedLoops {
    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        plan.transform_up(|node| {
            if self.spills_cross_joins
                && let Some(join) = node.downcast_ref::<CrossJoinExec>()
            {
                let (left, right) = (AnewExec::over(join.left().clone()), join.right().clone());
                let join = NestedLoopJoinExec::try_new(left, right, None, &JoinType::Inner, None)?;
                return Ok(Transformed::yes(Arc::new(join)));
            }
            if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
                let mut right = join.right().clone();
                if knows_all_partners(*join.join_type())
                    && right.output_partitioning().partition_count() > 1
                {
                    right = Arc::new(CoalescePartitionsExec::new(right));
                }
                let children = vec![AnewExec::over(join.left().clone()), right];
                let recompute = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
                return node
                    .replace_children(children, recompute)
                    .map(Transformed::yes);
            }
            Ok(Transformed::no(node))
        })
        .data()
    }

    fn name(&self) -> &str {
        "apiary_nested_loops"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Whether what comes out for a row on the left depends on all rows on the right.
fn knows_all_partners(join_type: JoinType) -> bool {
    matches!(
        join_type,
        JoinType::Left
            | JoinType::LeftSemi
            | JoinType::LeftAnti
            | JoinType::LeftMark
            | JoinType::Full
    )
}
