//! Three nodes on one object store that errs before and after the effect, loses replies, refuses
//! creates with nothing written and throttles; computers lose power and come back. Then the faults stop, all
//! writers must finish, and every write must be in the frame exactly once. At the end one node lives on
//! until everything that crashes left is swept.

use super::node;
use crate::checkers::{self, cache_1, keeper_1, ledger_1, ledger_2, node_1, query_3, reader};
use crate::clock::SimClock;
use crate::host::Hardware;
use crate::object_store::{Faults, SimStore};
use crate::trace::Trace;
use crate::workload::client::{self, Writer};
use crate::workload::model::Model;
use crate::workload::namer::Namer;
use crate::workload::outsider;
use crate::workload::rows::CREATE_FRAME;
use crate::world::{Computer, Running, World};
use apiary_actors::Node;
use apiary_engine::error::ErrorKind;
use apiary_engine::host::Host;
use apiary_engine::settings::Settings;
use futures::FutureExt;
use futures::future::{Either, select, try_join, try_join_all};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

const NODE_COUNT: u64 = 3;
const WRITERS_PER_NODE: u64 = 2;
const WRITES_PER_WRITER: u64 = 8;
const CHANGES_PER_NAMER: u64 = 4;
const CRASH_COUNT: u64 = 2;

type Life = JoinHandle<Result<(), String>>;

/// A computer, and the writers that talk to whatever node runs there.
struct Place {
    computer: Computer,
    writers: Vec<Arc<Mutex<Writer>>>,
    namer: Arc<Mutex<Namer>>,
    /// Another program writes the frame from there.
    has_outsider: bool,
    running: Option<Running>,
    life: Option<Life>,
}

pub fn run(world: &mut World) -> Result<(), String> {
    let model = Model::default();
    prepare(world)?;
    let deadline_ms = world.rng.between(200, 5_000);
    let faults = Faults::many(&mut world.rng);
    world.store.set_faults(faults);
    let mut places: Vec<Place> = (0..NODE_COUNT)
        .map(|index| place(world, &model, index))
        .collect();
    for place in &mut places {
        place.start(world, &model, deadline_ms)?;
    }
    let mut rot = world.rng.fork("rot");
    for _ in 0..CRASH_COUNT {
        let pause = Duration::from_millis(world.rng.between(100, 4_000));
        step(world, &mut places, pause)?;
        for place in &places {
            node::rot_cache(&place.computer, &mut rot);
        }
        let victim = world.rng.below(NODE_COUNT) as usize;
        if let Some(running) = places[victim].running.take() {
            world.crash(running);
        }
        // What it had cached was never synced.
        let disk = &places[victim].computer.disk;
        disk.cut_now();
        disk.power_cut(&mut world.rng);
        places[victim].start(world, &model, deadline_ms)?;
    }
    step(world, &mut places, Duration::from_secs(20))?;
    world.store.set_faults(Faults::NONE);
    if !step(world, &mut places, Duration::from_secs(600))? {
        return Err(
            "QUERY-3: writers have not finished ten minutes after the faults stopped".into(),
        );
    }
    let namers = places.iter().map(|place| place.namer.clone()).collect();
    finish(world, &model, namers)
}

/// A deadline that a few retries use up, so that clients see failures too.
fn settings(storage_deadline_ms: u64) -> Settings {
    Settings {
        storage_deadline_ms,
        ..node::sweeping_settings()
    }
}

