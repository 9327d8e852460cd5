//! What experiments in simulated time vary, and no door offers: a small world that stands for a large
//! one, and plain policies beside ours. A node outside a simulation has [`Laboratory::default`], which
//! changes nothing.

use crate::behavior::foraging::Policy;
use crate::behavior::listening::Listening;
use crate::behavior::placement::Placing;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Laboratory {
    pub small_world: Option<SmallWorld>,
    pub listening: Listening,
    pub foraging: Policy,
    pub placing: Placing,
    /// Thresholds of temperature differ a little from node to node.
    pub has_own_thresholds: bool,
}

/// Cells that stand for larger ones: decisions by size see the larger ones, and so does time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmallWorld {
    /// A byte of a cell stands for so many.
    pub factor: u64,
    /// Of those, what a core works on in a second.
    pub core_bytes_per_second: u64,
}

impl Laboratory {
    /// What so many bytes of cells stand for.
    pub fn large(&self, bytes: u64) -> u64 {
        bytes.saturating_mul(self.factor())
    }

    /// A limit for bytes of cells, as far as they are small.
    pub fn small(&self, limit_bytes: u64) -> u64 {
        (limit_bytes / self.factor()).max(1)
    }

    fn factor(&self) -> u64 {
        self.small_world.map_or(1, |world| world.factor.max(1))
    }
}

/// The cores of a node, as far as their time is simulated.
#[derive(Debug)]
pub struct Cores {
    world: SmallWorld,
    free: Semaphore,
}

impl Cores {
    pub fn new(world: SmallWorld, count: usize) -> Arc<Self> {
        let free = Semaphore::new(count.max(1));
        Arc::new(Self { world, free })
    }

    /// Takes the time in which one core works on so many bytes of a cell, when one is free.
    pub async fn work_on(&self, bytes: u64) {
        // Nobody closes it.
        let Ok(_core) = self.free.acquire().await else {
            return;
        };
        let (bytes, rate) = (
            bytes.saturating_mul(self.world.factor),
            self.world.core_bytes_per_second,
        );
        tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64)).await;
    }
}
