//! `bench cells`: planning on a frame of very many cells.
//!
//! The frame has one row in each cell, a cell for each value of its partition column. A new process
//! then plans a query that keeps one cell, again and again.
//!
//! Memory is what the first query adds: to the peak of all resident pages, code that it is the first
//! to use among them, and to the anonymous ones, which the system cannot drop.

use super::worker::{Engine, Order};
use super::{Bench, Ground, median, mib, rounded};
use crate::args::BenchCells;
use crate::failure::{Failure, Result};
use apiary::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use apiary::arrow::datatypes::{DataType, Field, Schema};
use serde_json::{Value, json};
use std::sync::Arc;

/// Partitions of one write, as the default settings allow.
const CELLS_PER_WRITE: u32 = 10_000;
const FRAME: &str = "bench.cells.many";

pub fn measure(bench: &Bench<'_>, options: &BenchCells) -> Result<Value> {
    let ground = bench.ground()?;
    prepare(bench, &ground, options.cells)?;
    let sql = format!("SELECT v FROM {FRAME} WHERE k = {}", options.cells / 2);
    let (mut first, mut later, mut memory, mut requests) = (vec![], vec![], vec![], vec![]);
    let (mut anonymous, mut failures) = (vec![], vec![]);
    for _ in 0..options.measure.runs {
        let mut worker = bench.spawn(Engine::Apiary, ground.path())?;
        let before = worker.must(&Order::Report)?;
        let run = Order::Run {
            sql: sql.clone(),
            to: None,
        };
        let answer = worker.must(&run)?;
        first.push(answer["planned_ms"].as_f64().unwrap_or(f64::NAN));
        let peak = worker.must(&Order::Report)?;
        let bytes = |report: &Value, key: &str| report[key].as_u64().unwrap_or(0);
        let added = |after: &str, before_it: &str| {
            mib(bytes(&peak, after).saturating_sub(bytes(&before, before_it)))
        };
        memory.push(added("peak_bytes", "resident_bytes"));
        anonymous.push(added("anonymous_bytes", "anonymous_bytes"));
        for _ in 0..options.measure.runs {
            let answer = worker.must(&run)?;
            later.push(answer["planned_ms"].as_f64().unwrap_or(f64::NAN));
            if answer["rows"] != 1 {
                failures.push(format!("{} rows instead of 1", answer["rows"]));
            }
        }
        let after = worker.must(&Order::Report)?;
        let gets = |report: &Value| report["requests"]["get_count"].as_f64().unwrap_or(f64::NAN);
        requests.push((gets(&after) - gets(&peak)) / f64::from(options.measure.runs));
    }
    let (first_ms, later_ms) = (median(&first), median(&later));
    let (memory_mib, gets) = (median(&memory), median(&requests));
    let anonymous_mib = median(&anonymous);
    println!(
        "first planned in {first_ms:.0} ms with {memory_mib:.0} MiB, {anonymous_mib:.0} MiB of them \
         anonymous"
    );
    println!("later planned in {later_ms:.1} ms; {gets:.1} reads for each query");
    Ok(json!({
        "benchmark": "cells",
        "cells": options.cells,
        "runs": options.measure.runs,
        "first_planned_ms": rounded(first_ms),
        "first_memory_mib": rounded(memory_mib),
        "first_anonymous_mib": rounded(anonymous_mib),
        "later_planned_ms": rounded(later_ms),
        "reads_per_query": rounded(gets),
        "failures": failures,
    }))
}

fn prepare(bench: &Bench<'_>, ground: &Ground, cells: u32) -> Result<()> {
    let apiary = bench.open(ground, false)?;
    let fields = ["k", "v"].map(|name| Field::new(name, DataType::Int64, true));
    let schema = Arc::new(Schema::new(fields.to_vec()));
    bench.block_on(async {
        let box_ns = apiary
            .create_hive("bench")
            .await?
            .create_box("cells")
            .await?;
        let frame = box_ns.create_frame("many", schema, &["k"]).await?;
        let mut there = frame.info().await?.cell_count as u32;
        while there < cells {
            let until = (there + CELLS_PER_WRITE).min(cells);
            let keys = || Int64Array::from_iter_values(i64::from(there)..i64::from(until));
            let columns = [("k", Arc::new(keys()) as ArrayRef), ("v", Arc::new(keys()))];
            let batch = RecordBatch::try_from_iter(columns)
                .map_err(|error| super::unexpected(error.to_string()))?;
            frame.write_batches(vec![batch]).await?;
            eprintln!("{until} of {cells} cells");
            there = until;
        }
        apiary.shutdown().await?;
        Ok::<_, Failure>(())
    })
}
