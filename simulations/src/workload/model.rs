//! What must be true of the frame, by what clients were told.

use super::rows::Batch;
use crate::clock;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What a client knows of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Begun, and no answer yet: in or out.
    Unknown,
    /// Acknowledged at this version or before: in, for ever.
    Acknowledged { version: u64 },
    /// Refused with an error that says that nothing happened: out.
    Refused,
}

/// All writes of a simulation.
#[derive(Debug, Default)]
pub struct Writes {
    pub batches: BTreeMap<u64, (Batch, Fate)>,
    /// When each was first sent, and when its fate was learnt.
    pub began_at: BTreeMap<u64, Duration>,
    pub learned_at: BTreeMap<u64, Duration>,
}

/// Shared by the clients and the checkers.
#[derive(Clone, Debug, Default)]
pub struct Model(Arc<Mutex<Writes>>);

impl Model {
    pub fn begin(&self, batch: Batch) {
        let mut writes = self.0.lock();
        writes.batches.insert(batch.number, (batch, Fate::Unknown));
        writes.began_at.insert(batch.number, clock::now());
    }

    pub fn learn(&self, number: u64, fate: Fate) {
        let mut writes = self.0.lock();
        if let Some((_, known)) = writes.batches.get_mut(&number) {
            *known = fate;
            writes.learned_at.insert(number, clock::now());
        }
    }

    pub fn with<T>(&self, look: impl FnOnce(&Writes) -> T) -> T {
        look(&self.0.lock())
    }

    pub fn acknowledged_count(&self) -> usize {
        self.with(|writes| {
            let acknowledged =
                |(_, fate): &&(Batch, Fate)| matches!(fate, Fate::Acknowledged { .. });
            writes.batches.values().filter(acknowledged).count()
        })
    }

    /// Batches acknowledged so far: a query that begins now must see them.
    pub fn acknowledged(&self) -> Vec<u64> {
        self.with(|writes| {
            let acknowledged = writes
                .batches
                .values()
                .filter(|(_, fate)| matches!(fate, Fate::Acknowledged { .. }));
            acknowledged.map(|(batch, _)| batch.number).collect()
        })
    }
}
