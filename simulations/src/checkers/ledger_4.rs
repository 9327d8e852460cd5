//! LEDGER-4: every cell that a snapshot names exists and has the size it names.

use super::reader::FrameReading;

pub fn check(frame: &FrameReading) -> Result<(), String> {
    for (path, cell) in &frame.cells {
        match cell.found_bytes {
            None => return Err(format!("LEDGER-4: the cell {path} is not there")),
            Some(found) if found != cell.named_bytes => {
                let named = cell.named_bytes;
                return Err(format!(
                    "LEDGER-4: the cell {path} has {found} bytes of {named}"
                ));
            }
            Some(_) => {}
        }
    }
    Ok(())
}
