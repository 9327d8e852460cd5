//! Objects that are readable under their own name before they are durable.
//!
//! A cell's name is nobody else's, and nobody reads it before a commit names it. So it is written in
//! place, and its writer goes on before it is synced. Two come to sync it, a job of its own and the
//! commit that names it; the first one does, and the second waits for it.
//!
//! Invariants: an object is known here from before its put is acknowledged until it is durable; one
//! that could not be made durable stays known until it is deleted, and whatever names it fails. A wait
//! is only ever for a sync that runs already, so jobs cannot wait for each other in a ring.

use super::LocalFailure;
use object_store::path::Path;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, OnceLock};

/// `None` once the object is durable.
type Outcome = OnceLock<Option<LocalFailure>>;

#[derive(Debug, Default)]
pub(super) struct Unsettled(Mutex<BTreeMap<Path, Arc<Outcome>>>);

impl Unsettled {
    /// Makes an object known that was written just now.
    pub fn begin(&self, key: &Path) {
        self.0.lock().insert(key.clone(), Arc::default());
    }

    /// Makes an object durable, unless it is or somebody does. One that is not known was made so
    /// before, or is another process's.
    pub fn settle(
        &self,
        key: &Path,
        sync: impl FnOnce() -> Result<(), LocalFailure>,
    ) -> Result<(), LocalFailure> {
        let Some(outcome) = self.0.lock().get(key).cloned() else {
            return Ok(());
        };
        match outcome.get_or_init(|| sync().err()) {
            None => {
                self.forget(key);
                Ok(())
            }
            Some(failure) => Err(LocalFailure {
                step: failure.step,
                path: failure.path.clone(),
                may_have_landed: false,
                source: io::Error::new(failure.source.kind(), failure.source.to_string()),
            }),
        }
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.0.lock().len()
    }

    /// After an object was deleted: nothing will name it.
    pub fn forget(&self, key: &Path) {
        self.0.lock().remove(key);
    }
}
