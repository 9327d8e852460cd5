//! The rows of INSERT: a query whose columns are brought to the names, and where SQL wants it the
//! types, of a frame.
//!
//! Literals are written as text and numbers, so literals are cast to what the column is. Everything
//! else goes to the writer as it is, which casts what loses nothing, value by value, fields of structs
//! by their names, and knows the row that does not fit: the same rules as for any other write.

use super::names::Frames;
use super::plan::plan_query;
use super::{Crew, Environment, PlannedQuery, Session};
use crate::error::{Error, Result};
use crate::schema::FrameSchema;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, cast};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::sql::parser::Statement as DfStatement;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Plans the source of an INSERT. Its columns are, in order, the listed ones, or all of the frame's.
/// `frames` as for [`plan_query`].
pub async fn plan_insert(
    environment: &Environment,
    session: &Session,
    schema: &FrameSchema,
    columns: &[String],
    source: &DfStatement,
    crew: &Crew,
    frames: Option<&Frames>,
) -> Result<PlannedQuery> {
    let targets = targets(schema, columns)?;
    let mut planned = plan_query(environment, session, source, crew, frames).await?;
    if planned.schema.fields().len() != targets.len() {
        return Err(Error::rejected(format!(
            "INSERT has {} values for {} columns ({})",
            planned.schema.fields().len(),
            targets.len(),
            targets
                .iter()
                .map(|field| field.name().as_str())
                .collect::<Vec<_>>()
                .join(", ")
        )));
    }
    let expressions = targets.iter().enumerate().map(|(index, target)| {
        let from = planned.schema.field(index);
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(from.name(), index));
        let is_literal = planned.literals.get(index) == Some(&true);
        if !shares_names(from.data_type(), target.data_type()) {
            return Err(Error::rejected(format!(
                "column {}: is {} and the column is {}, which has none of these fields; name the \
                 fields, as in named_struct('field', value)",
                target.name(),
                from.data_type(),
                target.data_type()
            )));
        }
        let value = match is_literal && is_cast(from.data_type(), target.data_type()) {
            true => cast(column, &planned.schema, target.data_type().clone())?,
            false => column,
        };
        Ok((value, target.name().clone()))
    });
    let expressions = expressions.collect::<Result<Vec<_>>>()?;
    let plan: Arc<dyn ExecutionPlan> = Arc::new(ProjectionExec::try_new(
        expressions,
        Arc::clone(&planned.plan),
    )?);
    planned.schema = plan.schema();
    planned.plan = plan;
    Ok(planned)
}

fn targets(schema: &FrameSchema, columns: &[String]) -> Result<Vec<FieldRef>> {
    let fields = schema.logical.fields();
    if columns.is_empty() {
        return Ok(fields.iter().cloned().collect());
    }
    let mut seen = BTreeSet::new();
    let mut targets = vec![];
    for name in columns {
        let exact = fields.iter().find(|field| field.name() == name);
        let field = exact.or_else(|| {
            fields
                .iter()
                .find(|field| field.name().eq_ignore_ascii_case(name))
        });
        let Some(field) = field else {
            let known: Vec<_> = fields.iter().map(|field| field.name().as_str()).collect();
            return Err(Error::rejected(format!(
                "there is no column {name}; there are {}",
                known.join(", ")
            )));
        };
        if !seen.insert(field.name()) {
            return Err(Error::rejected(format!("column {name} is listed twice")));
        }
        targets.push(Arc::clone(field));
    }
    Ok(targets)
}

fn is_text(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    )
}

/// What SQL's literals need: text to anything that is not text, numbers to decimals and floats,
/// dates to timestamps, NULL to everything.
fn is_cast(from: &DataType, to: &DataType) -> bool {
    if from == to {
        return false;
    }
    match (from, to) {
        (DataType::Null, _) => true,
        (from, to) if is_text(from) => !is_text(to) && !to.is_nested(),
        (from, DataType::Decimal128(..)) => from.is_numeric(),
        (from, DataType::Float32 | DataType::Float64) => from.is_integer() || from.is_decimal(),
        (DataType::Date32, DataType::Timestamp(..)) => true,
        _ => false,
    }
}

/// False when a struct would bring no field along: the writer fills what is missing with nulls.
fn shares_names(from: &DataType, to: &DataType) -> bool {
    use DataType::{FixedSizeList, LargeList, List, Struct};
    match (from, to) {
        (Struct(given), Struct(wanted)) => given.iter().any(|field| {
            let name = field.name().to_lowercase();
            let mut wanted = wanted.iter();
            wanted.any(|wanted| wanted.name().to_lowercase() == name)
        }),
        (List(given) | LargeList(given) | FixedSizeList(given, _), List(wanted)) => {
            shares_names(given.data_type(), wanted.data_type())
        }
        _ => true,
    }
}

/// For each column of a plan whether all its values are written in the statement.
pub(super) fn literals(plan: &LogicalPlan) -> Vec<bool> {
    (0..plan.schema().fields().len())
        .map(|index| is_literal(plan, index))
        .collect()
}

fn unaliased(expression: &Expr) -> &Expr {
    match expression {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

fn is_literal(plan: &LogicalPlan, index: usize) -> bool {
    match plan {
        LogicalPlan::Values(_) => true,
        LogicalPlan::EmptyRelation(empty) => !empty.produce_one_row,
        LogicalPlan::Projection(projection) => match projection.expr.get(index).map(unaliased) {
            Some(Expr::Literal(..)) => true,
            Some(Expr::Column(column)) => {
                let input = &projection.input;
                let place = input.schema().maybe_index_of_column(column);
                place.is_some_and(|place| is_literal(input, place))
            }
            _ => false,
        },
        LogicalPlan::Union(union) => union.inputs.iter().all(|input| is_literal(input, index)),
        LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::Repartition(_) => {
            let inputs = plan.inputs();
            inputs.len() == 1 && inputs.iter().all(|input| is_literal(input, index))
        }
        _ => false,
    }
}
