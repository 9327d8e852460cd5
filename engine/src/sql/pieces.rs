//! Sharing the cells of a scan among its partitions.
//!
//! Invariant: every byte of every cell is in exactly one piece, so every row group, which belongs to
//! the piece in which it begins, is read exactly once.

use crate::ledger::{Cell, total_bytes};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A cell, or the row groups of it that begin in a byte range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Piece {
    pub cell: u32,
    pub range: Option<(u64, u64)>,
}

/// Shares the cells among `target` partitions of about the same bytes. Cells are split only when
/// there are at least `split_bytes_min` bytes in all.
pub(super) fn partition_cells(
    cells: &[Arc<Cell>],
    target: usize,
    split_bytes_min: u64,
) -> Vec<Vec<Piece>> {
    let target = target.max(1);
    let total = total_bytes(cells);
    let may_split = total >= split_bytes_min.max(1);
    let share = total.div_ceil(target as u64).max(1);
    let mut partitions = vec![vec![]];
    let mut filled = 0_u64;
    for (index, cell) in cells.iter().enumerate() {
        let Ok(cell_index) = u32::try_from(index) else {
            break;
        };
        let size = cell.size_bytes();
        let mut start = 0_u64;
        loop {
            if filled >= share && partitions.len() < target {
                partitions.push(vec![]);
                filled = 0;
            }
            let is_last = partitions.len() == target;
            let end = if may_split && !is_last {
                size.min(start.saturating_add(share - filled))
            } else {
                size
            };
            let range = (start > 0 || end < size).then_some((start, end));
            if let Some(pieces) = partitions.last_mut() {
                pieces.push(Piece {
                    cell: cell_index,
                    range,
                });
            }
            filled = filled.saturating_add(end - start);
            start = end;
            if start >= size {
                break;
            }
        }
    }
    partitions.retain(|pieces| !pieces.is_empty());
    if partitions.is_empty() {
        partitions.push(vec![]);
    }
    partitions
}

#[cfg(test)]
mod tests {
    use super::*;
    use apiary_protocol::delta::{Add, StringMap};

    fn cell(size: i64) -> Arc<Cell> {
        let add = Add {
            path: "x.parquet".into(),
            partition_values: StringMap::new(),
            size,
            modification_time: 0,
            data_change: true,
            ..Add::default()
        };
        Arc::new(Cell::new(add).unwrap())
    }

    #[test]
    fn every_byte_is_in_exactly_one_piece_whatever_the_sizes() {
        let mut state = 3_u64;
        let mut next = |bound: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        for _ in 0..2_000 {
            let cells: Vec<_> = (0..next(9)).map(|_| cell(next(500) as i64)).collect();
            let target = next(6) as usize;
            let partitions = partition_cells(&cells, target, next(1_000));
            assert!(!partitions.is_empty() && partitions.len() <= target.max(1));
            for (index, cell) in cells.iter().enumerate() {
                let mut at = 0;
                let pieces = partitions
                    .iter()
                    .flatten()
                    .filter(|piece| piece.cell as usize == index);
                for piece in pieces {
                    let (start, end) = piece.range.unwrap_or((0, cell.size_bytes()));
                    assert_eq!(start, at);
                    at = end;
                }
                assert_eq!(at, cell.size_bytes());
                assert!(
                    partitions
                        .iter()
                        .flatten()
                        .any(|piece| piece.cell as usize == index)
                );
            }
        }
    }

    #[test]
    fn large_cells_are_split_evenly_and_small_ones_not_at_all() {
        let sizes = |partitions: Vec<Vec<Piece>>| {
            let size = |piece: &Piece| piece.range.map_or(100, |(start, end)| end - start);
            partitions
                .iter()
                .map(|pieces| pieces.iter().map(size).sum::<u64>())
                .collect::<Vec<_>>()
        };
        let cells: Vec<_> = (0..3).map(|_| cell(100)).collect();
        assert_eq!(sizes(partition_cells(&cells, 2, 300)), [150, 150]);
        assert_eq!(sizes(partition_cells(&cells, 2, 301)), [200, 100]);
        assert_eq!(partition_cells(&[], 2, 0), [vec![]]);
    }
}
