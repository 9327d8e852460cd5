//! Whole nodes, the real actors and the real engine with DataFusion inside, in one thread on
//! simulated time, over simulated disks and object stores, from one seed.
//!
//! Nothing here is used by another crate. What makes a *process* deterministic (the C library's
//! `getrandom` and `clock_gettime`, addresses) lives in the binary alone, `src/process.rs`.
//!
//! Invariants: a simulation starts no thread; whatever differs between two runs of one seed is a
//! defect of the simulator or of the code under it; nothing of a crashed node runs on.

pub mod checkers;
pub mod clock;
pub mod files;
pub mod host;
pub mod object_store;
pub mod rng;
pub mod scenarios;
pub mod spill;
pub mod trace;
pub mod workload;
pub mod world;
