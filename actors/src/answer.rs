//! What callers give with a statement and what they get.

use crate::cache::CacheStatus;
use apiary_engine::error::Result;
use apiary_engine::settings::Backpressure;
use apiary_engine::sql::Session;
use apiary_engine::store::RequestCounts;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use futures::StreamExt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug, Default)]
pub struct QueryOptions {
    /// The node's setting when absent.
    pub deadline: Option<Duration>,
    /// Moves while the statement runs. An INSERT or CREATE TABLE AS only answers when it is done, so
    /// whoever wants to see it move keeps a clone.
    pub progress: Arc<Progress>,
    /// Takes the statement back, until it has an answer, with `Error::Cancelled`. One that has begun
    /// to change something goes on, and its outcome is told as ever.
    pub cancel: Option<CancellationToken>,
    /// Says which columns the answer has, from those of the statement: the same ones in other types. Who
    /// computes the rows changes them, so that none waits for its client in a form that it does not want.
    pub presented: Option<fn(&Schema) -> SchemaRef>,
}

#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    pub overwrite: bool,
    /// (appId, version): the same pair commits once, also across restarts.
    pub txn: Option<(String, i64)>,
    /// The node's setting when absent.
    pub backpressure: Option<Backpressure>,
    pub deadline: Option<Duration>,
    /// Takes the write back with `Error::Cancelled`; one that is committing already goes on, and its
    /// outcome is told as ever.
    pub cancel: Option<CancellationToken>,
}

/// What a write did.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct WriteReport {
    pub version: u64,
    pub rows_written: u64,
    pub cells_written: u64,
    pub bytes_written: u64,
    pub duration_ms: u64,
    pub temperature: f64,
    pub warnings: Vec<String>,
}

/// Counters that a running statement moves; read by a progress bar.
#[derive(Debug, Default)]
pub struct Progress {
    pub bytes_total: AtomicU64,
    pub bytes_done: AtomicU64,
    pub rows_done: AtomicU64,
}

/// The answer to one statement. Dropping it cancels the query and frees everything at once.
pub struct Answer {
    pub schema: SchemaRef,
    pub batches: futures::stream::BoxStream<'static, Result<RecordBatch>>,
    /// False for a statement without a result (CREATE, DROP, INSERT).
    pub has_rows: bool,
    /// The session after the statement (`USE` changes it).
    pub session: Session,
    pub write: Option<WriteReport>,
    pub progress: Arc<Progress>,
}

#[derive(Clone, Debug, serde::Serialize)]
pub struct BeeStatus {
    /// `bee-0`, …
    pub bee_id: String,
    /// `idle` or `busy(<task>)`.
    pub state: String,
    pub memory_used_bytes: u64,
    pub memory_budget_bytes: u64,
}

#[derive(Clone, Debug, serde::Serialize)]
pub struct NodeStatus {
    pub node_id: String,
    pub name: String,
    pub storage: String,
    pub uptime_ms: u64,
    pub bees: Vec<BeeStatus>,
    pub queued_tasks: usize,
    pub running_queries: usize,
    pub temperature: f64,
    /// cold, ideal, warm, hot, critical
    pub regulation: String,
    pub memory_bytes: u64,
    pub memory_per_bee_bytes: u64,
    pub target_cell_bytes: u64,
    /// Footers of cells in memory.
    pub footer_bytes: u64,
    /// Parts of cells on local disk; absent when there are none to be kept.
    pub cache: Option<CacheStatus>,
    pub resident_bytes: u64,
    /// Results that wait in memory for their clients.
    pub results_bytes: u64,
    /// Frames whose newest snapshot is kept.
    pub cached_snapshots: usize,
    pub commits_in_flight: usize,
    pub abandoned_tasks: u64,
    pub requests: RequestCounts,
}

impl Answer {
    pub(crate) fn without_rows(session: Session, write: Option<WriteReport>) -> Self {
        Self {
            schema: Arc::new(Schema::empty()),
            batches: futures::stream::empty().boxed(),
            has_rows: false,
            session,
            write,
            progress: Arc::default(),
        }
    }
}
