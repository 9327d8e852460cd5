//! LEDGER-3: no row is in a snapshot twice.

use crate::workload::rows::Row;
use std::collections::BTreeSet;

pub fn check(rows: &[Row]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    match rows.iter().find(|row| !seen.insert((row.batch, row.row))) {
        Some(row) => Err(format!("LEDGER-3: {row:?} is there twice")),
        None => Ok(()),
    }
}
