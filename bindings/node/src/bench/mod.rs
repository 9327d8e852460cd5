//! `bench`: figures that anybody can take again.
//!
//! Every figure is a ratio or a limit, the median of several runs. What is compared runs in processes
//! of its own ([`worker`]), so that peak memory belongs to one engine alone, and copies of both
//! engines run beside them, which shows how far chance alone moves a figure.

mod answers;
mod cells;
mod commits;
mod idle;
mod load;
mod shuffle;
mod swarm;
mod tpch;
pub mod worker;

use self::worker::{Engine, Handle};
use crate::args::{Bencher, Measure};
use crate::config::Config;
use crate::failure::{Failure, Result};
use crate::signals::Interrupts;
use crate::tpch::QUERY_COUNT;
use apiary::{Apiary, Error, Settings};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// What every benchmark has at hand.
pub struct Bench<'a> {
    pub config: &'a Config,
    pub interrupts: &'a Interrupts,
    runtime: &'a Runtime,
}

/// Measures and reports. The first signal ends it, with its workers.
pub fn bench(
    what: &Bencher,
    config: &Config,
    runtime: &Runtime,
    interrupts: &Interrupts,
) -> Result<()> {
    let bench = Bench {
        config,
        interrupts,
        runtime,
    };
    let (measure, figures) = match what {
        Bencher::Tpch(options) => (&options.measure, tpch::measure(&bench, options)?),
        Bencher::Commits(options) => (&options.measure, commits::measure(&bench, options)?),
        Bencher::Load(options) => (&options.measure, load::measure(&bench, options)?),
        Bencher::Cells(options) => (&options.measure, cells::measure(&bench, options)?),
        Bencher::Idle(options) => (&options.measure, idle::measure(&bench, options)?),
        Bencher::Swarm(options) => (&options.measure, swarm::measure(&bench, options)?),
        Bencher::Shuffle(options) => (&options.measure, shuffle::measure(&bench, options)?),
    };
    report(measure, &figures)
}

fn report(measure: &Measure, figures: &Value) -> Result<()> {
    if let Some(path) = &measure.output {
        let text = format!("{figures:#}\n");
        std::fs::write(path, text).map_err(|error| Failure::file(path, error))?;
        eprintln!("figures are in {}", path.display());
    }
    let failed = figures.get("failures").and_then(Value::as_array);
    if failed.is_some_and(|failed| !failed.is_empty()) {
        return Err(Failure::Told(1));
    }
    Ok(())
}

/// A directory that a benchmark works in: the one that was named, which stays, or a temporary one.
pub struct Ground {
    path: PathBuf,
    _temporary: Option<TempDir>,
}

impl Ground {
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn uri(&self) -> String {
        self.path.display().to_string()
    }
}

impl Bench<'_> {
    /// Runs something in this process, to its end or to the first signal.
    pub fn block_on<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(self.interrupts.or_cancelled(work))
    }

    pub fn spawn(&self, engine: Engine, storage: &Path) -> Result<Handle> {
        self.spawn_with(engine, storage, &self.config.settings, None)
    }

    /// With settings of its own, and on one core alone.
    pub fn spawn_with(
        &self,
        engine: Engine,
        storage: &Path,
        settings: &Settings,
        core: Option<usize>,
    ) -> Result<Handle> {
        let log = &self.config.log;
        Handle::spawn(engine, storage, settings, log, core, self.interrupts)
    }

    /// The storage that was named, or a temporary one.
    ///
    /// # Errors
    /// `Usage` for storage that is no directory: peers read the same files.
    pub fn ground(&self) -> Result<Ground> {
        if !self.config.storage_is_given {
            return self.temporary();
        }
        let text = self
            .config
            .storage
            .strip_prefix("file://")
            .unwrap_or(&self.config.storage);
        if text.contains("://") {
            return Err(Failure::Usage(
                "a benchmark wants a directory as --storage".into(),
            ));
        }
        std::fs::create_dir_all(text)
            .and_then(|()| std::fs::canonicalize(text))
            .map(|path| Ground {
                path,
                _temporary: None,
            })
            .map_err(|error| Failure::file(Path::new(text), error))
    }

    /// A directory that is gone afterwards. Under the current one, because the system's temporary
    /// one may lie in memory, where nothing is durable and all is fast.
    pub fn temporary(&self) -> Result<Ground> {
        let here = Path::new(".");
        let directory = tempfile::Builder::new()
            .prefix("apiary-bench-")
            .tempdir_in(here)
            .map_err(|error| Failure::file(here, error))?;
        let path = std::fs::canonicalize(directory.path())
            .map_err(|error| Failure::file(directory.path(), error))?;
        Ok(Ground {
            path,
            _temporary: Some(directory),
        })
    }

    /// A node on a directory, with the settings of the command line.
    pub fn open(&self, ground: &Ground, sync: bool) -> Result<Apiary> {
        self.open_at(&ground.uri(), sync)
    }

    /// The same on any storage.
    pub fn open_at(&self, uri: &str, sync: bool) -> Result<Apiary> {
        let mut settings = self.config.settings.clone();
        settings.sync &= sync;
        let builder = Apiary::builder(uri).settings(settings);
        let opening = builder.role(apiary::Role::Brief).open();
        self.block_on(async { Ok(opening.await?) })
    }
}

/// The numbers of TPC-H queries that were asked for: all, when none were.
///
/// # Errors
/// `Usage` for one that there is not.
fn query_numbers(asked: &[u32]) -> Result<Vec<u32>> {
    let all = 1..=QUERY_COUNT;
    match asked.iter().find(|number| !all.contains(number)) {
        Some(wrong) => Err(Failure::Usage(format!(
            "--queries: {wrong} is not between 1 and 22"
        ))),
        None if asked.is_empty() => Ok(all.collect()),
        None => Ok(asked.to_vec()),
    }
}

/// The middle of some figures; the mean of the two middle ones when they are even.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// Rounded for people and for files that are compared.
pub fn rounded(value: f64) -> Value {
    Value::from((value * 1000.0).round() / 1000.0)
}

pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A defect of the benchmark or of what it measures, with what was seen.
pub fn unexpected(what: String) -> Failure {
    Failure::Apiary(Error::Bug(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
