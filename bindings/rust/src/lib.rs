//! Apiary inside your program: open storage, make frames, write record batches, query with SQL.
//!
//! Data lies in *frames* (tables), a frame in a *box* (schema), a box in a *hive* (database):
//! `hive.box.frame`. `default.default` always exists. A frame is a Delta Lake table in the storage
//! that the URI names: a directory, `s3://`, `gs://`, `az://`, or `memory://`, which is gone with
//! the object.
//!
//! ```
//! # fn main() -> apiary::Result<()> {
//! use apiary::Apiary;
//!
//! let apiary = Apiary::open_blocking("memory://")?;
//! apiary.block_on(async {
//!     apiary.sql("CREATE TABLE bees (name VARCHAR, age INT)").await?;
//!     apiary.sql("INSERT INTO bees VALUES ('Maja', 1), ('Willi', 2)").await?;
//!     let batches = apiary.sql("SELECT name FROM bees WHERE age > 1").await?.collect().await?;
//!     assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 1);
//!     apiary.shutdown().await
//! })
//! # }
//! ```
//!
//! # Runtimes
//!
//! An [`Apiary`] owns its runtimes: one with as many threads as bees for query work, a small one for
//! everything else. Its futures and streams may be polled from any executor, tokio's or another;
//! [`Apiary::block_on`] is there for programs that have none.
//!
//! # Errors
//!
//! There is one [`Error`]. [`Error::kind`] says what a caller can do: try again, read again before
//! repeating, change the call, or look at the storage.

mod answer;
mod builder;
mod frame;
pub mod host;
mod inspect;
mod namespace;
mod node;
mod runtime;

pub use answer::Answer;
pub use apiary_actors::{
    BeatFacts, BeeStatus, CacheStatus, NodeState, NodeStatus, Progress, QueryOptions, Role,
    RunningClaim, SwarmNode, WriteOptions, WriteReport,
};
pub use apiary_engine::behavior::placement::Distribute;
pub use apiary_engine::settings::{Backpressure, Codec, Settings};
pub use apiary_engine::sql::{Parameter, Parameters, Session, Statement, bind, parse};
pub use apiary_engine::store::RequestCounts;
pub use apiary_engine::{Error, ErrorKind, Result};
pub use apiary_protocol::names::{FrameName, Name, NameError};
pub use builder::Builder;
pub use frame::{Frame, FrameInfo, InputError, ReadOptions};
pub use namespace::{BoxNs, DropOptions, Hive};
pub use node::Apiary;

/// Takes a statement back: see [`QueryOptions::cancel`] and [`WriteOptions::cancel`].
pub use apiary_actors::CancellationToken;

/// The Arrow implementation that this crate's batches and schemas belong to.
pub use arrow;

#[cfg(test)]
mod tests;
