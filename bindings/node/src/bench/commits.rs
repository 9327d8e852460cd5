//! `bench commits`: what a commit costs beyond the file calls that it cannot do without.
//!
//! The bare loop writes the very bytes of our cells and commits again, each as it must be for a power
//! cut to do no harm: write, sync, link to its name, sync the directory, and nothing else.

use super::worker::{Engine, Order, rows_to_append, schema_to_append};
use super::{Bench, Ground, median, rounded, unexpected};
use crate::args::BenchCommits;
use crate::failure::{Failure, Result};
use apiary::Frame;
use apiary::arrow::array::{Array, Int64Array};
use futures::StreamExt;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

const ROWS: u32 = 100;
const SHARED: &str = "bench.commits.shared";

pub fn measure(bench: &Bench<'_>, options: &BenchCommits) -> Result<Value> {
    let BenchCommits {
        appends,
        processes,
        measure,
    } = options;
    let (mut durable, mut bare, mut ratios, mut rates) = (vec![], vec![], vec![], vec![]);
    for run in 0..measure.runs {
        let ground = bench.temporary()?;
        let (ours, location) = append(bench, &ground, *appends, true, run)?;
        let theirs = replay(&ground, &location)?;
        durable.push(ours);
        bare.push(theirs);
        ratios.push(ours / theirs);
        let (unsynced, _) = append(bench, &bench.temporary()?, *appends, false, run)?;
        rates.push(1e3 / unsynced);
    }
    let (durable_ms, bare_ms, ratio, rate) = (
        median(&durable),
        median(&bare),
        median(&ratios),
        median(&rates),
    );
    println!("durable append {durable_ms:>8.3} ms against {bare_ms:>8.3} ms bare   {ratio:.3}");
    println!("without sync   {rate:>8.0} appends a second");
    let (mut shared_rates, mut failures) = (vec![], vec![]);
    for _ in 0..measure.runs {
        let rate = shared(
            bench,
            appends / processes.max(&1),
            *processes,
            &mut failures,
        )?;
        shared_rates.push(rate);
    }
    let shared_rate = median(&shared_rates);
    println!("{processes} processes    {shared_rate:>8.0} appends a second, without sync");
    Ok(json!({
        "benchmark": "commits",
        "runs": measure.runs,
        "appends": appends,
        "rows_per_append": ROWS,
        "durable_append_ms": rounded(durable_ms),
        "bare_loop_ms": rounded(bare_ms),
        "ratio": rounded(ratio),
        "unsynced_appends_per_second": rounded(rate),
        "processes": processes,
        "shared_appends_per_second": rounded(shared_rate),
        "failures": failures,
    }))
}

/// Milliseconds of one append, and where the frame lies.
fn append(
    bench: &Bench<'_>,
    ground: &Ground,
    appends: u32,
    sync: bool,
    run: u32,
) -> Result<(f64, String)> {
    let apiary = bench.open(ground, sync)?;
    bench.block_on(async {
        let box_ns = apiary
            .create_hive("bench")
            .await?
            .create_box("commits")
            .await?;
        let frame = box_ns
            .create_frame(&format!("run{run}"), schema_to_append(), &[])
            .await?;
        let started = Instant::now();
        for index in 0..appends {
            let batch = rows_to_append(i64::from(index) * i64::from(ROWS), ROWS);
            frame.write_batches(vec![batch]).await?;
        }
        let each_ms = started.elapsed().as_secs_f64() * 1e3 / f64::from(appends.max(1));
        let location = frame.info().await?.location;
        apiary.shutdown().await?;
        Ok((each_ms, location))
    })
}

