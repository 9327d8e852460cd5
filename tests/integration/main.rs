//! One binary for all integration tests: linking costs minutes on small machines.
//! They use the public doors only: the command line, the Rust crate, and other people's clients.

mod azure;
mod bad_input;
mod benchmarks;
mod buckets;
mod cache;
mod commands;
mod corruption;
mod distributed_writes;
mod documentation;
mod faults;
mod gcs;
mod inserts;
mod interoperability;
mod keeper;
mod loads;
mod memory;
mod python_sdk;
mod s3;
mod signals;
mod statements;
mod swarm;
mod swarm_faults;
mod tpc;
