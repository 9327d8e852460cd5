//! `start`: a node that stays until it is told to stop.

use crate::failure::Result;
use crate::memory;
use crate::signals::Interrupts;
use apiary::{Apiary, NodeStatus};
use std::time::{Duration, Instant};

/// How often the node is looked at, to give memory back once it rests.
pub const LOOK: Duration = Duration::from_secs(5);

pub async fn start(apiary: &Apiary, interrupts: &Interrupts, started: Instant) -> Result<()> {
    let status = apiary.status().await?;
    eprintln!(
        "ready: node {} ({}) on {} with {} bees after {} ms",
        status.name,
        status.node_id,
        status.storage,
        status.bees.len(),
        started.elapsed().as_millis()
    );
    let mut keeper = IdleKeeper::default();
    loop {
        tokio::select! {
            biased;
            () = interrupts.asked() => break,
            () = tokio::time::sleep(LOOK) => {}
        }
        if let Ok(status) = apiary.status().await {
            keeper.look(&status);
        }
    }
    eprintln!("stopping");
    Ok(())
}

/// Gives memory back once after each stretch of work, when nothing runs.
#[derive(Debug, Default)]
pub struct IdleKeeper {
    work_seen: u64,
    has_worked: bool,
}

impl IdleKeeper {
    pub fn look(&mut self, status: &NodeStatus) {
        let is_busy = status.running_queries > 0 || status.queued_tasks > 0;
        let work = status.requests.read_bytes + status.requests.written_bytes;
        if self.is_due(is_busy, work) {
            memory::give_back();
        }
    }

    fn is_due(&mut self, is_busy: bool, work: u64) -> bool {
        let moved = work != self.work_seen;
        self.work_seen = work;
        self.has_worked |= is_busy || moved;
        let due = self.has_worked && !is_busy && !moved;
        if due {
            self.has_worked = false;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_after_work_and_not_during_it() {
        let mut keeper = IdleKeeper::default();
        assert!(!keeper.is_due(false, 0));
        assert!(!keeper.is_due(true, 10));
        assert!(!keeper.is_due(false, 20));
        assert!(keeper.is_due(false, 20));
        assert!(!keeper.is_due(false, 20));
    }
}
