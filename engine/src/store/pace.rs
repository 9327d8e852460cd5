//! How often a patient caller makes requests.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Requests that may come at once after a rest.
const BURST: u32 = 4;

/// Gives turns at a steady rate, after a small burst.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    /// When the next turn would be, had there been no burst.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    pub fn new(per_minute: u32) -> Self {
        Self {
            interval: Duration::from_secs(60) / per_minute.max(1),
            next: Mutex::new(None),
        }
    }

    /// Waits for a turn.
    pub async fn turn(&self) {
        let at = self.take(1);
        let burst = self.interval * (BURST - 1);
        if let Some(at) = at.checked_sub(burst) {
            tokio::time::sleep_until(at).await;
        }
    }

    /// Requests that were made without waiting: later turns come later.
    pub fn count(&self, requests: u64) {
        self.take(u32::try_from(requests).unwrap_or(u32::MAX));
    }

    fn take(&self, turns: u32) -> Instant {
        let mut next = self.next.lock();
        let now = Instant::now();
        let at = next.map_or(now, |next| next.max(now));
        *next = Some(at + self.interval.saturating_mul(turns));
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_come_in_a_small_burst_and_then_at_the_rate() {
        let pace = Pace::new(10);
        let start = Instant::now();
        let mut at = Vec::new();
        for _ in 0..7 {
            pace.turn().await;
            at.push(start.elapsed().as_secs());
        }
        assert_eq!(at, [0, 0, 0, 0, 6, 12, 18]);
        pace.count(10);
        pace.turn().await;
        assert_eq!(start.elapsed().as_secs(), 84);
    }
}
