//! One file per invariant of the design, and one for the order of commits: each a predicate over what
//! clients were told, what was written, and what an independent reader finds. The error of a check
//! begins with the invariant's name.

pub mod chamber_1;
pub mod keeper_1;
pub mod ledger_1;
pub mod ledger_2;
pub mod ledger_3;
pub mod ledger_4;
pub mod query_1;
pub mod query_2;
pub mod query_3;
pub mod reader;
pub mod serializable;

use crate::workload::model::Writes;
use crate::workload::rows::Row;
use reader::FrameReading;

/// All that can be said of one reading of the frame.
pub fn check_frame(
    writes: &Writes,
    frame: &FrameReading,
    seen: &mut ledger_1::Seen,
) -> Result<(), String> {
    ledger_1::check(frame, seen)?;
    ledger_4::check(frame)?;
    serializable::check(writes)?;
    check_rows(writes, &frame.rows)
}

/// What clients were told, against rows that somebody read.
pub fn check_rows(writes: &Writes, rows: &[Row]) -> Result<(), String> {
    ledger_3::check(rows)?;
    ledger_2::check(writes, rows)
}
