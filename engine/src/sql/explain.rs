//! What a plan read and what it cost: the rows that EXPLAIN ANALYZE adds.
//!
//! What a scan keeps and why is part of the scan's own line in every plan; here are the totals that
//! only a run knows.

use super::scan::FrameScanExec;
use crate::error::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_plan::ExecutionPlan;
use std::sync::Arc;

/// Sums over the frame scans of a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanTotals {
    pub cells_kept: u64,
    pub cells_total: u64,
    pub bytes_kept: u64,
    pub bytes_total: u64,
    /// Bytes that came from the meadow; zero before the plan ran.
    pub read_bytes: u64,
    pub requests: u64,
    /// Bytes that operators wrote to scratch.
    pub spilled_bytes: u64,
}

/// Walks a plan, run or not.
pub fn scan_totals(plan: &Arc<dyn ExecutionPlan>) -> Result<ScanTotals> {
    let mut totals = ScanTotals::default();
    plan.apply(|node| {
        if let Some(metrics) = node.metrics() {
            let sum = |name| {
                metrics
                    .sum_by_name(name)
                    .map_or(0, |value| value.as_usize() as u64)
            };
            totals.spilled_bytes += metrics.spilled_bytes().unwrap_or(0) as u64;
            if let Some(scan) = node.downcast_ref::<FrameScanExec>() {
                totals.cells_kept += scan.kept_cells() as u64;
                totals.cells_total += scan.identity().cells_total as u64;
                totals.bytes_kept = totals.bytes_kept.saturating_add(scan.kept_bytes());
                totals.bytes_total = totals
                    .bytes_total
                    .saturating_add(scan.identity().bytes_total);
                totals.read_bytes += sum("meadow_read_bytes");
                totals.requests += sum("meadow_requests");
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(totals)
}

/// The rows (what, how much) that EXPLAIN ANALYZE shows below the plan. The peak is of the chamber's
/// pool, which only its owner knows.
pub fn explain_rows(
    totals: &ScanTotals,
    peak_bytes: u64,
    budget_bytes: u64,
) -> Vec<(String, String)> {
    let ScanTotals {
        cells_kept,
        cells_total,
        bytes_kept,
        bytes_total,
        ..
    } = totals;
    vec![
        ("cells".into(), format!("{cells_kept} of {cells_total}")),
        (
            "cell_bytes".into(),
            format!("{bytes_kept} of {bytes_total}"),
        ),
        ("read_bytes".into(), totals.read_bytes.to_string()),
        ("requests".into(), totals.requests.to_string()),
        (
            "memory_peak_bytes".into(),
            format!("{peak_bytes} of {budget_bytes}"),
        ),
        ("spilled_bytes".into(), totals.spilled_bytes.to_string()),
    ]
}
