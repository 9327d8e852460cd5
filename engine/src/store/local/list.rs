//! Listing: never outside the prefix, never in staging, no status of what is not wanted.

use super::write::Disk;
use super::{STAGING, meta_of};
use crate::host::DirectoryEntry;
use object_store::path::Path;
use object_store::{Error, ListResult, ObjectMeta, Result};
use std::io::ErrorKind;
use std::path::Path as FilePath;

impl Disk {
    /// Objects under `prefix` whose key is greater than `after`. A directory is left out without
    /// being read when all its keys are smaller.
    pub fn list_tree(&self, prefix: &Path, after: Option<&Path>) -> Result<Vec<ObjectMeta>> {
        let mut found = Vec::new();
        let mut open = vec![(prefix.clone(), self.directory_of(prefix)?)];
        while let Some((key, directory)) = open.pop() {
            for entry in self.entries(&key, &directory)? {
                let Some(child) = child_of(&key, &entry) else {
                    continue;
                };
                if entry.is_directory {
                    if after.is_none_or(|after| may_hold_greater(&child, after)) {
                        open.push((child, directory.join(&entry.name)));
                    }
                } else if after.is_none_or(|after| child > *after) {
                    found.extend(self.object(child, &directory.join(&entry.name))?);
                }
            }
        }
        Ok(found)
    }

    /// Objects and prefixes directly under `prefix`. A directory without any object is no prefix.
    pub fn list_level(&self, prefix: &Path) -> Result<ListResult> {
        let directory = self.directory_of(prefix)?;
        let mut result = ListResult {
            common_prefixes: Vec::new(),
            objects: Vec::new(),
        };
        for entry in self.entries(prefix, &directory)? {
            let Some(child) = child_of(prefix, &entry) else {
                continue;
            };
            let path = directory.join(&entry.name);
            if !entry.is_directory {
                result.objects.extend(self.object(child, &path)?);
            } else if self.has_objects(&child, &path)? {
                result.common_prefixes.push(child);
            }
        }
        Ok(result)
    }

    fn has_objects(&self, key: &Path, directory: &FilePath) -> Result<bool> {
        let entries = self.entries(key, directory)?;
        if entries.iter().any(|entry| !entry.is_directory) {
            return Ok(true);
        }
        for entry in entries {
            let Some(child) = child_of(key, &entry) else {
                continue;
            };
            if self.has_objects(&child, &directory.join(&entry.name))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn entries(&self, key: &Path, directory: &FilePath) -> Result<Vec<DirectoryEntry>> {
        match self.files.list(directory) {
            Ok(entries) => Ok(entries),
            Err(error) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => Ok(Vec::new()),
                _ => Err(self.failure("listing", key, error).into()),
            },
        }
    }

    /// `None` for a file that was deleted since its directory was read, and for a link to a directory.
    fn object(&self, key: Path, path: &FilePath) -> Result<Option<ObjectMeta>> {
        match self.files.status(path) {
            Ok(status) if status.is_directory => Ok(None),
            Ok(status) => meta_of(key, &status).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::from(self.failure("listing", &key, error))),
        }
    }
}

/// `None` for staging and for a name that no key can hold.
fn child_of(key: &Path, entry: &DirectoryEntry) -> Option<Path> {
    if key.is_root() {
        return (entry.name != STAGING)
            .then(|| Path::parse(&entry.name).ok())
            .flatten();
    }
    Path::parse(format!("{key}/{}", entry.name)).ok()
}

/// Whether a key under `directory` can be greater than `after`.
fn may_hold_greater(directory: &Path, after: &Path) -> bool {
    after.prefix_matches(directory) || format!("{directory}/").as_str() > after.as_ref()
}
