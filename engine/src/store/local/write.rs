//! The steps of a write, in the order that a power cut allows.

use super::directories::Directories;
use super::settle::Unsettled;
use super::{LocalFailure, STAGING, UNSYNCED, meta_of};
use crate::host::{Entropy, Files};
use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, PutResult, Result};
use std::io::{self, ErrorKind};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often a write meets a directory that somebody removed under it before it gives up.
const DIRECTORY_TRIES: usize = 16;

/// How a staged file gets its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Create,
    Overwrite,
}

/// The blocking half of the store: every method runs on a blocking thread.
#[derive(Debug)]
pub(super) struct Disk {
    pub root: PathBuf,
    pub files: Arc<dyn Files>,
    entropy: Arc<dyn Entropy>,
    pub directories: Directories,
    pub unsettled: Unsettled,
    sync: bool,
}

impl Disk {
    pub fn new(
        root: PathBuf,
        files: Arc<dyn Files>,
        entropy: Arc<dyn Entropy>,
        sync: bool,
    ) -> Self {
        let directories = Directories::new(root.clone(), Arc::clone(&files));
        Self {
            root,
            files,
            entropy,
            directories,
            unsettled: Unsettled::default(),
            sync,
        }
    }

    /// The file of a key, which is checked here whoever built it.
    pub fn file_of(&self, key: &Path) -> Result<PathBuf> {
        let text = key.as_ref();
        let bad = text.split('/').any(|part| {
            part.is_empty() || part == "." || part == ".." || part.contains(['\0', '\\'])
        });
        if bad || text.split('/').next() == Some(STAGING) {
            let source = format!("{text:?} is no key of a local meadow").into();
            return Err(Error::NotSupported { source });
        }
        Ok(self.root.join(text))
    }

    /// The directory of a prefix, the root for the empty one.
    pub fn directory_of(&self, prefix: &Path) -> Result<PathBuf> {
        match prefix.is_root() {
            true => Ok(self.root.clone()),
            false => self.file_of(prefix),
        }
    }

    pub fn failure(&self, step: &'static str, key: &Path, source: io::Error) -> LocalFailure {
        let path = self.root.join(key.as_ref()).display().to_string();
        LocalFailure {
            step,
            path,
            may_have_landed: false,
            source,
        }
    }

    pub fn is_durable(&self, key: &Path) -> bool {
        self.sync
            && !apiary_protocol::planted!(NoSync)
            && key.as_ref().split('/').next() != Some(UNSYNCED)
    }

    /// `named` are the objects that the new one names: it gets its name when they are durable.
    pub fn put(&self, key: &Path, parts: &[Bytes], how: How, named: &[Path]) -> Result<PutResult> {
        self.file_of(key)?;
        let staged = self.stage_path();
        self.stage(key, &staged, 0, parts)?;
        self.land(key, &staged, how, named)
    }

