//! The chain of registry versions: finding its head, adding to it, the hint.
//!
//! Never takes *not found* for empty: a version that the hint or a listing names must be there.
//! Never retries what cannot be read: a corrupt newest version is an error that names its key.

use super::view::RegistryView;
use super::{ATTEMPTS_MAX, Catalog, refused, too_busy};
use crate::error::{Error, Result};
use crate::store::Created;
use apiary_protocol::format::FormatError;
use apiary_protocol::ids::ChangeId;
use apiary_protocol::keys;
use apiary_protocol::registry::{Refusal, Registry, RegistryHead};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

const PAUSE_FIRST: Duration = Duration::from_millis(10);
pub(super) const PAUSE_MAX: Duration = Duration::from_millis(640);
/// The hint is not worth waiting longer for.
const HINT_TIMEOUT: Duration = Duration::from_secs(2);

const HINTED_AND_MISSING: &str = "it is missing, but _registry/_head names it; restore it, or delete \
                                  _registry/_head to go back to the newest version that is there";

/// One version of the registry, and what statements see of it.
#[derive(Debug)]
pub(super) struct Head {
    pub registry: Registry,
    pub view: Arc<RegistryView>,
}

impl Head {
    fn new(registry: Registry) -> Arc<Self> {
        let view = Arc::new(RegistryView::of(&registry));
        Arc::new(Self { registry, view })
    }
}

/// What this process has seen.
#[derive(Debug, Default)]
pub(super) struct Known {
    head: Option<Arc<Head>>,
    /// The version that the hint names, as far as we read or wrote it.
    hinted_version: u64,
}

/// What a change comes to, given the newest registry.
pub(super) enum Step<T> {
    /// This is to be the next version.
    Write(Registry, T),
    /// Nothing to write.
    Done(T),
}

impl Catalog {
    /// The newest version: one probe when nothing changed since the last time.
    pub(super) async fn head(&self) -> Result<Arc<Head>> {
        let known = self.known.lock().head.clone();
        match known {
            Some(head) => self.follow(head).await,
            None => self.find_head().await,
        }
    }

    /// The view that was newest when it was looked for last; no request.
    pub(crate) fn known_view(&self) -> Option<Arc<RegistryView>> {
        let known = self.known.lock();
        known.head.as_ref().map(|head| Arc::clone(&head.view))
    }

    /// Applies a change to the newest version, again and again until it is the next one or refused.
    pub(super) async fn change<T>(
        &self,
        mut plan: impl FnMut(&Registry) -> Result<Step<T>, Refusal>,
    ) -> Result<T> {
        for attempt in 0..ATTEMPTS_MAX {
            let head = self.head().await?;
            let (next, value) = match plan(&head.registry).map_err(refused)? {
                Step::Write(next, value) => (next, value),
                Step::Done(value) => return Ok(value),
            };
            let id = ChangeId::from_random(self.host.entropy.bytes());
            let next = next.succeed(head.registry.version, id);
            let key = keys::registry(next.version);
            let body = next
                .to_bytes()
                .map_err(|error| Error::Bug(format!("{key}: {error}")))?;
            if apiary_protocol::planted!(RegistryOverwritten) {
                self.meadow.put(&key, body.into()).await?;
                self.keep(Head::new(next));
                return Ok(value);
            }
            match self.meadow.create(&key, body.into()).await? {
                Created::Ours => {
                    self.keep(Head::new(next));
                    return Ok(value);
                }
                Created::Theirs(body) => {
                    self.read(next.version, &body)?;
                    self.pause(attempt).await;
                }
            }
        }
        Err(too_busy("the registry"))
    }

    /// Waits for a random part of a growing time, so that rivals come back one after the other.
    pub(super) async fn pause(&self, attempt: u32) {
        let bound = PAUSE_MAX.min(PAUSE_FIRST.saturating_mul(1 << attempt.min(10)));
        let random = u32::from_le_bytes(self.host.entropy.bytes());
        tokio::time::sleep(bound.mul_f64(f64::from(random) / f64::from(u32::MAX))).await;
    }

