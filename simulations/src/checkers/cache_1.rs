//! CACHE-1: what is cached on a disk is what the meadow has, or it is found out: a part that is torn or
//! changed and that somebody reads is given up.

use crate::files::SimFiles;

/// For a disk whose node has read all of a frame and stopped cleanly since
/// [`SimFiles::forget_reads`].
pub fn check(disk: &SimFiles) -> Result<(), String> {
    match disk.spoiled_and_read() {
        Some(path) => Err(format!(
            "CACHE-1: {} is not what was written, was read, and is still there",
            path.display()
        )),
        None => Ok(()),
    }
}
