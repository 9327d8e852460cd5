//! Semi joins with few groups go below the inner joins under them.
//!
//! `o_orderkey IN (SELECT … GROUP BY … HAVING …)` comes out of DataFusion's optimizer as a semi join
//! above all joins of the query, which are then computed whole, and held in memory, for the few rows
//! that the groups leave (TPC-H Q18). A semi join is a filter on its left side: it goes with an inner
//! join as a filter does, to the side that has its columns.
//!
//! Only for subqueries whose groups are filtered: they are small as a rule, while a semi join against
//! a whole table may be better done on what other joins have left (Q21).

use datafusion::common::Result;
use datafusion::common::tree_node::Transformed;
use datafusion::logical_expr::{Expr, Join, JoinType, LogicalPlan};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct SinkSemiJoins;

impl OptimizerRule for SinkSemiJoins {
    fn name(&self) -> &str {
        "apiary_sink_semi_joins"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Join(join) = &plan else {
            return Ok(Transformed::no(plan));
        };
        let columns_only = join
            .on
            .iter()
            .all(|(left, _)| matches!(left, Expr::Column(_)));
        if join.join_type != JoinType::LeftSemi || !columns_only || !filters_groups(&join.right) {
            return Ok(Transformed::no(plan));
        }
        match sink(join, &join.left)? {
            Some(sunk) => Ok(Transformed::yes(sunk)),
            None => Ok(Transformed::no(plan)),
        }
    }
}

/// Whether a subquery keeps some of its groups.
fn filters_groups(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => filters_groups(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => filters_groups(&alias.input),
        LogicalPlan::Filter(filter) => groups(&filter.input),
        _ => false,
    }
}

fn groups(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => groups(&projection.input),
        LogicalPlan::Aggregate(_) => true,
        _ => false,
    }
}

/// `plan` with the semi join inside one side of the highest inner join; `None` where there is no
/// such place.
fn sink(semi: &Join, plan: &LogicalPlan) -> Result<Option<LogicalPlan>> {
    match plan {
        // Columns keep their names, so the semi join needs no other ones below.
        LogicalPlan::Projection(projection)
            if projection
                .expr
                .iter()
                .all(|expr| matches!(expr, Expr::Column(_))) =>
        {
            let Some(input) = sink(semi, &projection.input)? else {
                return Ok(None);
            };
            Ok(Some(plan.with_new_exprs(plan.expressions(), vec![input])?))
        }
        LogicalPlan::Join(join) if join.join_type == JoinType::Inner => {
            let (left, right) = (join.left.as_ref(), join.right.as_ref());
            let inputs = if has_columns(left, semi) {
                vec![sunk_or_here(semi, left)?, right.clone()]
            } else if has_columns(right, semi) {
                vec![left.clone(), sunk_or_here(semi, right)?]
            } else {
                return Ok(None);
            };
            Ok(Some(plan.with_new_exprs(plan.expressions(), inputs)?))
        }
        _ => Ok(None),
    }
}

fn sunk_or_here(semi: &Join, side: &LogicalPlan) -> Result<LogicalPlan> {
    if let Some(sunk) = sink(semi, side)? {
        return Ok(sunk);
    }
    let here = Join::try_new(
        Arc::new(side.clone()),
        semi.right.clone(),
        semi.on.clone(),
        semi.filter.clone(),
        semi.join_type,
        semi.join_constraint,
        semi.null_equality,
        semi.null_aware,
    )?;
    Ok(LogicalPlan::Join(here))
}

/// Whether all columns of its left side that a semi join uses come from here.
fn has_columns(side: &LogicalPlan, semi: &Join) -> bool {
    let keys = semi.on.iter().flat_map(|(left, _)| left.column_refs());
    let filter = semi.filter.iter().flat_map(Expr::column_refs);
    keys.chain(filter.filter(|column| !semi.right.schema().has_column(column)))
        .all(|column| side.schema().has_column(column))
}
