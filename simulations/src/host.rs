//! The world as one simulated node sees it.

use crate::clock::{self, SimClock, SimRuntime};
use crate::files::SimFiles;
use crate::rng::Rng;
use crate::spill::MemorySpill;
use crate::trace::Trace;
use apiary_engine::host::{Blocking, Entropy, Host, Machine, Runtimes};
use apiary_engine::laboratory::Laboratory;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// What one computer is.
#[derive(Clone, Copy, Debug)]
pub struct Hardware {
    pub cores: usize,
    pub memory_bytes: u64,
    /// Longest time that one job on its disk takes, in microseconds.
    pub disk_us_max: u64,
    pub clock: SimClock,
    /// What the process has of the memory, in hundredths: rising from the first to the second and back
    /// once in a [`TIDE`], on all computers at once.
    pub resident_percent: (u64, u64),
}

/// See [`Hardware::resident_percent`].
const TIDE: Duration = Duration::from_secs(20);

impl Hardware {
    fn resident_bytes(&self, now: Duration) -> u64 {
        let (low, high) = self.resident_percent;
        let phase = (now.as_millis() % TIDE.as_millis()) as u64 * 200 / TIDE.as_millis() as u64;
        let risen = phase.min(200 - phase);
        self.memory_bytes / 10_000 * (low * 100 + (high - low) * risen)
    }
}

impl Default for Hardware {
    /// A small board: four cores, 1 GiB, an SD card.
    fn default() -> Self {
        Self {
            cores: 4,
            memory_bytes: 1 << 30,
            disk_us_max: 5_000,
            clock: SimClock::default(),
            resident_percent: (12, 12),
        }
    }
}

#[derive(Debug)]
struct SeededEntropy(Mutex<Rng>);

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().fill(bytes);
    }
}

/// Runs a job on the node's own runtime after some simulated time, so jobs overlap and a crash finds
/// them waiting.
#[derive(Debug)]
struct SimBlocking {
    runtime: Handle,
    rng: Mutex<Rng>,
    disk_us_max: u64,
}

impl Blocking for SimBlocking {
    fn run(&self, job: Box<dyn FnOnce() + Send + 'static>) {
        let latency = Duration::from_micros(self.rng.lock().below(self.disk_us_max + 1));
        self.runtime.spawn(async move {
            tokio::time::sleep(latency).await;
            job();
        });
    }
}

#[derive(Debug)]
struct SimMachine {
    hardware: Hardware,
    name: String,
}

impl Machine for SimMachine {
    fn cores(&self) -> usize {
        self.hardware.cores
    }
    fn memory_bytes(&self) -> u64 {
        self.hardware.memory_bytes
    }
    fn resident_bytes(&self) -> u64 {
        self.hardware.resident_bytes(clock::now())
    }
    fn host_name(&self) -> String {
        self.name.clone()
    }
    fn process_id(&self) -> u32 {
        1
    }
}

/// Makes the host of one start of one node.
pub fn host(
    name: &str,
    hardware: Hardware,
    files: &SimFiles,
    runtime: &SimRuntime,
    rng: &Rng,
    trace: &Trace,
) -> Host {
    let handle = runtime.handle().clone();
    Host {
        clock: Arc::new(hardware.clock),
        entropy: Arc::new(SeededEntropy(Mutex::new(rng.fork("entropy")))),
        files: Arc::new(files.clone()),
        blocking: Arc::new(SimBlocking {
            runtime: handle.clone(),
            rng: Mutex::new(rng.fork("disk latency")),
            disk_us_max: hardware.disk_us_max,
        }),
        machine: Arc::new(SimMachine {
            hardware,
            name: name.to_string(),
        }),
        runtimes: Runtimes {
            query: handle.clone(),
            control: handle,
        },
        spill: Some(Arc::new(MemorySpill {
            node: name.to_string(),
            trace: trace.clone(),
        })),
        laboratory: Laboratory::default(),
    }
}
