//! What a power cut leaves.
//!
//! What was synced stays. Of the rest it keeps all, nothing, an early part, or any part, and tears
//! unsynced bytes: zero length, a prefix, a cut at a line break, a tail of zeros. A rename is atomic:
//! it happened or it did not.

use super::SimFiles;
use super::disk::{Entry, FileId, NameChange};
use crate::rng::Rng;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a power cut did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CutReport {
    pub names_pending: usize,
    pub names_lost: usize,
    pub files_unsynced: usize,
    pub files_torn: usize,
}

impl SimFiles {
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
            content.is_spoiled |= left != content.bytes;
            content.bytes = left;
        }
        let live: Vec<FileId> = reachable.values().filter_map(Entry::file).collect();
        disk.contents.retain(|id, _| live.contains(id));
        disk.contents.values_mut().for_each(|content| {
            content.synced = Some(content.bytes.clone());
            content.was_read_spoiled = false;
        });
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
