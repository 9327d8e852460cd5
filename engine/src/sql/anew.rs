//! A plan that may run more than once.
//!
//! The partitions of a DataFusion plan share what they have done: files that one has taken, tables that
//! one has built. Run a second time it gives what the first time left, which may be nothing. So it
//! runs from its beginning, as a copy.

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

type Plan = Arc<dyn ExecutionPlan>;

/// Runs its child, which has one partition: the first time itself, later a copy of it.
#[derive(Debug)]
pub(super) struct AnewExec {
    input: Plan,
    has_run: AtomicBool,
}

impl AnewExec {
    pub(super) fn over(input: Plan) -> Plan {
        Arc::new(Self {
            input,
            has_run: AtomicBool::new(false),
        })
    }
}

impl DisplayAs for AnewExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ExecutionPlan for AnewExec {
    fn name(&self) -> &'static str {
        "AnewExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Plan> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Plan>) -> Result<Plan> {
        let [input] =
            <[Plan; 1]>::try_from(children).or_else(|_| internal_err!("AnewExec has one child"))?;
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
        match self.has_run.swap(true, Ordering::Relaxed) {
            false => self.input.execute(partition, context),
            true => reset_plan_states(Arc::clone(&self.input))?.execute(partition, context),
        }
    }
}
