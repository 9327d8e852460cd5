//! What a plan read and what it cost: the rows that EXPLAIN ANALYZE adds.
//!
//! What a scan keeps and why is part of the scan's own line in every plan; here are the totals that
//! only a run knows.

use super::scan::FrameScanExec;
use crate::error::Result;
use apiary_protocol::cache::CellIdentity;
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
    /// What the node's own disk, or a request of somebody else here, gave instead.
    pub cached: Option<CacheTotals>,
    /// Bytes that operators wrote to scratch.
    pub spilled_bytes: u64,
}

/// Of scans that look into a cache first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheTotals {
    /// Parts of cells.
    pub hits: u64,
    pub bytes: u64,
    /// Reads that needed no request.
    pub requests_saved: u64,
}

impl ScanTotals {
    /// Bytes that the scans have got, wherever from.
    pub fn got_bytes(&self) -> u64 {
        self.read_bytes + self.cached.map_or(0, |cached| cached.bytes)
    }
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
                if scan.has_cache() {
                    let cached = totals.cached.get_or_insert_default();
                    cached.hits += sum("cache_hits");
                    cached.bytes += sum("cache_bytes");
                    cached.requests_saved += sum("cache_requests_saved");
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(totals)
}

/// The cells that a plan's scans read, with the bytes of each that are theirs to read.
pub fn scanned_cells(plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<(CellIdentity, u64)>> {
    let mut cells = Vec::new();
    plan.apply(|node| {
        if let Some(scan) = node.downcast_ref::<FrameScanExec>() {
            cells.extend(scan.cells_to_read());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(cells)
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
    let mut rows = vec![
        ("cells".into(), format!("{cells_kept} of {cells_total}")),
        (
            "cell_bytes".into(),
            format!("{bytes_kept} of {bytes_total}"),
        ),
        ("read_bytes".into(), totals.read_bytes.to_string()),
        ("requests".into(), totals.requests.to_string()),
    ];
    if let Some(cached) = totals.cached {
        let CacheTotals {
            hits,
            bytes,
            requests_saved,
        } = cached;
        let text = format!("{hits} parts, {bytes} bytes, {requests_saved} requests saved");
        rows.push(("cache_hits".into(), text));
    }
    rows.extend([
        (
            "memory_peak_bytes".into(),
            format!("{peak_bytes} of {budget_bytes}"),
        ),
        ("spilled_bytes".into(), totals.spilled_bytes.to_string()),
    ]);
    rows
}
