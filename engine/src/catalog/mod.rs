//! The registry: which names exist, and the DDL flows that change it.
//!
//! The registry is a chain of immutable documents, `_registry/{version:020}.json`. A change reads
//! the newest, applies a pure transition (`apiary_protocol::registry`) and creates the next version;
//! whoever loses applies its change again to what won. A hint names the head, so that a node that
//! starts reads two objects and probes one; a lost or stale hint costs probes and nothing else.
//!
//! Frames are made and dropped in several steps, each of which is one create. Between two steps a
//! record says what is half done, and whoever next asks for that name finishes it, or aborts it when
//! its maker has not got on for a while:
//! - create: reserve (creating) → version 0 of the ledger → live; one that is made from rows has a mark
//!   under `_making/` while they are uploaded before that;
//! - drop: hide (dropping) → marker in the ledger, so that writers in flight conflict → name free,
//!   with purge: remembered as `purging` → ledger fenced, data deleted → forgotten.
//!
//! What it never does: take *not found* for empty where something must be, trim or change a version,
//! delete anything of an attached table, list anything but the registry, the
//! marks of frames in the making and one frame's location.
//!
//! Invariants: registry versions are dense; a location belongs to one frame for ever.

mod change;
mod create;
mod keep;
mod making;
mod purge;
mod remove;
mod view;

pub use create::NewFrame;
pub use making::Abandoned;
pub use view::{FrameEntry, RegistryView};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::ledger::Ledger;
use crate::settings::Settings;
use crate::store::Meadow;
use apiary_protocol::names::Name;
use apiary_protocol::registry::Refusal;
use change::{Known, Step};
use parking_lot::Mutex;
use std::sync::Arc;

/// Times that a flow starts again because others were faster. Each time somebody else got on, so
/// this is only reached under a storm of DDL.
const ATTEMPTS_MAX: u32 = 100;

/// Registry operations. Keeps the newest view it has seen and validates it before each use. Clones
/// share it.
#[derive(Clone, Debug)]
pub struct Catalog {
    pub host: Host,
    pub meadow: Meadow,
    settings: Arc<Settings>,
    known: Arc<Mutex<Known>>,
}

impl Catalog {
    pub fn new(host: Host, meadow: Meadow) -> Self {
        let (settings, known) = (Arc::default(), Arc::default());
        Self {
            host,
            meadow,
            settings,
            known,
        }
    }

    /// With the node's settings for the ledgers that it writes to.
    pub fn with_settings(mut self, settings: Arc<Settings>) -> Self {
        self.settings = settings;
        self
    }

    /// The newest view: one probe when nothing changed. Shows what is live and nothing half done;
    /// finishes or aborts nothing.
    ///
    /// `Corrupt`, naming the key, when the newest version cannot be read.
    pub async fn view(&self) -> Result<Arc<RegistryView>> {
        Ok(Arc::clone(&self.head().await?.view))
    }

    /// `if_not_exists`: an existing one is no error. Returns whether it was made.
    pub async fn create_hive(&self, hive: &Name, if_not_exists: bool) -> Result<bool> {
        let made = self
            .change(|registry| match registry.apply_create_hive(hive) {
                Err(Refusal::HiveExists(_)) if if_not_exists => Ok(Step::Done(false)),
                next => Ok(Step::Write(next?, true)),
            })
            .await;
        self.leave_hint().await;
        made
    }

    /// As [`Self::create_hive`]; `NotFound` when the hive is missing.
    pub async fn create_box(
        &self,
        hive: &Name,
        box_name: &Name,
        if_not_exists: bool,
    ) -> Result<bool> {
        let made = self
            .change(|registry| match registry.apply_create_box(hive, box_name) {
                Err(Refusal::BoxExists(..)) if if_not_exists => Ok(Step::Done(false)),
                next => Ok(Step::Write(next?, true)),
            })
            .await;
        self.leave_hint().await;
        made
    }

    fn ledger(&self, location: &str) -> Ledger {
        let (host, meadow) = (self.host.clone(), self.meadow.clone());
        Ledger::new(host, meadow, location.to_string(), &self.settings)
    }
}

/// What a caller is told about a refused transition.
fn refused(refusal: Refusal) -> Error {
    let text = refusal.to_string();
    let named = |suffix: &str| text.strip_suffix(suffix).unwrap_or(&text).to_string();
    match refusal {
        Refusal::HiveMissing(_) | Refusal::BoxMissing(..) | Refusal::FrameMissing(_) => {
            Error::NotFound {
                what: named(" not found"),
            }
        }
        Refusal::HiveExists(_) | Refusal::BoxExists(..) | Refusal::FrameExists(_) => {
            Error::AlreadyExists {
                what: named(" already exists"),
            }
        }
        Refusal::FrameReplaced(_) | Refusal::WrongState { .. } => Error::Busy {
            what: text,
            retry_after: change::PAUSE_MAX,
        },
        Refusal::NotEmpty { .. }
        | Refusal::Permanent(_)
        | Refusal::LocationTaken { .. }
        | Refusal::LocationPurging(_)
        | Refusal::Location(_) => Error::Rejected(text),
    }
}

fn too_busy(what: impl std::fmt::Display) -> Error {
    Error::Busy {
        what: format!("{what}: others changed it {ATTEMPTS_MAX} times meanwhile"),
        retry_after: change::PAUSE_MAX,
    }
}

#[cfg(test)]
mod tests;
