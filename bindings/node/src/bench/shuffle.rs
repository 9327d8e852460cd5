//! `bench shuffle`: all columns of `lineitem` change places between two nodes of one bee each.
//!
//! Every row goes to the node that has its `l_suppkey`, and is counted there beside its neighbours, so
//! none of its columns can be left out.

use super::swarm::{Team, prepare};
use super::worker::{BOX, HIVE};
use super::{Bench, Ground, median, mib, rounded};
use crate::args::BenchShuffle;
use crate::failure::Result;
use serde_json::{Value, json};

const SHUFFLE: &str = "SELECT count(*), max(n), max(l_orderkey), max(l_partkey), max(l_linenumber), \
    max(l_quantity), max(l_extendedprice), max(l_discount), max(l_tax), max(l_returnflag), \
    max(l_linestatus), max(l_shipdate), max(l_commitdate), max(l_receiptdate), max(l_shipinstruct), \
    max(l_shipmode), max(l_comment) FROM (SELECT *, row_number() OVER (PARTITION BY l_suppkey \
    ORDER BY l_orderkey, l_linenumber) AS n FROM lineitem)";
const SMALL: &str = "SELECT count(*) FROM lineitem WHERE l_orderkey < 1000";

/// Rows of `lineitem`.
fn count(bench: &Bench<'_>, ground: &Ground) -> Result<u64> {
    let apiary = bench.open(ground, false)?;
    bench.block_on(async {
        let frame = apiary.frame(&format!("{HIVE}.{BOX}.lineitem")).await?;
        let info = frame.info().await?;
        apiary.shutdown().await?;
        Ok(info.row_count.unwrap_or(0))
    })
}

pub fn measure(bench: &Bench<'_>, options: &BenchShuffle) -> Result<Value> {
    let ground = bench.ground()?;
    prepare(bench, &ground.uri(), options.scale)?;
    let rows = count(bench, &ground)? as f64;
    let mut team = Team::several(bench, ground.path(), 2, false)?;
    team.gather(SMALL)?;
    let mut times = Vec::new();
    for _ in 0..options.measure.runs {
        times.push(team.run(SHUFFLE.into(), None)?);
    }
    let reports = team.reports()?;
    let peaks = reports.iter().map(|report| report["peak_bytes"].as_u64());
    let peaks: Vec<f64> = peaks.map(|peak| mib(peak.unwrap_or(0))).collect();
    let peak = peaks.iter().copied().fold(0.0, f64::max);
    let seconds = median(&times) / 1e3;
    let rows_per_second = rows / seconds;
    println!("{rows:.0} rows in {seconds:.1} s: {rows_per_second:.0} rows/s");
    println!("peak resident memory of a node: {peak:.0} MiB");
    Ok(json!({
        "benchmark": "shuffle",
        "scale": options.scale,
        "runs": options.measure.runs,
        "memory_bytes": bench.config.settings.memory_bytes,
        "rows": rows,
        "seconds": rounded(seconds),
        "rows_per_second": rounded(rows_per_second),
        "peak_mib": peaks,
    }))
}
