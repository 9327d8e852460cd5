//! Reading a log: what a listing holds, where to start, and following the head.
//!
//! A load is right only when it is provably complete: from version 0, or from a whole checkpoint,
//! every version up to the newest. Damage to a checkpoint is survived where an older start is
//! complete; damage to a commit is an error that names it.

use super::checkpoint_read::read_checkpoint;
use super::checkpoint_write::Hint;
use super::replay::Replay;
use super::{Ledger, Snapshot};
use crate::error::{Error, Result};
use apiary_protocol::delta::commit::{Commit, decode_commit};
use apiary_protocol::keys;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Commits that are read at once.
const READ_AHEAD: usize = 8;

/// Bytes of commits that are read at once or wait to be applied, as far as one commit allows.
const READ_AHEAD_BYTES: u64 = 3 << 20;

/// A hint is a line; more is not one.
const HINT_BYTES_MAX: u64 = 1 << 20;

/// What a log holds, by a listing.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Listing {
    first_commit: Option<u64>,
    newest: Option<u64>,
    /// Of the commits.
    sizes: BTreeMap<u64, u64>,
    /// Keys of complete checkpoints, in the order of their parts.
    checkpoints: BTreeMap<u64, Vec<String>>,
}

impl Listing {
    /// The newest complete checkpoint, by its name.
    pub fn newest_checkpoint(&self) -> Option<u64> {
        self.checkpoints.keys().next_back().copied()
    }

    pub fn holds_commit(&self, version: u64) -> bool {
        self.sizes.contains_key(&version)
    }

    /// Sorts keys of a log; names that are not ours to know are skipped.
    pub fn parse(prefix: &str, objects: impl IntoIterator<Item = (String, u64)>) -> Self {
        let mut listing = Self::default();
        // By version, then by announced number of parts; the number is the index of the last part.
        let mut parts: BTreeMap<(u64, u32), BTreeMap<u32, String>> = BTreeMap::new();
        for (key, size_bytes) in objects {
            let Some(name) = key
                .strip_prefix(prefix)
                .and_then(|rest| rest.strip_prefix('/'))
            else {
                continue;
            };
            let pieces: Vec<&str> = name.split('.').collect();
            let Some(version) = pieces.first().and_then(|text| digits(text, 20)) else {
                continue;
            };
            let part = match pieces.as_slice() {
                [_, "json"] => {
                    let first = listing.first_commit.get_or_insert(version);
                    *first = version.min(*first);
                    listing.newest = listing.newest.max(Some(version));
                    listing.sizes.insert(version, size_bytes);
                    continue;
                }
                // Its own kind, before all that come in parts.
                [_, "checkpoint", "parquet"] => Some((1, 0)),
                [_, "checkpoint", index, count, "parquet"] => small(index).zip(small(count)),
                _ => None,
            };
            if let Some((index, count)) = part {
                parts
                    .entry((version, count))
                    .or_default()
                    .insert(index, key);
            }
        }
        for ((version, count), found) in parts {
            let complete = found.len() == count.max(1) as usize
                && found
                    .keys()
                    .zip(1..)
                    .all(|(index, expected)| *index == expected);
            if complete {
                listing.newest = listing.newest.max(Some(version));
                // The one in a single object is preferred; it sorts first.
                listing
                    .checkpoints
                    .entry(version)
                    .or_insert(found.into_values().collect());
            }
        }
        listing
    }
}

fn digits(text: &str, count: usize) -> Option<u64> {
    let valid = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    // The protocol's versions are signed.
    text.parse()
        .ok()
        .filter(|version| valid && i64::try_from(*version).is_ok())
}

fn small(text: &str) -> Option<u32> {
    digits(text, 10)
        .and_then(|number| u32::try_from(number).ok())
        .filter(|number| *number > 0)
}

impl Ledger {
    pub(super) async fn load_until(&self, until: Option<u64>) -> Result<Arc<Snapshot>> {
        let hint = self.read_hint().await?.map(|hint| hint.version);
        let hint = hint.filter(|hint| until.is_none_or(|until| *hint <= until));
        if let Some(start) = hint {
            let listing = self.list_log(start).await?;
            if listing.checkpoints.contains_key(&start) {
                match self.load_listed(&listing, until).await {
                    // An older start may be whole.
                    Err(Error::Corrupt { key, reason }) => {
                        tracing::warn!(key, reason, "falling back to the whole log");
                    }
                    result => return result,
                }
            }
        }
        let listing = self.list_log(0).await?;
        self.load_listed(&listing, until).await
    }

