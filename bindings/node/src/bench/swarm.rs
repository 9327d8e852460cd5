//! `bench swarm`: TPC-H shared by several nodes of one bee, against one node.
//!
//! The one node has as many bees as the others together: the ratio is what sharing costs. Or each
//! node is pinned to a core and the one node has one core: the ratio is what more machines give.
//! Queries run interleaved, on processes that live on.

use super::worker::{BOX, Engine, HIVE, Handle, Order, fill};
use super::{Bench, Ground, answers, median, query_numbers, rounded, unexpected};
use crate::args::BenchSwarm;
use crate::failure::Result;
use crate::tpch::query;
use apiary::{Distribute, Settings};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// A resting node looks for queries this often; then the others are there.
const GATHERING: Duration = Duration::from_secs(25);

/// Nodes that answer together; the first is asked.
pub struct Team {
    handles: Vec<Handle>,
    /// Where they keep parts of cells, when the storage is a bucket.
    _caches: Ground,
}

impl Team {
    /// Several nodes of one bee, each on its own core when they are pinned.
    pub fn several(bench: &Bench<'_>, storage: &Path, nodes: u32, pinned: bool) -> Result<Self> {
        let settings = Settings {
            bees: Some(1),
            distribute: Distribute::On,
            ..bench.config.settings.clone()
        };
        Self::start(bench, storage, Engine::Resident, &settings, nodes, pinned)
    }

    /// A node that looks for nobody's queries: it must take no part in those of the others.
    fn one(bench: &Bench<'_>, storage: &Path, bees: u32, pinned: bool) -> Result<Self> {
        let settings = Settings {
            bees: Some(bees as usize),
            distribute: Distribute::Off,
            ..bench.config.settings.clone()
        };
        Self::start(bench, storage, Engine::Apiary, &settings, 1, pinned)
    }

    fn start(
        bench: &Bench<'_>,
        storage: &Path,
        engine: Engine,
        settings: &Settings,
        nodes: u32,
        pinned: bool,
    ) -> Result<Self> {
        let caches = bench.temporary()?;
        let spawn = |node: u32| {
            let settings = Settings {
                cache_directory: Some(caches.path().join(node.to_string())),
                ..settings.clone()
            };
            let core = pinned.then_some(node as usize);
            bench.spawn_with(engine, storage, &settings, core)
        };
        let mut team = Self {
            handles: (0..nodes).map(spawn).collect::<Result<_>>()?,
            _caches: caches,
        };
        team.enter()?;
        Ok(team)
    }

    fn enter(&mut self) -> Result<()> {
        let sql = format!("USE HIVE {HIVE}; USE BOX {BOX}");
        self.run(sql, None).map(drop)
    }

    /// Milliseconds.
    pub fn run(&mut self, sql: String, to: Option<&Path>) -> Result<f64> {
        let to = to.map(Path::to_path_buf);
        let answer = self.handles[0].must(&Order::Run { sql, to })?;
        Ok(answer["ms"].as_f64().unwrap_or(f64::NAN))
    }

    /// Asks until the nodes that rest have seen that there is something to do.
    pub fn gather(&mut self, sql: &str) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < GATHERING {
            self.run(sql.to_owned(), None)?;
        }
        Ok(())
    }

    /// A report of each node.
    pub fn reports(&mut self) -> Result<Vec<Value>> {
        let reports = self.handles.iter_mut();
        reports.map(|handle| handle.must(&Order::Report)).collect()
    }

    /// What EXPLAIN ANALYZE counts for each query.
    fn critical_paths(
        &mut self,
        bench: &Bench<'_>,
        queries: &BTreeMap<u32, String>,
    ) -> Result<BTreeMap<u32, CriticalPath>> {
        let scratch = bench.temporary()?;
        let to = scratch.path().join("explained");
        let mut paths = BTreeMap::new();
        for (number, sql) in queries {
            self.run(format!("EXPLAIN ANALYZE {sql}"), Some(&to))?;
            paths.insert(*number, CriticalPath::read(&to)?);
        }
        Ok(paths)
    }

    /// Objects that the other nodes have written: outputs and claims.
    fn puts_of_others(&mut self) -> Result<u64> {
        let reports = self.reports()?;
        let puts = reports.iter().skip(1);
        let puts = puts.map(|report| report["requests"]["put_count"].as_u64().unwrap_or(0));
        Ok(puts.sum())
    }
}

/// Storage operations that had to follow each other, of a query of so many stages.
#[derive(Clone, Copy, Debug)]
struct CriticalPath {
    stages: u32,
    operations: u32,
}

