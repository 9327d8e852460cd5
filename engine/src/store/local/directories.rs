//! Directories: made once, made durable once, synced together.
//!
//! A directory is durable when its name in its parent is. What this process has made durable is
//! remembered, so the second object in a directory costs no sync for it. Writers that sync one
//! directory at the same time share one sync.

use super::LocalFailure;
use crate::host::Files;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Directories remembered at most; after that they are forgotten and checked anew.
const REMEMBERED_MAX: usize = 100_000;

#[derive(Debug)]
pub(super) struct Directories {
    root: PathBuf,
    files: Arc<dyn Files>,
    /// The root with its links resolved; what the rest is compared with.
    resolved_root: OnceLock<PathBuf>,
    known: Mutex<BTreeMap<PathBuf, Arc<Directory>>>,
}

#[derive(Debug, Default)]
struct Directory {
    /// Whether its name in its parent was synced.
    durable: Mutex<bool>,
    /// Counts changes of its names, so that a sync knows which ones it covers.
    changes: AtomicU64,
    synced: Mutex<u64>,
}

fn failed(step: &'static str, path: &Path, source: io::Error) -> LocalFailure {
    LocalFailure {
        step,
        path: path.display().to_string(),
        may_have_landed: false,
        source,
    }
}

impl Directories {
    pub fn new(root: PathBuf, files: Arc<dyn Files>) -> Self {
        Self {
            root,
            files,
            resolved_root: OnceLock::new(),
            known: Mutex::default(),
        }
    }

    /// Makes a directory and its missing parents; with `durable`, so that a power cut keeps them.
    /// Refuses one that a symbolic link puts outside the root.
    pub fn ensure(&self, path: &Path, durable: bool) -> Result<(), LocalFailure> {
        let known = self.known.lock().get(path).cloned();
        let directory = match known {
            Some(directory) => directory,
            None => self.make(path)?,
        };
        if !durable {
            return Ok(());
        }
        let mut is_durable = directory.durable.lock();
        if !*is_durable {
            if let Some(parent) = path.parent() {
                self.make_durable(path, parent)?;
            }
            *is_durable = true;
        }
        Ok(())
    }

    /// The parents first, as far as they are ours: a name is worth nothing in a directory that may
    /// vanish.
    fn make_durable(&self, path: &Path, parent: &Path) -> Result<(), LocalFailure> {
        if self.is_below_root(path) {
            self.ensure(parent, true)?;
            return self.sync(parent);
        }
        let is_made_here = self.known.lock().contains_key(parent);
        if is_made_here {
            self.ensure(parent, true)?;
        }
        match self.files.sync_directory(parent) {
            // Above the root the system may let us pass and not look.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
            result => result.map_err(|error| failed("syncing", parent, error)),
        }
    }

    fn is_below_root(&self, path: &Path) -> bool {
        path != self.root && path.starts_with(&self.root)
    }

    /// Below the root the parent is checked before anything is made in it.
    fn make(&self, path: &Path) -> Result<Arc<Directory>, LocalFailure> {
        let parent = path.parent();
        if let Some(parent) = parent.filter(|_| self.is_below_root(path)) {
            self.ensure(parent, false)?;
        }
        let mut made = self.files.make_directory(path);
        if let (Err(error), Some(parent)) = (&made, parent)
            && error.kind() == ErrorKind::NotFound
        {
            self.forget(parent);
            self.ensure(parent, false)?;
            made = self.files.make_directory(path);
        }
        match made {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(failed("making the directory", path, error));
            }
            _ => self.check_inside(path)?,
        }
        let mut known = self.known.lock();
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        Ok(Arc::clone(known.entry(path.into()).or_default()))
    }

    /// Refuses a directory below the root that resolves to one outside.
    pub fn check_inside(&self, path: &Path) -> Result<(), LocalFailure> {
        if !path.starts_with(&self.root) {
            return Ok(());
        }
        let resolve = |path: &Path| {
            self.files
                .resolve(path)
                .map_err(|error| failed("resolving", path, error))
        };
        let root = match self.resolved_root.get() {
            Some(root) => root,
            None => {
                let resolved = resolve(&self.root)?;
                self.resolved_root.get_or_init(|| resolved)
            }
        };
        if resolve(path)?.starts_with(root) {
            return Ok(());
        }
        let reason = "a symbolic link leads out of the meadow; move the data into it instead";
        Err(failed(
            "writing under",
            path,
            io::Error::new(ErrorKind::PermissionDenied, reason),
        ))
    }

    /// After a `NotFound` at a directory that was remembered: somebody removed it.
    pub fn forget(&self, path: &Path) {
        let mut known = self.known.lock();
        let mut next = Some(path);
        while let Some(path) = next.filter(|path| path.starts_with(&self.root)) {
            known.remove(path);
            next = path.parent();
        }
    }

    /// Makes durable what the caller has changed in a directory before this call. Of several callers
    /// the first syncs for those that wait behind it.
    pub fn sync(&self, path: &Path) -> Result<(), LocalFailure> {
        let directory = Arc::clone(self.known.lock().entry(path.into()).or_default());
        let mine = directory.changes.fetch_add(1, Ordering::SeqCst) + 1;
        let mut synced = directory.synced.lock();
        if *synced >= mine {
            return Ok(());
        }
        let covered = directory.changes.load(Ordering::SeqCst);
        self.files
            .sync_directory(path)
            .map_err(|error| failed("syncing", path, error))?;
        *synced = covered;
        Ok(())
    }
}
