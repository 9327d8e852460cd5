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

use crate::clock;
use crate::rng::Rng;
use crate::trace::{Trace, checksum};
use apiary_engine::host::{DirectoryEntry, FileStatus, Files, OpenFile};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Notify;

type FileId = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Directory,
    File(FileId),
}

#[derive(Debug)]
struct Content {
    bytes: Bytes,
    /// As of the last sync; `None` when it never was.
    synced: Option<Bytes>,
    modified_us: i64,
}

/// A change of names that no directory sync has covered yet.
#[derive(Clone, Debug)]
enum NameChange {
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
    fn directory(&self) -> Option<&Path> {
        match self {
            Self::Set { path, .. } | Self::Remove { path } | Self::Rename { to: path, .. } => {
                path.parent()
            }
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Entry>) {
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
struct Disk {
    names: BTreeMap<PathBuf, Entry>,
    durable_names: BTreeMap<PathBuf, Entry>,
    pending: Vec<NameChange>,
    contents: BTreeMap<FileId, Content>,
    next_id: FileId,
    /// Calls until the power goes; `None` while nobody plans a cut.
    fuse: Option<u64>,
    dark: bool,
    free_bytes: Option<u64>,
}

/// The disk of one computer; it outlives the nodes that run there. Clones share it.
#[derive(Clone, Debug)]
pub struct SimFiles {
    node: String,
    trace: Trace,
    disk: Arc<Mutex<Disk>>,
    went_dark: Arc<Notify>,
}

/// What a power cut did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CutReport {
    pub names_pending: usize,
    pub names_lost: usize,
    pub files_unsynced: usize,
    pub files_torn: usize,
}

fn dark() -> Error {
    Error::other("the power is off")
}

fn missing(path: &Path) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("{}: not found", path.display()),
    )
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

