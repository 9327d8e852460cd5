//! The memory of one chamber.
//!
//! As DataFusion's fair pool: operators that can spill share what the others leave, each up to an even
//! part. Three things differ:
//!
//! - Together they hold only a part of the chamber ([`ChamberPool::hold_at_most`]). What spills needs
//!   memory to do so: a sort merges what it holds, with its keys beside it in another form, and can
//!   not give anything back before that has worked. In a pool that is full it fails.
//! - Who holds nothing gets what it asks for, as long as it is there: it has nothing to spill instead.
//! - What is reserved never exceeds the chamber (CHAMBER-1), also when an operator comes late.

use datafusion::common::{Result, resources_datafusion_err};
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, human_readable_size,
};
use parking_lot::Mutex;
use std::fmt;

#[derive(Debug)]
pub(crate) struct ChamberPool {
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Of `bytes_max`: what operators that can spill may hold together.
    held_bytes_max: usize,
    spilling_count: usize,
    spilling_bytes: usize,
    other_bytes: usize,
}

impl State {
    /// How many bytes a reservation of `size` bytes may grow by.
    fn room(&self, bytes_max: usize, can_spill: bool, size: usize) -> usize {
        let free = bytes_max.saturating_sub(self.spilling_bytes + self.other_bytes);
        if !can_spill {
            return free;
        }
        // Who holds nothing has nothing to spill: the first batch must fit.
        if size == 0 {
            return free;
        }
        let shared = bytes_max.saturating_sub(self.other_bytes);
        let part = shared.min(self.held_bytes_max) / self.spilling_count.max(1);
        free.min(part.saturating_sub(size))
    }

    fn of(&mut self, can_spill: bool) -> &mut usize {
        match can_spill {
            true => &mut self.spilling_bytes,
            false => &mut self.other_bytes,
        }
    }
}

impl ChamberPool {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            state: Mutex::new(State {
                held_bytes_max: bytes_max,
                spilling_count: 0,
                spilling_bytes: 0,
                other_bytes: 0,
            }),
        }
    }

    /// Bounds what operators that can spill hold together, in percent of the chamber.
    pub(crate) fn hold_at_most(&self, percent: u8) {
        self.state.lock().held_bytes_max = self.bytes_max / 100 * usize::from(percent);
    }
}

impl fmt::Display for ChamberPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = human_readable_size(self.bytes_max);
        write!(f, "{}(pool_size: {size})", self.name())
    }
}

impl MemoryPool for ChamberPool {
    fn name(&self) -> &str {
        "chamber"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.state.lock().spilling_count += usize::from(consumer.can_spill());
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        let mut state = self.state.lock();
        state.spilling_count -= usize::from(consumer.can_spill());
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        *self.state.lock().of(reservation.consumer().can_spill()) += additional;
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        *self.state.lock().of(reservation.consumer().can_spill()) -= shrink;
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let consumer = reservation.consumer();
        let mut state = self.state.lock();
        let room = state.room(self.bytes_max, consumer.can_spill(), reservation.size());
        if additional > room {
            return Err(resources_datafusion_err!(
                "{} has {} and asks for {} more, with {} left for it of the {}",
                consumer.name(),
                human_readable_size(reservation.size()),
                human_readable_size(additional),
                human_readable_size(room),
                human_readable_size(self.bytes_max)
            ));
        }
        *state.of(consumer.can_spill()) += additional;
        Ok(())
    }

    fn reserved(&self) -> usize {
        let state = self.state.lock();
        state.spilling_bytes + state.other_bytes
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn consumer(pool: &Arc<dyn MemoryPool>, can_spill: bool) -> MemoryReservation {
        MemoryConsumer::new("operator")
            .with_can_spill(can_spill)
            .register(pool)
    }

    #[test]
    fn operators_that_can_spill_leave_room_for_those_that_cannot() {
        let chamber = Arc::new(ChamberPool::new(1000));
        let pool: Arc<dyn MemoryPool> = chamber.clone();
        chamber.hold_at_most(60);
        let (first, second) = (consumer(&pool, true), consumer(&pool, true));
        first.try_grow(300).unwrap();
        second.try_grow(200).unwrap();
        second.try_grow(100).unwrap();
        assert!(first.try_grow(1).is_err());
        let merge = consumer(&pool, false);
        merge.try_grow(400).unwrap();
        let error = merge.try_grow(1).unwrap_err().to_string();
        assert!(error.contains("operator has 400.0 B"), "{error}");
        // What was taken is left out of what they share.
        first.shrink(300);
        merge.try_grow(300).unwrap();
        assert!(second.try_grow(1).is_err());
        assert_eq!(pool.reserved(), 1000);
    }

    #[test]
    fn who_comes_late_finds_no_more_than_there_is() {
        let pool: Arc<dyn MemoryPool> = Arc::new(ChamberPool::new(1000));
        let first = consumer(&pool, true);
        first.try_grow(900).unwrap();
        let late = consumer(&pool, true);
        late.try_grow(100).unwrap();
        assert!(late.try_grow(1).is_err());
        drop(first);
        late.try_grow(400).unwrap();
        assert_eq!(pool.reserved(), 500);
        drop(late);
        assert_eq!(pool.reserved(), 0);
    }
}
