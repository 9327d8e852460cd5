//! LEDGER-1: a frame's versions are dense, and every version has exactly one content, for ever.

use super::reader::FrameReading;
use apiary_engine::ledger::invariants;
use std::collections::BTreeMap;

/// Checksums of all versions that were ever read.
pub type Seen = BTreeMap<u64, u32>;

pub fn check(frame: &FrameReading, seen: &mut Seen) -> Result<(), String> {
    let versions: Vec<u64> = frame.versions.keys().copied().collect();
    invariants::check_dense(&versions).map_err(|reason| format!("LEDGER-1: {reason}"))?;
    for (version, crc) in seen.iter() {
        match frame.versions.get(version) {
            None => return Err(format!("LEDGER-1: version {version} was there and is gone")),
            Some(now) if now != crc => {
                return Err(format!(
                    "LEDGER-1: version {version} was {crc:08x} and is {now:08x}"
                ));
            }
            Some(_) => {}
        }
    }
    seen.extend(&frame.versions);
    Ok(())
}
