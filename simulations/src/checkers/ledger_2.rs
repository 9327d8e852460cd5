//! LEDGER-2: an acknowledged write is in every later snapshot; a write that got an error is wholly in
//! or wholly out, and out when the error said that nothing happened.

use crate::workload::model::{Fate, Writes};
use crate::workload::rows::Row;
use apiary_engine::error::Error;
use std::collections::BTreeMap;

/// A write that ends with an error of a kind that no retry mends, though nothing is wrong with it.
pub fn unexplained(error: Error) -> String {
    format!("LEDGER-2: a write fails with {error}")
}

pub fn check(writes: &Writes, rows: &[Row]) -> Result<(), String> {
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for row in rows {
        *counts.entry(row.batch).or_default() += 1;
        if *row != Row::of(row.batch, row.row) {
            return Err(format!("LEDGER-2: {row:?} is not what was written"));
        }
    }
    for (batch, fate) in writes.batches.values() {
        let found = counts.remove(&batch.number).unwrap_or(0);
        let is_right = match fate {
            Fate::Acknowledged { .. } => found == batch.row_count,
            Fate::Refused => found == 0,
            Fate::Unknown => found == 0 || found == batch.row_count,
        };
        if !is_right {
            return Err(format!(
                "LEDGER-2: {batch:?}, {fate:?}, has {found} rows in the frame"
            ));
        }
    }
    match counts.first_key_value() {
        Some((number, count)) => Err(format!(
            "LEDGER-2: {count} rows of batch {number}, never written"
        )),
        None => Ok(()),
    }
}
