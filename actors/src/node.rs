//! The root of the tree and the handle that callers hold.

use apiary_engine::catalog::Catalog;
use apiary_engine::error::Result;
use apiary_engine::host::Host;
use apiary_engine::settings::{Backpressure, Settings};
use apiary_engine::sql::{Environment, Session, Statement};
use apiary_engine::store::{Meadow, RequestCounts};
use apiary_protocol::ids::NodeId;
use apiary_protocol::names::FrameName;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::execution::SendableRecordBatchStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// How long a node lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `start`, the embedded crate: heartbeats, keeps house.
    Resident,
    /// One command: no heartbeat, no Keeper, no Forager.
    Brief,
}

/// A running node. Cheap to clone; the last clone does not stop it, [`Node::shutdown`] does.
#[derive(Clone, Debug)]
pub struct Node {}

#[derive(Clone, Debug, Default)]
pub struct QueryOptions {
    /// The node's setting when absent.
    pub deadline: Option<Duration>,
}

#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    pub overwrite: bool,
    /// (appId, version): the same pair commits once, also across restarts.
    pub txn: Option<(String, i64)>,
    /// The node's setting when absent.
    pub backpressure: Option<Backpressure>,
    pub deadline: Option<Duration>,
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

/// Counters that a running query moves; read by a progress bar.
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
    pub cache_bytes: u64,
    pub resident_bytes: u64,
    pub abandoned_tasks: u64,
    pub requests: RequestCounts,
}

impl Node {
    /// Proves the meadow, starts the tree, and returns when it is ready.
    pub async fn start(host: Host, meadow: Meadow, settings: Settings, role: Role) -> Result<Self> {
        let _ = (host, meadow, settings, role);
        todo!()
    }

    pub fn node_id(&self) -> NodeId {
        todo!()
    }

    pub fn environment(&self) -> &Environment {
        todo!()
    }

    /// DDL and names.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.environment().catalog
    }

    /// Runs one statement. Queries return as soon as they are admitted and planned; rows follow.
    pub async fn execute(&self, statement: Statement, session: &Session, options: QueryOptions) -> Result<Answer> {
        let _ = (statement, session, options);
        todo!()
    }

    /// Writes a stream into a frame: append or overwrite, one commit.
    pub async fn write(&self, frame: &FrameName, input: SendableRecordBatchStream, options: WriteOptions) -> Result<WriteReport> {
        let _ = (frame, input, options);
        todo!()
    }

    pub async fn status(&self) -> Result<NodeStatus> {
        todo!()
    }

    /// Refuses new work, finishes what runs, stops every actor. A second call does nothing.
    pub async fn shutdown(&self) -> Result<()> {
        todo!()
    }
}
