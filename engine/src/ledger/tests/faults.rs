//! A store whose conditional puts go wrong at random, in the four ways that stores have.

use crate::host::testing::SeededEntropy;
use crate::store::testing::{Fault, Faults};
use object_store::PutMode;
use object_store::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub struct RandomFaults {
    entropy: SeededEntropy,
    /// One create in this many goes wrong, and one get in twice as many.
    one_in: u64,
    pub count: AtomicU64,
}

impl RandomFaults {
    pub fn new(seed: u64, one_in: u64) -> Self {
        Self {
            entropy: SeededEntropy::new(seed),
            one_in,
            count: AtomicU64::new(0),
        }
    }

    fn strikes(&self, one_in: u64) -> bool {
        let strikes = self.entropy.below(one_in) == 0;
        if strikes {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        strikes
    }
}

impl Faults for RandomFaults {
    fn on_put(&self, _path: &Path, mode: &PutMode) -> Fault {
        if *mode != PutMode::Create || !self.strikes(self.one_in) {
            return Fault::None;
        }
        match self.entropy.below(4) {
            0 => Fault::Before,
            1 => Fault::Conflict,
            2 => Fault::After,
            _ => Fault::Twice,
        }
    }

    fn on_get(&self, _path: &Path) -> Fault {
        match self.strikes(self.one_in * 2) {
            true => Fault::Before,
            false => Fault::None,
        }
    }

    /// Every request takes a turn, so that writers interleave.
    fn turns(&self) -> u64 {
        self.entropy.below(4)
    }
}
