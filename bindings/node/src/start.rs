//! `start`: a node that stays until it is told to stop.

use crate::failure::Result;
use crate::memory;
use crate::signals::Interrupts;
use apiary::{Apiary, Error, ErrorKind, NodeStatus};
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
    watch(apiary, interrupts, LOOK).await?;
    eprintln!("stopping");
    Ok(())
}

/// Looks at the node again and again until a signal comes.
///
/// # Errors
/// When the node has given up, as it does when one of its parts keeps failing: whoever started this
/// process can start it anew, and a process without a node must not look alive.
async fn watch(apiary: &Apiary, interrupts: &Interrupts, pause: Duration) -> Result<()> {
    let mut keeper = IdleKeeper::default();
    loop {
        tokio::select! {
            biased;
            () = interrupts.asked() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        match apiary.status().await {
            Ok(status) => keeper.look(apiary, &status).await,
            Err(error) if error.kind() == ErrorKind::Retry => {
                tracing::warn!(%error, "the node did not say how it is");
            }
            Err(error) => {
                return Err(Error::Bug(format!(
                    "the node has given up, because a part of it kept failing (the log says \
                     which); start it again: {error}"
                ))
                .into());
            }
        }
    }
}

/// Gives memory back once after each stretch of work, when nothing runs.
#[derive(Debug, Default)]
pub struct IdleKeeper {
    work_seen: u64,
    has_worked: bool,
}

impl IdleKeeper {
    pub async fn look(&mut self, apiary: &Apiary, status: &NodeStatus) {
        let is_busy = status.running_queries > 0 || status.queued_tasks > 0;
        let work = status.requests.read_bytes + status.requests.written_bytes;
        if self.is_due(is_busy, work) {
            apiary.on_each_thread(memory::give_back).await;
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
    fn a_node_that_has_given_up_ends_the_command_as_a_defect() {
        let apiary = Apiary::open_blocking("memory://").unwrap();
        apiary.block_on(apiary.shutdown()).unwrap();
        let silent = Interrupts::silent();
        let watched = watch(&apiary, &silent, Duration::ZERO);
        let failure = apiary.block_on(watched).unwrap_err();
        assert_eq!(failure.exit_code(), 70);
        assert!(failure.to_string().contains("has given up"), "{failure}");
    }

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
