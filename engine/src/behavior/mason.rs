//! Mason: how the memory of a process is divided into chambers.
//!
//! Budget per bee = memory the process may use, less overhead and cache, over the bees. Pure: the
//! caller measures, a memory pool enforces.
//!
//! Invariants: as long as the memory is not below the floors, overhead + cache + results + all
//! budgets never exceed the memory; a budget is never below [`BUDGET_BYTES_MIN`].

/// A bee below this cannot sort or join anything: the operators' own minimum buffers fill it.
pub const BUDGET_BYTES_MIN: u64 = 16 << 20;

const OVERHEAD_BYTES_MIN: u64 = 32 << 20;
const OVERHEAD_BYTES_MAX: u64 = 512 << 20;
const CACHE_BYTES_MIN: u64 = 4 << 20;
const CACHE_BYTES_MAX: u64 = 256 << 20;
const RESULTS_BYTES_MAX: u64 = 128 << 20;

/// How the memory of one process is divided, all in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    pub memory_bytes: u64,
    /// Code, allocator slack, decoders and request buffers: what pools do not see.
    pub overhead_bytes: u64,
    /// Footers and other things that are shared by all chambers.
    pub cache_bytes: u64,
    /// Results that ran ahead of their clients and wait in memory, all answers together.
    pub results_bytes: u64,
    pub budget_per_bee_bytes: u64,
    pub bees: usize,
}

/// How [`Division::cache_bytes`] are divided when parts of cells are on local disk, all in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheDivision {
    pub footer_bytes: u64,
    /// What is on disk.
    pub index_bytes: u64,
    /// What is going to be.
    pub queue_bytes: u64,
}

impl Division {
    /// Half for footers, a quarter each for what the disk needs.
    pub fn cache_with_disk(&self) -> CacheDivision {
        let quarter = self.cache_bytes / 4;
        CacheDivision {
            footer_bytes: self.cache_bytes - 2 * quarter,
            index_bytes: quarter,
            queue_bytes: quarter,
        }
    }

    /// The pools of all bees together.
    pub fn pool_bytes(&self) -> u64 {
        self.budget_per_bee_bytes.saturating_mul(self.bees as u64)
    }
}

/// Divides `memory_bytes` among `bees`. Below the floors the budgets stay at their minimum and the
/// sum exceeds the memory: resident memory then raises the temperature.
///
/// Overhead is a quarter: with pools of 256 MiB, 160 to 500 MiB were measured outside their sight.
pub fn plan_division(memory_bytes: u64, bees: usize) -> Division {
    let bees = bees.max(1);
    let overhead_bytes = (memory_bytes / 4).clamp(OVERHEAD_BYTES_MIN, OVERHEAD_BYTES_MAX);
    let cache_bytes = (memory_bytes / 16).clamp(CACHE_BYTES_MIN, CACHE_BYTES_MAX);
    let results_bytes = (memory_bytes / 32).clamp(CACHE_BYTES_MIN, RESULTS_BYTES_MAX);
    let left = memory_bytes.saturating_sub(overhead_bytes + cache_bytes + results_bytes);
    let budget_per_bee_bytes = (left / bees as u64).max(BUDGET_BYTES_MIN);
    Division {
        memory_bytes,
        overhead_bytes,
        cache_bytes,
        results_bytes,
        budget_per_bee_bytes,
        bees,
    }
}

/// Below this a scan is not worth a second bee.
const SCAN_BYTES_PER_BEE: u64 = 4 << 20;

/// How many bees a query asks for, by the bytes of the cells that it scans. It gets what is free.
pub fn plan_crew(scan_bytes: u64, bees: usize) -> usize {
    let worth = scan_bytes.div_ceil(SCAN_BYTES_PER_BEE);
    usize::try_from(worth)
        .unwrap_or(usize::MAX)
        .clamp(1, bees.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crew_grows_with_the_scan_from_one_bee_to_all() {
        assert_eq!(plan_crew(0, 4), 1);
        assert_eq!(plan_crew(SCAN_BYTES_PER_BEE, 4), 1);
        assert_eq!(plan_crew(SCAN_BYTES_PER_BEE + 1, 4), 2);
        assert_eq!(plan_crew(u64::MAX, 4), 4);
        assert_eq!(plan_crew(u64::MAX, 0), 1);
    }

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_parts_never_exceed_the_memory_above_the_floors() {
        for bees in 1..=64 {
            for step in 1..=256u64 {
                let memory = step * 128 * (1 << 20);
                let division = plan_division(memory, bees);
                if division.budget_per_bee_bytes > BUDGET_BYTES_MIN {
                    let sum = division.overhead_bytes
                        + division.cache_bytes
                        + division.results_bytes
                        + division.pool_bytes();
                    assert!(sum <= memory, "{division:?}");
                }
            }
        }
    }

    #[test]
    fn a_machine_of_no_memory_still_gives_each_bee_the_minimum() {
        let division = plan_division(0, 4);
        assert_eq!(division.budget_per_bee_bytes, BUDGET_BYTES_MIN);
        assert_eq!(plan_division(GIB, 0).bees, 1);
    }

    #[test]
    fn more_memory_never_means_a_smaller_budget() {
        let mut last = 0;
        for step in 0..2048u64 {
            let budget = plan_division(step * 16 * (1 << 20), 4).budget_per_bee_bytes;
            assert!(budget >= last);
            last = budget;
        }
    }

    #[test]
    fn a_cache_on_disk_takes_no_more_memory_than_one_without() {
        for memory in [0, 256 << 20, GIB + 1, 64 * GIB] {
            let division = plan_division(memory, 2);
            let cache = division.cache_with_disk();
            let sum = cache.footer_bytes + cache.index_bytes + cache.queue_bytes;
            assert_eq!(sum, division.cache_bytes);
            assert!(cache.queue_bytes >= 2 * apiary_protocol::cache::PART_BYTES);
        }
    }

    #[test]
    fn a_quarter_gigabyte_leaves_two_bees_more_than_half_of_it() {
        let division = plan_division(256 << 20, 2);
        assert!(division.pool_bytes() > 128 << 20, "{division:?}");
    }
}
