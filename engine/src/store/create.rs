//! Create if absent, decided by reading back.
//!
//! `AlreadyExists` may mean ours, theirs or nobody's: a put that timed out may have landed, a
//! repeated one meets itself, a store may answer 409 with nothing written. So no answer but success
//! is believed: the object is read and compared. The body carries a unique id, so equal bytes are
//! ours.

use super::retry::is_transient;
use super::{Created, Meadow, Names, path_of, store_error};
use crate::error::{Error, Result};
use apiary_protocol::planted;
use bytes::Bytes;
use object_store::Error as StoreError;
use object_store::path::Path;

impl Meadow {
    /// Creates an object that must not exist yet. `body` must carry a unique id: after a refusal or
    /// an unknown outcome the object is read back and compared byte for byte.
    ///
    /// `OutcomeUnknown` when the deadline passed before that could be decided.
    pub async fn create(&self, key: &str, body: Bytes) -> Result<Created> {
        self.create_naming(key, body, Vec::new()).await
    }

    /// As [`Self::create`], for an object that names others, by their keys. Those that this process
    /// put are durable before the new one has its name.
    pub async fn create_naming(&self, key: &str, body: Bytes, named: Vec<Path>) -> Result<Created> {
        let path = path_of(key)?;
        let named = Names(named.into());
        let mut reason = String::from("no answer");
        let attempts = async {
            let mut tries = 0;
            loop {
                let began_at = self.host.clock.monotonic();
                let created = self
                    .rooted
                    .try_create(&path, body.clone().into(), named.clone());
                let error = match created.await {
                    Ok(_) => {
                        let took = self.host.clock.monotonic().saturating_sub(began_at);
                        self.speed.note(body.len(), took);
                        return Ok(Created::Ours);
                    }
                    Err(error) => error,
                };
                reason = error.to_string();
                if planted!(NoReadBack) && is_transient(&error) {
                    return Err(store_error("creating", key, error));
                }
                if planted!(RefusalIsOurs) && matches!(error, StoreError::AlreadyExists { .. }) {
                    return Ok(Created::Ours);
                }
                if nothing_happened(&error) {
                    // An earlier try may still be on its way, whatever became of this one.
                    return Err(match tries {
                        0 => store_error("creating", key, error),
                        _ => unknown(key, &reason),
                    });
                }
                match self.get(key).await {
                    Ok(Some(found)) if found == body => return Ok(Created::Ours),
                    Ok(Some(found)) => return Ok(Created::Theirs(found)),
                    // Refused or lost, and nothing is there: the same body again. Should the first
                    // one land later, the two are one.
                    Ok(None) => {}
                    Err(error) => return Err(unknown(key, &error.to_string())),
                }
                tracing::debug!(
                    key,
                    reason,
                    tries,
                    "create refused and absent, trying again"
                );
                tokio::time::sleep(self.rooted.retry.pause(tries)).await;
                tries += 1;
            }
        };
        match tokio::time::timeout(self.rooted.retry.deadline, attempts).await {
            Ok(result) => result,
            Err(_) => Err(unknown(key, &reason)),
        }
    }
}

fn unknown(key: &str, reason: &str) -> Error {
    Error::OutcomeUnknown {
        what: format!("creating {key}"),
        reason: reason.into(),
    }
}

/// True when the store refused the request itself, so that it cannot have taken effect.
fn nothing_happened(error: &StoreError) -> bool {
    match error {
        StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } => false,
        // Of a write that may be there undurably, `store_error` makes an unknown outcome: reading it
        // back would show it.
        error => !is_transient(error),
    }
}
