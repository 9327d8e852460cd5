//! A disk in memory that loses power, behind the engine's file seam.
//!
//! The strictest reading of POSIX: only `sync` makes a file's bytes durable and only
//! `sync_directory` makes names (of files and of directories) durable. A power cut keeps what was
//! synced; of the rest it keeps all, nothing, an early part, or any part, and tears unsynced bytes:
//! zero length, a prefix, a cut at a line break, a tail of zeros. A rename is atomic: it happened or
//! it did not.
//!
//! A cut is prepared with [`SimFiles::cut_after`]: the disk does that many more calls and then
//! refuses everything until [`SimFiles::power_cut`] decides what is left, so that a cut can fall
//! between any two calls of one job, also between the effect of the last call and its reply.

mod disk;
mod power;
mod rot;
#[cfg(test)]
mod tests;

use crate::trace::{Trace, checksum};
use apiary_engine::host::{DirectoryEntry, FileStatus, Files, OpenFile};
use bytes::Bytes;
use disk::{Disk, Entry, FileId, NameChange, missing};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// The disk of one computer; it outlives the nodes that run there. Clones share it.
#[derive(Clone, Debug)]
pub struct SimFiles {
    node: String,
    trace: Trace,
    disk: Arc<Mutex<Disk>>,
    went_dark: Arc<Notify>,
}

fn dark() -> Error {
    Error::other("the power is off")
}

impl SimFiles {
    pub fn new(node: &str, trace: &Trace) -> Self {
        let disk = Disk::default();
        Self {
            node: node.to_string(),
            trace: trace.clone(),
            disk: Arc::new(Mutex::new(disk)),
            went_dark: Arc::new(Notify::new()),
        }
    }

    /// Power goes after this many more calls have done their work; their caller hears an error.
    pub fn cut_after(&self, calls: u64) {
        self.disk.lock().fuse = Some(calls);
    }

    /// Power goes now.
    pub fn cut_now(&self) {
        let mut disk = self.disk.lock();
        disk.dark = true;
        self.went_dark.notify_one();
    }

    pub fn is_dark(&self) -> bool {
        self.disk.lock().dark
    }

    /// Ends when the power has gone.
    pub async fn darkness(&self) {
        while !self.is_dark() {
            self.went_dark.notified().await;
        }
    }

    /// Bytes that may still be written; `None` for no limit.
    pub fn limit_free_bytes(&self, free_bytes: Option<u64>) {
        self.disk.lock().free_bytes = free_bytes;
    }

    /// How long ago each file was written to. For checkers.
    pub fn ages(&self) -> BTreeMap<PathBuf, Duration> {
        let disk = self.disk.lock();
        let age = |entry: &Entry| {
            let content = disk.contents.get(&entry.file()?)?;
            let age_us = disk::now_us() - content.modified_us;
            Some(Duration::from_micros(u64::try_from(age_us).unwrap_or(0)))
        };
        disk.names
            .iter()
            .filter_map(|(path, entry)| Some((path.clone(), age(entry)?)))
            .collect()
    }

    /// All files with their content, as a reader finds them now. For checkers.
    pub fn files(&self) -> BTreeMap<PathBuf, Bytes> {
        let disk = self.disk.lock();
        let content = |entry: &Entry| match entry {
            Entry::Directory => None,
            Entry::File(id) => disk.contents.get(id).map(|content| content.bytes.clone()),
        };
        disk.names
            .iter()
            .filter_map(|(path, entry)| Some((path.clone(), content(entry)?)))
            .collect()
    }

    /// One call: refused in the dark, done otherwise; the fuse may burn down behind it.
    fn call<T>(
        &self,
        what: std::fmt::Arguments<'_>,
        effect: impl FnOnce(&mut Disk) -> Result<T>,
    ) -> Result<T> {
        let mut disk = self.disk.lock();
        if disk.dark {
            return Err(dark());
        }
        let result = effect(&mut disk);
        let outcome = match &result {
            Ok(_) => String::from("ok"),
            Err(error) => format!("{:?}", error.kind()),
        };
        self.trace
            .event(&self.node, format_args!("{what} {outcome}"));
        match &mut disk.fuse {
            Some(0) => {
                disk.dark = true;
                self.went_dark.notify_one();
                self.trace.event(&self.node, format_args!("dark"));
                Err(dark())
            }
            Some(calls) => {
                *calls -= 1;
                result
            }
            None => result,
        }
    }
}

/// A file as it was when it was opened: its content is one value, replaced and never changed.
#[derive(Debug)]
struct Opened {
    files: SimFiles,
    path: PathBuf,
    id: FileId,
    status: FileStatus,
    bytes: Bytes,
}

impl OpenFile for Opened {
    fn status(&self) -> Result<FileStatus> {
        Ok(self.status.clone())
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let what = format_args!(
            "read {} {}..{}",
            self.path.display(),
            range.start,
            range.end
        );
        self.files.call(what, |disk| {
            if let Some(content) = disk.contents.get_mut(&self.id) {
                content.was_read_spoiled = content.is_spoiled;
            }
            if range.start > range.end || range.end > self.bytes.len() as u64 {
                return Err(Error::from(ErrorKind::UnexpectedEof));
            }
            Ok(self.bytes.slice(range.start as usize..range.end as usize))
        })
    }
}

