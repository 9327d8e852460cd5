//! Leafcutter: how large a cell is, and how much memory making it takes.
//!
//! Pure functions of budgets; no clock, no I/O. Sizes are bytes.

const MIB: u64 = 1 << 20;
/// A cell smaller than this costs more in requests and log entries than it saves in memory.
pub const CELL_BYTES_MIN: u64 = 16 * MIB;
/// A cell larger than this is slow to rewrite and to share between bees.
pub const CELL_BYTES_MAX: u64 = 1024 * MIB;
/// Encoded bytes of one row group: what the smallest machine decodes at once.
pub const ROW_GROUP_BYTES_MAX: u64 = 32 * MIB;
/// What a write keeps in memory when nothing bounds it.
const WRITE_BYTES_UNBOUNDED: u64 = 256 * MIB;
/// More than this does not make one open cell faster.
const WRITE_BYTES_ONE_CELL: u64 = 96 * MIB;
/// A partition's open cell is worth its memory from here on.
const OPEN_CELL_BYTES: u64 = 16 * MIB;
/// Cells that are open at once, however large the budget.
const OPEN_CELLS_MAX: u64 = 64;

/// Target size of a new cell: a quarter of one bee's budget, so that one bee can hold a cell with
/// what its operators need beside it.
pub fn target_cell_bytes(budget_per_bee_bytes: u64) -> u64 {
    (budget_per_bee_bytes / 4).clamp(CELL_BYTES_MIN, CELL_BYTES_MAX)
}

/// How a write shares out its chamber's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteBudget {
    /// All that open cells, their uploads and waiting batches hold. The rest of the pool is the
    /// query's that feeds the write, and the sort's of rows whose partition has no open cell.
    pub total_bytes: u64,
    /// Encoded bytes at which a row group is closed.
    pub row_group_bytes: u64,
    /// Rows wait until this much is together, then they are encoded at once.
    pub chunk_bytes: u64,
    /// Partitions whose cells are open at once.
    pub open_cells: usize,
}

/// Plans a write in a pool of `pool_bytes` (`None` when it has no limit).
pub fn write_budget(pool_bytes: Option<u64>, partitioned: bool) -> WriteBudget {
    let half = pool_bytes.map_or(WRITE_BYTES_UNBOUNDED, |bytes| bytes / 2);
    let total_bytes = match partitioned {
        true => half.min(WRITE_BYTES_UNBOUNDED * 4),
        false => half.min(WRITE_BYTES_ONE_CELL),
    };
    WriteBudget {
        total_bytes,
        row_group_bytes: (total_bytes / 2).clamp(MIB, ROW_GROUP_BYTES_MAX),
        chunk_bytes: (total_bytes / 16).clamp(MIB / 4, 6 * MIB),
        open_cells: (total_bytes / OPEN_CELL_BYTES).clamp(1, OPEN_CELLS_MAX) as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_a_quarter_of_a_bee_between_its_bounds() {
        assert_eq!(target_cell_bytes(0), CELL_BYTES_MIN);
        assert_eq!(target_cell_bytes(64 * MIB), 16 * MIB);
        assert_eq!(target_cell_bytes(1024 * MIB), 256 * MIB);
        assert_eq!(target_cell_bytes(u64::MAX), CELL_BYTES_MAX);
    }

    #[test]
    fn a_write_never_plans_more_than_half_of_its_pool() {
        for pool in [1, MIB, 8 * MIB, 64 * MIB, 1 << 30, 1 << 40] {
            for partitioned in [false, true] {
                let budget = write_budget(Some(pool), partitioned);
                assert!(budget.total_bytes <= pool / 2);
                assert!(budget.open_cells >= 1 && budget.open_cells <= OPEN_CELLS_MAX as usize);
                assert!(budget.row_group_bytes <= ROW_GROUP_BYTES_MAX);
            }
        }
    }

    #[test]
    fn more_memory_never_means_fewer_open_cells_or_smaller_row_groups() {
        let mut last = write_budget(Some(0), true);
        for pool in (0..4096).map(|i| i * MIB) {
            let next = write_budget(Some(pool), true);
            assert!(next.open_cells >= last.open_cells);
            assert!(next.row_group_bytes >= last.row_group_bytes);
            last = next;
        }
    }
}
