//! The file seam over the operating system's files.
//!
//! Never reads the environment, never makes a parent directory, never retries: one call here is one
//! step of the local store, and its error is the system's.

use super::{DirectoryEntry, FileStatus, Files, OpenFile};
use bytes::Bytes;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Real files. Has no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFiles;

impl Files for DiskFiles {
    fn write(&self, path: &Path, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        write_all(&file, offset, parts)
    }

    fn write_new(&self, path: &Path, parts: &[Bytes]) -> io::Result<()> {
        let file = OpenOptions::new().create_new(true).write(true).open(path)?;
        write_all(&file, 0, parts)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        // Data and size are what must survive; times may be lost.
        File::open(path)?.sync_data()
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        match File::open(path)?.sync_all() {
            // Some network and FUSE file systems have no sync for directories.
            Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
            result => result,
        }
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn status(&self, path: &Path) -> io::Result<FileStatus> {
        Ok(status_of(&fs::metadata(path)?))
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        fs::canonicalize(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirectoryEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(DirectoryEntry {
                    name,
                    is_directory: entry.file_type()?.is_dir(),
                });
            }
        }
        entries.sort_unstable();
        Ok(entries)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        Ok(Box::new(DiskFile(File::open(path)?)))
    }
}

fn write_all(file: &File, mut position: u64, parts: &[Bytes]) -> io::Result<()> {
    for part in parts {
        file.write_all_at(part, position)?;
        position += part.len() as u64;
    }
    Ok(())
}

#[derive(Debug)]
struct DiskFile(File);

impl OpenFile for DiskFile {
    fn status(&self) -> io::Result<FileStatus> {
        Ok(status_of(&self.0.metadata()?))
    }

    fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let length = usize::try_from(range.end.saturating_sub(range.start))
            .map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
        let mut buffer = vec![0; length];
        self.0.read_exact_at(&mut buffer, range.start)?;
        Ok(Bytes::from(buffer))
    }
}

fn status_of(metadata: &Metadata) -> FileStatus {
    FileStatus {
        is_directory: metadata.is_dir(),
        size_bytes: metadata.len(),
        modified_us: metadata.mtime() * 1_000_000 + metadata.mtime_nsec() / 1_000,
        identity: metadata.ino(),
    }
}
