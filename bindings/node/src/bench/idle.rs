//! `bench idle`: what a resident node costs that does nothing.

use super::worker::{BOX, Engine, HIVE, Order, fill};
use super::{Bench, median, mib, rounded};
use crate::args::BenchIdle;
use crate::failure::Result;
use crate::tpch::query;
use serde_json::{Value, json};

pub fn measure(bench: &Bench<'_>, options: &BenchIdle) -> Result<Value> {
    let ground = bench.ground()?;
    if !bench.config.storage_is_given {
        let apiary = bench.open(&ground, false)?;
        bench.block_on(async {
            fill(&apiary, options.scale).await?;
            Ok::<_, crate::failure::Failure>(apiary.shutdown().await?)
        })?;
    }
    let mut ready = Vec::new();
    for _ in 0..options.measure.runs {
        ready.push(bench.spawn(Engine::Resident, ground.path())?.ready_ms);
    }
    let mut worker = bench.spawn(Engine::Resident, ground.path())?;
    let mut worked = 0;
    if !options.queries.is_empty() {
        let sql = format!("USE HIVE {HIVE}; USE BOX {BOX}");
        worker.must(&Order::Run { sql, to: None })?;
    }
    for number in &options.queries {
        worker.must(&Order::Run {
            sql: query(*number, options.scale),
            to: None,
        })?;
        let report = worker.must(&Order::Report)?;
        worked = report["resident_bytes"].as_u64().unwrap_or(0).max(worked);
    }
    let rest = worker.must(&Order::Rest {
        seconds: options.seconds,
    })?;
    let ready_ms = median(&ready);
    let resident = mib(rest["resident_bytes"].as_u64().unwrap_or(0));
    let share = rest["core_share"].as_f64().unwrap_or(f64::NAN);
    let operations = rest["operations_per_minute"].as_f64().unwrap_or(f64::NAN);
    println!("ready in {ready_ms:.0} ms; idle: {resident:.0} MiB resident");
    println!(
        "{:.2} % of a core, {operations:.1} storage operations a minute",
        share * 100.0
    );
    Ok(json!({
        "benchmark": "idle",
        "runs": options.measure.runs,
        "seconds": options.seconds,
        "ready_ms": rounded(ready_ms),
        "resident_mib": rounded(resident),
        "resident_after_queries_mib": rounded(mib(worked)),
        "core_percent": rounded(share * 100.0),
        "operations_per_minute": rounded(operations),
    }))
}
