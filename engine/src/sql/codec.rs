//! Physical plans as bytes that another bee of the same build can run.
//!
//! DataFusion's own serialisation drops what makes a scan ours (deletion vectors, identity, the
//! checking reader), so the scan leaf is written as an extension node: its description and cells in
//! MessagePack, and its template as DataFusion writes it, as the node's input. Decoding attaches the
//! decoder's meadow and caches. The bytes name no credentials and no store.

use super::anew::AnewExec;
use super::grouping_sets::GroupingSetsExec;
use super::pieces::Piece;
use super::scan::{FrameScanExec, ScanIdentity};
use super::windows::WindowPiecesExec;
use super::{Caches, Environment};
use crate::distributed::{CellWriteExec, EncodedRead, EncodedSink, ExchangeReadExec};
use crate::error::{Error, Result};
use crate::ledger::Cell;
use crate::store::Meadow;
use apiary_protocol::delta::{Add, DeletionVector, StringMap};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::proto::ExecutionPlanEncodeCtx;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use datafusion_proto::bytes::{
    physical_plan_from_bytes_with_proto_converter, physical_plan_to_bytes_with_proto_converter,
};
use datafusion_proto::physical_plan::{
    AsExecutionPlan, DeduplicatingProtoConverter, PhysicalExtensionCodec,
    PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::PhysicalPlanNode;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

type DfResult<T> = datafusion::common::Result<T>;

/// Operators of ours that are nothing but their input. No scan begins like them: those are maps.
const WINDOW_PIECES: &[u8] = b"window pieces";
const ANEW: &[u8] = b"anew";
const GROUPING_SETS: &[u8] = b"grouping sets";

/// A cell in a plan: what reading it takes, and none of the statistics that pruning took.
#[derive(Serialize, Deserialize)]
struct EncodedCell {
    path: String,
    size: i64,
    modified: i64,
    #[serde(default)]
    partition: StringMap,
    #[serde(default)]
    deletions: Option<DeletionVector>,
    #[serde(default)]
    rows: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct EncodedScan {
    identity: ScanIdentity,
    cells: Vec<EncodedCell>,
    partitions: Vec<Vec<Piece>>,
}

/// What an extension node is, and what of it its template does not say.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Encoded {
    Scan(EncodedScan),
    Read(EncodedRead),
    /// No leaf: what it has for a template is its input.
    Write(EncodedSink),
}

impl EncodedScan {
    fn of(scan: &FrameScanExec) -> Self {
        let cell = |cell: &Arc<Cell>| {
            let add = cell.add();
            EncodedCell {
                path: add.path,
                size: add.size,
                modified: add.modification_time,
                partition: add.partition_values,
                deletions: add.deletion_vector,
                rows: cell.rows,
            }
        };
        Self {
            identity: scan.identity.as_ref().clone(),
            cells: scan.cells.iter().map(cell).collect(),
            partitions: scan.partitions.as_ref().clone(),
        }
    }
}

impl EncodedCell {
    /// Refuses a path that leaves the location.
    fn decode(self) -> Result<Arc<Cell>> {
        let add = Add {
            path: self.path,
            partition_values: self.partition,
            size: self.size,
            modification_time: self.modified,
            data_change: false,
            stats: None,
            tags: None,
            deletion_vector: self.deletions,
            base_row_id: None,
            default_row_commit_version: None,
            clustering_provider: None,
        };
        let cell = Cell::with_rows(add, self.rows)
            .map_err(|error| Error::corrupt("a serialised plan", error))?;
        Ok(Arc::new(cell))
    }
}

/// A plan as bytes that another bee, on any node of the same build, can run. An error for one that is
/// nested too deeply to be read back.
pub fn encode_plan(plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<u8>> {
    let converter = DeduplicatingProtoConverter::default();
    let bytes = physical_plan_to_bytes_with_proto_converter(
        Arc::clone(plan),
        &FrameCodec::encoder(),
        &converter,
    )?;
    PhysicalPlanNode::try_decode(&bytes)?;
    Ok(bytes.to_vec())
}

/// The plan behind bytes of [`encode_plan`], over this environment's meadow.
pub fn decode_plan(
    environment: &Environment,
    bytes: &[u8],
    context: &TaskContext,
) -> Result<Arc<dyn ExecutionPlan>> {
    super::register_meadow(&environment.meadow, &context.runtime_env())?;
    let converter = DeduplicatingProtoConverter::default();
    Ok(physical_plan_from_bytes_with_proto_converter(
        bytes,
        context,
        &FrameCodec::decoder(environment),
        &converter,
    )?)
}

/// Encodes and decodes our leaves. An encoder needs no meadow, a decoder does.
#[derive(Debug)]
pub struct FrameCodec {
    meadow: Option<(Meadow, Arc<Caches>)>,
}

impl FrameCodec {
    pub fn encoder() -> Self {
        Self { meadow: None }
    }

    pub fn decoder(environment: &Environment) -> Self {
        Self {
            meadow: Some((environment.meadow.clone(), Arc::clone(&environment.caches))),
        }
    }
}

impl FrameCodec {
    fn decode_scan(
        &self,
        scan: EncodedScan,
        template: &Arc<dyn ExecutionPlan>,
    ) -> Result<FrameScanExec> {
        let Some((meadow, caches)) = &self.meadow else {
            return Err(Error::Bug("this codec only encodes".into()));
        };
        let corrupt = |reason: String| Error::corrupt("a serialised plan", reason);
        if !template.is::<DataSourceExec>() {
            return Err(corrupt(format!("a frame scan over {}", template.name())));
        }
        let cells = scan.cells.into_iter().map(EncodedCell::decode);
        let cells = cells.collect::<Result<Vec<Arc<Cell>>>>()?;
        let is_known = |piece: &Piece| (piece.cell as usize) < cells.len();
        if !scan.partitions.iter().flatten().all(is_known) {
            return Err(corrupt(
                "a frame scan names a cell that it does not hold".into(),
            ));
        }
        Ok(FrameScanExec::new(
            Arc::new(scan.identity),
            Arc::new(cells),
            scan.partitions,
            Arc::clone(template),
            meadow,
            caches,
        ))
    }
}

impl PhysicalExtensionCodec for FrameCodec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        _context: &TaskContext,
        _converter: &dyn PhysicalProtoConverterExtension,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let corrupt = |reason: String| Error::corrupt("a serialised plan", reason);
        if let [input] = inputs {
            match bytes {
                WINDOW_PIECES => return Ok(WindowPiecesExec::over(Arc::clone(input))),
                ANEW => return Ok(AnewExec::over(Arc::clone(input))),
                GROUPING_SETS => return Ok(GroupingSetsExec::over(Arc::clone(input))),
                _ => {}
            }
        }
        let encoded: Encoded =
            rmp_serde::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
        let [template] = inputs else {
            return Err(corrupt(format!("a leaf with {} inputs", inputs.len())).into());
        };
        match encoded {
            Encoded::Scan(scan) => Ok(Arc::new(self.decode_scan(scan, template)?)),
            Encoded::Read(read) => Ok(Arc::new(ExchangeReadExec::decode(read, template)?)),
            Encoded::Write(write) => Ok(CellWriteExec::decode(write, Arc::clone(template))?),
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        _converter: &dyn PhysicalProtoConverterExtension,
    ) -> DfResult<()> {
        let marker = match () {
            () if node.is::<WindowPiecesExec>() => Some(WINDOW_PIECES),
            () if node.is::<AnewExec>() => Some(ANEW),
            () if node.is::<GroupingSetsExec>() => Some(GROUPING_SETS),
            () => None,
        };
        if let Some(marker) = marker {
            bytes.extend_from_slice(marker);
            return Ok(());
        }
        let Some(envelope) = node.downcast_ref::<Envelope>() else {
            return Err(Error::Unsupported(format!("{} in a serialised plan", node.name())).into());
        };
        bytes.extend_from_slice(&envelope.bytes);
        Ok(())
    }
}

/// Writes a scan through an [`Envelope`], so that its template is serialised by the same encoder as
/// the rest of the plan: filters that are shared with a join or a sort stay shared.
pub(super) fn encode_scan(
    scan: &FrameScanExec,
    context: &ExecutionPlanEncodeCtx<'_>,
) -> DfResult<PhysicalPlanNode> {
    let encoded = Encoded::Scan(EncodedScan::of(scan));
    encode_leaf(&encoded, Arc::clone(&scan.template), context)
}

/// The same for a read of an earlier stage's output.
pub(crate) fn encode_read(
    read: &ExchangeReadExec,
    context: &ExecutionPlanEncodeCtx<'_>,
) -> DfResult<PhysicalPlanNode> {
    encode_leaf(&Encoded::Read(read.encoded()), read.template()?, context)
}

/// The same for what becomes of a task's rows.
pub(crate) fn encode_write(
    write: &CellWriteExec,
    context: &ExecutionPlanEncodeCtx<'_>,
) -> DfResult<PhysicalPlanNode> {
    let encoded = Encoded::Write(write.encoded()?);
    let [input] = write.children()[..] else {
        return Err(Error::Bug("a write over no input".into()).into());
    };
    encode_leaf(&encoded, Arc::clone(input), context)
}

fn encode_leaf(
    encoded: &Encoded,
    template: Arc<dyn ExecutionPlan>,
    context: &ExecutionPlanEncodeCtx<'_>,
) -> DfResult<PhysicalPlanNode> {
    let bytes = rmp_serde::to_vec_named(encoded)
        .map_err(|error| Error::Bug(format!("a leaf of a plan cannot be written: {error}")))?;
    let envelope: Arc<dyn ExecutionPlan> = Arc::new(Envelope { bytes, template });
    context.encode_child(&envelope)
}

/// Stands for a leaf of ours while it is written: a node with the template as its child. Never runs.
#[derive(Debug)]
struct Envelope {
    bytes: Vec<u8>,
    template: Arc<dyn ExecutionPlan>,
}

impl DisplayAs for Envelope {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Envelope")
    }
}

impl ExecutionPlan for Envelope {
    fn name(&self) -> &'static str {
        "Envelope"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.template.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.template]
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        Err(Error::Bug("an envelope of a scan cannot run".into()).into())
    }
}
