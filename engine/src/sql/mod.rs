//! SQL over frames: statements, names, the table provider, the scan leaf and its codec.
//!
//! Text becomes statements ([`parse`]); a query's names become snapshots and its statement a physical
//! plan ([`plan_query`]); everything else that is not a write runs in [`run_catalog_statement`]. This
//! module runs no plan: a chamber does.

mod anew;
mod bounds;
mod codec;
mod deletions;
mod dialect;
mod distincts;
mod explain;
mod footers;
mod grouping_sets;
mod insert;
mod large_limits;
mod names;
mod nested_loops;
mod parameters;
mod pieces;
mod plan;
mod provider;
mod pruning;
mod reader;
mod scan;
mod semi_joins;
mod source;
mod spilling;
mod statements;
mod types;
mod windows;
mod yielding;

#[cfg(test)]
pub(crate) mod tests;

pub use codec::{FrameCodec, decode_plan, encode_plan};
pub(crate) use codec::{encode_read, encode_write};
pub use dialect::parse;
pub use explain::{CacheTotals, ScanTotals, explain_rows, scan_totals, scanned_cells};
pub use insert::plan_insert;
pub use names::Frames;
pub use parameters::{Parameter, Parameters, bind};
pub(crate) use plan::guarded;
pub use plan::{plan_query, task_context};
pub use scan::{FrameScanExec, ScanIdentity};
pub use spilling::spill_joins;
pub use statements::run_catalog_statement;
pub(crate) use yielding::with_yielding_joins;

use crate::behavior::abandonment::SpillingJoins;
use crate::cache::CellParts;
use crate::catalog::{Catalog, FrameEntry};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::laboratory::Cores;
use crate::ledger::Snapshot;
use crate::settings::Settings;
use crate::store::Meadow;
use apiary_protocol::names::Name;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::parser::Statement as DfStatement;
use std::sync::Arc;

/// The synthetic store that plans name; what it is, is the reader's own meadow.
const MEADOW_URL: &str = "apiary://meadow/";

/// Where snapshots come from: the Ledger actor in a node, the ledger itself in unit tests.
#[async_trait]
pub trait Snapshots: Send + Sync + std::fmt::Debug {
    /// The newest committed snapshot.
    async fn snapshot(&self, frame: &FrameEntry) -> Result<Arc<Snapshot>>;
}

/// What queries leave behind for later ones, bounded and true for ever: footers of immutable cells.
/// One for a node.
#[derive(Debug, Default)]
pub struct Caches {
    footers: Arc<footers::FooterCache>,
    parts: Option<Arc<dyn CellParts>>,
    /// Where the time of work is simulated.
    cores: Option<Arc<Cores>>,
}

impl Caches {
    /// Footers of at most `footer_bytes_max` together in memory; parts of cells where somebody keeps
    /// them.
    pub fn new(footer_bytes_max: usize, parts: Option<Arc<dyn CellParts>>) -> Self {
        Self {
            footers: Arc::new(footers::FooterCache::new(footer_bytes_max)),
            parts,
            cores: None,
        }
    }

    /// The same on cores whose time is simulated.
    pub fn on_cores(self, cores: Option<Arc<Cores>>) -> Self {
        Self { cores, ..self }
    }

    /// Bytes of memory that footers hold now.
    pub fn used_bytes(&self) -> usize {
        self.footers.used_bytes()
    }
}

