//! The objects of one distributed query, all under `_swarm/queries/{query}/`.
//!
//! Each is created once and never overwritten: the plan by its coordinator, an output by whichever
//! bee finished the task first, a claim and a failure by whoever made the attempt, the end by whoever
//! ended the query. Times in them are durations. What they say is checked before it is used: no
//! length, index or key in them is believed.

use crate::delta::Add;
use crate::envelope::{self, Body};
use crate::format::FormatError;
use crate::ids::{AttemptId, NodeId, QueryId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most stages of one query.
pub const STAGES_MAX: usize = 1_000;
/// Most tasks of one stage.
pub const TASKS_MAX: usize = 10_000;
/// Most attempts at one task.
pub const ATTEMPTS_MAX: u32 = 64;
/// Most partitions of one output.
pub const PARTITIONS_MAX: usize = 1 << 20;
/// Most cells that one task of a write may name.
pub const CELLS_MAX: usize = 1 << 20;
/// Bytes of text in an error, a reason or a build.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// A task of a query: the `task`-th of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskKey {
    /// Counted from 1, the lowest first: a stage reads only stages before it.
    pub stage: u32,
    pub task: u32,
}

/// `plan`: what is to be run, and by whom preferably. Written by the coordinator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueryPlan {
    pub query: QueryId,
    pub coordinator: NodeId,
    /// Only nodes of this build run its tasks.
    pub build: String,
    /// How long the query may take, in milliseconds from when the plan was written.
    pub deadline_ms: u64,
    /// Options of the planning session that differ from their defaults; operators read them when
    /// they run.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    pub stages: Vec<StagePlan>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagePlan {
    pub stage: u32,
    /// Stages whose outputs it reads: of all their tasks.
    pub inputs: Vec<u32>,
    /// Partitions of each task's output.
    pub partitions: u32,
    /// Every task that reads of its outputs reads all of them.
    pub is_read_whole: bool,
    pub tasks: Vec<TaskPlan>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskPlan {
    /// The physical plan of this task, as the planner's build writes it.
    #[serde(with = "crate::binary")]
    pub plan: Vec<u8>,
    /// The node that just starts. Without one, whoever claims it first runs it.
    #[serde(default)]
    pub preferred: Option<NodeId>,
    /// Why there, for people.
    #[serde(default)]
    pub reason: String,
    /// What one attempt should have; a bee with less leaves it to others.
    pub memory_bytes: u64,
    /// Bytes of the cells that it scans.
    pub scan_bytes: u64,
}

/// `claims/…`: an attempt that somebody other than the preferred node begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub node: NodeId,
    pub key: TaskKey,
    pub attempt: u32,
    /// Makes the bytes unique.
    pub id: AttemptId,
}

/// `outputs/…`: what became of a task. Chunks follow the envelope, or are in an object of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    pub query: QueryId,
    pub key: TaskKey,
    pub node: NodeId,
    /// `bee-0`, …
    pub bee: String,
    pub attempt: u32,
    /// Makes the bytes unique, and names the data object.
    pub id: AttemptId,
    pub facts: TaskFacts,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Rows {
        /// The chunks are in the object `data/{stage}-{task}-{id}`, not behind this index.
        apart: bool,
        partitions: Partitions,
    },
    /// Cells of a write, in the frame's location and in no ledger yet.
    Cells(Cells),
    /// No attempt can succeed: the query fails with this.
    Failed(TaskError),
}

/// What a task of a write leaves: its part of one commit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cells {
    /// In path order.
    pub adds: Vec<Add>,
    pub rows: u64,
    /// Sizes of all cells together.
    pub bytes: u64,
    /// For people, a sentence each.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The partitions of an output. Each is an Arrow IPC stream in chunks, which are streams of their own.
///
/// Flat, because a node of a large swarm has the indexes of hundreds of outputs in memory, each of
/// hundreds of partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partitions {
    /// By partition: how many chunks there are up to its end.
    ends: Vec<u32>,
    chunks: Vec<Chunk>,
}

impl FromIterator<Vec<Chunk>> for Partitions {
    fn from_iter<I: IntoIterator<Item = Vec<Chunk>>>(partitions: I) -> Self {
        let mut flat = Self::default();
        for chunks in partitions {
            flat.chunks.extend(chunks);
            // More than four thousand million chunks are in no memory.
            flat.ends.push(flat.chunks.len() as u32);
        }
        flat
    }
}

