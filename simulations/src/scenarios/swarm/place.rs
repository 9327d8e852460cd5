//! A computer of the swarm, the node that runs there now, and the clients that talk to it.

use super::Cast;
use crate::checkers::{ledger_2, node_1};
use crate::clock::SimClock;
use crate::host::Hardware;
use crate::object_store::SimStore;
use crate::rng::Rng;
use crate::scenarios::node;
use crate::trace::Trace;
use crate::workload::asker::{Asker, Common};
use crate::workload::client::Writer;
use crate::workload::model::Model;
use crate::world::{Computer, Running, World};
use apiary_actors::Node;
use apiary_engine::error::ErrorKind;
use apiary_engine::host::Host;
use apiary_engine::settings::Settings;
use futures::FutureExt;
use futures::future::try_join_all;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

const WRITES_PER_WRITER: u64 = 5;
/// Every bee's budget is the least there is.
const SMALL_BYTES: u64 = 48 << 20;
const QUERY_DEADLINE_MS: u64 = 1_800_000;

type Work = JoinHandle<Result<(), String>>;

pub(super) struct Place {
    pub computer: Computer,
    settings: Settings,
    askers: Vec<Arc<tokio::sync::Mutex<Asker>>>,
    /// Of the askers.
    names: Vec<String>,
    writers: Vec<Arc<tokio::sync::Mutex<Writer>>>,
    common: Arc<Common>,
    /// Of the writers of the swarm.
    model: Model,
    running: Option<Running>,
    /// Set once the node has started.
    node: Arc<Mutex<Option<Node>>>,
    is_stopping: Arc<AtomicBool>,
    works: Works,
    is_frozen: bool,
}

/// What runs on a node besides itself.
#[derive(Default)]
struct Works {
    clients: Option<Work>,
    stop: Option<Work>,
    has_stopped: bool,
}

impl Place {
    /// `is_small`: with the least memory that bees work in.
    pub fn new(
        world: &World,
        index: u64,
        common: &Arc<Common>,
        model: &Model,
        rng: &mut Rng,
        is_small: bool,
    ) -> Self {
        let clock = SimClock {
            offset_ms: rng.below(1_200_000) as i64 - 600_000,
            drift_ppm: rng.below(400) as i64 - 200,
        };
        let cores = rng.between(1, 3);
        let memory_bytes = match (cores * (rng.between(40, 160) << 20), is_small) {
            (_, true) => SMALL_BYTES,
            (bytes, false) => bytes,
        };
        let hardware = Hardware {
            cores: cores as usize,
            memory_bytes,
            disk_us_max: rng.between(100, 20_000),
            clock,
            ..Hardware::default()
        };
        let settings = Settings {
            bees: None,
            memory_bytes: Some(memory_bytes),
            storage_deadline_ms: rng.between(20_000, 60_000),
            query_deadline_ms: QUERY_DEADLINE_MS,
            distribute: apiary_engine::behavior::placement::Distribute::On,
            ..node::sweeping_settings()
        };
        Self {
            computer: world.computer(&format!("node-{index}"), hardware),
            settings,
            askers: Vec::new(),
            names: Vec::new(),
            writers: Vec::new(),
            common: common.clone(),
            model: model.clone(),
            running: None,
            node: Arc::default(),
            is_stopping: Arc::default(),
            works: Works::default(),
            is_frozen: false,
        }
    }

    pub fn add_asker(&mut self, asker: Asker) {
        self.names.push(asker.name.clone());
        self.askers.push(Arc::new(tokio::sync::Mutex::new(asker)));
    }

    pub fn add_writer(&mut self, writer: Writer) {
        self.writers.push(Arc::new(tokio::sync::Mutex::new(writer)));
    }

    pub fn is_down(&self) -> bool {
        self.running.is_none()
    }

    pub fn is_up(&self) -> bool {
        self.running.is_some() && !self.is_frozen && self.works.stop.is_none()
    }

    /// Its node runs, and its clients have nothing left to do.
    pub fn is_idle(&self) -> bool {
        self.running.is_some() && self.works.clients.is_none() && self.works.stop.is_none()
    }

    pub fn node(&self) -> Option<Node> {
        self.node.lock().clone()
    }

    pub fn freeze(&mut self) {
        self.is_frozen = true;
    }

    pub fn thaw(&mut self) {
        self.is_frozen = false;
    }

