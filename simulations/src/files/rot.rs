//! Bits that change on a disk while nobody looks, and whether somebody has read such a file.

use super::SimFiles;
use super::disk::Entry;
use crate::rng::Rng;
use std::path::{Path, PathBuf};

impl SimFiles {
    /// Flips a bit of one of the files below a directory, when there is any.
    pub fn rot(&self, directory: &Path, rng: &mut Rng) {
        let mut disk = self.disk.lock();
        let below = disk.names.iter().filter_map(|(path, entry)| match entry {
            Entry::File(id) if path.starts_with(directory) => Some((path.clone(), *id)),
            _ => None,
        });
        let below: Vec<_> = below.collect();
        let Some((path, id)) = rng.pick(&below) else {
            return;
        };
        let content = disk
            .contents
            .get_mut(id)
            .filter(|content| !content.bytes.is_empty());
        let Some(content) = content else { return };
        let (mut flipped, at) = (
            content.bytes.to_vec(),
            rng.below(content.bytes.len() as u64),
        );
        flipped[at as usize] ^= 1 << rng.below(8);
        // It is the medium that rots: what was synced does with it.
        let is_synced = content.synced.as_ref() == Some(&content.bytes);
        content.bytes = flipped.into();
        if is_synced {
            content.synced = Some(content.bytes.clone());
        }
        content.is_spoiled = true;
        self.trace
            .event(&self.node, format_args!("rot {} {at}", path.display()));
        self.trace.count("files_rotten", 1);
    }

    /// From here on it counts who reads what is torn or changed.
    pub fn forget_reads(&self) {
        let mut disk = self.disk.lock();
        let contents = disk.contents.values_mut();
        contents.for_each(|content| content.was_read_spoiled = false);
    }

    /// A file that is torn or changed, was read, and is still there.
    pub fn spoiled_and_read(&self) -> Option<PathBuf> {
        let disk = self.disk.lock();
        let is_so = |entry: &Entry| {
            let content = entry.file().and_then(|id| disk.contents.get(&id));
            content.is_some_and(|content| content.is_spoiled && content.was_read_spoiled)
        };
        let mut names = disk.names.iter();
        names
            .find(|(_, entry)| is_so(entry))
            .map(|(path, _)| path.clone())
    }
}
