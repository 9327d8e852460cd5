//! What is on a disk: names, contents, and what of both is durable.
//!
//! Only `sync` makes a file's bytes durable and only `sync_directory` makes names durable.

use crate::clock;
use apiary_engine::host::FileStatus;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

pub(super) type FileId = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Directory,
    File(FileId),
}

#[derive(Debug)]
pub(super) struct Content {
    pub bytes: Bytes,
    /// As of the last sync; `None` when it never was.
    pub synced: Option<Bytes>,
    pub modified_us: i64,
    /// It is not what was written.
    pub is_spoiled: bool,
    /// And somebody has read it.
    pub was_read_spoiled: bool,
}

/// A change of names that no directory sync has covered yet.
#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Set {
        path: PathBuf,
        entry: Entry,
    },
    Remove {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
        entry: Entry,
    },
}

impl NameChange {
    /// The directory whose sync makes it durable.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Set { path, .. } | Self::Remove { path } | Self::Rename { to: path, .. } => {
                path.parent()
            }
        }
    }

    pub fn apply(&self, names: &mut BTreeMap<PathBuf, Entry>) {
        match self {
            Self::Set { path, entry } => {
                names.insert(path.clone(), *entry);
            }
            Self::Remove { path } => {
                names.remove(path);
            }
            Self::Rename { from, to, entry } => {
                if names.get(from) == Some(entry) {
                    names.remove(from);
                }
                names.insert(to.clone(), *entry);
            }
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Disk {
    pub names: BTreeMap<PathBuf, Entry>,
    pub durable_names: BTreeMap<PathBuf, Entry>,
    pub pending: Vec<NameChange>,
    pub contents: BTreeMap<FileId, Content>,
    pub next_id: FileId,
    /// Calls until the power goes; `None` while nobody plans a cut.
    pub fuse: Option<u64>,
    pub dark: bool,
    pub free_bytes: Option<u64>,
}

pub(super) fn missing(path: &Path) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("{}: not found", path.display()),
    )
}

impl Entry {
    pub fn file(&self) -> Option<FileId> {
        match self {
            Self::Directory => None,
            Self::File(id) => Some(*id),
        }
    }
}

impl Disk {
    pub fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    pub fn need_parent(&self, path: &Path) -> Result<()> {
        match path.parent() {
            Some(parent) if self.is_directory(parent) => Ok(()),
            _ => Err(missing(path)),
        }
    }

    pub fn is_directory(&self, path: &Path) -> bool {
        path.parent().is_none() || self.names.get(path) == Some(&Entry::Directory)
    }

    pub fn entry(&self, path: &Path) -> Result<Entry> {
        if path.parent().is_none() {
            return Ok(Entry::Directory);
        }
        self.names.get(path).copied().ok_or_else(|| missing(path))
    }

    pub fn file_id(&self, path: &Path) -> Result<FileId> {
        self.entry(path)?
            .file()
            .ok_or_else(|| Error::from(ErrorKind::IsADirectory))
    }

    pub fn write(&mut self, path: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
        let id = match self.file_id(path) {
            Ok(id) => id,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.need_parent(path)?;
                let id = self.next_id;
                self.next_id += 1;
                self.change(NameChange::Set {
                    path: path.to_path_buf(),
                    entry: Entry::File(id),
                });
                id
            }
            Err(error) => return Err(error),
        };
        let room = self
            .free_bytes
            .map_or(bytes.len(), |free| bytes.len().min(free as usize));
        let modified_us = now_us();
        let content = self.contents.entry(id).or_insert_with(|| Content {
            bytes: Bytes::new(),
            synced: None,
            modified_us,
            is_spoiled: false,
            was_read_spoiled: false,
        });
        let (start, end) = (offset as usize, offset as usize + room);
        let mut whole = content.bytes.to_vec();
        whole.resize(whole.len().max(end), 0);
        whole[start..end].copy_from_slice(&bytes[..room]);
        content.is_spoiled &= start > 0 || end < whole.len();
        content.bytes = whole.into();
        content.modified_us = modified_us;
        if let Some(free) = &mut self.free_bytes {
            *free -= room as u64;
        }
        if room < bytes.len() {
            Err(Error::from(ErrorKind::StorageFull))
        } else {
            Ok(())
        }
    }

    pub fn status(&self, entry: Entry) -> FileStatus {
        let content = entry.file().and_then(|id| self.contents.get(&id));
        FileStatus {
            is_directory: entry == Entry::Directory,
            size_bytes: content.map_or(0, |content| content.bytes.len() as u64),
            modified_us: content.map_or(0, |content| content.modified_us),
            identity: entry.file().map_or(0, |id| id + 1),
        }
    }

    pub fn entries<'a>(
        &'a self,
        directory: &'a Path,
    ) -> impl Iterator<Item = (&'a PathBuf, &'a Entry)> + 'a {
        self.names
            .range(directory.to_path_buf()..)
            .take_while(move |(path, _)| path.starts_with(directory))
            .filter(move |(path, _)| path.parent() == Some(directory))
    }
}

/// A file system has one clock, whatever the nodes on it think.
pub(super) fn now_us() -> i64 {
    clock::EPOCH_SECONDS as i64 * 1_000_000 + clock::now().as_micros() as i64
}
