//! How readers of cells get parts: from disk, from whoever fetches them, from the meadow.
//!
//! Whatever goes wrong with the cache, a reader gets its bytes from the meadow or the meadow's own
//! error. Fetches run on the control runtime, so that who waits for one does not depend on whether the
//! reader that leads it is polled.

use super::{Message, Taken, TakenPart, View};
use crate::mailbox::Address;
use apiary_engine::cache::{CellParts, PartFiles, PartSource, PartsRead};
use apiary_engine::error::{Error, Result};
use apiary_engine::host::Host;
use apiary_protocol::cache::CellIdentity;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

/// Longest that a reader waits for the cache to say what it has.
const TAKE_DEADLINE: Duration = Duration::from_secs(10);
const CONTROL_DEADLINE: Duration = Duration::from_secs(10);
/// Parts that one request fetches at most.
const RUN_PARTS_MAX: u32 = 16;
/// Parts that nobody asked for and that are fetched to make one request of two.
const GAP_PARTS_MAX: u32 = 1;
const DISK_READS_AT_ONCE: usize = 8;
/// How often a reader asks for what it did not get, before it goes around the cache.
const ROUNDS_MAX: usize = 3;

#[derive(Debug)]
pub(crate) struct CacheHandle {
    address: Address<Message>,
    files: PartFiles,
    host: Host,
}

/// What a reader has so far.
#[derive(Default)]
struct Found {
    parts: BTreeMap<u32, Bytes>,
    hits: usize,
    hit_bytes: u64,
}

impl Found {
    fn missing(&self, indexes: &[u32]) -> Vec<u32> {
        let missing = indexes.iter().copied();
        missing
            .filter(|index| !self.parts.contains_key(index))
            .collect()
    }

    fn hit(&mut self, index: u32, bytes: Bytes) {
        self.hits += 1;
        self.hit_bytes += bytes.len() as u64;
        self.parts.insert(index, bytes);
    }
}

type Parts = Vec<(u32, Bytes)>;

impl CacheHandle {
    pub(super) fn new(address: Address<Message>, files: PartFiles, host: Host) -> Self {
        Self {
            address,
            files,
            host,
        }
    }

    pub(crate) async fn observe(&self) -> Result<View> {
        let view = self
            .address
            .call(CONTROL_DEADLINE, |reply| Message::Observe { reply })
            .await;
        view.map_err(|error| error.into_error(self.address.name()))
    }

    /// False when not all could be written in time.
    pub(crate) async fn farewell(&self, deadline: Duration) -> bool {
        self.address
            .call(deadline, |reply| Message::Farewell { reply })
            .await
            .is_ok()
    }

    #[cfg(test)]
    pub(crate) fn kill(&self) {
        if let Some(cache) = self.address.instance() {
            cache.kill();
        }
    }

    async fn take(&self, cell: &Arc<CellIdentity>, indexes: &[u32]) -> Option<Taken> {
        let (cell, indexes) = (cell.clone(), indexes.to_vec());
        let taken = self
            .address
            .call(TAKE_DEADLINE, |reply| Message::Take {
                cell,
                indexes,
                reply,
            })
            .await;
        taken.ok()
    }

    /// Gets what can be got in one go: what is on disk and damaged, and what somebody else failed to
    /// fetch, is missing afterwards.
    async fn round(
        &self,
        cell: &Arc<CellIdentity>,
        source: &Arc<dyn PartSource>,
        indexes: &[u32],
        taken: Taken,
        found: &mut Found,
    ) -> Result<()> {
        let Taken { parts, guard } = taken;
        let (mut leads, mut alone) = (Vec::new(), Vec::new());
        let (mut held, mut coming) = (Vec::new(), Vec::new());
        for (index, part) in indexes.iter().copied().zip(parts) {
            match part {
                TakenPart::Here(bytes) => found.hit(index, bytes),
                TakenPart::Held => held.push(index),
                TakenPart::Lead => leads.push(index),
                TakenPart::Coming(receiver) => coming.push((index, receiver)),
                TakenPart::Around => alone.push(index),
            }
        }
        let fetches = runs(&leads).into_iter().map(|run| {
            let told = Some(self.address.clone());
            self.fetch(cell, source, run, told)
        });
        let fetches: Vec<_> = fetches
            .chain(
                runs(&alone)
                    .into_iter()
                    .map(|run| self.fetch(cell, source, run, None)),
            )
            .collect();
        for (index, bytes) in self.read_held(cell, held).await {
            found.hit(index, bytes);
        }
        for fetched in join_all(fetches).await {
            let fetched = fetched.unwrap_or_else(|error| {
                Err(Error::Bug(format!("a fetch of a part ended: {error}")))
            })?;
            found.parts.extend(fetched);
        }
        drop(guard);
        // Only now: who waits for others has fetched what others wait for.
        for (index, receiver) in coming {
            if let Ok(bytes) = receiver.await {
                found.hit(index, bytes);
            }
        }
        Ok(())
    }

