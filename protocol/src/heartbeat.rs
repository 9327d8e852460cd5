//! What a node says of itself: `_swarm/nodes/{node}`, one writer, overwritten.
//!
//! Times in it are durations, never moments: readers count staleness on their own clocks, in
//! multiples of `next_beat_ms`. What it says of load and claims is advice; nothing is committed on
//! the strength of it.

use crate::cache::CachedCells;
use crate::envelope::{self, Body};
use crate::format::FormatError;
use crate::ids::{NodeId, QueryId};
use serde::{Deserialize, Serialize};

/// Longest promise that is believed, in milliseconds.
pub const NEXT_BEAT_MS_MAX: u64 = 600_000;
/// Most claims that one heartbeat lists.
pub const LISTED_COUNT_MAX: usize = 4096;
const TEXT_BYTES_MAX: usize = 256;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub node: NodeId,
    /// For people.
    pub name: String,
    /// Only equal builds run each other's tasks.
    pub build: String,
    /// Grows with every beat of this node.
    pub sequence: u64,
    /// When the next beat will come, in milliseconds after this one.
    pub next_beat_ms: u64,
    /// Bees of this node: cores that it uses.
    pub cores: u32,
    /// Memory that this node's tasks may use together, in bytes.
    pub memory_bytes: u64,
    /// Memory that one bee may use, in bytes.
    pub bee_budget_bytes: u64,
    pub load: Load,
    /// 0..1.
    pub temperature: f64,
    /// Takes no new work: it is going to stop.
    #[serde(default)]
    pub draining: bool,
    /// Tasks of other nodes' queries that it runs now.
    #[serde(default)]
    pub claims: Vec<ClaimProgress>,
    #[serde(default)]
    pub cache: CacheSummary,
}

/// How busy a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    pub bees_busy: u32,
    pub tasks_queued: u32,
    /// Reserved memory over the pool, 0..1.
    pub memory_pressure: f64,
    pub resident_bytes: u64,
}

/// A running claim. One that is missing from later beats, or whose progress stands still, is open
/// again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimProgress {
    pub query: QueryId,
    pub stage: u32,
    pub task: u32,
    pub attempt: u32,
    /// Grows while the task gets on; its unit is the task's own.
    pub progress: u64,
}

/// What is cached here on disk, for placement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheSummary {
    pub used_bytes: u64,
    pub capacity_bytes: u64,
    #[serde(default)]
    pub cells: CachedCells,
}

impl Body for Heartbeat {
    const KIND: u16 = 1;
    const NAME: &'static str = "heartbeat";
    const FORMAT: u16 = 1;
}

impl Heartbeat {
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        self.check()?;
        envelope::seal(self)
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let beat: Self = envelope::open(bytes)?;
        beat.check()?;
        Ok(beat)
    }

    /// Bounds that both sides keep, so that no neighbour makes this node wait or allocate for ever.
    fn check(&self) -> Result<(), FormatError> {
        let fault = |what: &str| {
            Err(FormatError::Corrupt(format!(
                "heartbeat of {}: {what}",
                self.node
            )))
        };
        if self.next_beat_ms == 0 || self.next_beat_ms > NEXT_BEAT_MS_MAX {
            return fault("next_beat_ms is not in 1..=600000");
        }
        if self.cores == 0 {
            return fault("a node has at least one core");
        }
        let is_share = |value: f64| (0.0..=1.0).contains(&value);
        if !is_share(self.temperature) || !is_share(self.load.memory_pressure) {
            return fault("temperature and memory_pressure are in 0..1");
        }
        if self.claims.len() > LISTED_COUNT_MAX {
            return fault("it lists more than 4096 claims");
        }
        if !self.cache.cells.is_sound() {
            return fault("its cached cells are no list of at most 1024 cells");
        }
        if self.name.len() > TEXT_BYTES_MAX || self.build.len() > TEXT_BYTES_MAX {
            return fault("name and build have at most 256 bytes");
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cache::CellIdentity;
    use crate::ids::MeadowId;

    const GOLDEN: &[u8] = include_bytes!("../tests-data/heartbeat-1.bin");

    pub(crate) fn example() -> Heartbeat {
        let meadow = MeadowId::from_random([0x44; 16]);
        let cell = CellIdentity::new(meadow, "a/b", 1 << 30, 0);
        Heartbeat {
            node: NodeId::from_random([0x22; 16]),
            name: "garden".into(),
            build: "apiary 0.1.0".into(),
            sequence: 7,
            next_beat_ms: 5_000,
            cores: 4,
            memory_bytes: 2 << 30,
            bee_budget_bytes: 512 << 20,
            load: Load {
                bees_busy: 1,
                tasks_queued: 2,
                memory_pressure: 0.25,
                resident_bytes: 90 << 20,
            },
            temperature: 0.5,
            draining: false,
            claims: vec![ClaimProgress {
                query: QueryId::from_random([0x33; 16]),
                stage: 1,
                task: 2,
                attempt: 0,
                progress: 1 << 40,
            }],
            cache: CacheSummary {
                used_bytes: 10,
                capacity_bytes: 100,
                cells: CachedCells::new([(cell.digest(), 3)]),
            },
        }
    }

    #[test]
    fn format_1_is_read_for_ever_and_written_the_same() -> Result<(), FormatError> {
        assert_eq!(Heartbeat::from_bytes(GOLDEN)?, example());
        let written = envelope::inspect(&example().to_bytes()?)?;
        let golden = envelope::inspect(GOLDEN)?;
        for field in ["kind", "format", "body"] {
            assert_eq!(written[field], golden[field]);
        }
        Ok(())
    }

    #[test]
    fn what_is_out_of_bounds_is_neither_written_nor_believed() -> Result<(), FormatError> {
        let faults: [fn(&mut Heartbeat); 6] = [
            |beat| beat.next_beat_ms = 0,
            |beat| beat.next_beat_ms = u64::MAX,
            |beat| beat.temperature = f64::NAN,
            |beat| beat.load.memory_pressure = 1.5,
            |beat| beat.cores = 0,
            |beat| beat.name = "x".repeat(257),
        ];
        for fault in faults {
            let mut beat = example();
            fault(&mut beat);
            assert!(beat.to_bytes().is_err());
            assert!(Heartbeat::from_bytes(&envelope::seal(&beat)?).is_err());
        }
        Ok(())
    }
}