    /// Writes the hint when this process has seen a newer head than the hint names. Its loss harms
    /// nothing, so neither does its failure.
    pub(super) async fn leave_hint(&self) {
        let version = {
            let known = self.known.lock();
            let version = known.head.as_ref().map_or(0, |head| head.registry.version);
            if version <= known.hinted_version {
                return;
            }
            version
        };
        let Ok(body) = (RegistryHead { version }).to_bytes() else {
            return;
        };
        let write = self.meadow.put(keys::REGISTRY_HEAD, body.into());
        match tokio::time::timeout(HINT_TIMEOUT, write).await {
            Ok(Ok(())) => {
                let mut known = self.known.lock();
                known.hinted_version = known.hinted_version.max(version);
            }
            Ok(Err(error)) => tracing::debug!(%error, "the registry's hint was not written"),
            Err(_) => tracing::debug!("the registry's hint took too long"),
        }
    }

    /// The head, when this process knows nothing yet: from the hint, else from a listing.
    async fn find_head(&self) -> Result<Arc<Head>> {
        let (version, reason) = match self.read_hint().await? {
            Some(version) => (Some(version), HINTED_AND_MISSING),
            None => (self.list_newest().await?, "it was listed and is missing"),
        };
        let Some(version) = version else {
            let head = self.keep(Head::new(Registry::initial()));
            return self.follow(head).await;
        };
        let key = keys::registry(version);
        match self.meadow.get(&key).await? {
            Some(body) => {
                let head = self.read(version, &body)?;
                self.follow(head).await
            }
            None => Err(Error::corrupt(key, reason)),
        }
    }

    /// A hint that cannot be read is as good as none.
    async fn read_hint(&self) -> Result<Option<u64>> {
        let Some(body) = self.meadow.get(keys::REGISTRY_HEAD).await? else {
            return Ok(None);
        };
        match RegistryHead::from_bytes(&body) {
            Ok(RegistryHead { version: 0 }) => Ok(None),
            Ok(hint) => {
                self.known.lock().hinted_version = hint.version;
                Ok(Some(hint.version))
            }
            Err(error) => {
                tracing::warn!(key = keys::REGISTRY_HEAD, %error, "unreadable hint ignored");
                Ok(None)
            }
        }
    }

    async fn list_newest(&self) -> Result<Option<u64>> {
        let listed = self.meadow.list(keys::REGISTRY_PREFIX, None).await?;
        let versions = listed
            .iter()
            .filter_map(|object| keys::registry_version(object.location.as_ref()));
        Ok(versions.max())
    }

    /// Goes forward from a version that was read until there is no next one.
    async fn follow(&self, head: Arc<Head>) -> Result<Arc<Head>> {
        let mut version = head.registry.version;
        let mut newest = None;
        while let Some(next) = version.checked_add(1) {
            match self.meadow.get(&keys::registry(next)).await? {
                Some(body) => (version, newest) = (next, Some(body)),
                None => break,
            }
        }
        match newest {
            Some(body) => self.read(version, &body),
            None => Ok(head),
        }
    }

    /// Reads one version and keeps it when it is the newest so far.
    fn read(&self, version: u64, body: &Bytes) -> Result<Arc<Head>> {
        let key = keys::registry(version);
        let registry = Registry::from_bytes(body).map_err(|error| unreadable(&key, error))?;
        if registry.version != version {
            let reason = format!("it says that it is version {}", registry.version);
            return Err(Error::corrupt(key, reason));
        }
        Ok(self.keep(Head::new(registry)))
    }

    fn keep(&self, head: Arc<Head>) -> Arc<Head> {
        let mut known = self.known.lock();
        let is_newer = known
            .head
            .as_ref()
            .is_none_or(|kept| kept.registry.version < head.registry.version);
        if is_newer {
            known.head = Some(Arc::clone(&head));
        }
        head
    }
}

/// Sound bytes of a newer build are not corrupt.
fn unreadable(key: &str, error: FormatError) -> Error {
    if error.is_too_new() {
        return Error::Rejected(format!("{key}: {error}"));
    }
    Error::corrupt(key, error)
}
