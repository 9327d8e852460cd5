//! A swarm of an experiment: so many nodes on a store like S3, and one who asks.

use super::tables::{Query, Tables, cell_factor};
use crate::clock::{self, SimClock};
use crate::host::Hardware;
use crate::object_store::SimStore;
use crate::object_store::profiles::{self, Profile};
use crate::workload::client;
use crate::world::{Running, World};
use apiary_actors::{Node, Role};
use apiary_engine::host::Host;
use apiary_engine::laboratory::SmallWorld;
use apiary_engine::settings::Settings;
use apiary_engine::store::Meadow;
use bytes::Bytes;
use futures::FutureExt;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Until everybody has seen everybody beat: who is not known to be alive is given nothing.
pub const SETTLED_AFTER: Duration = Duration::from_secs(300);
/// What a core makes of cells in a second: as the planner takes it to be.
const CORE_BYTES_PER_SECOND: u64 = 100_000_000;
const QUERY_MAX: Duration = Duration::from_secs(7_200);
const CACHE_DIRECTORY: &str = "/cache";

/// The store that experiments run on.
pub fn s3() -> &'static Profile {
    let found = profiles::ALL
        .iter()
        .find(|profile| profile.name == "AWS S3");
    found.unwrap_or(&profiles::ALL[0])
}

/// A small computer of so many cores.
pub fn board(world: &mut World, cores: usize) -> Hardware {
    Hardware {
        cores,
        memory_bytes: (cores as u64) << 27,
        clock: SimClock {
            offset_ms: world.rng.below(10_000) as i64 - 5_000,
            drift_ppm: 0,
        },
        ..Hardware::default()
    }
}

/// Requests, by what they cost: a GET, and what costs as much as a PUT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    pub gets: u64,
    pub puts: u64,
}

impl Requests {
    /// Those that were made so far.
    pub fn of(world: &World) -> Self {
        let coverage = world.trace.coverage();
        let of = |kind: &str| coverage.get(kind).copied().unwrap_or(0);
        Self {
            gets: of("requests_get") + of("requests_head"),
            puts: of("requests_put") + of("requests_list"),
        }
    }

    pub fn since(self, before: Self) -> Self {
        Self {
            gets: self.gets - before.gets,
            puts: self.puts - before.puts,
        }
    }
}

pub fn failed(error: apiary_engine::Error) -> String {
    error.to_string()
}

type Started = JoinHandle<apiary_engine::Result<Node>>;

/// See the module.
#[derive(Debug)]
pub struct Swarm {
    runnings: Vec<Running>,
    starting: Vec<Option<Started>>,
    nodes: Vec<Option<Node>>,
}

impl Swarm {
    /// Begins to start so many nodes; they run when time passes.
    pub fn start(
        world: &mut World,
        count: u64,
        settings: &Settings,
        hardware: impl Fn(&mut World, u64) -> Hardware,
    ) -> Result<Self, String> {
        let mut swarm = Self {
            runnings: Vec::new(),
            starting: Vec::new(),
            nodes: Vec::new(),
        };
        for index in 0..count {
            let hardware = hardware(world, index);
            let computer = world.computer(&format!("node-{index}"), hardware);
            let running = world.start(&computer).map_err(|error| error.to_string())?;
            let (store, host) = (world.store.clone(), running.host.clone());
            let settings = settings.clone();
            let starting = running.spawn(async move { start_node(&store, &host, settings).await });
            swarm.starting.push(Some(starting));
            swarm.runnings.push(running);
            swarm.nodes.push(None);
        }
        Ok(swarm)
    }

    pub fn live(&self, world: &mut World, time: Duration) {
        let runnings: Vec<&Running> = self.runnings.iter().collect();
        world.run_all(&runnings, time, || false);
    }

    pub fn node(&mut self, index: usize) -> Result<Node, String> {
        if let Some(starting) = self.starting[index].take() {
            let started = starting.now_or_never().ok_or("a node has not started")?;
            let started = started.map_err(|error| error.to_string())?;
            self.nodes[index] = Some(started.map_err(failed)?);
        }
        self.nodes[index]
            .clone()
            .ok_or("a node has not started".into())
    }