    /// Everything in the log from a version on.
    pub(super) async fn list_log(&self, start: u64) -> Result<Listing> {
        let prefix = keys::log_prefix(&self.location);
        // Sorts before every name of that version.
        let after = format!("{prefix}/{start:020}");
        let found = self
            .meadow
            .list(&prefix, (start > 0).then_some(&after))
            .await?;
        Ok(Listing::parse(
            &prefix,
            found
                .into_iter()
                .map(|meta| (meta.location.to_string(), meta.size)),
        ))
    }

    async fn load_listed(&self, listing: &Listing, until: Option<u64>) -> Result<Arc<Snapshot>> {
        let what = |suffix: &str| format!("a Delta table at {}{suffix}", self.location);
        let newest = match listing.newest {
            Some(newest) => newest,
            None if self.read_commit(0).await?.is_some() => {
                // A listing may be late; what it leaves out is found by probing.
                let begun = Replay::new(&self.location);
                return self
                    .load_rest(begun, until.unwrap_or(0), until, listing)
                    .await;
            }
            None => return Err(Error::NotFound { what: what("") }),
        };
        let last = until.unwrap_or(newest);
        let mut damaged = None;
        for (version, keys) in listing.checkpoints.range(..=last).rev() {
            match self.load_checkpoint(*version, keys).await {
                Ok(replay) => return self.load_rest(replay, last, until, listing).await,
                Err(error @ Error::Corrupt { .. }) => {
                    tracing::warn!(%error, "trying an older checkpoint");
                    damaged.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        match (listing.first_commit, damaged) {
            (Some(0), _) => {
                self.load_rest(Replay::new(&self.location), last, until, listing)
                    .await
            }
            (_, Some(damage)) => Err(damage),
            (first, None) if until.is_some() && (last > newest || Some(last) < first) => {
                Err(Error::NotFound {
                    what: what(&format!(" at version {last}")),
                })
            }
            _ => Err(Error::corrupt(
                self.commit_key(0),
                "it is missing, and no checkpoint covers it",
            )),
        }
    }

    /// Commits up to `last`, then, unless a version was asked for, what came meanwhile.
    async fn load_rest(
        &self,
        mut replay: Replay,
        last: u64,
        until: Option<u64>,
        listing: &Listing,
    ) -> Result<Arc<Snapshot>> {
        let mut first = replay.next_version();
        if apiary_protocol::planted!(CommitSkipped) && first > 0 && first < last {
            first += 1;
        }
        // Read ahead as bytes: decoded, a commit is several times as large. Permits are handed out in
        // the order of the versions, so the next one to apply always gets its own.
        let budget = Semaphore::new(READ_AHEAD_BYTES as usize);
        let budget = &budget;
        let mut commits = stream::iter(first..last + 1)
            .map(|version| async move {
                let size_bytes = listing.sizes.get(&version).copied().unwrap_or(0);
                let permits = size_bytes.min(READ_AHEAD_BYTES) as u32;
                let permit = budget.acquire_many(permits).await;
                let key = self.commit_key(version);
                (version, self.meadow.get(&key).await, permit)
            })
            .buffered(READ_AHEAD);
        while let Some((version, bytes, _permit)) = commits.next().await {
            match bytes? {
                Some(bytes) => {
                    let commit = decode(&self.commit_key(version), &bytes)?;
                    drop(bytes);
                    replay.apply_commit(commit)?;
                }
                None if until.is_some() && self.list_log(version).await?.newest.is_none() => {
                    let what = format!("version {last} of the Delta table at {}", self.location);
                    return Err(Error::NotFound { what });
                }
                None => return Err(self.missing(version)),
            }
        }
        drop(commits);
        let snapshot = Arc::new(replay.finish()?);
        match until {
            Some(_) => Ok(snapshot),
            None => self.follow(&snapshot).await,
        }
    }

    async fn load_checkpoint(&self, version: u64, keys: &[String]) -> Result<Replay> {
        let parts: Vec<(String, Bytes)> = stream::iter(keys.to_vec())
            .map(|key| async move {
                match self.meadow.get(&key).await? {
                    Some(bytes) => Ok((key, bytes)),
                    None => Err(Error::corrupt(key, "it is listed and missing")),
                }
            })
            .buffered(READ_AHEAD)
            .try_collect()
            .await?;
        let location = self.location.clone();
        let job = move || read_checkpoint(&location, version, &parts);
        let replay = self.host.blocking.call(job).await;
        let mut replay = replay.map_err(|source| {
            let path = keys::checkpoint(&self.location, version);
            Error::Io { path, source }
        })??;
        if !replay.has_timestamp() {
            // A checkpoint of another writer. Its commit may be gone, and then time starts again.
            if let Ok(Some(commit)) = self.read_commit(version).await {
                replay.raise_timestamp(commit.timestamp_ms.unwrap_or(0));
            }
        }
        Ok(replay)
    }

    /// The hint when there is a sane one. It is only a hint: damage to it costs a listing.
    pub(super) async fn read_hint(&self) -> Result<Option<Hint>> {
        let key = keys::last_checkpoint(&self.location);
        let hint = match self.meadow.get_at_most(&key, HINT_BYTES_MAX).await {
            Ok(Some(bytes)) => serde_json::from_slice::<Hint>(&bytes).ok(),
            Ok(None) => return Ok(None),
            Err(Error::Corrupt { .. }) => None,
            Err(error) => return Err(error),
        };
        if hint.is_none() {
            tracing::warn!(key, "the hint is not valid and is ignored");
        }
        Ok(hint.filter(|hint| i64::try_from(hint.version).is_ok()))
    }

    /// One commit, decoded and checked; `None` when it does not exist.
    pub(super) async fn read_commit(&self, version: u64) -> Result<Option<Commit>> {
        let key = self.commit_key(version);
        match self.meadow.get(&key).await? {
            Some(bytes) => Ok(Some(decode(&key, &bytes)?)),
            None => Ok(None),
        }
    }

    /// A commit that must be there.
    pub(super) async fn read_known_commit(&self, version: u64) -> Result<Commit> {
        self.read_commit(version)
            .await?
            .ok_or_else(|| self.missing(version))
    }

    fn missing(&self, version: u64) -> Error {
        Error::corrupt(
            self.commit_key(version),
            "it is missing although later versions exist",
        )
    }

    /// Probes the next version until it is absent. Reads ahead more and more while it finds some, so
    /// that a node that was away for long catches up quickly.
    pub(super) async fn follow(&self, snapshot: &Arc<Snapshot>) -> Result<Arc<Snapshot>> {
        if apiary_protocol::planted!(StaleSnapshot) && snapshot.version.is_multiple_of(3) {
            return Ok(Arc::clone(snapshot));
        }
        let mut replay = None;
        let mut next = snapshot.version + 1;
        let mut ahead = 1;
        'probing: loop {
            let mut commits = stream::iter(next..next + ahead)
                .map(|version| self.read_commit(version))
                .buffered(READ_AHEAD);
            let mut absent = None;
            while let Some(commit) = commits.next().await {
                match (commit?, absent) {
                    (Some(commit), None) => {
                        let replay = replay.get_or_insert_with(|| Replay::from_snapshot(snapshot));
                        replay.apply_commit(commit)?;
                        next += 1;
                    }
                    // Created between two of our reads, or missing from the middle.
                    (Some(_), Some(version)) => {
                        drop(commits);
                        self.read_known_commit(version).await?;
                        ahead = 1;
                        continue 'probing;
                    }
                    (None, _) => absent = absent.or(Some(next)),
                }
            }
            if absent.is_some() {
                break;
            }
            ahead = (ahead * 2).min(READ_AHEAD as u64);
        }
        match replay {
            Some(replay) => Ok(Arc::new(replay.finish()?)),
            None => Ok(Arc::clone(snapshot)),
        }
    }
}

pub(super) fn decode(key: &str, bytes: &[u8]) -> Result<Commit> {
    decode_commit(bytes).map_err(|error| Error::corrupt(key, error))
}
