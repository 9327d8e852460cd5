//! Whether two engines gave the same answer.
//!
//! Row by row; only floating-point values may differ, by [`TOLERANCE`]. Where one engine gives a
//! decimal and the other a float or a decimal of another scale (averages, quotients), they may differ
//! by one unit of the coarser one's last digit. The columns of ORDER BY must stand in the same order;
//! rows that tie in all of them may stand in any, as may all rows of a query without ORDER BY.

use super::unexpected;
use crate::failure::{Failure, Result};
use apiary::arrow::array::{Array, ArrayRef, Float64Array, RecordBatch};
use apiary::arrow::compute::{cast, concat_batches};
use apiary::arrow::datatypes::{DataType, Schema};
use apiary::arrow::error::ArrowError;
use apiary::arrow::ipc::reader::FileReader;
use apiary::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::sql::sqlparser::ast::{Expr, OrderByKind, Statement};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use std::fs::File;
use std::path::Path;

/// Relative difference of two floating-point values that are taken for equal.
const TOLERANCE: f64 = 1e-9;

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Float(f64),
    Decimal { text: String, unit: f64 },
    Text(String),
}

impl Value {
    /// The number, and how exactly it is given.
    fn number(&self) -> Option<(f64, f64)> {
        match self {
            Self::Float(number) => Some((*number, 0.0)),
            Self::Decimal { text, unit } => Some((text.parse().ok()?, *unit)),
            Self::Text(text) => Some((text.parse().ok()?, 0.0)),
        }
    }

    fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Decimal { text: a, unit: x }, Self::Decimal { text: b, unit: y }) if x == y => {
                a == b
            }
            (a, b) => match (a.number(), b.number()) {
                (Some((a, x)), Some((b, y))) => {
                    a == b || (a - b).abs() <= (TOLERANCE * a.abs().max(b.abs())).max(x).max(y)
                }
                _ => false,
            },
        }
    }
}

/// An answer: the names of its columns, and its rows.
struct Answer {
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

/// What differs first between two answers to `sql`, or nothing.
pub fn difference(sql: &str, ours: &Path, theirs: &Path) -> Result<Option<String>> {
    let (ours, theirs) = (read(ours)?, read(theirs)?);
    let order = order_columns(sql, &ours.columns)?;
    Ok(compare(ours.rows, theirs.rows, &order))
}

/// The columns that a query orders its rows by, as indexes.
///
/// # Errors
/// `Bug` for an ORDER BY that does not name columns of the answer.
fn order_columns(sql: &str, columns: &[String]) -> Result<Vec<usize>> {
    let statements = Parser::parse_sql(&GenericDialect {}, sql)
        .map_err(|error| unexpected(format!("{error} in {sql}")))?;
    let Some(Statement::Query(query)) = statements.into_iter().next() else {
        return Err(unexpected(format!("no query: {sql}")));
    };
    let Some(order) = query.order_by else {
        return Ok(Vec::new());
    };
    let OrderByKind::Expressions(keys) = order.kind else {
        return Err(unexpected(format!("ORDER BY ALL in {sql}")));
    };
    let index = |key: &Expr| {
        let name = match key {
            Expr::Identifier(name) => Some(name),
            Expr::CompoundIdentifier(parts) => parts.last(),
            _ => None,
        };
        let name = name.map(|name| name.value.to_lowercase());
        let index = columns
            .iter()
            .position(|column| Some(column.to_lowercase()) == name);
        index.ok_or_else(|| unexpected(format!("ORDER BY {key} is no column of {columns:?}")))
    };
    keys.iter().map(|key| index(&key.expr)).collect()
}

fn compare(
    mut ours: Vec<Vec<Value>>,
    mut theirs: Vec<Vec<Value>>,
    order: &[usize],
) -> Option<String> {
    if ours.len() != theirs.len() {
        return Some(format!("{} rows instead of {}", ours.len(), theirs.len()));
    }
    let keys = |rows: &[Vec<Value>]| -> Vec<Vec<Value>> {
        let key = |row: &Vec<Value>| order.iter().map(|index| row[*index].clone()).collect();
        rows.iter().map(key).collect()
    };
    let keys_of_theirs = keys(&theirs);
    if let Some(difference) = first_difference(&keys(&ours), &keys_of_theirs) {
        return Some(format!("in the columns of ORDER BY, {difference}"));
    }
    let mut start = 0;
    for tie in keys_of_theirs.chunk_by(|one, next| are_equal(one, next)) {
        let rows = start..start + tie.len();
        for side in [&mut ours, &mut theirs] {
            side[rows.clone()].sort_by_cached_key(|row| key(row));
        }
        start = rows.end;
    }
    first_difference(&ours, &theirs)
}

fn first_difference(ours: &[Vec<Value>], theirs: &[Vec<Value>]) -> Option<String> {
    let (index, (ours, theirs)) = ours
        .iter()
        .zip(theirs)
        .enumerate()
        .find(|(_, (ours, theirs))| !are_equal(ours, theirs))?;
    Some(format!("row {index}: {ours:?} instead of {theirs:?}"))
}

fn are_equal(ours: &[Value], theirs: &[Value]) -> bool {
    ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| a.equals(b))
}