    /// Writes an object of a name of its own, which nobody reads yet. Durable after [`Self::settle`],
    /// if it is to be, which is the answer; a crash before may leave a part of it under its name.
    pub fn put_in_place(&self, key: &Path, parts: &[Bytes]) -> Result<bool> {
        let target = self.file_of(key)?;
        let parent = target.parent().unwrap_or(&self.root);
        let durable = self.is_durable(key);
        let write = || self.files.write_new(&target, parts);
        match self.in_directory(parent, durable, write)? {
            Ok(()) => {
                if durable {
                    self.unsettled.begin(key);
                }
                Ok(durable)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(Error::AlreadyExists {
                path: key.to_string(),
                source: Box::new(error),
            }),
            Err(error) => {
                self.discard(&target);
                Err(self.failure("writing", key, error).into())
            }
        }
    }

    /// Makes durable what was written in place, unless it is: the content before the name.
    pub fn settle(&self, key: &Path) -> Result<()> {
        let target = self.file_of(key)?;
        let sync = || {
            let synced = self.files.sync(&target);
            synced.map_err(|error| self.failure("syncing", key, error))?;
            self.directories.sync(target.parent().unwrap_or(&self.root))
        };
        Ok(self.unsettled.settle(key, sync)?)
    }

    pub fn stage_path(&self) -> PathBuf {
        let id = u128::from_le_bytes(self.entropy.bytes());
        self.root.join(STAGING).join(format!("{id:032x}"))
    }

    /// Writes to a staging file; after a failure there is none.
    pub fn stage(
        &self,
        key: &Path,
        staged: &FilePath,
        offset: u64,
        parts: &[Bytes],
    ) -> Result<(), LocalFailure> {
        let directory = self.root.join(STAGING);
        let written = self.in_directory(&directory, false, || {
            self.files.write(staged, offset, parts)
        })?;
        written.map_err(|error| {
            self.discard(staged);
            self.failure("writing", key, error)
        })
    }

    /// Gives a staged file its name, durably; whatever happens, the staging name is gone.
    pub fn land(
        &self,
        key: &Path,
        staged: &FilePath,
        how: How,
        named: &[Path],
    ) -> Result<PutResult> {
        let landed = self.land_staged(key, staged, how, named);
        if landed.is_err() {
            self.discard(staged);
        }
        landed
    }

    fn land_staged(
        &self,
        key: &Path,
        staged: &FilePath,
        how: How,
        named: &[Path],
    ) -> Result<PutResult> {
        let target = self.file_of(key)?;
        let parent = target.parent().unwrap_or(&self.root);
        let durable = self.is_durable(key);
        if durable {
            self.files
                .sync(staged)
                .map_err(|error| self.failure("syncing", key, error))?;
        }
        for cell in named {
            self.settle(cell)?;
        }
        let status = self
            .files
            .status(staged)
            .map_err(|e| self.failure("writing", key, e))?;
        let named = self.in_directory(parent, durable, || match how {
            How::Create => self.link(staged, &target),
            How::Overwrite => self.files.rename(staged, &target),
        })?;
        match named {
            Ok(()) => {}
            Err(error) if how == How::Create && error.kind() == ErrorKind::AlreadyExists => {
                // Who is told of an object may build on it, so it must not be lost after that.
                if durable {
                    self.directories.sync(parent)?;
                }
                let path = key.to_string();
                return Err(Error::AlreadyExists {
                    path,
                    source: Box::new(error),
                });
            }
            Err(error) => return Err(self.failure("naming", key, error).into()),
        }
        if how == How::Create {
            self.discard(staged);
        }
        if durable {
            self.directories
                .sync(parent)
                .map_err(|failure| LocalFailure {
                    may_have_landed: true,
                    ..failure
                })?;
        }
        let meta = meta_of(key.clone(), &status)?;
        Ok(PutResult {
            e_tag: meta.e_tag,
            version: None,
        })
    }

    /// On network file systems a link may report failure after success: one file under both names
    /// is a success, whatever was reported.
    fn link(&self, staged: &FilePath, target: &FilePath) -> io::Result<()> {
        let Err(error) = self.files.link(staged, target) else {
            return Ok(());
        };
        match (self.files.status(staged), self.files.status(target)) {
            (Ok(ours), Ok(there)) if ours == there => Ok(()),
            _ => Err(error),
        }
    }

    /// Runs a step that needs a directory, making it anew when somebody removed it meanwhile.
    fn in_directory<T>(
        &self,
        directory: &FilePath,
        durable: bool,
        mut step: impl FnMut() -> io::Result<T>,
    ) -> Result<io::Result<T>, LocalFailure> {
        let mut tries = 1;
        loop {
            self.directories.ensure(directory, durable)?;
            match step() {
                Err(error) if error.kind() == ErrorKind::NotFound && tries < DIRECTORY_TRIES => {
                    self.directories.forget(directory);
                    tries += 1;
                }
                result => return Ok(result),
            }
        }
    }

    /// Removes a staging file; one that stays is swept later.
    pub fn discard(&self, staged: &FilePath) {
        match self.files.remove(staged) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(path = %staged.display(), %error, "staging file stays behind");
            }
            _ => {}
        }
    }

    /// Syncs all directories from a prefix downward.
    pub fn sync_tree(&self, prefix: &Path) -> Result<()> {
        if !self.is_durable(prefix) {
            return Ok(());
        }
        let mut open = vec![self.directory_of(prefix)?];
        while let Some(directory) = open.pop() {
            match self.files.list(&directory) {
                Ok(entries) => {
                    let inner = entries.iter().filter(|entry| entry.is_directory);
                    open.extend(inner.map(|entry| directory.join(&entry.name)));
                    self.directories.sync(&directory)?;
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(self.failure("syncing", prefix, error).into()),
            }
        }
        Ok(())
    }

    /// Deletes an object; an absent one is no error. Not synced: an object that comes back after a
    /// power cut was deleted because nothing names it. Whoever relies on it being gone syncs the tree.
    pub fn delete(&self, key: &Path) -> Result<()> {
        let target = self.file_of(key)?;
        let parent = target.parent().unwrap_or(&self.root);
        match self.directories.check_inside(parent) {
            Err(failure) if failure.source.kind() == ErrorKind::NotFound => return Ok(()),
            result => result?,
        }
        self.unsettled.forget(key);
        match self.files.remove(&target) {
            Err(error)
                if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Err(self.failure("deleting", key, error).into());
            }
            _ => {}
        }
        self.prune(parent);
        Ok(())
    }

    /// Removes directories that became empty, below `_swarm/` only.
    fn prune(&self, directory: &FilePath) {
        let swarm = self.root.join(UNSYNCED);
        let mut next = Some(directory);
        while let Some(path) = next.filter(|path| path.starts_with(&swarm) && *path != swarm) {
            if self.files.remove_directory(path).is_err() {
                return;
            }
            self.directories.forget(path);
            next = path.parent();
        }
    }

    /// Removes abandoned staging files. Their age is taken from the file system's own clock, read
    /// from a file that is written for it.
    pub fn sweep(&self, sweep_age: Duration) -> Result<(), LocalFailure> {
        let abandoned_after_us = i64::try_from(sweep_age.as_micros()).unwrap_or(i64::MAX);
        let directory = self.root.join(STAGING);
        let failed = |source| LocalFailure {
            step: "sweeping",
            path: directory.display().to_string(),
            may_have_landed: false,
            source,
        };
        let entries = match self.files.list(&directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed)?,
        };
        if entries.is_empty() {
            return Ok(());
        }
        let probe = self.stage_path();
        self.files.write(&probe, 0, &[]).map_err(failed)?;
        let now_us = self.files.status(&probe).map(|status| status.modified_us);
        self.discard(&probe);
        let now_us = now_us.map_err(failed)?;
        for entry in entries {
            let path = directory.join(&entry.name);
            let Ok(status) = self.files.status(&path) else {
                continue;
            };
            if now_us.saturating_sub(status.modified_us) > abandoned_after_us {
                self.discard(&path);
            }
        }
        Ok(())
    }
}
