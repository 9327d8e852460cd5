//! LEDGER-5: a compaction or rewrite changes no query's answer: the cells that it adds hold the rows of
//! those that it removes.

use super::reader::{self, FrameReading};
use bytes::Bytes;
use std::collections::BTreeMap;

/// `objects` are all objects by key: what a rewrite removed is there until it is swept. Gives how many
/// rewrites there were.
pub fn check(
    objects: &BTreeMap<String, Bytes>,
    location: &str,
    frame: &FrameReading,
) -> Result<u64, String> {
    for rewrite in &frame.rewrites {
        let rows = |paths: &[String]| {
            let mut rows = Vec::new();
            for path in paths {
                rows.extend(reader::read_cell(objects, location, path)?);
            }
            rows.sort();
            Ok::<_, String>(rows)
        };
        let (before, after) = (rows(&rewrite.removed)?, rows(&rewrite.added)?);
        if before != after {
            return Err(format!(
                "LEDGER-5: version {} rewrites {} rows as {} rows",
                rewrite.version,
                before.len(),
                after.len()
            ));
        }
    }
    Ok(frame.rewrites.len() as u64)
}
