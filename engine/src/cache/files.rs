//! The files of cached parts, on the host's seam. All calls block.
//!
//! `{directory}/parts/{two digits}/{name}`, and `{directory}/order`. Nothing is synced: a part that a
//! kill or a power cut tore is found out when it is read.

use crate::host::Files;
use apiary_protocol::cache::{CellIdentity, PartName, UseOrder};
use bytes::Bytes;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;

const PARTS: &str = "parts";
const ORDER: &str = "order";
const NEW_ORDER: &str = "order.new";

#[derive(Clone, Debug)]
pub struct PartFiles {
    files: Arc<dyn Files>,
    directory: PathBuf,
}

/// Why a part cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    #[error("{0}")]
    Wrong(#[from] apiary_protocol::format::FormatError),
}

impl PartFiles {
    /// Of a directory that is there and that no other process writes to.
    pub fn new(files: Arc<dyn Files>, directory: PathBuf) -> Self {
        Self { files, directory }
    }

    /// What earlier processes left, and the order of its use as far as it is known.
    pub fn open(&self) -> io::Result<(Vec<PartName>, UseOrder)> {
        let parts = self.directory.join(PARTS);
        self.make_directory(&parts)?;
        let mut names = Vec::new();
        for directory in self.files.list(&parts)? {
            if !directory.is_directory {
                continue;
            }
            let listed = self.files.list(&parts.join(&directory.name))?;
            let found = listed.iter().filter_map(|file| PartName::parse(&file.name));
            names.extend(found.filter(|name| name.directory() == directory.name));
        }
        Ok((names, self.read_order().unwrap_or_default()))
    }

    fn read_order(&self) -> Option<UseOrder> {
        let file = self.files.open(&self.directory.join(ORDER)).ok()?;
        let size_bytes = file.status().ok()?.size_bytes;
        UseOrder::from_bytes(&file.read(0..size_bytes).ok()?).ok()
    }

    pub fn write_order(&self, order: &UseOrder) -> io::Result<()> {
        let bytes = order.to_bytes().map_err(io::Error::other)?;
        let (new, path) = (self.directory.join(NEW_ORDER), self.directory.join(ORDER));
        // What an earlier process left of its own may be longer.
        self.remove_file(&new)?;
        self.files.write(&new, 0, &[Bytes::from(bytes)])?;
        self.files.rename(&new, &path)
    }

    pub fn read(&self, cell: &CellIdentity, index: u32) -> Result<Bytes, Damage> {
        let file = self.files.open(&self.path(&cell.part_name(index)))?;
        let size_bytes = file.status()?.size_bytes;
        let bytes = file.read(0..size_bytes.min(cell.part_file_bytes(index)))?;
        let body_at = cell.open_part(index, &bytes)?;
        Ok(bytes.slice(body_at..))
    }

    /// Writes a part; after an error nothing of it is left, if that can be helped.
    pub fn write(&self, cell: &CellIdentity, index: u32, bytes: &Bytes) -> io::Result<()> {
        let path = self.path(&cell.part_name(index));
        let parts = [Bytes::from(cell.part_header(index, bytes)), bytes.clone()];
        let written = match self.files.write(&path, 0, &parts) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if let Some(directory) = path.parent() {
                    self.make_directory(directory)?;
                }
                self.files.write(&path, 0, &parts)
            }
            written => written,
        };
        if written.is_err() {
            let _ = self.files.remove(&path);
        }
        written
    }

    pub fn remove(&self, name: &PartName) -> io::Result<()> {
        self.remove_file(&self.path(name))
    }

    fn remove_file(&self, path: &std::path::Path) -> io::Result<()> {
        match self.files.remove(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn path(&self, name: &PartName) -> PathBuf {
        let mut path = self.directory.join(PARTS);
        path.push(name.directory());
        path.push(name.to_string());
        path
    }

    fn make_directory(&self, path: &std::path::Path) -> io::Result<()> {
        match self.files.make_directory(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::DiskFiles;
    use apiary_protocol::cache::PART_BYTES;
    use apiary_protocol::ids::MeadowId;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn cell() -> CellIdentity {
        let meadow = MeadowId::from_random([1; 16]);
        CellIdentity::new(meadow, "a/b/cell", PART_BYTES + 3, 7)
    }

    fn files(place: &tempfile::TempDir) -> PartFiles {
        PartFiles::new(Arc::new(DiskFiles), place.path().to_path_buf())
    }

    #[test]
    fn what_was_written_is_found_and_read_by_the_next_process() -> Outcome {
        let place = tempfile::tempdir()?;
        let (first, cell) = (files(&place), cell());
        assert_eq!(first.open()?, (vec![], UseOrder::default()));
        first.write(&cell, 1, &Bytes::from_static(b"end"))?;
        let order = UseOrder::new([cell.part(1)]);
        first.write_order(&UseOrder::new([cell.part(0), cell.part(1)]))?;
        first.write_order(&order)?;
        std::fs::write(place.path().join("parts/stray"), "x")?;
        let next = files(&place);
        assert_eq!(next.open()?, (vec![cell.part_name(1)], order));
        assert_eq!(next.read(&cell, 1)?, "end");
        next.remove(&cell.part_name(1))?;
        next.remove(&cell.part_name(1))?;
        let gone = next.read(&cell, 1);
        assert!(matches!(gone, Err(Damage::Unreadable(_))), "{gone:?}");
        Ok(())
    }

    #[test]
    fn a_part_that_is_torn_or_changed_is_damaged() -> Outcome {
        let place = tempfile::tempdir()?;
        let (files, cell) = (files(&place), cell());
        files.open()?;
        files.write(&cell, 1, &Bytes::from_static(b"end"))?;
        let path = files.path(&cell.part_name(1));
        let sound = std::fs::read(&path)?;
        let mut changed = sound.clone();
        changed[sound.len() - 1] ^= 1;
        for wrong in [&sound[..0], &sound[..30], &changed] {
            std::fs::write(&path, wrong)?;
            assert!(matches!(files.read(&cell, 1), Err(Damage::Wrong(_))));
            files.write(&cell, 1, &Bytes::from_static(b"end"))?;
            assert_eq!(files.read(&cell, 1)?, "end");
        }
        Ok(())
    }

    #[test]
    fn an_order_that_cannot_be_read_is_none() -> Outcome {
        let place = tempfile::tempdir()?;
        let files = files(&place);
        std::fs::write(place.path().join("order"), "torn")?;
        assert_eq!(files.open()?.1, UseOrder::default());
        Ok(())
    }
}