    /// Decides what is left after power was lost, and switches it on again.
    pub fn power_cut(&self, rng: &mut Rng) -> CutReport {
        let mut disk = self.disk.lock();
        let mut report = CutReport {
            names_pending: disk.pending.len(),
            ..CutReport::default()
        };
        let kept = keep_names(std::mem::take(&mut disk.pending), rng);
        report.names_lost = report.names_pending - kept.len();
        let mut names = std::mem::take(&mut disk.durable_names);
        kept.iter().for_each(|change| change.apply(&mut names));
        let reachable = only_reachable(names);
        for (path, entry) in &reachable {
            let Entry::File(id) = entry else { continue };
            let Some(content) = disk.contents.get_mut(id) else {
                continue;
            };
            if content.synced.as_ref() == Some(&content.bytes) {
                continue;
            }
            report.files_unsynced += 1;
            let (how, left) = tear(&content.bytes, content.synced.as_ref(), rng);
            report.files_torn += usize::from(left != content.bytes);
            let (was, is) = (content.bytes.len(), left.len());
            let path = path.display();
            self.trace
                .event(&self.node, format_args!("left {path} {how} {was} -> {is}"));
            content.bytes = left;
        }
        let live: Vec<FileId> = reachable.values().filter_map(Entry::file).collect();
        disk.contents.retain(|id, _| live.contains(id));
        disk.contents
            .values_mut()
            .for_each(|content| content.synced = Some(content.bytes.clone()));
        disk.names = reachable.clone();
        disk.durable_names = reachable;
        disk.fuse = None;
        disk.dark = false;
        self.trace
            .event(&self.node, format_args!("power-cut {report:?}"));
        self.trace.count("power_cuts", 1);
        let unsynced = report.names_pending > 0 || report.files_unsynced > 0;
        self.trace
            .count("power_cuts_with_something_unsynced", u64::from(unsynced));
        self.trace.count("files_torn", report.files_torn as u64);
        self.trace.count("names_lost", report.names_lost as u64);
        report
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

impl Entry {
    fn file(&self) -> Option<FileId> {
        match self {
            Self::Directory => None,
            Self::File(id) => Some(*id),
        }
    }
}

/// The name changes that survive: all, none, an early part, or any part of them in order.
fn keep_names(pending: Vec<NameChange>, rng: &mut Rng) -> Vec<NameChange> {
    match rng.below(4) {
        0 => Vec::new(),
        1 => pending,
        2 => {
            let kept = rng.below(pending.len() as u64 + 1) as usize;
            pending.into_iter().take(kept).collect()
        }
        _ => pending.into_iter().filter(|_| rng.chance(500)).collect(),
    }
}

/// Drops what lies in a directory that is not there.
fn only_reachable(names: BTreeMap<PathBuf, Entry>) -> BTreeMap<PathBuf, Entry> {
    let is_there = |path: &Path| {
        path.ancestors()
            .skip(1)
            .all(|parent| parent.parent().is_none() || names.get(parent) == Some(&Entry::Directory))
    };
    names
        .iter()
        .filter(|(path, _)| is_there(path))
        .map(|(path, entry)| (path.clone(), *entry))
        .collect()
}

/// What is left of unsynced bytes; those before the first change since the last sync stay.
fn tear(bytes: &Bytes, synced: Option<&Bytes>, rng: &mut Rng) -> (&'static str, Bytes) {
    let synced = synced.cloned().unwrap_or_default();
    let safe = bytes
        .iter()
        .zip(&synced)
        .take_while(|(new, old)| new == old)
        .count();
    let cut = rng.between(safe as u64, bytes.len() as u64) as usize;
    match rng.below(6) {
        0 => ("kept", bytes.clone()),
        1 => ("old", synced),
        2 => ("empty", bytes.slice(..safe)),
        3 => ("prefix", bytes.slice(..cut)),
        4 => {
            let ends = (safe..bytes.len())
                .filter(|at| bytes[*at] == b'\n')
                .map(|at| at + 1);
            let ends: Vec<usize> = ends.collect();
            (
                "line",
                bytes.slice(..rng.pick(&ends).copied().unwrap_or(safe)),
            )
        }
        _ => {
            let mut zeroed = bytes.to_vec();
            zeroed[cut..].fill(0);
            ("zeros", zeroed.into())
        }
    }
}

impl Disk {
    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    fn need_parent(&self, path: &Path) -> Result<()> {
        match path.parent() {
            Some(parent) if self.is_directory(parent) => Ok(()),
            _ => Err(missing(path)),
        }
    }

    fn is_directory(&self, path: &Path) -> bool {
        path.parent().is_none() || self.names.get(path) == Some(&Entry::Directory)
    }

    fn entry(&self, path: &Path) -> Result<Entry> {
        if path.parent().is_none() {
            return Ok(Entry::Directory);
        }
        self.names.get(path).copied().ok_or_else(|| missing(path))
    }

    fn file_id(&self, path: &Path) -> Result<FileId> {
        self.entry(path)?
            .file()
            .ok_or_else(|| Error::from(ErrorKind::IsADirectory))
    }

    fn write(&mut self, path: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
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
        let modified_us = modified_us();
        let content = self.contents.entry(id).or_insert_with(|| Content {
            bytes: Bytes::new(),
            synced: None,
            modified_us,
        });
        let (start, end) = (offset as usize, offset as usize + room);
        let mut whole = content.bytes.to_vec();
        whole.resize(whole.len().max(end), 0);
        whole[start..end].copy_from_slice(&bytes[..room]);
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

    fn status(&self, entry: Entry) -> FileStatus {
        let content = entry.file().and_then(|id| self.contents.get(&id));
        FileStatus {
            is_directory: entry == Entry::Directory,
            size_bytes: content.map_or(0, |content| content.bytes.len() as u64),
            modified_us: content.map_or(0, |content| content.modified_us),
            identity: entry.file().map_or(0, |id| id + 1),
        }
    }

    fn entries<'a>(
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
fn modified_us() -> i64 {
    clock::EPOCH_SECONDS as i64 * 1_000_000 + clock::now().as_micros() as i64
}

/// A file as it was when it was opened: its content is one value, replaced and never changed.
#[derive(Debug)]
struct Opened {
    files: SimFiles,
    path: PathBuf,
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
        self.files.call(what, |_| {
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
                status,
                bytes,
            }) as Box<dyn OpenFile>)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with `/m/log`; neither directory is durable.
    fn files() -> SimFiles {
        let files = SimFiles::new("disk", &Trace::discard());
        files.make_directory(Path::new("/m")).unwrap();
        files.make_directory(Path::new("/m/log")).unwrap();
        files
    }

    fn write(files: &SimFiles, path: &str, text: &'static str) {
        files
            .write(Path::new(path), 0, &[Bytes::from_static(text.as_bytes())])
            .unwrap();
    }

    fn read(files: &SimFiles, path: &str) -> Option<Bytes> {
        files.files().remove(Path::new(path))
    }

    /// Write, sync, link, remove the first name, sync all directories from the top.
    fn commit(files: &SimFiles, path: &str, text: &'static str) {
        write(files, "/m/log/tmp", text);
        files.sync(Path::new("/m/log/tmp")).unwrap();
        files
            .link(Path::new("/m/log/tmp"), Path::new(path))
            .unwrap();
        files.remove(Path::new("/m/log/tmp")).unwrap();
        for directory in ["/", "/m", "/m/log"] {
            files.sync_directory(Path::new(directory)).unwrap();
        }
    }

    #[test]
    fn what_was_synced_with_its_directories_survives_every_cut() {
        for seed in 0..300 {
            let files = files();
            commit(&files, "/m/log/0", "zero");
            write(&files, "/m/log/1", "never synced");
            files.power_cut(&mut Rng::new(seed));
            assert_eq!(
                read(&files, "/m/log/0"),
                Some(Bytes::from_static(b"zero")),
                "seed {seed}"
            );
            assert_eq!(read(&files, "/m/log/tmp"), None);
        }
    }

    #[test]
    fn what_was_not_synced_is_lost_torn_or_kept_in_some_cuts() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..300 {
            let files = files();
            commit(&files, "/m/log/0", "zero");
            write(&files, "/m/log/1", "one\ntwo\nthree");
            files.power_cut(&mut Rng::new(seed));
            seen.insert(match read(&files, "/m/log/1").as_deref() {
                None => "no name",
                Some(b"one\ntwo\nthree") => "kept",
                Some(b"") => "empty",
                Some(b"one\n" | b"one\ntwo\n") => "line",
                Some([.., 0]) => "zeros",
                Some(_) => "prefix",
            });
        }
        assert_eq!(seen.len(), 6, "{seen:?}");
    }

    #[test]
    fn a_name_in_a_directory_that_was_never_synced_can_be_lost() {
        let lost = (0..100)
            .filter(|seed| {
                let files = files();
                write(&files, "/m/log/0", "zero");
                files.sync(Path::new("/m/log/0")).unwrap();
                files.sync_directory(Path::new("/m/log")).unwrap(); // but neither /m nor /
                files.power_cut(&mut Rng::new(*seed));
                read(&files, "/m/log/0").is_none()
            })
            .count();
        assert!(lost > 0 && lost < 100, "{lost}");
    }

    #[test]
    fn a_rename_is_there_wholly_or_not_at_all() {
        for seed in 0..200 {
            let files = files();
            commit(&files, "/m/log/hint", "old");
            write(&files, "/m/log/tmp", "new");
            files.sync(Path::new("/m/log/tmp")).unwrap();
            files.sync_directory(Path::new("/m/log")).unwrap();
            files
                .rename(Path::new("/m/log/tmp"), Path::new("/m/log/hint"))
                .unwrap();
            files.power_cut(&mut Rng::new(seed));
            let both = (read(&files, "/m/log/hint"), read(&files, "/m/log/tmp"));
            let (old, new) = (Bytes::from_static(b"old"), Bytes::from_static(b"new"));
            assert!(
                both == (Some(new.clone()), None) || both == (Some(old), Some(new)),
                "{both:?}"
            );
        }
    }

    #[test]
    fn the_fuse_lets_the_last_call_take_effect_and_hides_its_reply() {
        let files = files();
        write(&files, "/m/a", "a");
        files.cut_after(1);
        files.sync(Path::new("/m/a")).unwrap();
        let error = files
            .write(Path::new("/m/b"), 0, &[Bytes::from_static(b"b")])
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Other);
        assert!(files.is_dark() && read(&files, "/m/b").is_some());
        assert!(files.status(Path::new("/m/a")).is_err());
        files.power_cut(&mut Rng::new(1));
        assert!(!files.is_dark());
    }

    #[test]
    fn a_full_disk_refuses_the_rest_of_a_write() {
        let files = files();
        files.limit_free_bytes(Some(3));
        let error = files
            .write(Path::new("/m/a"), 0, &[Bytes::from_static(b"abcde")])
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert_eq!(read(&files, "/m/a"), Some(Bytes::from_static(b"abc")));
    }

    #[test]
    fn bytes_synced_before_an_append_survive_it() {
        for seed in 0..200 {
            let files = files();
            commit(&files, "/m/log/0", "zero\n");
            files
                .write(
                    Path::new("/m/log/0"),
                    5,
                    &[Bytes::from_static(b"one\ntwo\n")],
                )
                .unwrap();
            files.power_cut(&mut Rng::new(seed));
            let left = read(&files, "/m/log/0").unwrap();
            assert!(left.starts_with(b"zero\n"), "{left:?}");
        }
    }

    #[test]
    fn an_open_file_keeps_its_content_when_its_name_goes_to_another() {
        let files = files();
        write(&files, "/m/a", "old");
        write(&files, "/m/b", "new");
        let open = files.open(Path::new("/m/a")).unwrap();
        files.rename(Path::new("/m/b"), Path::new("/m/a")).unwrap();
        assert_eq!(open.read(0..3).unwrap(), Bytes::from_static(b"old"));
        assert_eq!(
            open.read(0..4).unwrap_err().kind(),
            ErrorKind::UnexpectedEof
        );
        let identity = files.status(Path::new("/m/a")).unwrap().identity;
        assert_ne!(open.status().unwrap().identity, identity);
    }

    #[test]
    fn lists_give_one_directory_in_name_order() {
        let files = files();
        for path in ["/m/b", "/m/a", "/m/log/d", "/mm"] {
            write(&files, path, "");
        }
        let names: Vec<String> = files
            .list(Path::new("/m"))
            .unwrap()
            .into_iter()
            .map(|entry| entry.name)
            .collect();
        assert_eq!(names, ["a", "b", "log"]);
        let error = files.list(Path::new("/x")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
