//! `bench tpch`: the 22 queries, ours against plain DataFusion over the same cells.
//!
//! *Cold*: new processes, and the cells out of the page cache. *Warm*: processes that live on, first
//! interleaved (each query on each engine in turn), then back to back (all queries on one engine).
//! Two processes of each engine run warm: their ratio is what chance alone does.

use super::worker::{BOX, Engine, HIVE, Handle, Order, fill};
use super::{Bench, Ground, answers, median, mib, rounded, unexpected};
use crate::args::BenchTpch;
use crate::failure::{Failure, Result};
use crate::tpch::{QUERY_COUNT, TABLES, query};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// The four that run warm: name, engine.
const ENGINES: [(&str, Engine); 4] = [
    ("apiary", Engine::Apiary),
    ("datafusion", Engine::Datafusion),
    ("apiary_copy", Engine::Apiary),
    ("datafusion_copy", Engine::Datafusion),
];

/// Table name to its cells.
type Files = BTreeMap<&'static str, Vec<PathBuf>>;

struct Field<'a> {
    bench: &'a Bench<'a>,
    ground: Ground,
    files: Files,
    queries: BTreeMap<u32, String>,
    runs: u32,
    failures: Vec<String>,
}

/// Milliseconds by engine and query, one for each run.
type Times = BTreeMap<(&'static str, u32), Vec<f64>>;

pub fn measure(bench: &Bench<'_>, options: &BenchTpch) -> Result<Value> {
    let numbers: Vec<u32> = match options.queries.as_slice() {
        [] => (1..=QUERY_COUNT).collect(),
        given => given.to_vec(),
    };
    if let Some(wrong) = numbers
        .iter()
        .find(|number| !(1..=QUERY_COUNT).contains(number))
    {
        return Err(Failure::Usage(format!(
            "--queries: {wrong} is not between 1 and 22"
        )));
    }
    let ground = bench.ground()?;
    let files = prepare(bench, &ground, options.scale)?;
    let queries = numbers
        .into_iter()
        .map(|number| (number, query(number, options.scale)));
    let mut field = Field {
        bench,
        ground,
        files,
        queries: queries.collect(),
        runs: options.measure.runs,
        failures: vec![],
    };
    field.check_answers()?;
    let cold = field.cold()?;
    let warm = field.warm()?;
    Ok(json!({
        "benchmark": "tpch",
        "scale": options.scale,
        "runs": options.measure.runs,
        "memory_bytes": bench.config.settings.memory_bytes,
        "cold": cold,
        "warm": warm,
        "failures": field.failures,
    }))
}

/// Loads what is missing; gives the cells' paths.
fn prepare(bench: &Bench<'_>, ground: &Ground, scale: f64) -> Result<Files> {
    let apiary = bench.open(ground, true)?;
    let files = bench.runtime.block_on(async {
        fill(&apiary, scale).await?;
        let mut files = Files::new();
        for table in TABLES {
            let frame = apiary
                .frame(&format!("{HIVE}.{BOX}.{}", table.name()))
                .await?;
            let keys = frame.cell_keys().await?;
            let paths = keys.iter().map(|key| ground.path().join(key)).collect();
            files.insert(table.name(), paths);
        }
        apiary.shutdown().await?;
        Ok::<_, Failure>(files)
    })?;
    Ok(files)
}

impl Field<'_> {
    fn spawn(&self, engine: Engine) -> Result<Handle> {
        let mut handle = Handle::spawn(engine, self.ground.path(), self.bench.config)?;
        if engine == Engine::Datafusion {
            for (table, files) in &self.files {
                let (table, files) = ((*table).to_owned(), files.clone());
                handle.must(&Order::Register { table, files })?;
            }
        } else {
            let sql = format!("USE HIVE {HIVE}; USE BOX {BOX}");
            handle.must(&Order::Run { sql, to: None })?;
        }
        Ok(handle)
    }

    /// Milliseconds, or nothing when the query failed, which is noted.
    fn time(&mut self, handle: &mut Handle, name: &str, number: u32) -> Result<Option<f64>> {
        let sql = self.queries[&number].clone();
        let answer = handle.order(&Order::Run { sql, to: None })?;
        if let Some(error) = answer["error"].as_str() {
            self.fail(format!("query {number} on {name}: {error}"));
        }
        Ok(answer["ms"].as_f64())
    }

    fn fail(&mut self, text: String) {
        if !self.failures.contains(&text) {
            eprintln!("{text}");
            self.failures.push(text);
        }
    }

    fn check_answers(&mut self) -> Result<()> {
        let scratch = self.bench.temporary()?;
        let (ours, theirs) = (scratch.path().join("ours"), scratch.path().join("theirs"));
        let mut apiary = self.spawn(Engine::Apiary)?;
        let mut datafusion = self.spawn(Engine::Datafusion)?;
        for (number, sql) in self.queries.clone() {
            let mut both = true;
            for (handle, name, to) in [
                (&mut apiary, "apiary", &ours),
                (&mut datafusion, "datafusion", &theirs),
            ] {
                let order = Order::Run {
                    sql: sql.clone(),
                    to: Some(to.clone()),
                };
                if let Some(error) = handle.order(&order)?["error"].as_str() {
                    self.fail(format!("query {number} on {name}: {error}"));
                    both = false;
                }
            }
            if both && let Some(difference) = answers::difference(&ours, &theirs)? {
                self.fail(format!("query {number} has another answer: {difference}"));
            }
        }
        let equal = self.queries.len() - self.failures.len().min(self.queries.len());
        println!("answers equal: {equal} of {}", self.queries.len());
        Ok(())
    }

    fn cold(&mut self) -> Result<Value> {
        let numbers: Vec<u32> = self.queries.keys().copied().collect();
        let mut totals: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        let mut peaks: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for run in 0..self.runs {
            for index in 0..2 {
                let (name, engine) = ENGINES[(index + run as usize) % 2];
                self.files
                    .values()
                    .flatten()
                    .try_for_each(|path| forget(path))?;
                let mut handle = self.spawn(engine)?;
                let mut total = 0.0;
                for &number in &numbers {
                    total += self.time(&mut handle, name, number)?.unwrap_or(f64::NAN);
                }
                totals.entry(name).or_default().push(total);
                let report = handle.must(&Order::Report)?;
                let peak = report["peak_bytes"].as_u64().unwrap_or(0);
                peaks.entry(name).or_default().push(mib(peak));
            }
        }
        let total = |name: &str| totals.get(name).map_or(f64::NAN, |values| median(values));
        let peak = |name: &str| peaks.get(name).map_or(f64::NAN, |values| median(values));
        let ratio = total("apiary") / total("datafusion");
        println!(
            "cold           {:>8.0} ms against {:>8.0} ms   {ratio:.3}",
            total("apiary"),
            total("datafusion")
        );
        println!(
            "peak memory    {:>8.0} MiB against {:>7.0} MiB  {:.3}",
            peak("apiary"),
            peak("datafusion"),
            peak("apiary") / peak("datafusion")
        );
        Ok(json!({
            "apiary_ms": rounded(total("apiary")),
            "datafusion_ms": rounded(total("datafusion")),
            "ratio": rounded(ratio),
            "apiary_peak_mib": rounded(peak("apiary")),
            "datafusion_peak_mib": rounded(peak("datafusion")),
        }))
    }

    fn warm(&mut self) -> Result<Value> {
        let mut handles = Vec::new();
        for (name, engine) in ENGINES {
            handles.push((name, self.spawn(engine)?));
        }
        let numbers: Vec<u32> = self.queries.keys().copied().collect();
        // Once without the clock, so that nobody's first time counts.
        for (name, handle) in &mut handles {
            for &number in &numbers {
                self.time(handle, name, number)?;
            }
        }
        let (mut interleaved, mut in_a_row) = (Times::new(), Times::new());
        for _ in 0..self.runs {
            for &number in &numbers {
                for (name, handle) in &mut handles {
                    if let Some(ms) = self.time(handle, name, number)? {
                        interleaved.entry((name, number)).or_default().push(ms);
                    }
                }
                handles.rotate_left(1);
            }
        }
        for _ in 0..self.runs {
            for (name, handle) in &mut handles {
                for &number in &numbers {
                    if let Some(ms) = self.time(handle, name, number)? {
                        in_a_row.entry((name, number)).or_default().push(ms);
                    }
                }
            }
            handles.rotate_left(1);
        }
        Ok(json!({
            "interleaved": self.summary("interleaved", &interleaved)?,
            "back_to_back": self.summary("back to back", &in_a_row)?,
        }))
    }

    fn summary(&self, title: &str, times: &Times) -> Result<Value> {
        let totals = |name: &'static str| -> Vec<f64> {
            let sum = |run: u32| {
                let of_query = |number: &u32| {
                    let values = times.get(&(name, *number));
                    values
                        .and_then(|values| values.get(run as usize))
                        .copied()
                        .unwrap_or(f64::NAN)
                };
                self.queries.keys().map(of_query).sum()
            };
            (0..self.runs).map(sum).collect()
        };
        let total = |name: &'static str| median(&totals(name));
        let [ours, theirs, ours_copy, theirs_copy] = ENGINES.map(|(name, _)| total(name));
        let ratio = ours / theirs;
        println!(
            "{title:<14} {ours:>8.0} ms against {theirs:>8.0} ms   {ratio:.3}   \
             (copies: {:.3}, {:.3})",
            ours_copy / ours,
            theirs_copy / theirs
        );
        let mut queries = serde_json::Map::new();
        for number in self.queries.keys() {
            let of = |name| {
                times
                    .get(&(name, *number))
                    .map_or(f64::NAN, |values| median(values))
            };
            let (ours, theirs) = (of("apiary"), of("datafusion"));
            queries.insert(
                number.to_string(),
                json!({
                    "apiary_ms": rounded(ours),
                    "datafusion_ms": rounded(theirs),
                    "ratio": rounded(ours / theirs),
                }),
            );
        }
        Ok(json!({
            "apiary_ms": rounded(ours),
            "datafusion_ms": rounded(theirs),
            "ratio": rounded(ratio),
            "apiary_copy_ratio": rounded(ours_copy / ours),
            "datafusion_copy_ratio": rounded(theirs_copy / theirs),
            "queries": queries,
        }))
    }
}

/// Asks the system to drop a file from its page cache; it is clean, because commits are synced.
fn forget(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(|error| Failure::file(path, error))?;
    #[cfg(target_os = "linux")]
    {
        // SAFETY: the descriptor is open through the call.
        let code =
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        if code != 0 {
            return Err(unexpected(format!(
                "posix_fadvise {}: {code}",
                path.display()
            )));
        }
    }
    drop(file);
    Ok(())
}
