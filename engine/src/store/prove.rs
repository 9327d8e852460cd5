//! The check of a store before it is trusted.

use super::retry::is_transient;
use super::{Created, Meadow, Names, StoreTime, WHOLE_OBJECT_BYTES_MAX};
use crate::error::{Error, Result};
use apiary_protocol::ids::MeadowId;
use apiary_protocol::keys;
use apiary_protocol::manifest::Manifest;
use bytes::Bytes;
use futures::future::join_all;
use object_store::Error as StoreError;
use object_store::path::Path;
use tokio::time::Instant;

/// Creates that run at once.
const RIVALS: usize = 8;
/// How often all of them may be refused: a store may refuse those that meet (S3's 409), with nothing
/// written, but not for ever.
const REFUSALS_MAX: u32 = 4;

impl Meadow {
    /// Proves the store with concurrent creates of one key and checks or makes `apiary.json`.
    ///
    /// Some stores ignore the condition of a put, or race it: two commits of one version would both
    /// be acknowledged. Such a store is refused here, before anything is written to it.
    ///
    /// The time by the store comes with it, since something was just written.
    pub async fn prove(&self) -> Result<StoreTime> {
        let found = self.get(keys::MANIFEST).await?;
        let found = found.as_deref().map(read_manifest).transpose()?;
        let time = self.prove_conditions().await?;
        let id = match found {
            Some(id) => id,
            None => self.make_manifest().await?,
        };
        self.id.get_or_init(|| id);
        self.sweep_staging().await?;
        Ok(time)
    }

    async fn make_manifest(&self) -> Result<MeadowId> {
        let id = MeadowId::from_random(self.host.entropy.bytes());
        let body = Manifest { id }
            .to_bytes()
            .map_err(|error| Error::Bug(error.to_string()))?;
        match self.create(keys::MANIFEST, body.into()).await? {
            Created::Ours => Ok(id),
            Created::Theirs(bytes) => read_manifest(&bytes),
        }
    }

    /// When the answer of the one that won was lost, or nothing came through, nothing is proved: that is
    /// tried anew with another key.
    async fn prove_conditions(&self) -> Result<StoreTime> {
        let prove_once = || async {
            let id: [u8; 16] = self.host.entropy.bytes();
            let key = format!("{}/{:032x}", keys::PROOFS_PREFIX, u128::from_le_bytes(id));
            let outcome = self.prove_create(&key).await;
            // Also after a refusal: what was written for the check is nobody's.
            let cleaned = self.delete(&key).await;
            let time = outcome?;
            cleaned.map(|()| time)
        };
        let began_at = Instant::now();
        let (mut tries, mut refusals) = (0, 0);
        loop {
            match prove_once().await {
                Ok(Some(time)) => return Ok(time),
                Ok(None) if refusals < REFUSALS_MAX => {
                    tracing::debug!(tries, "all rivals were refused, trying again");
                    refusals += 1;
                }
                Ok(None) => {
                    let what = "of concurrent creates of one key all were refused";
                    return Err(self.unfit(what.into()));
                }
                Err(Error::Store { source, .. })
                    if is_transient(&source) && began_at.elapsed() < self.rooted.retry.deadline =>
                {
                    tracing::debug!(error = %source, tries, "nothing was proved, trying again");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(self.rooted.retry.pause(tries)).await;
            tries += 1;
        }
    }

    /// `None` when all rivals were refused.
    async fn prove_create(&self, key: &str) -> Result<Option<StoreTime>> {
        let path = super::path_of(key)?;
        let bodies: Vec<Bytes> = (0..RIVALS)
            .map(|rival| Bytes::from(format!("{key} {rival}")))
            .collect();
        let attempts = bodies.iter().map(|body| {
            self.rooted
                .try_create(&path, body.clone().into(), Names::default())
        });
        let mut winners = Vec::new();
        let (mut losers, mut failure) = (0, None);
        for (rival, result) in join_all(attempts).await.into_iter().enumerate() {
            match result {
                Ok(_) => winners.push(rival),
                Err(error) if is_refusal(&error) => losers += 1,
                Err(error) => failure = Some(error),
            }
        }
        let written_at = self.host.clock.monotonic();
        let found = self.get_body(key, WHOLE_OBJECT_BYTES_MAX).await?;
        let found = found.map(|body| {
            let modified_ms = body.meta.last_modified.timestamp_millis();
            (modified_ms, body.into_bytes())
        });
        match (winners.as_slice(), found, failure) {
            ([_, _, ..], _, _) => Err(self.unfit(format!(
                "{} of {RIVALS} concurrent creates of one key were all acknowledged",
                winners.len()
            ))),
            ([winner], Some((modified_ms, found)), _) if found == bodies[*winner] => {
                if losers == 0 {
                    self.prove_refusal(&path, key).await?;
                }
                Ok(Some(StoreTime {
                    modified_ms,
                    written_at,
                }))
            }
            ([_], _, _) => {
                Err(self
                    .unfit("an acknowledged create does not read back as it was written".into()))
            }
            (_, _, Some(error)) => Err(super::store_error("creating", key, error)),
            ([], _, None) => Ok(None),
        }
    }

    /// For a store that has taken one of the rivals and answered none of the others, as one that takes a
    /// write a second of one key: another create must be refused because the object is there.
    async fn prove_refusal(&self, path: &Path, key: &str) -> Result<()> {
        let began_at = Instant::now();
        let mut tries = 0;
        loop {
            let body = Bytes::from(format!("{key} late {tries}"));
            let created = self.rooted.try_create(path, body.into(), Names::default());
            match created.await {
                Ok(_) => {
                    let what = "a create of an object that was there was acknowledged";
                    return Err(self.unfit(what.into()));
                }
                Err(error) if is_refusal(&error) => return Ok(()),
                Err(error)
                    if is_transient(&error) && began_at.elapsed() < self.rooted.retry.deadline =>
                {
                    tracing::debug!(%error, tries, "no refusal yet, trying again");
                }
                Err(error) => return Err(super::store_error("creating", key, error)),
            }
            tokio::time::sleep(self.rooted.retry.pause(tries)).await;
            tries += 1;
        }
    }

    fn unfit(&self, what: String) -> Error {
        Error::rejected(format!(
            "{} cannot be a meadow: {what}. It ignores or races `If-None-Match: *`, and commits \
             would be lost. Use a store that keeps it (AWS S3, Google Cloud Storage, Azure, \
             Cloudflare R2, a current version of yours) or a local directory.",
            self.label()
        ))
    }
}

fn is_refusal(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }
    )
}

/// A newer format is another build's business: nothing may be written to such a meadow.
fn read_manifest(bytes: &[u8]) -> Result<MeadowId> {
    match Manifest::from_bytes(bytes) {
        Ok(manifest) => Ok(manifest.id),
        Err(error) if error.is_too_new() => {
            Err(Error::rejected(format!("{}: {error}", keys::MANIFEST)))
        }
        Err(error) => Err(Error::corrupt(keys::MANIFEST, error)),
    }
}