    /// Asks a node; gives how long the answer took, which must be right.
    pub fn ask(
        &mut self,
        world: &mut World,
        index: usize,
        query: &Query,
        tables: &Tables,
    ) -> Result<Duration, String> {
        self.ask_all(world, &[(index, query)], tables)
    }

    /// Asks several questions at once; gives how long it took until all were answered, which must be
    /// right.
    pub fn ask_all(
        &mut self,
        world: &mut World,
        questions: &[(usize, &Query)],
        tables: &Tables,
    ) -> Result<Duration, String> {
        let mut waiting = Vec::new();
        for (index, query) in questions {
            let (trace, node, text) = (world.trace.clone(), self.node(*index)?, query.text);
            let asked = async move { client::execute_traced(&node, text, "asker", &trace).await };
            waiting.push((self.runnings[*index].spawn(asked), *query));
        }
        let began_at = clock::now();
        let runnings: Vec<&Running> = self.runnings.iter().collect();
        let mut answers = Vec::new();
        world.run_all(&runnings, QUERY_MAX, || {
            waiting.retain_mut(|(answer, query)| match answer.now_or_never() {
                Some(answered) => {
                    answers.push((answered, *query));
                    false
                }
                None => true,
            });
            waiting.is_empty()
        });
        if !waiting.is_empty() {
            return Err("QUERY-3: a query has not ended".into());
        }
        for (answered, query) in answers {
            let rows = answered.map_err(|error| error.to_string())?;
            tables.check(query, &rows.map_err(failed)?)?;
        }
        Ok(clock::now() - began_at)
    }

    /// Lets something run on a node whenever that node runs.
    pub fn spawn(&self, index: usize, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.runnings[index].spawn(work));
    }
}

async fn start_node(
    store: &SimStore,
    host: &Host,
    settings: Settings,
) -> apiary_engine::Result<Node> {
    let view = store.view(&host.machine.host_name());
    let meadow = Meadow::over(view, "memory://simulated", host, &settings).as_remote();
    let mut settings = settings;
    if settings.cache_bytes_max.is_some() {
        let made = host.files.make_directory(Path::new(CACHE_DIRECTORY));
        made.map_err(|source| apiary_engine::Error::Other {
            what: "a directory for the cache".into(),
            source: source.into(),
        })?;
        settings.cache_directory = Some(CACHE_DIRECTORY.into());
    }
    Node::start(host.clone(), meadow, settings, Role::Resident).await
}

/// Tables on a store like S3 whose cells stand for larger ones, for all nodes that start from now on.
pub fn prepare(
    world: &mut World,
    cells: u64,
    queries: &[&Query],
) -> Result<(Tables, SmallWorld), String> {
    let mut faults = s3().faults;
    world.store.set_faults(faults);
    let tables = fill(world, cells, queries)?;
    let small_world = SmallWorld {
        factor: cell_factor(&objects(world)?),
        core_bytes_per_second: CORE_BYTES_PER_SECOND,
    };
    faults.cell_factor = small_world.factor;
    world.store.set_faults(faults);
    world.laboratory.small_world = Some(small_world);
    Ok((tables, small_world))
}

pub fn objects(world: &World) -> Result<BTreeMap<String, Bytes>, String> {
    let objects = world.store.objects().now_or_never();
    let objects = objects.ok_or("the store lets a checker wait")?;
    objects.map_err(|error| error.to_string())
}

/// Makes and writes the tables, on a computer that then leaves.
fn fill(world: &mut World, cells: u64, queries: &[&Query]) -> Result<Tables, String> {
    let hardware = board(world, 2);
    let computer = world.computer("maker", hardware);
    let running = world.start(&computer).map_err(|error| error.to_string())?;
    running.block_on(async {
        let tables = Tables::new(cells, queries).await?;
        let started = start_node(&world.store, &running.host, Tables::settings()).await;
        let node = started.map_err(failed)?;
        tables.write(&node).await.map_err(failed)?;
        node.shutdown().await.map_err(failed)?;
        Ok(tables)
    })
}