/// Milliseconds that the bare loop takes for the bytes of one append.
fn replay(ground: &Ground, location: &str) -> Result<f64> {
    let frame = ground.path().join(location);
    let (cells, commits) = (
        bodies(&frame, "parquet")?,
        bodies(&frame.join("_delta_log"), "json")?,
    );
    let target = ground.path().join("bare");
    std::fs::create_dir_all(&target).map_err(|error| Failure::file(&target, error))?;
    let mut staged = Vec::new();
    let started = Instant::now();
    // Version 0 made the frame; every later one has a cell.
    for (index, (cell, commit)) in cells.iter().zip(commits.iter().skip(1)).enumerate() {
        staged.push(durable(&target, &format!("{index}.parquet"), cell)?);
        staged.push(durable(&target, &format!("{index}.json"), commit)?);
    }
    let each_ms = started.elapsed().as_secs_f64() * 1e3 / cells.len().max(1) as f64;
    // Not part of what a commit cannot do without.
    for path in staged {
        std::fs::remove_file(&path).map_err(|error| Failure::file(&path, error))?;
    }
    Ok(each_ms)
}

fn bodies(directory: &Path, extension: &str) -> Result<Vec<Vec<u8>>> {
    let failed = |error| Failure::file(directory, error);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_checkpoint = path.to_string_lossy().contains(".checkpoint.");
        if path.extension().is_some_and(|found| found == extension) && !is_checkpoint {
            paths.push(path);
        }
    }
    paths.sort();
    let read = |path: PathBuf| std::fs::read(&path).map_err(|error| Failure::file(&path, error));
    paths.into_iter().map(read).collect()
}

/// Gives the staged file, whose second name is the one that counts.
fn durable(directory: &Path, name: &str, body: &[u8]) -> Result<PathBuf> {
    let (staged, path) = (
        directory.join(format!("{name}.staged")),
        directory.join(name),
    );
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&staged)?;
        file.write_all(body)?;
        file.sync_all()?;
        std::fs::hard_link(&staged, &path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|error| Failure::file(&path, error))?;
    Ok(staged)
}

/// Appends a second when several processes write to one frame.
fn shared(
    bench: &Bench<'_>,
    appends: u32,
    processes: u32,
    failures: &mut Vec<String>,
) -> Result<f64> {
    let ground = bench.temporary()?;
    let apiary = bench.open(&ground, false)?;
    let frame = bench.block_on(async {
        let box_ns = apiary
            .create_hive("bench")
            .await?
            .create_box("commits")
            .await?;
        Ok(box_ns
            .create_frame("shared", schema_to_append(), &[])
            .await?)
    })?;
    let mut settings = bench.config.settings.clone();
    settings.sync = false;
    let mut workers = Vec::new();
    for _ in 0..processes {
        workers.push(bench.spawn_with(Engine::Apiary, ground.path(), &settings, None)?);
    }
    let started = Instant::now();
    for (index, worker) in workers.iter_mut().enumerate() {
        let first = index as i64 * i64::from(appends) * i64::from(ROWS);
        worker.send(&Order::Append {
            frame: SHARED.into(),
            first,
            appends,
            rows: ROWS,
        })?;
    }
    for worker in &mut workers {
        let answer = worker.answer()?;
        if let Some(error) = answer["error"].as_str() {
            failures.push(error.to_owned());
        } else if answer["refused"] != 0 {
            failures.push(format!("{} appends were refused", answer["refused"]));
        }
    }
    let elapsed = started.elapsed().as_secs_f64();
    drop(workers);
    let expected = i64::from(processes * appends * ROWS);
    bench.block_on(async {
        let (rows, ids) = counts(&apiary, &frame).await?;
        if (rows, ids) != (expected, expected) {
            failures.push(format!("{rows} rows with {ids} ids instead of {expected}"));
        }
        apiary.shutdown().await?;
        Ok::<_, Failure>(())
    })?;
    Ok(f64::from(processes * appends) / elapsed)
}

async fn counts(apiary: &apiary::Apiary, frame: &Frame) -> Result<(i64, i64)> {
    let text = format!("SELECT count(*), count(DISTINCT id) FROM {}", frame.name());
    let mut answer = apiary.sql(&text).await?;
    let batch = match answer.next().await {
        Some(batch) => batch?,
        None => return Err(unexpected("a count without a row".into())),
    };
    let number = |index: usize| {
        let column = batch.column(index).as_any().downcast_ref::<Int64Array>();
        match column {
            Some(column) if column.len() == 1 => Ok(column.value(0)),
            _ => Err(unexpected("a count that is no number".into())),
        }
    };
    Ok((number(0)?, number(1)?))
}
