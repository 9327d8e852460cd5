//! Lists, and bodies on their way.

use super::{Body, Draw, Request, StoreView, damage};
use crate::clock;
use crate::trace::checksum;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, ListResult, ObjectMeta, ObjectStore, Result};
use std::time::Duration;

/// Pieces and pauses of a body that comes slowly.
const SLOW_PIECES: usize = 4;
const SLOW_PAUSE: Duration = Duration::from_millis(700);

impl StoreView {
    /// A body as its reader gets it.
    pub(super) fn delivered(&self, body: Vec<u8>, draw: Draw) -> BoxStream<'static, Result<Bytes>> {
        let body = Bytes::from(body);
        match draw.body {
            Body::Whole => stream::iter([Ok(body)]).boxed(),
            Body::Broken => {
                self.shared.trace.count("bodies_broken", 1);
                let error = Error::Generic {
                    store: "simulated",
                    source: "the body broke off".into(),
                };
                let half = body.slice(..body.len() / 2);
                stream::iter([Ok(half), Err(error)]).boxed()
            }
            Body::Slow => {
                self.shared.trace.count("bodies_slow", 1);
                let size = body.len().div_ceil(SLOW_PIECES).max(1);
                let pieces: Vec<Bytes> = body
                    .chunks(size)
                    .map(|piece| body.slice_ref(piece))
                    .collect();
                let slowly = async |piece| {
                    tokio::time::sleep(SLOW_PAUSE).await;
                    Ok(piece)
                };
                stream::iter(pieces).then(slowly).boxed()
            }
        }
    }

    pub(super) fn listed(
        &self,
        prefix: Option<Path>,
        after: Option<Path>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let view = self.clone();
        let page = async move {
            let key = prefix.clone().unwrap_or_default();
            let what = match &after {
                Some(after) => format!("list-after {after}"),
                None => "list".to_string(),
            };
            let page = async {
                let content = &view.shared.content;
                let all: Vec<ObjectMeta> = content.list(prefix.as_ref()).try_collect().await?;
                let wanted = all
                    .into_iter()
                    .filter(|meta| after.as_ref().is_none_or(|a| meta.location > *a))
                    .filter(|meta| view.is_listed(meta));
                let mut wanted: Vec<ObjectMeta> = wanted.collect();
                if view.faults().list_unordered {
                    // Some order that is not that of the keys, and the same each time.
                    wanted.sort_by_key(|meta| checksum([meta.location.as_ref().as_bytes()]));
                }
                Ok(wanted)
            };
            match view.request(Request::new(&what, &key), page).await {
                Ok(page) => page.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            }
        };
        stream::once(page).flat_map(stream::iter).boxed()
    }

    /// Whether a list shows an object already. Only hints and coordination may be seen late: of a frame's
    /// log, stores that list late are no meadows.
    pub(super) fn is_listed(&self, meta: &ObjectMeta) -> bool {
        let late = self.faults().list_late;
        if late.is_zero() || !damage::is_coordination(meta.location.as_ref()) {
            return true;
        }
        let now_ms = clock::EPOCH_SECONDS as i64 * 1_000 + clock::now().as_millis() as i64;
        let age_ms = now_ms.saturating_sub(meta.last_modified.timestamp_millis());
        let shown = age_ms >= late.as_millis() as i64 || self.shared.rng.lock().chance(500);
        self.shared.trace.count("listed_late", u64::from(!shown));
        shown
    }

    /// The first level below a prefix; a directory is there when some of what is in it is.
    pub(super) async fn listed_shallow(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let content = &self.shared.content;
        let mut found = content.list_with_delimiter(prefix).await?;
        found.objects.retain(|meta| self.is_listed(meta));
        let mut directories = Vec::new();
        for directory in found.common_prefixes {
            let inside: Vec<ObjectMeta> = content.list(Some(&directory)).try_collect().await?;
            if inside.iter().any(|meta| self.is_listed(meta)) {
                directories.push(directory);
            }
        }
        if self.faults().list_unordered {
            directories.reverse();
            found.objects.reverse();
        }
        found.common_prefixes = directories;
        Ok(found)
    }

    /// What creates say of how nodes met.
    pub(super) fn count_create<T>(&self, key: &Path, result: &Result<T>) {
        let key = key.as_ref();
        let met = match result {
            Ok(_) => false,
            Err(Error::AlreadyExists { .. }) => true,
            Err(_) => return,
        };
        let what = match met {
            true if key.contains("/_delta_log/") => "commit_conflicts",
            true if key.starts_with("_registry/") => "registry_conflicts",
            true if key.contains("/claims/") => "claims_met",
            true if key.contains("/outputs/") => "duplicate_outputs",
            false if key.contains("/outputs/") => "outputs",
            false if key.contains("/claims/") && !key.ends_with("-00") => "reclaims",
            false if key.contains("/claims/") => "claims",
            _ => return,
        };
        self.shared.trace.count(what, 1);
    }
}
