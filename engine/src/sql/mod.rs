//! SQL over frames: statements, catalog and table provider, the scan leaf and its codec.

use crate::catalog::{Catalog, FrameEntry};
use crate::error::Result;
use crate::host::Host;
use crate::ledger::Snapshot;
use crate::settings::Settings;
use crate::store::Meadow;
use apiary_protocol::names::{FrameName, Name};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::ExecutionPlan;
use std::sync::Arc;

/// Where snapshots come from: the Ledger actor in a node, the ledger itself in unit tests.
#[async_trait]
pub trait Snapshots: Send + Sync + std::fmt::Debug {
    /// The newest committed snapshot.
    async fn snapshot(&self, frame: &FrameEntry) -> Result<Arc<Snapshot>>;
}

/// What statements are resolved against.
#[derive(Clone, Debug)]
pub struct Environment {
    pub host: Host,
    pub meadow: Meadow,
    pub catalog: Arc<Catalog>,
    pub snapshots: Arc<dyn Snapshots>,
    pub settings: Arc<Settings>,
}

/// What `USE` changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub hive: Name,
    pub box_name: Name,
}

/// A statement of the dialect, parsed and not yet resolved. Parsed once, with DataFusion's parser.
#[derive(Clone, Debug)]
pub enum Statement {
    UseHive(String),
    UseBox(String),
    /// SHOW HIVES / DATABASES
    ShowHives,
    /// SHOW BOXES / SCHEMAS \[IN hive\]
    ShowBoxes { hive: Option<String> },
    /// SHOW FRAMES / TABLES \[IN hive.box\]
    ShowFrames { hive: Option<String>, box_name: Option<String> },
    /// DESCRIBE frame
    Describe { frame: Vec<String> },
    CreateHive { hive: String, if_not_exists: bool },
    CreateBox { hive: Option<String>, box_name: String, if_not_exists: bool },
    CreateFrame { frame: Vec<String>, schema: SchemaRef, partition_by: Vec<String>, if_not_exists: bool },
    /// CREATE TABLE … AS
    CreateFrameAs { frame: Vec<String>, query: Box<datafusion::sql::parser::Statement>, partition_by: Vec<String>, if_not_exists: bool },
    AttachFrame { frame: Vec<String>, location: String, if_not_exists: bool },
    DropHive { hive: String, if_exists: bool, cascade: bool, purge: bool },
    DropBox { hive: Option<String>, box_name: String, if_exists: bool, cascade: bool, purge: bool },
    DropFrame { frame: Vec<String>, if_exists: bool, purge: bool },
    /// INSERT INTO / INSERT OVERWRITE
    Insert { frame: Vec<String>, columns: Vec<String>, source: Box<datafusion::sql::parser::Statement>, overwrite: bool },
    /// SELECT, VALUES, EXPLAIN, SHOW COLUMNS, SHOW settings …
    Query(Box<datafusion::sql::parser::Statement>),
}

/// Splits and parses a text of one or more statements; refuses what is not supported, by name.
pub fn parse(text: &str) -> Result<Vec<Statement>> {
    let _ = text;
    todo!()
}

impl Session {
    /// `default.default`
    pub fn new() -> Result<Self> {
        Ok(Self { hive: Name::new("hive", "default")?, box_name: Name::new("box", "default")? })
    }

    /// Completes a one-, two- or three-part name.
    pub fn resolve(&self, parts: &[String]) -> Result<FrameName> {
        let _ = parts;
        todo!()
    }
}

/// How a query may run: what the crew brings.
#[derive(Clone, Debug)]
pub struct Crew {
    pub bees: usize,
    /// Its memory pool and disk manager are the chamber's.
    pub runtime: Arc<RuntimeEnv>,
    /// Whether joins must be able to spill (an attempt after `Resources exhausted`).
    pub spilling_joins: bool,
    pub batch_rows: usize,
}

/// A query that is ready to execute.
#[derive(Clone, Debug)]
pub struct PlannedQuery {
    pub plan: Arc<dyn ExecutionPlan>,
    pub context: Arc<TaskContext>,
    pub schema: SchemaRef,
    /// Frames that it reads, with the snapshot of each: for conflict rules and EXPLAIN.
    pub frames: Vec<(FrameName, Arc<Snapshot>)>,
    /// Bytes of the cells that are left after pruning.
    pub scan_bytes: u64,
}

/// Resolves frames to snapshots, once each; plans logically and physically.
pub async fn plan_query(
    environment: &Environment,
    session: &Session,
    statement: &datafusion::sql::parser::Statement,
    crew: &Crew,
) -> Result<PlannedQuery> {
    let _ = (environment, session, statement, crew);
    todo!()
}

/// A plan as bytes that another bee, on any node of the same build, can run.
pub fn encode_plan(plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<u8>> {
    let _ = plan;
    todo!()
}

pub fn decode_plan(environment: &Environment, bytes: &[u8], context: &TaskContext) -> Result<Arc<dyn ExecutionPlan>> {
    let _ = (environment, bytes, context);
    todo!()
}