impl CriticalPath {
    /// From the rows of EXPLAIN ANALYZE; none for a query that was not shared.
    fn read(explained: &Path) -> Result<Self> {
        let mut path = Self {
            stages: 0,
            operations: 0,
        };
        for (what, text) in answers::texts(explained)? {
            if what.starts_with("stage ") {
                path.stages += 1;
            } else if what == "critical_path" {
                let count = text.split(' ').next().unwrap_or_default();
                path.operations = count
                    .parse()
                    .map_err(|_| unexpected(format!("the critical path: {text}")))?;
            }
        }
        Ok(path)
    }
}

impl std::fmt::Display for CriticalPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} stages, {} operations", self.stages, self.operations)
    }
}

pub fn measure(bench: &Bench<'_>, options: &BenchSwarm) -> Result<Value> {
    let numbers = query_numbers(&options.queries)?;
    let given = &bench.config.storage;
    let ground = match bench.config.storage_is_given && given.contains("://") {
        true => None,
        false => Some(bench.ground()?),
    };
    let uri = ground.as_ref().map_or(given.clone(), Ground::uri);
    prepare(bench, &uri, options.scale)?;
    let (storage, pinned) = (Path::new(&uri), options.pinned);
    let bees = if pinned { 1 } else { options.nodes };
    let mut one = Team::one(bench, storage, bees, pinned)?;
    let mut several = Team::several(bench, storage, options.nodes, pinned)?;
    let queries: BTreeMap<u32, String> = numbers
        .into_iter()
        .map(|number| (number, query(number, options.scale)))
        .collect();
    if let Some(first) = queries.values().next() {
        several.gather(first)?;
    }
    let failures = check(bench, &queries, &mut one, &mut several)?;
    let (mut alone, mut shared) = (Times::new(), Times::new());
    for _ in 0..options.measure.runs {
        for (number, sql) in &queries {
            let times = alone.entry(*number).or_default();
            times.push(one.run(sql.clone(), None)?);
            let times = shared.entry(*number).or_default();
            times.push(several.run(sql.clone(), None)?);
        }
    }
    if several.puts_of_others()? == 0 {
        return Err(unexpected("the other nodes took no part".into()));
    }
    let paths = several.critical_paths(bench, &queries)?;
    let mut figures = serde_json::Map::new();
    let (mut total_alone, mut total_shared) = (0.0, 0.0);
    for number in queries.keys() {
        let (alone, shared) = (median(&alone[number]), median(&shared[number]));
        println!(
            "query {number:2}: {alone:6.0} ms on one, {shared:6.0} ms on {}: {:.2}; {}",
            options.nodes,
            shared / alone,
            paths[number]
        );
        figures.insert(
            number.to_string(),
            json!({
                "one_ms": rounded(alone),
                "several_ms": rounded(shared),
                "stages": paths[number].stages,
                "operations": paths[number].operations,
            }),
        );
        total_alone += alone;
        total_shared += shared;
    }
    let ratio = total_shared / total_alone;
    let operations: u32 = paths.values().map(|path| path.operations).sum();
    println!("total: {total_alone:.0} ms on one, {total_shared:.0} ms on several: {ratio:.2}");
    println!("storage operations after each other: {operations}");
    Ok(json!({
        "benchmark": "swarm",
        "scale": options.scale,
        "runs": options.measure.runs,
        "nodes": options.nodes,
        "pinned": pinned,
        "one_ms": rounded(total_alone),
        "several_ms": rounded(total_shared),
        "ratio": rounded(ratio),
        "operations": operations,
        "queries": figures,
        "failures": failures,
    }))
}

type Times = BTreeMap<u32, Vec<f64>>;

pub fn prepare(bench: &Bench<'_>, uri: &str, scale: f64) -> Result<()> {
    let apiary = bench.open_at(uri, true)?;
    bench.block_on(async {
        fill(&apiary, scale).await?;
        Ok(apiary.shutdown().await?)
    })
}

/// What differs between the answers of the two.
fn check(
    bench: &Bench<'_>,
    queries: &BTreeMap<u32, String>,
    one: &mut Team,
    several: &mut Team,
) -> Result<Vec<String>> {
    let scratch = bench.temporary()?;
    let (alone, shared) = (scratch.path().join("one"), scratch.path().join("several"));
    let mut failures = Vec::new();
    for (number, sql) in queries {
        one.run(sql.clone(), Some(&alone))?;
        several.run(sql.clone(), Some(&shared))?;
        if let Some(difference) = answers::difference(sql, &alone, &shared)? {
            failures.push(format!("query {number} differs: {difference}"));
        }
    }
    let equal = queries.len() - failures.len();
    println!("answers equal: {equal} of {}", queries.len());
    failures.iter().for_each(|failure| eprintln!("{failure}"));
    Ok(failures)
}
