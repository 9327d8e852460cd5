//! Joins that let others run.
//!
//! DataFusion sees to it that plans yield where they read: a batch that is read costs a part of the
//! task's turn. A join can make thousands of batches of one that it has read, and what consumes them,
//! an aggregate say, would take them all in one turn: a query that was cancelled kept its thread, and
//! the next one waited for it. So a batch that a join makes costs a part of the turn too.

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec};
use std::sync::Arc;

type Plan = Arc<dyn ExecutionPlan>;

/// For a plan that was read back. As bytes it goes without: plans may be nested in bytes only so deep.
pub(crate) fn with_yielding_joins(plan: Plan, options: &ConfigOptions) -> Result<Plan> {
    YieldingJoins.optimize(plan, options)
}

#[derive(Debug)]
pub(super) struct YieldingJoins;

impl PhysicalOptimizerRule for YieldingJoins {
    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        plan.transform_up(|node| match makes_many_of_one(&node) {
            true => Ok(Transformed::yes(Arc::new(CooperativeExec::new(node)))),
            false => Ok(Transformed::no(node)),
        })
        .data()
    }

    fn name(&self) -> &str {
        "apiary_yielding_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn makes_many_of_one(node: &Plan) -> bool {
    node.is::<CrossJoinExec>() || node.is::<NestedLoopJoinExec>() || node.is::<HashJoinExec>()
}
