//! Mistakes on purpose: what the simulations must find (see `simulations`). This module is in no build
//! but those with the feature `planted`, which nothing but the simulations asks for; without it,
//! [`planted!`](crate::planted) is the constant `false`, and what hangs on it is not compiled in.

use std::sync::atomic::{AtomicU8, Ordering};

/// Is in a program if and only if mistakes can be switched on in it.
pub const MARK: &str = "this build has planted mistakes";

static PLANTED: AtomicU8 = AtomicU8::new(0);

/// A kind of mistake that an invariant is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mistake {
    /// A create whose reply was lost is taken for one that did not happen.
    NoReadBack = 1,
    /// A refused create is taken for an own one that landed before.
    RefusalIsOurs,
    /// Commits and cells are acknowledged before they are synced.
    NoSync,
    /// A version is put, not created.
    CommitOverwritten,
    /// A version of the registry is put, not created.
    RegistryOverwritten,
    /// What another writer won with is forgotten when a commit is rebased.
    StaleRebase,
    /// A version that somebody else got is taken for the own one.
    LostIsLanded,
    /// A repeated transaction is committed again.
    TransactionForgotten,
    /// A load that begins at a checkpoint leaves out the version after it.
    CommitSkipped,
    /// A cached snapshot is used without a look for the next version.
    StaleSnapshot,
    /// Cells that versions name are taken for orphans.
    NamedCellSwept,
    /// A frame that is made anew gets the place of the one before.
    PlaceReused,
    /// A maker of a frame leaves no mark.
    NoMark,
    /// A task's output is put, not created.
    OutputOverwritten,
    /// Rows of an output are not compared with their checksum.
    ChunkUnchecked,
    /// Whose output it is that was read is not compared.
    OutputUnchecked,
    /// The last producer of a shuffle is not read.
    ProducerMissed,
    /// A task starts before all of its inputs are there, and what is not there is empty.
    AbsentIsEmpty,
    /// A claim whose holder is gone is never open again.
    ClaimKept,
    /// A task that lost an input is given back, without a word to the query.
    LostInputKept,
    /// A query that is dropped by its client is not ended.
    CancelLost,
    /// What others' queries have written is swept while they run.
    LiveQuerySwept,
    /// The heartbeat stays when a node stops.
    HeartbeatKept,
    /// An unknown outcome of a commit is told as success.
    UnknownIsSuccess,
    /// A part of a cell on the disk is believed as it is.
    CacheUnchecked,
    /// Other nodes are dead or alive by the time that this one's wall clock shows.
    WallClock,
    /// Actions of a commit are not compared with its count and checksum.
    CommitUnchecked,
}

/// Switches one mistake on, for the rest of this process.
pub fn plant(mistake: Mistake) {
    PLANTED.store(mistake as u8, Ordering::Relaxed);
}

/// Whether a mistake is switched on.
pub fn is(mistake: Mistake) -> bool {
    std::hint::black_box(MARK);
    PLANTED.load(Ordering::Relaxed) == mistake as u8
}