fn place(world: &mut World, model: &Model, index: u64) -> Place {
    let offset_ms = world.rng.below(600_000) as i64 - 300_000;
    let drift_ppm = world.rng.below(200) as i64 - 100;
    let hardware = Hardware {
        clock: SimClock {
            offset_ms,
            drift_ppm,
        },
        ..Hardware::default()
    };
    let computer = world.computer(&format!("node-{index}"), hardware);
    let count = NODE_COUNT * WRITERS_PER_NODE;
    let first = index * WRITERS_PER_NODE;
    let writers = (first..first + WRITERS_PER_NODE)
        .map(|writer| Writer::new(writer, count, model, &world.trace, &world.rng))
        .map(|writer| Arc::new(Mutex::new(writer)))
        .collect();
    let namer = Namer::new(index, CHANGES_PER_NAMER, &world.trace, &world.rng);
    Place {
        computer,
        writers,
        namer: Arc::new(Mutex::new(namer)),
        has_outsider: index == 0,
        running: None,
        life: None,
    }
}

/// The frame, made before anything goes wrong.
fn prepare(world: &mut World) -> Result<(), String> {
    let computer = world.computer("maker", Hardware::default());
    let running = world.start(&computer).map_err(|error| error.to_string())?;
    let made = running.block_on(async {
        let started =
            node::start_on_store(&world.store, &running.host, node::sweeping_settings()).await?;
        client::execute(&started, CREATE_FRAME).await?;
        started.shutdown().await
    });
    made.map_err(|error| format!("preparing: {error}"))
}

impl Place {
    fn start(&mut self, world: &mut World, model: &Model, deadline_ms: u64) -> Result<(), String> {
        let running = world
            .start(&self.computer)
            .map_err(|error| error.to_string())?;
        let (store, host, trace) = (
            world.store.clone(),
            running.host.clone(),
            world.trace.clone(),
        );
        let (writers, model, rng) = (self.writers.clone(), model.clone(), running.rng("watcher"));
        let namer = self.namer.clone();
        let disk = self.computer.disk.clone();
        let outsider = self.has_outsider.then(|| {
            let rng = running.rng("outsider");
            outsider::run(store.clone(), node::LOCATION, trace.clone(), rng)
        });
        self.life = Some(running.spawn(async move {
            let started =
                start_despite_faults(&store, &host, settings(deadline_ms), &trace).await?;
            // It goes with the power of this computer.
            let _outsider = outsider.map(|work| AbortOnDropHandle::new(tokio::spawn(work)));
            let watch = client::watch(started.clone(), model.clone(), trace.clone(), rng, None);
            let worked = work(&started, &writers, &namer, watch).await;
            if let Err(violation) = worked {
                return Err(node::blame_on(&store, &model, violation).await);
            }
            disk.forget_reads();
            let all_read = node::read_cells(&started).await.is_ok();
            let counted = node::count_cache(&started, &trace).await;
            counted.map_err(query_3::unexplained)?;
            let stopped = started.shutdown().await;
            stopped.map_err(node_1::does_not_stop)?;
            node_1::check("a node", &started)?;
            // What one that failed had begun to read, nobody was told.
            if all_read {
                cache_1::check(&disk)
            } else {
                Ok(())
            }
        }));
        self.running = Some(running);
        Ok(())
    }
}

/// Lets all writers and the namer finish, or gives what a watcher found meanwhile.
async fn work(
    started: &Node,
    writers: &[Arc<Mutex<Writer>>],
    namer: &Mutex<Namer>,
    watch: impl Future<Output = Result<(), String>> + Send + 'static,
) -> Result<(), String> {
    let watcher = AbortOnDropHandle::new(tokio::spawn(watch));
    let writing = try_join_all(writers.iter().map(|writer| async {
        // A crash drops this future and with it the lock; the writer keeps its place.
        let mut writer = writer.lock().await;
        let written = writer.write_until(started, WRITES_PER_WRITER).await;
        written.map_err(ledger_2::unexplained)
    }));
    let naming = async { namer.lock().await.work(started).await };
    let working = try_join(writing, naming);
    match select(pin!(working), pin!(client::first_violation(watcher))).await {
        Either::Left((worked, _)) => worked.map(drop),
        Either::Right((violation, _)) => Err(violation),
    }
}

