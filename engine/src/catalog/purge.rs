//! Deleting the data of dropped frames, so that nothing can be written behind the deletion.
//!
//! A writer with an old snapshot creates the version after it, and a version that was deleted is free.
//! So the objects of the log stay, and a purge replaces what is in them by a *fence*: a commit which
//! says that the frame was dropped and names no cell. There is no moment at which a version that was
//! ever taken is free.
//!
//! Invariant: once a purge has deleted anything, no commit to the frame can be acknowledged.

use super::Catalog;
use super::change::Step;
use crate::error::{Error, Result};
use crate::schema::FrameSchema;
use crate::store::Created;
use apiary_protocol::delta::commit::{Head, encode_commit};
use apiary_protocol::delta::{Action, Format, Metadata};
use apiary_protocol::ids::{CommitId, FrameId};
use apiary_protocol::keys::{self, LogFile};
use apiary_protocol::registry::DROPPED_PROPERTY;
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use std::sync::Arc;

/// Requests that run at once.
const REQUESTS_MAX: usize = 16;

impl Catalog {
    /// Finishes purges whose node went away. Returns how many there were. One that fails does not
    /// keep the others from being tried; the first error is given at the end.
    pub async fn finish_purges(&self) -> Result<usize> {
        let head = self.head().await?;
        let mut failed = None;
        for (location, id) in &head.registry.purging {
            if let Err(error) = self.purge(location, *id).await {
                tracing::warn!(location, %error, "a purge could not be finished");
                failed.get_or_insert(error);
            }
        }
        self.leave_hint().await;
        match failed {
            Some(error) => Err(error),
            None => Ok(head.registry.purging.len()),
        }
    }

    /// Deletes what lies under a dropped frame's location and fences its log.
    pub(super) async fn purge(&self, location: &str, id: FrameId) -> Result<()> {
        let fence = fence(id)?;
        let inside = format!("{location}/");
        let listed = self.meadow.list(location, None).await?;
        let keys = listed.iter().map(|object| object.location.to_string());
        let (log, data): (Vec<_>, Vec<_>) = keys
            .filter(|key| key.starts_with(&inside))
            .map(|key| (commit_version(location, &key), key))
            .partition(|(version, _)| version.is_some());
        let listed_end = log
            .iter()
            .filter_map(|(version, _)| *version)
            .max()
            .map_or(0, |newest| newest + 1);
        let end = self.close_log(location, listed_end, &fence).await?;
        futures::stream::iter(0..end)
            .map(|version| {
                let (key, fence) = (keys::commit(location, version), fence.clone());
                async move { self.meadow.put(&key, fence).await }
            })
            .buffer_unordered(REQUESTS_MAX)
            .try_collect::<()>()
            .await?;
        // Owned keys: a closure over borrowed ones makes a future that no thread may take.
        futures::stream::iter(data)
            .map(|(_, key)| async move { self.meadow.delete(&key).await })
            .buffer_unordered(REQUESTS_MAX)
            .try_collect::<()>()
            .await?;
        // From then on nothing leads to it, and what a power cut brought back would stay.
        self.meadow.sync_deletions(location).await?;
        self.change(|registry| match registry.apply_purged(location) {
            Some(next) => Ok(Step::Write(next, ())),
            None => Ok(Step::Done(())),
        })
        .await
    }

    /// Makes a fence the newest version, so that nobody can go on behind it: the ledger may be without
    /// a drop marker when it was damaged, and a listing may be late. Gives the number of versions
    /// before it.
    async fn close_log(&self, location: &str, listed_end: u64, fence: &Bytes) -> Result<u64> {
        let mut end = listed_end;
        if let Some(newest) = end.checked_sub(1) {
            // Somebody began this purge before.
            let found = self.meadow.get(&keys::commit(location, newest)).await?;
            if found.as_ref() == Some(fence) {
                return Ok(newest);
            }
        }
        loop {
            let key = keys::commit(location, end);
            match self.meadow.create(&key, fence.clone()).await? {
                Created::Ours => return Ok(end),
                Created::Theirs(_) => end += 1,
            }
        }
    }
}

fn commit_version(location: &str, key: &str) -> Option<u64> {
    if !key.starts_with(&keys::log_prefix(location)) {
        return None;
    }
    match keys::log_file(key) {
        Some(LogFile::Commit { version }) => Some(version),
        _ => None,
    }
}

/// The commit that fences a frame's log, whole in itself: a log of fences alone reads as an empty
/// dropped frame. The same bytes whoever writes it.
fn fence(id: FrameId) -> Result<Bytes> {
    // A table needs a column.
    let column = Field::new("purged", DataType::Boolean, true);
    let schema = FrameSchema::new(Arc::new(Schema::new(vec![column])), Vec::new())?;
    let configuration = [(DROPPED_PROPERTY.to_string(), Some("true".to_string()))];
    let metadata = Metadata {
        id: id.to_string(),
        name: None,
        description: None,
        format: Format {
            provider: "parquet".into(),
            options: Default::default(),
        },
        schema_string: schema.to_schema_string(),
        partition_columns: Vec::new(),
        configuration: configuration.into(),
        created_time: None,
    };
    let actions = [
        Action::Protocol(schema.protocol()),
        Action::MetaData(metadata),
    ];
    let commit_id = CommitId::parse(&id.to_string())
        .ok_or_else(|| Error::Bug(format!("frame id {id} is no id")))?;
    let head = Head {
        id: commit_id,
        members: Vec::new(),
        operation: "PURGE".to_string(),
        // Whatever was said before stays the newest time.
        timestamp_ms: 0,
        is_blind_append: false,
        // Without a version: nodes of two builds may work on one purge.
        engine_info: "apiary".to_string(),
    };
    let body = encode_commit(&head, &actions).map_err(|error| Error::Bug(error.to_string()))?;
    Ok(body.into())
}
