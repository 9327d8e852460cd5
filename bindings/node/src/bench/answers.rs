//! Whether two engines gave the same answer.
//!
//! Row by row; only floating-point values may differ, by [`TOLERANCE`]. Where one engine gives a
//! decimal and the other a float or a decimal of another scale (averages, quotients), they may differ
//! by one unit of the coarser one's last digit. Rows may stand in another order, because ORDER BY
//! leaves ties open.

use crate::failure::{Failure, Result};
use apiary::arrow::array::{Array, ArrayRef, Float64Array, RecordBatch};
use apiary::arrow::compute::{cast, concat_batches};
use apiary::arrow::datatypes::DataType;
use apiary::arrow::error::ArrowError;
use apiary::arrow::ipc::reader::FileReader;
use apiary::arrow::util::display::{ArrayFormatter, FormatOptions};
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

/// What differs first, or nothing.
pub fn difference(ours: &Path, theirs: &Path) -> Result<Option<String>> {
    Ok(compare(read(ours)?, read(theirs)?))
}

fn compare(mut ours: Vec<Vec<Value>>, mut theirs: Vec<Vec<Value>>) -> Option<String> {
    if ours.len() != theirs.len() {
        return Some(format!("{} rows instead of {}", ours.len(), theirs.len()));
    }
    first_difference(&ours, &theirs)?;
    for rows in [&mut ours, &mut theirs] {
        rows.sort_by_cached_key(|row| key(row));
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

fn read(path: &Path) -> Result<Vec<Vec<Value>>> {
    let file = File::open(path).map_err(|error| Failure::file(path, error))?;
    let rows = FileReader::try_new(file, None).and_then(|reader| {
        let schema = reader.schema();
        let batches = reader.collect::<Result<Vec<_>, _>>()?;
        rows_of(&concat_batches(&schema, &batches)?)
    });
    rows.map_err(|error| apiary::Error::rejected(format!("{}: {error}", path.display())).into())
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
    fn order_and_the_last_bits_of_floats_do_not_matter_and_all_else_does() {
        let ours = vec![row("a", 1.0), row("b", 2.0)];
        assert_eq!(
            compare(ours.clone(), vec![row("b", 2.0 + 1e-12), row("a", 1.0)]),
            None
        );
        assert!(compare(ours.clone(), vec![row("a", 1.0), row("b", 2.1)]).is_some());
        assert!(compare(ours.clone(), vec![row("a", 1.0), row("c", 2.0)]).is_some());
        assert!(compare(ours, vec![row("a", 1.0)]).is_some());
    }
}
