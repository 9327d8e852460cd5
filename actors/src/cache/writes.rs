//! What is going to be written to the disk and removed from it, in order.
//!
//! Invariants: parts that wait have at most `bytes_max` bytes together; a job removes what goes for its
//! part before it writes it.

use apiary_engine::cache::{PartFiles, PartIndex};
use apiary_protocol::cache::{CellDigest, CellIdentity, PartId, PartName, UseOrder};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// After a write that failed (the disk is full, as a rule) nothing is kept for so long.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(60);

pub(super) struct Writes {
    steps: VecDeque<Step>,
    in_hand: BTreeMap<PartId, InHand>,
    in_hand_bytes: u64,
    bytes_max: u64,
    paused_until: Option<Duration>,
}

enum Step {
    Write(PartId),
    Remove(PartName),
    Save,
}

/// A part that was fetched and is not on disk yet.
pub(super) struct InHand {
    pub(super) cell: Arc<CellIdentity>,
    index: u32,
    pub(super) bytes: Bytes,
}

/// The next job, and what planning it did.
#[derive(Default)]
pub(super) struct Next {
    pub(super) job: Option<Job>,
    pub(super) evicted: u64,
    /// Parts for which there is no room.
    pub(super) dropped: u64,
}

/// Work on the disk.
#[derive(Default)]
pub(super) struct Job {
    gone: Vec<PartName>,
    work: Option<Work>,
}

enum Work {
    Save(UseOrder),
    Write {
        cell: Arc<CellIdentity>,
        index: u32,
        bytes: Bytes,
    },
}

/// Work on the disk that has ended.
pub(crate) struct Done {
    /// What was to be written.
    pub(super) part: Option<PartName>,
    /// What was to be removed and is there still.
    pub(super) left: Vec<PartName>,
    pub(super) result: io::Result<()>,
}

impl Writes {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            steps: VecDeque::new(),
            in_hand: BTreeMap::new(),
            in_hand_bytes: 0,
            bytes_max,
            paused_until: None,
        }
    }

    pub(super) fn find(&self, part: PartId) -> Option<&InHand> {
        self.in_hand.get(&part)
    }

    /// Takes a part to be written; false when there is no room for it among those that wait.
    pub(super) fn offer(
        &mut self,
        now: Duration,
        cell: &Arc<CellIdentity>,
        index: u32,
        bytes: &Bytes,
    ) -> bool {
        let bytes_then = self.in_hand_bytes + bytes.len() as u64;
        let is_paused = self.paused_until.is_some_and(|until| now < until);
        if is_paused || bytes_then > self.bytes_max {
            return false;
        }
        self.in_hand_bytes = bytes_then;
        let in_hand = InHand {
            cell: cell.clone(),
            index,
            // It came with others, and would keep all of them.
            bytes: Bytes::copy_from_slice(bytes),
        };
        self.in_hand.insert(cell.part(index), in_hand);
        self.steps.push_back(Step::Write(cell.part(index)));
        true
    }

    pub(super) fn remove(&mut self, names: impl IntoIterator<Item = PartName>) {
        self.steps.extend(names.into_iter().map(Step::Remove));
    }

    pub(super) fn save(&mut self) {
        self.steps.push_back(Step::Save);
    }

    pub(super) fn let_go(&mut self, part: PartId) -> Option<InHand> {
        let in_hand = self.in_hand.remove(&part)?;
        self.in_hand_bytes -= in_hand.bytes.len() as u64;
        Some(in_hand)
    }

    /// Lets go what waits of a cell; says how many parts that were.
    pub(super) fn forget(&mut self, cell: CellDigest) -> usize {
        let waiting = self.in_hand.keys().copied();
        let waiting: Vec<PartId> = waiting.filter(|part| part.cell == cell).collect();
        waiting
            .into_iter()
            .filter_map(|part| self.let_go(part))
            .count()
    }

    /// Gives up what waits, and takes nothing for a while; says how many parts that were.
    pub(super) fn failed(&mut self, now: Duration) -> u64 {
        self.paused_until = Some(now + PAUSE_AFTER_FAILURE);
        self.in_hand_bytes = 0;
        std::mem::take(&mut self.in_hand).len() as u64
    }

    /// Takes the steps up to the next write, and makes room for that.
    pub(super) fn next(&mut self, index: &mut PartIndex) -> Next {
        let mut next = Next::default();
        let mut job = Job::default();
        while job.work.is_none()
            && let Some(step) = self.steps.pop_front()
        {
            match step {
                Step::Remove(name) => job.gone.push(name),
                Step::Save => job.work = Some(Work::Save(index.order())),
                Step::Write(part) => {
                    // One that is not wanted any more is not in hand.
                    let Some(in_hand) = self.in_hand.get(&part) else {
                        continue;
                    };
                    let Some(evicted) = index.make_room(in_hand.bytes.len() as u32) else {
                        next.dropped += 1;
                        self.let_go(part);
                        continue;
                    };
                    job.work = Some(Work::Write {
                        cell: in_hand.cell.clone(),
                        index: in_hand.index,
                        bytes: in_hand.bytes.clone(),
                    });
                    next.evicted += evicted.len() as u64;
                    job.gone.extend(evicted);
                }
            }
        }
        let is_empty = job.gone.is_empty() && job.work.is_none();
        next.job = (!is_empty).then_some(job);
        next
    }
}

impl Job {
    /// Blocks. Writes nothing when something that has to go first does not.
    pub(super) fn run(self, files: &PartFiles) -> Done {
        let mut done = Done {
            part: None,
            left: Vec::new(),
            result: Ok(()),
        };
        for name in self.gone {
            if let Err(error) = files.remove(&name) {
                done.left.push(name);
                done.result = Err(error);
            }
        }
        if done.result.is_err() {
            return done;
        }
        done.result = match self.work {
            None => Ok(()),
            Some(Work::Save(order)) => files.write_order(&order),
            Some(Work::Write { cell, index, bytes }) => {
                done.part = Some(cell.part_name(index));
                files.write(&cell, index, &bytes)
            }
        };
        done
    }
}

impl Done {
    pub(super) fn failed(error: io::Error) -> Self {
        Self {
            part: None,
            left: Vec::new(),
            result: Err(error),
        }
    }
}
