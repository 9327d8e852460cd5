//! `bench tpch`: the 22 queries, ours against plain DataFusion over the same cells.
//!
//! *Cold*: new processes, and the cells out of the page cache. *Warm*: processes that live on, first
//! interleaved (each query on each engine in turn), then back to back (all queries on one engine).
//! Two processes of each engine run warm: their ratio is what chance alone does. A third engine, a
//! program that takes the same orders, can run beside them.

use super::worker::{BOX, Engine, HIVE, Handle, Order, fill};
use super::{Bench, Ground, answers, median, mib, query_numbers, rounded, unexpected};
use crate::args::BenchTpch;
use crate::failure::{Failure, Result};
use crate::tpch::{TABLES, query};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

const OURS: &str = "apiary";
const THEIRS: &str = "datafusion";
const PEER: &str = "peer";

/// A contestant, and its copy that runs warm beside it.
#[derive(Clone, Copy)]
struct Contestant {
    name: &'static str,
    copy_name: &'static str,
}

const CONTESTANTS: [Contestant; 3] = [
    Contestant {
        name: OURS,
        copy_name: "apiary_copy",
    },
    Contestant {
        name: THEIRS,
        copy_name: "datafusion_copy",
    },
    Contestant {
        name: PEER,
        copy_name: "peer_copy",
    },
];

/// Table name to its cells.
type Files = BTreeMap<&'static str, Vec<PathBuf>>;

struct Field<'a> {
    bench: &'a Bench<'a>,
    ground: Ground,
    files: Files,
    queries: BTreeMap<u32, String>,
    peer: Option<&'a str>,
    runs: u32,
    failures: Vec<String>,
}

/// Milliseconds by engine and query, one for each run.
type Times = BTreeMap<(&'static str, u32), Vec<f64>>;

pub fn measure(bench: &Bench<'_>, options: &BenchTpch) -> Result<Value> {
    let numbers = query_numbers(&options.queries)?;
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
        peer: options.peer.as_deref(),
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
    let files = bench.block_on(async {
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
    fn contestants(&self) -> &'static [Contestant] {
        match self.peer {
            Some(_) => &CONTESTANTS,
            None => &CONTESTANTS[..2],
        }
    }

    fn spawn(&self, contestant: Contestant) -> Result<Handle> {
        let storage = self.ground.path();
        let mut handle = match (contestant.name, self.peer) {
            (PEER, Some(command)) => Handle::spawn_peer(command, self.bench.interrupts)?,
            (OURS, _) => {
                let mut handle = self.bench.spawn(Engine::Apiary, storage)?;
                let sql = format!("USE HIVE {HIVE}; USE BOX {BOX}");
                handle.must(&Order::Run { sql, to: None })?;
                return Ok(handle);
            }
            _ => self.bench.spawn(Engine::Datafusion, storage)?,
        };
        for (table, files) in &self.files {
            let (table, files) = ((*table).to_owned(), files.clone());
            handle.must(&Order::Register { table, files })?;
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
        let mut handles = Vec::new();
        for contestant in self.contestants() {
            handles.push((contestant.name, self.spawn(*contestant)?));
        }
        let mut wrong = 0;
        for (number, sql) in self.queries.clone() {
            let mut answers = Vec::new();
            for (name, handle) in &mut handles {
                let (sql, to) = (sql.clone(), scratch.path().join(*name));
                let order = Order::Run {
                    sql,
                    to: Some(to.clone()),
                };
                match handle.order(&order)?["error"].as_str() {
                    Some(error) => self.fail(format!("query {number} on {name}: {error}")),
                    None => answers.push((*name, to)),
                }
            }
            let mut equal = answers.len() == handles.len();
            if let Some(((OURS, ours), others)) = answers.split_first() {
                for (name, theirs) in others {
                    if let Some(difference) = answers::difference(&sql, ours, theirs)? {
                        self.fail(format!("query {number} differs from {name}: {difference}"));
                        equal = false;
                    }
                }
            }
            wrong += usize::from(!equal);
        }
        let equal = self.queries.len() - wrong;
        println!("answers equal: {equal} of {}", self.queries.len());
        Ok(())
    }

    fn cold(&mut self) -> Result<Value> {
        let numbers: Vec<u32> = self.queries.keys().copied().collect();
        let mut contestants = self.contestants().to_vec();
        let mut totals: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        let mut peaks: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for _ in 0..self.runs {
            for contestant in &contestants {
                self.files
                    .values()
                    .flatten()
                    .try_for_each(|path| forget(path))?;
                let mut handle = self.spawn(*contestant)?;
                let mut total = 0.0;
                for &number in &numbers {
                    let ms = self.time(&mut handle, contestant.name, number)?;
                    total += ms.unwrap_or(f64::NAN);
                }
                totals.entry(contestant.name).or_default().push(total);
                let report = handle.must(&Order::Report)?;
                let peak = report["peak_bytes"].as_u64().unwrap_or(0);
                peaks.entry(contestant.name).or_default().push(mib(peak));
            }
            contestants.rotate_left(1);
        }
        let total = |name: &str| totals.get(name).map_or(f64::NAN, |values| median(values));
        let peak = |name: &str| peaks.get(name).map_or(f64::NAN, |values| median(values));
        let mut figures = serde_json::Map::new();
        for contestant in self.contestants() {
            let name = contestant.name;
            figures.insert(format!("{name}_ms"), rounded(total(name)));
            figures.insert(format!("{name}_peak_mib"), rounded(peak(name)));
            if name == OURS {
                continue;
            }
            let (ratio, peak_ratio) = (total(OURS) / total(name), peak(OURS) / peak(name));
            figures.insert(format!("ratio_to_{name}"), rounded(ratio));
            figures.insert(format!("peak_ratio_to_{name}"), rounded(peak_ratio));
            line("cold", "ms", total(OURS), name, total(name));
            line("peak memory", "MiB", peak(OURS), name, peak(name));
        }
        Ok(Value::Object(figures))
    }

    fn warm(&mut self) -> Result<Value> {
        let mut handles = Vec::new();
        for contestant in self.contestants() {
            handles.push((contestant.name, self.spawn(*contestant)?));
        }
        for contestant in self.contestants() {
            handles.push((contestant.copy_name, self.spawn(*contestant)?));
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
        let mut figures = serde_json::Map::new();
        for Contestant { name, copy_name } in self.contestants() {
            figures.insert(format!("{name}_ms"), rounded(total(name)));
            let copies = total(copy_name) / total(name);
            figures.insert(format!("{name}_copy_ratio"), rounded(copies));
            if *name != OURS {
                let ratio = total(OURS) / total(name);
                figures.insert(format!("ratio_to_{name}"), rounded(ratio));
                line(title, "ms", total(OURS), name, total(name));
            }
            println!("{:>16} copies of {name}: {copies:.3}", "");
        }
        let mut queries = serde_json::Map::new();
        for number in self.queries.keys() {
            let of = |name| {
                let values = times.get(&(name, *number));
                values.map_or(f64::NAN, |values| median(values))
            };
            let ms = self.contestants().iter().map(|contestant| {
                let key = format!("{}_ms", contestant.name);
                (key, rounded(of(contestant.name)))
            });
            queries.insert(number.to_string(), Value::Object(ms.collect()));
        }
        figures.insert("queries".into(), Value::Object(queries));
        Ok(Value::Object(figures))
    }
}

fn line(title: &str, unit: &str, ours: f64, name: &str, theirs: f64) {
    let ratio = ours / theirs;
    println!(
        "{title:<14} {ours:>8.0} {unit} against {theirs:>8.0} {unit} of {name:<10} {ratio:.3}"
    );
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
