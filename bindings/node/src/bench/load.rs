//! `bench load`: TPC-H from Parquet files into frames, one process for each run.
//!
//! With `--storage` the Parquet files stay in its `input` directory, for peers to read.

use super::worker::{Engine, Order};
use super::{Bench, median, mib, rounded};
use crate::args::BenchLoad;
use crate::failure::{Failure, Result};
use crate::tpch::{TABLES, Table};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};
use std::fs::File;
use std::path::{Path, PathBuf};

pub fn measure(bench: &Bench<'_>, options: &BenchLoad) -> Result<Value> {
    let ground = bench.ground()?;
    let input = ground.path().join("input");
    std::fs::create_dir_all(&input).map_err(|error| Failure::file(&input, error))?;
    let mut files = Vec::new();
    for table in TABLES {
        files.push((table, prepare(&input, table, options.scale)?));
    }
    let (mut rates, mut peaks, mut rows) = (vec![], vec![], 0);
    for _ in 0..options.measure.runs {
        let target = bench.temporary()?;
        let mut worker = bench.spawn(Engine::Apiary, target.path())?;
        let mut ms = 0.0;
        rows = 0;
        for (table, file) in &files {
            let order = Order::Load {
                frame: table.name().into(),
                file: file.clone(),
            };
            let answer = worker.must(&order)?;
            ms += answer["ms"].as_f64().unwrap_or(f64::NAN);
            rows += answer["rows"].as_u64().unwrap_or(0);
        }
        rates.push(rows as f64 * 1e3 / ms);
        let report = worker.must(&Order::Report)?;
        peaks.push(mib(report["peak_bytes"].as_u64().unwrap_or(0)));
    }
    let (rate, peak) = (median(&rates), median(&peaks));
    println!("loaded {rows} rows: {rate:.0} rows a second, peak {peak:.0} MiB");
    Ok(json!({
        "benchmark": "load",
        "scale": options.scale,
        "runs": options.measure.runs,
        "input": input,
        "rows": rows,
        "rows_per_second": rounded(rate),
        "peak_mib": rounded(peak),
    }))
}

/// A table as a Parquet file; the name carries the scale, so that it is made once.
fn prepare(directory: &Path, table: Table, scale: f64) -> Result<PathBuf> {
    let path = directory.join(format!("{}-{scale}.parquet", table.name()));
    if path.exists() {
        return Ok(path);
    }
    let staged = path.with_extension("staged");
    let write = || -> Result<(), parquet::errors::ParquetError> {
        let mut writer = ArrowWriter::try_new(File::create(&staged)?, table.schema(), None)?;
        for batch in table.reader(scale) {
            writer.write(&batch?)?;
        }
        writer.close()?;
        std::fs::rename(&staged, &path)?;
        Ok(())
    };
    write().map_err(|error| Failure::file(&path, std::io::Error::other(error)))?;
    Ok(path)
}