/// Exact values first: two floats that are nearly equal must not decide the order.
fn key(row: &[Value]) -> (Vec<String>, Vec<String>) {
    let texts = row.iter().filter_map(|value| match value {
        Value::Text(text) => Some(text.clone()),
        Value::Float(_) | Value::Decimal { .. } => None,
    });
    let numbers = row.iter().filter_map(|value| match value {
        Value::Text(_) => None,
        number => number.number().map(|(number, _)| format!("{number:.6e}")),
    });
    (texts.collect(), numbers.collect())
}

/// The rows of an answer of two text columns.
pub fn texts(path: &Path) -> Result<Vec<(String, String)>> {
    let rows = read(path)?.rows.into_iter();
    rows.map(|row| match <[Value; 2]>::try_from(row) {
        Ok([Value::Text(what), Value::Text(text)]) => Ok((what, text)),
        other => Err(unexpected(format!("a row of an explanation: {other:?}"))),
    })
    .collect()
}

fn read(path: &Path) -> Result<Answer> {
    let file = File::open(path).map_err(|error| Failure::file(path, error))?;
    let answer = FileReader::try_new(file, None).and_then(|reader| {
        let schema = reader.schema();
        let batches = reader.collect::<Result<Vec<_>, _>>()?;
        Ok(Answer {
            columns: names(&schema),
            rows: rows_of(&concat_batches(&schema, &batches)?)?,
        })
    });
    answer.map_err(|error| apiary::Error::rejected(format!("{}: {error}", path.display())).into())
}

fn names(schema: &Schema) -> Vec<String> {
    let names = schema.fields().iter().map(|field| field.name().clone());
    names.collect()
}

fn rows_of(batch: &RecordBatch) -> Result<Vec<Vec<Value>>, ArrowError> {
    let mut rows = vec![Vec::new(); batch.num_rows()];
    for column in batch.columns() {
        for (row, value) in rows.iter_mut().zip(values_of(column)?) {
            row.push(value);
        }
    }
    Ok(rows)
}

