//! QUERY-1: a query returns the whole right answer or an error, of one snapshot of each frame.

use crate::workload::model::Writes;
use arrow::array::{Array, Int64Array, RecordBatch};
use std::collections::BTreeMap;

/// Checks rows of (batch, rows, distinct rows): every batch whole, and none missing that was
/// acknowledged before the query began.
pub fn check_counts(
    writes: &Writes,
    before: &[u64],
    batches: &[RecordBatch],
) -> Result<(), String> {
    let mut counts = BTreeMap::new();
    for batch in batches {
        let column = |index: usize| {
            let column = batch.column(index).as_any().downcast_ref::<Int64Array>();
            column.ok_or(format!("QUERY-1: column {index} is not of integers"))
        };
        let (numbers, rows, distinct) = (column(0)?, column(1)?, column(2)?);
        for index in 0..batch.num_rows() {
            let (number, count) = (numbers.value(index) as u64, rows.value(index) as u64);
            if count != distinct.value(index) as u64 {
                return Err(format!(
                    "QUERY-1: batch {number} has doubled rows in an answer"
                ));
            }
            if counts.insert(number, count).is_some() {
                return Err(format!(
                    "QUERY-1: batch {number} is in an answer as two groups"
                ));
            }
        }
    }
    for (number, count) in &counts {
        match writes.batches.get(number) {
            Some((batch, _)) if batch.row_count == *count => {}
            known => {
                return Err(format!(
                    "QUERY-1: {count} rows of batch {number}, known as {known:?}"
                ));
            }
        }
    }
    match before.iter().find(|number| !counts.contains_key(number)) {
        Some(number) => Err(format!(
            "QUERY-1: batch {number}, acknowledged before, is not in an answer"
        )),
        None => Ok(()),
    }
}
