//! What DataFusion takes to be true of the rows of grouping sets.
//!
//! GROUPING SETS, ROLLUP and CUBE put NULL in place of the columns that a set leaves out. DataFusion's
//! operator says of its rows what was true of its input: that a column which a filter has fixed is
//! constant, that two columns are equal, that rows are sorted and spread by columns that are NULL now.
//! Then a sort by such a column is left out, and the aggregate above takes a group for complete and
//! gives it twice. So a layer above it says nothing of its rows.

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, Statistics, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateInputMode};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use std::fmt;
use std::sync::Arc;

type Plan = Arc<dyn ExecutionPlan>;

/// Comes before all rules that ask what is true of rows.
#[derive(Debug)]
pub(super) struct ForgetBelowGroupingSets;

impl PhysicalOptimizerRule for ForgetBelowGroupingSets {
    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        plan.transform_up(|node| match makes_grouping_sets(&node) {
            true => Ok(Transformed::yes(GroupingSetsExec::over(node))),
            false => Ok(Transformed::no(node)),
        })
        .data()
    }

    fn name(&self) -> &str {
        "apiary_forget_below_grouping_sets"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn makes_grouping_sets(node: &Plan) -> bool {
    node.downcast_ref::<AggregateExec>()
        .is_some_and(|aggregate| {
            aggregate.group_expr().has_grouping_set()
                && aggregate.mode().input_mode() == AggregateInputMode::Raw
        })
}

/// Gives the rows of its child and knows nothing about them.
#[derive(Debug)]
pub(super) struct GroupingSetsExec {
    input: Plan,
    properties: Arc<PlanProperties>,
}

impl GroupingSetsExec {
    pub(super) fn over(input: Plan) -> Plan {
        let known = input.properties();
        let properties = PlanProperties::clone(known)
            .with_eq_properties(EquivalenceProperties::new(input.schema()))
            .with_partitioning(Partitioning::UnknownPartitioning(
                known.partitioning.partition_count(),
            ));
        Arc::new(Self {
            input,
            properties: Arc::new(properties),
        })
    }
}

impl DisplayAs for GroupingSetsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ExecutionPlan for GroupingSetsExec {
    fn name(&self) -> &'static str {
        "GroupingSetsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Plan> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Plan>) -> Result<Plan> {
        let [input] = <[Plan; 1]>::try_from(children)
            .or_else(|_| internal_err!("GroupingSetsExec has one child"))?;
        Ok(Self::over(input))
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        self.input.execute(partition, context)
    }

    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        _: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        Ok(Arc::clone(&inputs[0]))
    }
}