/// A start may fail while the store errs; then it is tried again.
async fn start_despite_faults(
    store: &SimStore,
    host: &Host,
    settings: Settings,
    trace: &Trace,
) -> Result<Node, String> {
    loop {
        match node::start_on_store(store, host, settings.clone()).await {
            Ok(started) => return Ok(started),
            Err(error) if matches!(error.kind(), ErrorKind::Retry | ErrorKind::OutcomeUnknown) => {
                trace.event("client", format_args!("start failed: {error}"));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(node_1::does_not_start(error)),
        }
    }
}

/// Lets all nodes run; true when all lives have ended before the limit. The error is a violation.
fn step(world: &mut World, places: &mut [Place], limit: Duration) -> Result<bool, String> {
    let mut lives: Vec<&mut Option<Life>> = Vec::new();
    let mut nodes = Vec::new();
    for place in places {
        lives.push(&mut place.life);
        nodes.extend(&place.running);
    }
    let (mut violation, store) = (None, world.store.clone());
    let all_ended = world.run_all(&nodes, limit, || {
        for life in &mut lives {
            match life.as_mut().and_then(|life| life.now_or_never()) {
                None => continue,
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => violation = Some(error),
                Some(Err(error)) => violation = Some(format!("a client ended: {error}")),
            }
            **life = None;
        }
        if let Err(error) = store.check() {
            violation = Some(error);
        }
        violation.is_some() || lives.iter().all(|life| life.is_none())
    });
    violation.map_or(Ok(all_ended), Err)
}

/// Reads the frame without faults, by a node and independently, before and after house is kept.
fn finish(world: &mut World, model: &Model, namers: Vec<Arc<Mutex<Namer>>>) -> Result<(), String> {
    let computer = world.computer("reader", Hardware::default());
    let running = world.start(&computer).map_err(|error| error.to_string())?;
    running.block_on(async {
        let started =
            node::start_on_store(&world.store, &running.host, node::sweeping_settings()).await;
        let started = started.map_err(node_1::does_not_start)?;
        check_frame(world, model, &started).await?;
        for namer in &namers {
            namer.lock().await.check(&started).await?;
        }
        world
            .trace
            .count("batches_at_the_end", model.acknowledged_count() as u64);
        check_house(world).await?;
        world.store.check()?;
        check_frame(world, model, &started).await?;
        started.shutdown().await.map_err(node_1::does_not_stop)?;
        node_1::check("the reader", &started)?;
        let left = world
            .store
            .objects()
            .await
            .map_err(|error| error.to_string())?;
        keeper_1::check(left.keys().map(String::as_str))
    })
}

async fn check_frame(world: &World, model: &Model, started: &Node) -> Result<(), String> {
    let objects = world.store.objects().await;
    let objects = objects.map_err(|error| error.to_string())?;
    let location = node::location(started).await;
    let location = location.map_err(query_3::unexplained)?;
    let frame = node::read_frame(&objects, &location, &world.trace)?;
    model.with(|writes| checkers::check_frame(writes, &frame, &mut ledger_1::Seen::new()))?;
    let rows = client::read_all(started, &world.trace).await;
    let rows = rows.map_err(query_3::unexplained)?;
    model.with(|writes| checkers::check_rows(writes, &rows))
}

/// Lets the node live on past every age of sweeping.
async fn check_house(world: &World) -> Result<(), String> {
    let failed = |error: object_store::Error| error.to_string();
    let named = reader::ever_named(&world.store.objects().await.map_err(failed)?);
    let before = world.store.ages().await.map_err(failed)?;
    let limits = node::limits();
    tokio::time::sleep(limits.cells).await;
    let after = world.store.ages().await.map_err(failed)?;
    let swept = before
        .keys()
        .filter(|key| !after.contains_key(*key))
        .count();
    world.trace.count("objects_swept", swept as u64);
    let ages = after.iter().map(|(key, age)| (key.as_str(), *age));
    keeper_1::check_ages(ages, &named, limits)
}