impl Partitions {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// The chunks of one of them.
    pub fn get(&self, partition: usize) -> Option<&[Chunk]> {
        let end = *self.ends.get(partition)? as usize;
        let start = match partition {
            0 => 0,
            _ => self.ends[partition - 1] as usize,
        };
        self.chunks.get(start..end)
    }

    /// Chunks lie one behind the other, without a gap; a reader can trust sums of their lengths.
    fn check(&self) -> Check {
        if self.ends.len() > PARTITIONS_MAX {
            return Err(format!("an output of {} partitions", self.ends.len()));
        }
        let last = self.ends.last().map_or(0, |end| *end as usize);
        if !self.ends.is_sorted() || last != self.chunks.len() {
            return Err(format!("{} chunks of no partition", self.chunks.len()));
        }
        let mut chunks: Vec<&Chunk> = self.chunks.iter().collect();
        chunks.sort_by_key(|chunk| chunk.offset);
        let mut end = 0_u64;
        for chunk in chunks {
            if chunk.offset != end || chunk.length == 0 {
                return Err(format!("a chunk at {}, not at {end}", chunk.offset));
            }
            end = end
                .checked_add(chunk.length)
                .ok_or("chunks longer than any object")?;
        }
        Ok(())
    }
}

/// In an object without the names of its fields, for the same reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64, u32)", into = "(u64, u64, u32)")]
pub struct Chunk {
    /// From the first byte of the chunks.
    pub offset: u64,
    pub length: u64,
    /// CRC-32 (IEEE) of its bytes.
    pub crc32: u32,
}

impl From<(u64, u64, u32)> for Chunk {
    fn from((offset, length, crc32): (u64, u64, u32)) -> Self {
        Self {
            offset,
            length,
            crc32,
        }
    }
}

impl From<Chunk> for (u64, u64, u32) {
    fn from(chunk: Chunk) -> Self {
        (chunk.offset, chunk.length, chunk.crc32)
    }
}

/// What an attempt took, for EXPLAIN ANALYZE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFacts {
    pub rows: u64,
    pub bytes: u64,
    /// From when its inputs were there to when a bee took it.
    pub waited_ms: u64,
    pub duration_ms: u64,
    pub budget_bytes: u64,
    pub peak_bytes: u64,
    /// What its node's cache gave: parts of cells, their bytes, reads that needed no request.
    #[serde(default)]
    pub cache_hits: u64,
    #[serde(default)]
    pub cached_bytes: u64,
    #[serde(default)]
    pub requests_saved: u64,
    pub spilled_bytes: u64,
    pub read_bytes: u64,
    pub requests: u64,
    /// Coordinating storage operations that had to follow each other, from the put of the plan to the
    /// put of this output.
    #[serde(default)]
    pub path: u32,
}

/// Why a task failed: enough for the coordinator to tell its caller what a local failure would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskError {
    pub class: ErrorClass,
    /// The object that is corrupt.
    #[serde(default)]
    pub object: Option<String>,
    pub message: String,
}

/// Errors by what a caller can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    Retry,
    Rejected,
    Corrupt,
    Memory,
    /// An output of an earlier stage cannot be read: the whole query is run once more.
    Input,
    Bug,
}

/// `failures/…`: an attempt that failed and may be followed by another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub key: TaskKey,
    pub node: NodeId,
    pub bee: String,
    pub attempt: u32,
    pub id: AttemptId,
    /// How this attempt was run, in words.
    pub strategy: String,
    pub budget_bytes: u64,
    pub duration_ms: u64,
    pub error: TaskError,
}

/// `end`: the query is over, whatever is still running for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub query: QueryId,
    /// Who ended it.
    pub node: NodeId,
    pub id: AttemptId,
    pub reason: EndReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    Answered,
    Failed,
    Cancelled,
    Deadline,
    /// Its coordinator is dead.
    Abandoned,
}

/// `_swarm/bell`: something changed. Last writer wins; losing it costs time only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bell {
    pub id: AttemptId,
    /// The newest queries that the ringer knows, newest last.
    pub queries: Vec<QueryId>,
}

/// Most queries that a bell names.
pub const BELL_QUERIES_MAX: usize = 16;

macro_rules! body {
    ($type:ident, $kind:literal, $name:literal) => {
        impl Body for $type {
            const KIND: u16 = $kind;
            const NAME: &'static str = $name;
            const FORMAT: u16 = 1;
        }

        impl $type {
            pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
                envelope::seal(self)
            }

            /// Refuses what is out of bounds.
            pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
                let body: Self = envelope::open(bytes)?;
                body.check().map_err(FormatError::Corrupt)?;
                Ok(body)
            }
        }
    };
}