    pub fn start(&mut self, world: &mut World) -> Result<(), String> {
        let started = world.start(&self.computer);
        let running = started.map_err(|error| error.to_string())?;
        // A crash dropped the clients of the node before; those of a new one must not see it.
        (self.node, self.is_stopping) = (Arc::default(), Arc::default());
        let (store, host, trace) = (
            world.store.clone(),
            running.host.clone(),
            world.trace.clone(),
        );
        let (askers, writers) = (self.askers.clone(), self.writers.clone());
        let (settings, slot) = (self.settings.clone(), self.node.clone());
        let model = self.model.clone();
        let is_stopping = self.is_stopping.clone();
        self.works.clients = Some(running.spawn(async move {
            let is_stopping = || is_stopping.load(Ordering::SeqCst);
            let Some(node) =
                start_despite_faults(&store, &host, settings, &trace, is_stopping).await?
            else {
                return Ok(());
            };
            *slot.lock() = Some(node.clone());
            let asking = askers.iter().map(|asker| async {
                // A crash drops this future and with it the lock; the asker keeps its place.
                asker.lock().await.work(&node, is_stopping).await
            });
            let writing = writers.iter().map(|writer| async {
                let mut writer = writer.lock().await;
                let written = writer.write_until(&node, WRITES_PER_WRITER).await;
                match written {
                    Err(error) if !is_stopping() => Err(ledger_2::unexplained(error)),
                    _ => Ok(()),
                }
            });
            let (asked, written) = futures::join!(try_join_all(asking), try_join_all(writing));
            match asked.and(written) {
                Ok(_) => Ok(()),
                Err(violation) => Err(node::blame_on(&store, &model, violation).await),
            }
        }));
        self.running = Some(running);
        Ok(())
    }

    /// Work of a checker on this node.
    pub fn begin(&mut self, work: impl Future<Output = Result<(), String>> + Send + 'static) {
        if let Some(running) = &self.running {
            self.works.clients = Some(running.spawn(work));
        }
    }

    /// The power goes. The disk keeps what it keeps, or is replaced.
    pub fn crash(&mut self, world: &mut World, loses_disk: bool) {
        let Some(running) = self.running.take() else {
            return;
        };
        let coordinates = self.common.waiting.lock().any_of(&self.names);
        let killed = u64::from(coordinates);
        world.trace.count("coordinators_killed", killed);
        world.crash(running);
        self.forget();
        let disk = &self.computer.disk;
        disk.cut_now();
        disk.power_cut(&mut world.rng);
        if loses_disk {
            self.computer = world.computer(&self.computer.name, self.computer.hardware);
            world.trace.count("disks_lost", 1);
        }
    }

    fn forget(&mut self) {
        (self.works, self.is_frozen) = (Works::default(), false);
        self.node.lock().take();
        let mut waiting = self.common.waiting.lock();
        self.names.iter().for_each(|name| waiting.end(name));
    }

    /// Stops the node; it is down when that is done.
    pub fn begin_stop(&mut self) {
        let Some(running) = &self.running else {
            return;
        };
        self.is_stopping.store(true, Ordering::SeqCst);
        let (slot, name) = (self.node.clone(), self.computer.name.clone());
        self.works.stop = Some(running.spawn(async move {
            let node = slot.lock().clone();
            // One that has not started yet gives up by itself.
            let Some(node) = node else { return Ok(()) };
            let stopped = node.shutdown().await;
            // What the store refuses is left to others; it is no violation.
            drop(stopped);
            node_1::check(&name, &node)
        }));
    }
}

impl Works {
    /// Whether something has ended; the error is a violation.
    fn settle(&mut self) -> Result<bool, String> {
        let mut has_ended = false;
        if let Some(ended) = self.clients.as_mut().and_then(|work| work.now_or_never()) {
            (self.clients, has_ended) = (None, true);
            ended.map_err(|error| format!("a client ended: {error}"))??;
        }
        if let Some(ended) = self.stop.as_mut().and_then(|work| work.now_or_never()) {
            (self.stop, has_ended, self.has_stopped) = (None, true, true);
            ended.map_err(|error| format!("a stop ended: {error}"))??;
        }
        Ok(has_ended)
    }
}

/// A start may fail while the store errs; then it is tried again, unless the node is to stop.
async fn start_despite_faults(
    store: &SimStore,
    host: &Host,
    settings: Settings,
    trace: &Trace,
    is_stopping: impl Fn() -> bool,
) -> Result<Option<Node>, String> {
    while !is_stopping() {
        match node::start_on_store(store, host, settings.clone()).await {
            Ok(started) => return Ok(Some(started)),
            Err(error) if matches!(error.kind(), ErrorKind::Retry | ErrorKind::OutcomeUnknown) => {
                trace.event("client", format_args!("start failed: {error}"));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(node_1::does_not_start(error)),
        }
    }
    Ok(None)
}

/// Lets all nodes run that are not frozen, for so long, or until clients or a stop have ended. The error
/// is a violation.
pub(super) fn step(world: &mut World, cast: &mut Cast, limit: Duration) -> Result<(), String> {
    let common = cast.common.clone();
    let (mut nodes, mut works) = (Vec::new(), Vec::new());
    for place in &mut cast.places {
        nodes.extend(place.running.as_ref().filter(|_| !place.is_frozen));
        works.push(&mut place.works);
    }
    let (mut violation, store) = (None, world.store.clone());
    world.run_all(&nodes, limit, || {
        let mut has_ended = false;
        for works in &mut works {
            match works.settle() {
                Ok(ended) => has_ended |= ended,
                Err(error) => violation = Some(error),
            }
        }
        if let Err(error) = store.check().and_then(|()| common.check_waiting()) {
            violation = Some(error);
        }
        has_ended || violation.is_some()
    });
    drop(works);
    for place in &mut cast.places {
        if std::mem::take(&mut place.works.has_stopped) {
            // A node that has stopped leaves nothing that runs.
            place.running = None;
            place.forget();
        }
    }
    violation.map_or(Ok(()), Err)
}
