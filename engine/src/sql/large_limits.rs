//! `ORDER BY … LIMIT n` of very many rows as a sort that spills and a limit.
//!
//! DataFusion keeps the first n rows of a sort in a heap, and those of a grouped extreme in another
//! one. Neither can spill, and neither counts the copy that it makes at its end. For few rows that is
//! by far the fastest; for more than fit it fails, or fills memory that nobody granted.
//!
//! Invariant: the rows and their order are those of the plan before.

use arrow::datatypes::{DataType, Schema};
use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use std::sync::Arc;

type Plan = Arc<dyn ExecutionPlan>;

/// What the heap keeps for a row beside it: its key, its place.
const HEAP_ROW_BYTES: usize = 96;
/// Rows that the heap holds for each that it keeps, and what it gives out is a copy.
const ROW_COPIES: usize = 3;
/// A text or a list is taken to have so many bytes.
const LONG_BYTES: usize = 48;

#[derive(Debug)]
pub(super) struct SpillLargeLimits {
    /// What a heap may hold.
    pub heap_bytes_max: usize,
}

impl PhysicalOptimizerRule for SpillLargeLimits {
    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        plan.transform_up(|node| {
            if let Some(sort) = node.downcast_ref::<SortExec>()
                && let Some(rows) = sort.fetch()
                && self.is_too_large(&sort.schema(), rows)
            {
                let sort = Arc::new(sort.with_fetch(None));
                return Ok(Transformed::yes(Arc::new(LocalLimitExec::new(sort, rows))));
            }
            if let Some(aggregate) = node.downcast_ref::<AggregateExec>()
                && let Some(limit) = aggregate.limit_options()
                && self.is_too_large(&aggregate.schema(), limit.limit())
            {
                let whole = aggregate.with_new_limit_options(None);
                return Ok(Transformed::yes(Arc::new(whole)));
            }
            Ok(Transformed::no(node))
        })
        .data()
    }

    fn name(&self) -> &str {
        "apiary_spill_large_limits"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

impl SpillLargeLimits {
    fn is_too_large(&self, schema: &Schema, rows: usize) -> bool {
        let row_bytes: usize = schema
            .fields()
            .iter()
            .map(|field| value_bytes(field.data_type()))
            .sum();
        let heap_bytes = rows.saturating_mul(row_bytes * ROW_COPIES + HEAP_ROW_BYTES);
        heap_bytes > self.heap_bytes_max
    }
}

fn value_bytes(data_type: &DataType) -> usize {
    data_type.primitive_width().unwrap_or(match data_type {
        DataType::Boolean | DataType::Null => 1,
        _ => LONG_BYTES,
    })
}
