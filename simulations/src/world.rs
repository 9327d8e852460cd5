//! Computers, the nodes that run on them, and the one order in which all of it happens.
//!
//! A computer keeps its disk; a running node has a runtime of its own, and dropping that runtime is
//! the crash of the node. Several nodes run in turn: whoever has the next timer of all, at its time. A
//! node that is left out of a stretch is paused: time goes on without it.

use crate::clock::{self, SimRuntime};
use crate::files::SimFiles;
use crate::host::{self, Hardware};
use crate::object_store::SimStore;
use crate::rng::Rng;
use crate::trace::Trace;
use apiary_engine::host::Host;
use apiary_engine::laboratory::Laboratory;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Everything that one seed decides.
#[derive(Debug)]
pub struct World {
    pub trace: Trace,
    pub rng: Rng,
    /// The remote meadow; a scenario on local disks leaves it empty.
    pub store: SimStore,
    /// What experiments vary on all nodes that start from now on.
    pub laboratory: Laboratory,
    start_count: u64,
    /// Of an experiment.
    parameters: BTreeMap<String, u64>,
}

/// A computer with a disk that outlives its nodes.
#[derive(Clone, Debug)]
pub struct Computer {
    pub name: String,
    pub hardware: Hardware,
    pub disk: SimFiles,
}

/// One start of one node. Dropping it is a crash.
#[derive(Debug)]
pub struct Running {
    pub name: String,
    pub host: Host,
    runtime: SimRuntime,
    disk: SimFiles,
    trace: Trace,
    rng: Rng,
    /// When it has something to do.
    due: Cell<Duration>,
}

/// How a stretch of a node's life ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Lived<T> {
    ToTheEnd(T),
    /// Power went; what the node did not answer by then it never answered.
    UntilPowerCut,
}

impl World {
    pub fn new(seed: u64, parameters: BTreeMap<String, u64>, trace: Trace) -> Self {
        clock::set(Duration::ZERO);
        let rng = Rng::new(seed);
        let store = SimStore::new(&rng, &trace);
        trace.event("world", format_args!("seed {seed}"));
        Self {
            trace,
            rng,
            store,
            laboratory: Laboratory::default(),
            start_count: 0,
            parameters,
        }
    }

    /// A parameter of an experiment, or what it is when nobody said.
    pub fn parameter(&self, name: &str, default: u64) -> u64 {
        self.parameters.get(name).copied().unwrap_or(default)
    }

    pub fn computer(&self, name: &str, hardware: Hardware) -> Computer {
        let disk = SimFiles::new(name, &self.trace);
        Computer {
            name: name.to_string(),
            hardware,
            disk,
        }
    }

    /// Starts a runtime and a host on a computer; the entropy differs at each start.
    pub fn start(&mut self, computer: &Computer) -> std::io::Result<Running> {
        let runtime = SimRuntime::new()?;
        self.start_count += 1;
        let rng = self
            .rng
            .fork(&format!("start {} of {}", self.start_count, computer.name));
        let Computer {
            name,
            hardware,
            disk,
        } = computer;
        let mut host = host::host(name, *hardware, disk, &runtime, &rng, &self.trace);
        host.laboratory = self.laboratory;
        self.trace
            .event(name, format_args!("start {}", self.start_count));
        let (name, disk, trace) = (name.clone(), disk.clone(), self.trace.clone());
        Ok(Running {
            name,
            host,
            runtime,
            disk,
            trace,
            rng,
            due: Cell::new(Duration::ZERO),
        })
    }

    /// Kills a node: nothing that it had begun goes on.
    pub fn crash(&mut self, node: Running) {
        self.trace.event(&node.name, format_args!("crash"));
        self.trace.count("crashes", 1);
        drop(node);
    }

    /// Lets these nodes run, in turn, until `done` says so. False when `limit` passed before that.
    pub fn run_all(
        &mut self,
        nodes: &[&Running],
        limit: Duration,
        mut done: impl FnMut() -> bool,
    ) -> bool {
        let end = clock::now() + limit;
        loop {
            if done() {
                return true;
            }
            let due = nodes.iter().map(|node| node.due.get()).min();
            let at = due.unwrap_or(end).max(clock::now());
            let until = at.min(end);
            clock::count_node_time(nodes.len() as u32, until.saturating_sub(clock::now()));
            clock::set(until);
            if at >= end {
                return false;
            }
            for node in nodes.iter().filter(|node| node.due.get() <= at) {
                node.due.set(node.runtime.step());
            }
        }
    }
}

impl Running {
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// A stream of random numbers for one purpose in this life.
    pub fn rng(&self, purpose: &str) -> Rng {
        self.rng.fork(purpose)
    }

    /// Runs a client of this node to its end. For scenarios with one node.
    pub fn block_on<F: Future>(&self, client: F) -> F::Output {
        self.runtime.block_on(client)
    }

    /// Runs a client to its end or until the computer's power goes.
    pub fn block_on_until_dark<F: Future>(&self, client: F) -> Lived<F::Output> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.disk.darkness() => Lived::UntilPowerCut,
                output = client => {
                    if self.disk.is_dark() { Lived::UntilPowerCut } else { Lived::ToTheEnd(output) }
                }
            }
        })
    }

    /// Starts a client that runs whenever this node runs.
    pub fn spawn<F>(&self, client: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.due.set(Duration::ZERO);
        self.runtime.handle().spawn(client)
    }
}