/// What statements are resolved against.
#[derive(Clone, Debug)]
pub struct Environment {
    pub host: Host,
    pub meadow: Meadow,
    pub catalog: Arc<Catalog>,
    pub snapshots: Arc<dyn Snapshots>,
    pub settings: Arc<Settings>,
    pub caches: Arc<Caches>,
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
    /// SHOW HIVES / DATABASES \[LIKE pattern\]
    ShowHives {
        like: Option<String>,
    },
    /// SHOW BOXES / SCHEMAS \[IN hive\] \[LIKE pattern\]
    ShowBoxes {
        hive: Option<String>,
        like: Option<String>,
    },
    /// SHOW FRAMES / TABLES \[IN hive.box\] \[LIKE pattern\]
    ShowFrames {
        hive: Option<String>,
        box_name: Option<String>,
        like: Option<String>,
    },
    /// SHOW COLUMNS IN frame \[LIKE pattern\]
    ShowColumns {
        frame: Vec<String>,
        like: Option<String>,
    },
    /// DESCRIBE frame
    Describe {
        frame: Vec<String>,
    },
    CreateHive {
        hive: String,
        if_not_exists: bool,
    },
    CreateBox {
        hive: Option<String>,
        box_name: String,
        if_not_exists: bool,
    },
    CreateFrame {
        frame: Vec<String>,
        schema: SchemaRef,
        partition_by: Vec<String>,
        if_not_exists: bool,
    },
    /// CREATE TABLE … AS
    CreateFrameAs {
        frame: Vec<String>,
        query: Box<DfStatement>,
        partition_by: Vec<String>,
        if_not_exists: bool,
    },
    AttachFrame {
        frame: Vec<String>,
        location: String,
        if_not_exists: bool,
    },
    DropHive {
        hive: String,
        if_exists: bool,
        cascade: bool,
        purge: bool,
    },
    DropBox {
        hive: Option<String>,
        box_name: String,
        if_exists: bool,
        cascade: bool,
        purge: bool,
    },
    DropFrame {
        frame: Vec<String>,
        if_exists: bool,
        purge: bool,
    },
    /// INSERT INTO / INSERT OVERWRITE
    Insert {
        frame: Vec<String>,
        columns: Vec<String>,
        source: Box<DfStatement>,
        overwrite: bool,
    },
    /// SELECT, VALUES, EXPLAIN, SHOW settings …
    Query(Box<DfStatement>),
}

impl Statement {
    /// Whether it makes or drops names: then it may have an effect before it ends.
    pub fn changes_names(&self) -> bool {
        matches!(
            self,
            Self::CreateHive { .. }
                | Self::CreateBox { .. }
                | Self::CreateFrame { .. }
                | Self::CreateFrameAs { .. }
                | Self::AttachFrame { .. }
                | Self::DropHive { .. }
                | Self::DropBox { .. }
                | Self::DropFrame { .. }
        )
    }
}

/// Marks the session of a plan that is going to be cut: no scan of it has a single partition, or the
/// planner would leave out what puts the results of several together.
#[derive(Debug)]
pub(crate) struct ForSwarm;

/// How a query may run: what the crew brings.
#[derive(Clone, Debug)]
pub struct Crew {
    pub bees: usize,
    /// Its memory pool and disk manager are the chamber's.
    pub runtime: Arc<RuntimeEnv>,
    /// Which joins must be able to spill (in attempts after `Resources exhausted`).
    pub spilling_joins: SpillingJoins,
    pub batch_rows: usize,
    /// The plan is going to be cut into tasks for several nodes.
    pub for_swarm: bool,
}

/// A query that is ready to execute.
#[derive(Clone, Debug)]
pub struct PlannedQuery {
    pub plan: Arc<dyn ExecutionPlan>,
    pub context: Arc<TaskContext>,
    pub schema: SchemaRef,
    pub frames: Frames,
    /// Bytes of the cells that are left after pruning.
    pub scan_bytes: u64,
    /// For each column whether all its values are written in the statement.
    pub literals: Vec<bool>,
}

/// Makes the meadow known to a runtime under the synthetic URL.
fn register_meadow(meadow: &Meadow, runtime: &RuntimeEnv) -> Result<()> {
    let url = url::Url::parse(MEADOW_URL).map_err(|error| Error::Bug(error.to_string()))?;
    runtime.register_object_store(&url, Arc::clone(meadow.object_store()));
    Ok(())
}