impl Files for SimFiles {
    fn write(&self, path: &Path, offset: u64, parts: &[Bytes]) -> Result<()> {
        let bytes = parts.concat();
        let (length, crc) = (bytes.len(), checksum([bytes.as_slice()]));
        let what = format_args!("write {} {offset}+{length} {crc:08x}", path.display());
        self.call(what, |disk| disk.write(path, offset, &bytes))
    }

    fn write_new(&self, path: &Path, parts: &[Bytes]) -> Result<()> {
        let bytes = parts.concat();
        let (length, crc) = (bytes.len(), checksum([bytes.as_slice()]));
        let what = format_args!("write-new {} {length} {crc:08x}", path.display());
        self.call(what, |disk| {
            if disk.entry(path).is_ok() {
                return Err(Error::from(ErrorKind::AlreadyExists));
            }
            disk.write(path, 0, &bytes)
        })
    }

    fn sync(&self, path: &Path) -> Result<()> {
        self.call(format_args!("sync {}", path.display()), |disk| {
            let id = disk.file_id(path)?;
            let content = disk.contents.get_mut(&id).ok_or_else(|| missing(path))?;
            content.synced = Some(content.bytes.clone());
            Ok(())
        })
    }

    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        self.call(
            format_args!("link {} {}", from.display(), to.display()),
            |disk| {
                let entry = Entry::File(disk.file_id(from)?);
                disk.need_parent(to)?;
                if disk.entry(to).is_ok() {
                    return Err(Error::from(ErrorKind::AlreadyExists));
                }
                disk.change(NameChange::Set {
                    path: to.to_path_buf(),
                    entry,
                });
                Ok(())
            },
        )
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.call(
            format_args!("rename {} {}", from.display(), to.display()),
            |disk| {
                let entry = Entry::File(disk.file_id(from)?);
                disk.need_parent(to)?;
                if disk.is_directory(to) {
                    return Err(Error::from(ErrorKind::IsADirectory));
                }
                let (from, to) = (from.to_path_buf(), to.to_path_buf());
                disk.change(NameChange::Rename { from, to, entry });
                Ok(())
            },
        )
    }

    fn sync_directory(&self, path: &Path) -> Result<()> {
        self.call(format_args!("sync-directory {}", path.display()), |disk| {
            if !disk.is_directory(path) {
                return Err(missing(path));
            }
            let (durable, pending): (Vec<_>, Vec<_>) = std::mem::take(&mut disk.pending)
                .into_iter()
                .partition(|change: &NameChange| change.directory() == Some(path));
            disk.pending = pending;
            durable
                .iter()
                .for_each(|change| change.apply(&mut disk.durable_names));
            Ok(())
        })
    }

    fn make_directory(&self, path: &Path) -> Result<()> {
        self.call(format_args!("make-directory {}", path.display()), |disk| {
            if disk.entry(path).is_ok() {
                return Err(Error::from(ErrorKind::AlreadyExists));
            }
            disk.need_parent(path)?;
            disk.change(NameChange::Set {
                path: path.to_path_buf(),
                entry: Entry::Directory,
            });
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.call(format_args!("remove {}", path.display()), |disk| {
            disk.file_id(path)?;
            disk.change(NameChange::Remove {
                path: path.to_path_buf(),
            });
            Ok(())
        })
    }

    fn remove_directory(&self, path: &Path) -> Result<()> {
        self.call(
            format_args!("remove-directory {}", path.display()),
            |disk| {
                if disk.entry(path)? != Entry::Directory {
                    return Err(Error::from(ErrorKind::NotADirectory));
                }
                if disk.entries(path).next().is_some() {
                    return Err(Error::from(ErrorKind::DirectoryNotEmpty));
                }
                disk.change(NameChange::Remove {
                    path: path.to_path_buf(),
                });
                Ok(())
            },
        )
    }

    fn status(&self, path: &Path) -> Result<FileStatus> {
        self.call(format_args!("status {}", path.display()), |disk| {
            Ok(disk.status(disk.entry(path)?))
        })
    }

    /// There are no symbolic links here.
    fn resolve(&self, path: &Path) -> Result<PathBuf> {
        self.call(format_args!("resolve {}", path.display()), |disk| {
            disk.entry(path)?;
            Ok(path.to_path_buf())
        })
    }

    fn list(&self, path: &Path) -> Result<Vec<DirectoryEntry>> {
        self.call(format_args!("list {}", path.display()), |disk| {
            if disk.entry(path)? != Entry::Directory {
                return Err(Error::from(ErrorKind::NotADirectory));
            }
            let entry = |(path, entry): (&PathBuf, &Entry)| {
                let name = path.file_name()?.to_str()?.to_string();
                Some(DirectoryEntry {
                    name,
                    is_directory: *entry == Entry::Directory,
                })
            };
            Ok(disk.entries(path).filter_map(entry).collect())
        })
    }

    fn open(&self, path: &Path) -> Result<Box<dyn OpenFile>> {
        let files = self.clone();
        self.call(format_args!("open {}", path.display()), |disk| {
            let id = disk.file_id(path)?;
            let status = disk.status(Entry::File(id));
            let bytes = disk.contents.get(&id).map(|content| content.bytes.clone());
            let (path, bytes) = (path.to_path_buf(), bytes.ok_or_else(|| missing(path))?);
            Ok(Box::new(Opened {
                files,
                path,
                id,
                status,
                bytes,
            }) as Box<dyn OpenFile>)
        })
    }
}
