//! The scratch directory of this process, and what processes that were killed left of theirs.
//!
//! Scratch is `{base}/apiary-scratch-{id}`. Its owner holds a lock on the file of that name with
//! `.lock` behind it for as long as it lives, so whoever gets that lock knows that the owner is dead,
//! and a process id that was given out again deceives nobody. Every process sweeps when it starts.

use apiary_engine::{Error, Result};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const PREFIX: &str = "apiary-scratch-";
const LOCK: &str = ".lock";

/// Removed, with all that is in it, when dropped.
#[derive(Debug)]
pub struct Scratch {
    directory: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Makes this process's own below `base`, which is made when it is missing.
    ///
    /// `Rejected` when that is impossible.
    pub fn make(base: &Path, id: [u8; 16]) -> Result<Self> {
        Self::try_make(base, id).map_err(|error| {
            Error::Rejected(format!(
                "scratch_directory {}: {error}; name a directory that this process can make and \
                 write to",
                base.display()
            ))
        })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn try_make(base: &Path, id: [u8; 16]) -> io::Result<Self> {
        fs::create_dir_all(base)?;
        sweep(base)?;
        let name = format!("{PREFIX}{:032x}", u128::from_le_bytes(id));
        let (directory, lock_path) = (base.join(&name), base.join(name + LOCK));
        let lock = loop {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&lock_path)?;
            file.lock()?;
            // A sweeper that was faster than our lock has taken the file's name away.
            match fs::metadata(&lock_path) {
                Ok(there) if there.ino() == file.metadata()?.ino() => break file,
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        };
        let made = Self {
            directory,
            lock_path,
            _lock: lock,
        };
        fs::create_dir(&made.directory)?;
        Ok(made)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.directory, &self.lock_path);
    }
}

/// Removes the scratch of dead processes. What cannot be removed, or belongs to somebody else, stays.
fn sweep(base: &Path) -> io::Result<()> {
    for entry in fs::read_dir(base)? {
        let lock_path = entry?.path();
        let name = lock_path.file_name().and_then(|name| name.to_str());
        let Some(name) = name.and_then(|name| name.strip_suffix(LOCK)) else {
            continue;
        };
        if !name.starts_with(PREFIX) {
            continue;
        }
        let Ok(file) = OpenOptions::new().write(true).open(&lock_path) else {
            continue;
        };
        match file.try_lock() {
            Ok(()) => remove(&base.join(name), &lock_path),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                tracing::debug!(path = %lock_path.display(), %error, "cannot be locked");
            }
        }
    }
    Ok(())
}

/// The directory first: as long as it is there, so is the lock by which it is found.
fn remove(directory: &Path, lock_path: &Path) {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(path = %directory.display(), %error, "scratch stays behind");
        }
        _ => {
            let _ = fs::remove_file(lock_path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = std::result::Result<(), Box<dyn std::error::Error>>;

    fn names(base: &Path) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = fs::read_dir(base)?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        Ok(names)
    }

    #[test]
    fn the_dead_are_swept_and_the_living_are_not() -> Outcome {
        let place = tempfile::tempdir()?;
        let base = place.path().join("not/there/yet");
        let first = Scratch::make(&base, [1; 16])?;
        fs::write(first.directory().join("spill"), "x")?;
        // Killed: its files are there and nobody holds the lock.
        fs::create_dir(base.join("apiary-scratch-dead"))?;
        fs::write(base.join("apiary-scratch-dead/spill"), "x")?;
        fs::write(base.join("apiary-scratch-dead.lock"), "")?;
        fs::write(base.join("mine.lock"), "somebody else's")?;
        let second = Scratch::make(&base, [2; 16])?;
        assert!(first.directory().join("spill").exists());
        assert!(!base.join("apiary-scratch-dead").exists());
        assert_eq!(names(&base)?.len(), 5);
        drop(first);
        drop(second);
        assert_eq!(names(&base)?, ["mine.lock"]);
        Ok(())
    }

    #[test]
    fn a_place_that_cannot_be_made_is_named() -> Outcome {
        let place = tempfile::tempdir()?;
        let file = place.path().join("file");
        fs::write(&file, "x")?;
        let refused = Scratch::make(&file.join("below"), [1; 16]);
        let text = refused.err().map(|error| error.to_string());
        assert!(
            text.is_some_and(
                |text| text.contains("scratch_directory") && text.contains("file/below")
            )
        );
        Ok(())
    }
}
