//! `count(DISTINCT …)` beside other aggregates, each over a plan of its own.
//!
//! Of one distinct column alone DataFusion makes groups, which spill. Of several, or of one beside a
//! plain count, it keeps sets in memory, which cannot. Once memory has run out, each column gets an aggregate of its own over the
//! same rows, and the results, one row each, stand side by side. The rows are read once for each.
//!
//! Invariant: the answer is that of the plan before. So only rows that come out the same each time are
//! read several times: no limits, windows or volatile functions below.

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::logical_expr::expr::AggregateFunctionParams;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

#[derive(Debug)]
pub(super) struct SplitDistincts;

impl OptimizerRule for SplitDistincts {
    fn name(&self) -> &str {
        "apiary_split_distincts"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Aggregate(aggregate) = &plan else {
            return Ok(Transformed::no(plan));
        };
        match split(aggregate)? {
            Some(apart) => Ok(Transformed::yes(apart)),
            None => Ok(Transformed::no(plan)),
        }
    }
}

fn split(aggregate: &Aggregate) -> Result<Option<LogicalPlan>> {
    let Some(parts) = parts(aggregate) else {
        return Ok(None);
    };
    let is_distinct = parts.iter().any(|(column, _)| column.is_some());
    if parts.len() < 2 || !is_distinct || !is_repeatable(&aggregate.input)? {
        return Ok(None);
    }
    let mut apart: Option<LogicalPlanBuilder> = None;
    for (_, expressions) in parts {
        let input = LogicalPlanBuilder::from(aggregate.input.as_ref().clone());
        let part = input.aggregate(Vec::<Expr>::new(), expressions)?;
        apart = Some(match apart {
            Some(apart) => apart.cross_join(part.build()?)?,
            None => part,
        });
    }
    let columns = aggregate.schema.columns().into_iter().map(Expr::Column);
    let apart = apart.map(|apart| apart.project(columns)?.build());
    apart.transpose()
}

/// Aggregates by the column that they are distinct in, `None` for those that are not. `None` when there
/// are groups, or something else that is not that simple.
fn parts(aggregate: &Aggregate) -> Option<Vec<(Option<Expr>, Vec<Expr>)>> {
    if !aggregate.group_expr.is_empty() {
        return None;
    }
    let mut parts: Vec<(Option<Expr>, Vec<Expr>)> = vec![];
    for expression in &aggregate.aggr_expr {
        let Expr::AggregateFunction(function) = expression else {
            return None;
        };
        let AggregateFunctionParams {
            args,
            distinct,
            filter,
            order_by,
            ..
        } = &function.params;
        let column = match (distinct, args.as_slice()) {
            (false, _) => None,
            (true, [column]) if filter.is_none() && order_by.is_empty() => Some(column.clone()),
            (true, _) => return None,
        };
        match parts.iter_mut().find(|(of, _)| *of == column) {
            Some((_, part)) => part.push(expression.clone()),
            None => parts.push((column, vec![expression.clone()])),
        }
    }
    Some(parts)
}

/// Whether a plan gives the same rows whenever it runs.
fn is_repeatable(plan: &LogicalPlan) -> Result<bool> {
    let mut is_repeatable = true;
    plan.apply_with_subqueries(|node| {
        let is_simple = match node {
            LogicalPlan::TableScan(scan) => scan.fetch.is_none(),
            LogicalPlan::Filter(_)
            | LogicalPlan::Projection(_)
            | LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Join(_)
            | LogicalPlan::Aggregate(_)
            | LogicalPlan::Union(_)
            | LogicalPlan::Distinct(_) => true,
            _ => false,
        };
        if is_simple && !node.expressions().iter().any(Expr::is_volatile) {
            return Ok(TreeNodeRecursion::Continue);
        }
        is_repeatable = false;
        Ok(TreeNodeRecursion::Stop)
    })?;
    Ok(is_repeatable)
}
