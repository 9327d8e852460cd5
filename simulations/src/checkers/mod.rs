//! One file per invariant, and one for the order of commits: each a predicate over what clients were
//! told, what was written, and what an independent reader finds. The error of a check begins with the
//! invariant's name.

pub mod cache_1;
pub mod chamber_1;
pub mod keeper_1;
pub mod ledger_1;
pub mod ledger_2;
pub mod ledger_3;
pub mod ledger_4;
pub mod ledger_5;
pub mod member_1;
pub mod node_1;
pub mod query_1;
pub mod query_2;
pub mod query_3;
pub mod reader;
pub mod serializable;

use crate::workload::model::Writes;
use crate::workload::rows::Row;
use bytes::Bytes;
use reader::FrameReading;
use std::collections::BTreeMap;

/// The invariant that a violation breaks; `None` for what no checker found, as a panic.
#[cfg(any(test, feature = "planted"))]
pub fn invariant_of(violation: &str) -> Option<&str> {
    let (name, _) = violation.split_once(": ")?;
    let (kind, number) = name.split_once('-')?;
    let is_kind = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_uppercase());
    (is_kind && number.parse::<u8>().is_ok()).then_some(name)
}

/// Which invariant is broken when a client was told something wrong: that of the frame, when an
/// independent reader finds it wrong as well, or the client's own.
pub fn blame(
    violation: String,
    objects: &BTreeMap<String, Bytes>,
    location: &str,
    writes: &Writes,
) -> String {
    let frame = reader::read(objects, location);
    let seen = &mut ledger_1::Seen::new();
    match frame.and_then(|frame| check_frame(writes, &frame, seen)) {
        Err(cause) => format!("{cause}; and {violation}"),
        Ok(()) => violation,
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_names_its_invariant_at_its_beginning_and_nowhere_else() {
        for (violation, invariant) in [
            (
                "LEDGER-2: 3 rows of batch 7, never written",
                Some("LEDGER-2"),
            ),
            ("SWARM-1: it said LEDGER-2: again", Some("SWARM-1")),
            ("a panic: LEDGER-2: 3 rows", None),
            ("preparing: QUERY-1", None),
            ("QUERY-1", None),
        ] {
            assert_eq!(invariant_of(violation), invariant, "{violation}");
        }
    }
}
