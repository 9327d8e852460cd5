//! The directory where this process keeps parts of cells: where, how large, and whose.
//!
//! One process writes there at a time: whoever holds the lock on the file `lock` in it. A process that
//! finds it held keeps nothing, and is told so in its log; queries do not depend on it. The lock goes
//! with its process, however that ends, so the next one takes over what is there.

use apiary_engine::settings::Settings;
use apiary_engine::{Error, Result};
use std::env;
use std::ffi::CString;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const LOCK: &str = "lock";
/// Without a setting, the share of what is free that is taken, and most of it.
const FREE_SHARE: u64 = 4;
const BYTES_MAX: u64 = 16 << 30;
/// Where the file system does not say what is free.
const BYTES_UNKNOWN: u64 = 1 << 30;

/// Held for as long as the process may write there.
#[derive(Debug)]
pub struct CacheLock {
    _lock: File,
}

/// Settles where parts of cells are kept and how many: in `settings` there is a directory afterwards
/// only if this process has it.
///
/// `Rejected` when somebody named a directory that cannot be used.
pub fn cache(settings: &mut Settings) -> Result<Option<CacheLock>> {
    let named = settings.cache_directory.take();
    if settings.cache_bytes_max == Some(0) {
        return Ok(None);
    }
    let Some(directory) = named.clone().or_else(default_directory) else {
        tracing::debug!("no parts of cells are kept: HOME is not set, and no cache_directory");
        return Ok(None);
    };
    match lock(&directory) {
        Ok(Some(lock)) => {
            let bytes_max = settings.cache_bytes_max;
            settings.cache_bytes_max = Some(bytes_max.unwrap_or_else(|| share(&directory)));
            settings.cache_directory = Some(directory);
            Ok(Some(lock))
        }
        Ok(None) => {
            let directory = directory.display();
            tracing::info!(%directory, "no parts of cells are kept: another process has the cache");
            Ok(None)
        }
        Err(error) if named.is_some() => Err(Error::Rejected(format!(
            "cache_directory {}: {error}; name a directory that this process can make and write \
             to, or set cache=off",
            directory.display()
        ))),
        Err(error) => {
            let directory = directory.display();
            tracing::warn!(%error, %directory, "no parts of cells are kept");
            Ok(None)
        }
    }
}

fn default_directory() -> Option<PathBuf> {
    let absolute = |variable| {
        let path = PathBuf::from(env::var_os(variable)?);
        path.is_absolute().then_some(path)
    };
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(base.join("apiary"))
}

/// `None` while another process has it.
fn lock(directory: &Path) -> io::Result<Option<CacheLock>> {
    // What is in it is what is in the storage: nobody else's to read.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(directory.join(LOCK))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(CacheLock { _lock: lock })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn share(directory: &Path) -> u64 {
    match free_bytes(directory) {
        Ok(free) => (free / FREE_SHARE).min(BYTES_MAX),
        Err(error) => {
            tracing::debug!(%error, "the file system does not say how much is free");
            BYTES_UNKNOWN
        }
    }
}

/// What is free for this process on the file system of a path.
fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with a zero, and there is room for the answer.
    if unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it has filled all of it.
    let found = unsafe { found.assume_init() };
    // The types differ between systems.
    #[allow(clippy::unnecessary_cast)]
    Ok((found.f_bavail as u64).saturating_mul(found.f_frsize as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = std::result::Result<(), Box<dyn std::error::Error>>;

    fn settings(directory: &Path) -> Settings {
        Settings {
            cache_directory: Some(directory.to_path_buf()),
            ..Settings::default()
        }
    }

    #[test]
    fn one_process_has_a_directory_and_the_next_one_gets_it_from_its_end() -> Outcome {
        let place = tempfile::tempdir()?;
        let directory = place.path().join("not/there/yet");
        let mut first = settings(&directory);
        let lock = cache(&mut first)?;
        assert!(lock.is_some());
        assert_eq!(first.cache_directory.as_deref(), Some(directory.as_path()));
        assert!(
            first
                .cache_bytes_max
                .is_some_and(|bytes| bytes <= BYTES_MAX)
        );
        let mut second = settings(&directory);
        assert!(cache(&mut second)?.is_none());
        assert_eq!(second.cache_directory, None);
        drop(lock);
        assert!(cache(&mut settings(&directory))?.is_some());
        Ok(())
    }

    #[test]
    fn a_cache_that_is_off_makes_no_directory() -> Outcome {
        let place = tempfile::tempdir()?;
        let directory = place.path().join("cache");
        let mut off = Settings {
            cache_bytes_max: Some(0),
            ..settings(&directory)
        };
        assert!(cache(&mut off)?.is_none());
        assert_eq!(off.cache_directory, None);
        assert!(!directory.exists());
        Ok(())
    }

    #[test]
    fn a_place_that_was_named_and_cannot_be_made_is_refused_by_name() -> Outcome {
        let place = tempfile::tempdir()?;
        let file = place.path().join("file");
        std::fs::write(&file, "x")?;
        let refused = cache(&mut settings(&file.join("below")));
        let text = refused.err().map(|error| error.to_string());
        assert!(text.is_some_and(|text| text.contains("cache_directory")));
        Ok(())
    }

    #[test]
    fn a_file_system_says_what_is_free() -> Outcome {
        assert!(free_bytes(Path::new("/"))? > 0);
        assert!(free_bytes(Path::new("/not/there")).is_err());
        Ok(())
    }
}