fn values_of(column: &ArrayRef) -> Result<Vec<Value>, ArrowError> {
    if column.data_type().is_floating() {
        let column = cast(column, &DataType::Float64)?;
        if let Some(numbers) = column.as_any().downcast_ref::<Float64Array>() {
            let value = |number: Option<f64>| match number {
                Some(number) => Value::Float(number),
                None => Value::Text("NULL".into()),
            };
            return Ok(numbers.iter().map(value).collect());
        }
    }
    let options = FormatOptions::new().with_null("NULL");
    let formatter = ArrayFormatter::try_new(column.as_ref(), &options)?;
    let scale = match column.data_type() {
        DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) if *scale > 0 => {
            Some(*scale)
        }
        _ => None,
    };
    let value = |row| {
        let text = formatter.value(row).try_to_string()?;
        Ok(match scale {
            Some(scale) if column.is_valid(row) => Value::Decimal {
                text,
                unit: 10f64.powi(-i32::from(scale)),
            },
            _ => Value::Text(text),
        })
    };
    (0..column.len()).map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tpch::{QUERY_COUNT, query};

    #[test]
    fn a_decimal_may_be_rounded_where_the_other_engine_has_another_type() {
        let decimal = |text: &str, digits: i32| Value::Decimal {
            text: text.into(),
            unit: 10f64.powi(-digits),
        };
        assert!(decimal("0.049985", 6).equals(&Value::Float(0.049_985_295)));
        assert!(!decimal("0.049985", 6).equals(&Value::Float(0.0499)));
        assert!(decimal("1.50", 2).equals(&decimal("1.5000", 4)));
        assert!(!decimal("1.50", 2).equals(&decimal("1.51", 2)));
        assert!(!decimal("1.50", 2).equals(&Value::Text("NULL".into())));
    }

    fn row(text: &str, number: f64) -> Vec<Value> {
        vec![Value::Text(text.into()), Value::Float(number)]
    }

    #[test]
    fn the_last_bits_of_floats_do_not_matter_and_all_else_does() {
        let ours = vec![row("a", 1.0), row("b", 2.0)];
        let theirs = |second| vec![row("a", 1.0), second];
        assert_eq!(
            compare(ours.clone(), theirs(row("b", 2.0 + 1e-12)), &[]),
            None
        );
        assert!(compare(ours.clone(), theirs(row("b", 2.1)), &[0]).is_some());
        assert!(compare(ours.clone(), theirs(row("c", 2.0)), &[0]).is_some());
        assert!(compare(ours, vec![row("a", 1.0)], &[]).is_some());
    }

    #[test]
    fn only_rows_that_tie_may_stand_in_another_order() {
        let ours = vec![row("a", 1.0), row("b", 1.0), row("c", 2.0)];
        let tied = vec![row("b", 1.0), row("a", 1.0), row("c", 2.0)];
        let moved = vec![row("a", 1.0), row("c", 2.0), row("b", 1.0)];
        assert_eq!(compare(ours.clone(), tied.clone(), &[1]), None);
        assert!(compare(ours.clone(), tied, &[0]).is_some());
        assert!(compare(ours.clone(), moved.clone(), &[1]).is_some());
        assert_eq!(compare(ours, moved, &[]), None);
    }

    #[test]
    fn rows_of_one_tie_are_not_taken_for_those_of_another() {
        let ours = vec![row("a", 1.0), row("b", 2.0)];
        let swapped = vec![row("b", 1.0), row("a", 2.0)];
        assert!(compare(ours, swapped, &[1]).is_some());
    }

    #[test]
    fn every_tpch_query_orders_by_columns_of_its_answer() {
        // The columns are not known without running it: any name that it orders by will do.
        let ordered = (1..=QUERY_COUNT).filter(|number| {
            let sql = query(*number, 1.0);
            let Some((_, keys)) = sql.rsplit_once("order by") else {
                return false;
            };
            let names = keys.split_once("limit").map_or(keys, |(keys, _)| keys);
            let names: Vec<String> = names
                .split(',')
                .filter_map(|key| Some(key.split_whitespace().next()?.to_owned()))
                .collect();
            let order = order_columns(&sql, &names).unwrap();
            assert_eq!(
                order,
                (0..names.len()).collect::<Vec<_>>(),
                "query {number}"
            );
            true
        });
        assert_eq!(ordered.count(), 18);
        assert!(order_columns("SELECT a FROM t ORDER BY a + 1", &["a".into()]).is_err());
    }
}
