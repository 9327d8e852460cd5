//! What EXPLAIN says of a scan.

use super::FrameScanExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType};
use std::fmt;

impl DisplayAs for FrameScanExec {
    fn fmt_as(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identity = &self.identity;
        let pruned = match (identity.pruned_by_partition, identity.pruned_by_statistics) {
            (0, 0) => String::new(),
            (partition, 0) => format!(" ({partition} pruned by partition)"),
            (0, statistics) => format!(" ({statistics} pruned by statistics)"),
            (partition, statistics) => {
                format!(" ({partition} pruned by partition, {statistics} by statistics)")
            }
        };
        let deletions = self
            .cells
            .iter()
            .filter(|cell| cell.deletion_vector().is_some())
            .count();
        match kind {
            DisplayFormatType::Default | DisplayFormatType::Verbose => {
                write!(
                    f,
                    "FrameScanExec: frame={}, version={}, cells={} of {}{pruned}, bytes={} of {}",
                    identity.frame,
                    identity.version,
                    self.cells.len(),
                    identity.cells_total,
                    self.kept_bytes(),
                    identity.bytes_total,
                )?;
                if deletions > 0 {
                    write!(f, ", cells_with_deletions={deletions}")?;
                }
                write!(f, ", partitions={}", self.partitions.len())?;
                let Ok((config, _)) = self.table() else {
                    return Err(fmt::Error);
                };
                if let Some(projection) = config.file_source().projection() {
                    let columns: Vec<_> = projection
                        .iter()
                        .map(|column| column.alias.clone())
                        .collect();
                    write!(f, ", projection=[{}]", columns.join(", "))?;
                }
                if let Some(limit) = config.limit {
                    write!(f, ", limit={limit}")?;
                }
                config.file_source().fmt_extra(kind, f)
            }
            DisplayFormatType::TreeRender => {
                writeln!(f, "frame={}", identity.frame)?;
                writeln!(f, "version={}", identity.version)?;
                writeln!(
                    f,
                    "cells={} of {}{pruned}",
                    self.cells.len(),
                    identity.cells_total
                )
            }
        }
    }
}