    /// Fetches parts with one request, and tells the cache.
    fn fetch(
        &self,
        cell: &Arc<CellIdentity>,
        source: &Arc<dyn PartSource>,
        run: Range<u32>,
        told: Option<Address<Message>>,
    ) -> AbortOnDropHandle<Result<Parts>> {
        let (cell, source) = (cell.clone(), source.clone());
        let fetch = async move {
            let parts = fetch_run(&cell, source.as_ref(), run).await?;
            if let Some(cache) = told {
                cache.tell(Message::Fetched {
                    cell,
                    parts: parts.clone(),
                });
            }
            Ok(parts)
        };
        AbortOnDropHandle::new(self.host.runtimes.control.spawn(fetch.in_current_span()))
    }

    async fn read_held(&self, cell: &Arc<CellIdentity>, held: Vec<u32>) -> Parts {
        let reads = held.into_iter().map(|index| async move {
            let (files, of) = (self.files.clone(), cell.clone());
            let blocking = &self.host.blocking;
            let read = blocking.call(move || files.read(&of, index)).await;
            let reason = match read {
                Ok(Ok(bytes)) => return Some((index, bytes)),
                Ok(Err(damage)) => damage.to_string(),
                Err(error) => error.to_string(),
            };
            let part = cell.part(index);
            self.address.tell(Message::Damaged { part, reason });
            None
        });
        futures::stream::iter(reads)
            .buffer_unordered(DISK_READS_AT_ONCE)
            .filter_map(async |read| read)
            .collect()
            .await
    }
}

async fn fetch_run(cell: &CellIdentity, source: &dyn PartSource, run: Range<u32>) -> Result<Parts> {
    let (first, last) = (cell.part_range(run.start), cell.part_range(run.end - 1));
    let bytes = source.fetch(first.start..last.end).await?;
    let parts = run.map(|index| {
        let range = cell.part_range(index);
        let offset = |at: u64| (at - first.start) as usize;
        (index, bytes.slice(offset(range.start)..offset(range.end)))
    });
    Ok(parts.collect())
}

/// Growing indexes as ranges, each for one request.
fn runs(indexes: &[u32]) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for index in indexes.iter().copied() {
        match runs.last_mut() {
            Some(run) if index - run.end <= GAP_PARTS_MAX && index - run.start < RUN_PARTS_MAX => {
                run.end = index + 1;
            }
            _ => runs.push(index..index + 1),
        }
    }
    runs
}

#[async_trait]
impl CellParts for CacheHandle {
    async fn read(
        &self,
        cell: &Arc<CellIdentity>,
        indexes: &[u32],
        source: &Arc<dyn PartSource>,
    ) -> Result<PartsRead> {
        let mut found = Found::default();
        let mut missing = indexes.to_vec();
        for _ in 0..ROUNDS_MAX {
            if missing.is_empty() {
                break;
            }
            let Some(taken) = self.take(cell, &missing).await else {
                break;
            };
            self.round(cell, source, &missing, taken, &mut found)
                .await?;
            missing = found.missing(indexes);
        }
        for run in runs(&missing) {
            found
                .parts
                .extend(fetch_run(cell, source.as_ref(), run).await?);
        }
        // What lay between two parts that were fetched came along.
        found
            .parts
            .retain(|index, _| indexes.binary_search(index).is_ok());
        Ok(PartsRead {
            parts: found.parts.into_values().collect(),
            hits: found.hits,
            hit_bytes: found.hit_bytes,
        })
    }

    fn forget(&self, cell: &CellIdentity) {
        let cell = cell.digest();
        self.address.tell(Message::Forget { cell });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_lie_together_are_one_request_of_bounded_size() {
        assert_eq!(runs(&[]), []);
        assert_eq!(runs(&[3]), std::slice::from_ref(&(3..4)));
        assert_eq!(runs(&[0, 1, 3, 6]), [0..4, 6..7]);
        let many: Vec<u32> = (0..40).collect();
        assert_eq!(runs(&many), [0..16, 16..32, 32..40]);
    }
}