body!(QueryPlan, 2, "query plan");
body!(Claim, 3, "claim");
body!(Output, 4, "task output");
body!(Failure, 5, "failure");
body!(End, 6, "end of a query");
body!(Bell, 7, "bell");

type Check = Result<(), String>;

fn text(what: &str, text: &str) -> Check {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("{what} has more than {TEXT_BYTES_MAX} bytes"));
    }
    Ok(())
}

impl QueryPlan {
    /// Stages are numbered 1, 2, … in order and read only earlier ones.
    fn check(&self) -> Check {
        if self.stages.len() > STAGES_MAX {
            return Err(format!("a plan of more than {STAGES_MAX} stages"));
        }
        text("the build", &self.build)?;
        for (index, stage) in self.stages.iter().enumerate() {
            let number = stage.stage;
            if number as usize != index + 1 {
                return Err(format!("stage {number} in place {}", index + 1));
            }
            if stage.tasks.is_empty() || stage.tasks.len() > TASKS_MAX {
                return Err(format!("stage {number} has {} tasks", stage.tasks.len()));
            }
            if stage.partitions as usize > PARTITIONS_MAX {
                return Err(format!(
                    "stage {number} has {} partitions",
                    stage.partitions
                ));
            }
            if stage
                .inputs
                .iter()
                .any(|input| *input == 0 || *input >= number)
            {
                return Err(format!(
                    "stage {number} reads a stage that is not before it"
                ));
            }
        }
        Ok(())
    }

    pub fn stage(&self, stage: u32) -> Option<&StagePlan> {
        self.stages.get((stage as usize).checked_sub(1)?)
    }

    pub fn task(&self, key: TaskKey) -> Option<&TaskPlan> {
        self.stage(key.stage)?.tasks.get(key.task as usize)
    }

    /// All tasks, stage by stage.
    pub fn keys(&self) -> impl Iterator<Item = TaskKey> + '_ {
        self.stages.iter().flat_map(|stage| {
            (0..stage.tasks.len() as u32).map(|task| TaskKey {
                stage: stage.stage,
                task,
            })
        })
    }
}

impl Claim {
    fn check(&self) -> Check {
        if self.attempt > ATTEMPTS_MAX {
            return Err(format!("attempt {}", self.attempt));
        }
        Ok(())
    }
}

impl Output {
    fn check(&self) -> Check {
        text("the bee's name", &self.bee)?;
        match &self.outcome {
            Outcome::Failed(error) => text("the error", &error.message),
            Outcome::Cells(cells) => cells.check(),
            Outcome::Rows { partitions, .. } => partitions.check(),
        }
    }

    /// Bytes of all chunks.
    pub fn data_bytes(&self) -> u64 {
        match &self.outcome {
            Outcome::Failed(_) | Outcome::Cells(_) => 0,
            Outcome::Rows { partitions, .. } => {
                partitions.chunks.iter().map(|chunk| chunk.length).sum()
            }
        }
    }
}

impl Cells {
    /// Paths are distinct; sizes make the sum. Whether a path stays in the location is for whoever
    /// knows the location.
    fn check(&self) -> Check {
        if self.adds.len() > CELLS_MAX {
            return Err(format!("a task of {} cells", self.adds.len()));
        }
        let mut bytes = 0_u64;
        for (index, add) in self.adds.iter().enumerate() {
            if index > 0 && self.adds[index - 1].path >= add.path {
                return Err(format!("cell {:?} is out of order", add.path));
            }
            let size = u64::try_from(add.size).map_err(|_| format!("a cell of {}", add.size))?;
            bytes = bytes.checked_add(size).ok_or("cells without end")?;
        }
        if bytes != self.bytes {
            return Err(format!("cells of {bytes} bytes, not {}", self.bytes));
        }
        let mut warnings = self.warnings.iter();
        warnings.try_for_each(|warning| text("a warning", warning))
    }
}

impl Failure {
    fn check(&self) -> Check {
        text("the error", &self.error.message)?;
        text("the strategy", &self.strategy)
    }
}

impl End {
    fn check(&self) -> Check {
        Ok(())
    }
}

impl Bell {
    fn check(&self) -> Check {
        if self.queries.len() > BELL_QUERIES_MAX {
            return Err(format!("a bell for {} queries", self.queries.len()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
