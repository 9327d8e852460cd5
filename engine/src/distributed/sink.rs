//! Where the rows of a shared write become cells: the root of its last stage.
//!
//! The operator is planned and written like any other and never executed: who runs a task sees it at
//! the root and gives its input's rows to the cell writer (see [`super::task`]); who runs a head that
//! the rows come together in leaves it out and writes them itself.
//!
//! What it says of a frame comes out of the meadow with the plan, so it is checked before a byte is
//! written: the location is one that a frame may have, and the columns are those of a frame.

use crate::cell::WriteSpec;
use crate::error::{Error, Result};
use crate::schema::FrameSchema;
use crate::settings::Codec;
use apiary_protocol::delta::{Format, Metadata, StringMap};
use apiary_protocol::ids::FrameId;
use apiary_protocol::keys;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

type Plan = Arc<dyn ExecutionPlan>;
type DfResult<T> = datafusion::common::Result<T>;

/// Where a write goes, and how its cells are laid out.
#[derive(Clone, Debug)]
pub struct Sink {
    pub frame: FrameId,
    pub spec: WriteSpec,
}

/// See the module.
#[derive(Debug)]
pub struct CellWriteExec {
    input: Plan,
    sink: Arc<Sink>,
    properties: Arc<PlanProperties>,
}

/// What of it is written into a plan, beside its input.
#[derive(Serialize, Deserialize)]
pub(crate) struct EncodedSink {
    frame: FrameId,
    location: String,
    /// As the ledger has it.
    schema: String,
    partition_columns: Vec<String>,
    codec: Codec,
    target_cell_bytes: u64,
    row_group_rows_max: usize,
    max_partitions: usize,
}

impl CellWriteExec {
    pub(super) fn over(input: Plan, sink: Arc<Sink>) -> Plan {
        let partitions = input.output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
            Partitioning::UnknownPartitioning(partitions),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Arc::new(Self {
            input,
            sink,
            properties: Arc::new(properties),
        })
    }

    pub(super) fn input(&self) -> &Plan {
        &self.input
    }

    pub(super) fn sink(&self) -> &Sink {
        &self.sink
    }

    /// `Unsupported` when it would not be read back as it is.
    pub(crate) fn encoded(&self) -> Result<EncodedSink> {
        let Sink { frame, spec } = self.sink.as_ref();
        let encoded = EncodedSink {
            frame: *frame,
            location: spec.location.clone(),
            schema: spec.schema.to_schema_string(),
            partition_columns: spec.schema.partition_columns.clone(),
            codec: spec.codec,
            target_cell_bytes: spec.target_cell_bytes,
            row_group_rows_max: spec.row_group_rows_max,
            max_partitions: spec.max_partitions,
        };
        match encoded.schema() {
            Ok(schema) if schema == *spec.schema => Ok(encoded),
            _ => Err(Error::Unsupported(
                "a write into columns of this kind, in a serialised plan".into(),
            )),
        }
    }

    pub(crate) fn decode(encoded: EncodedSink, input: Plan) -> Result<Plan> {
        let sink = encoded.checked()?;
        Ok(Self::over(input, Arc::new(sink)))
    }
}

impl EncodedSink {
    fn schema(&self) -> Result<FrameSchema> {
        FrameSchema::from_metadata(&Metadata {
            id: self.frame.to_string(),
            name: None,
            description: None,
            format: Format {
                provider: "parquet".into(),
                options: StringMap::new(),
            },
            schema_string: self.schema.clone(),
            partition_columns: self.partition_columns.clone(),
            configuration: StringMap::new(),
            created_time: None,
        })
    }

    fn checked(self) -> Result<Sink> {
        let corrupt = |reason: String| Error::corrupt("a serialised plan", reason);
        keys::check_location(&self.location).map_err(|error| corrupt(error.to_string()))?;
        let schema = self.schema().map_err(|error| corrupt(error.to_string()))?;
        let spec = WriteSpec {
            location: self.location,
            schema: Arc::new(schema),
            codec: self.codec,
            // Any number is harmless but none: memory is bounded by the chamber.
            target_cell_bytes: self.target_cell_bytes.max(1),
            row_group_rows_max: self.row_group_rows_max.max(1),
            max_partitions: self.max_partitions.max(1),
            rows_before: 0,
            query: None,
        };
        Ok(Sink {
            frame: self.frame,
            spec,
        })
    }
}

/// Whether a plan writes anywhere in it.
pub(super) fn has_sink(plan: &Plan) -> DfResult<bool> {
    plan.exists(|node| Ok(node.is::<CellWriteExec>()))
}

/// The plan with its rows instead of what would become of them.
pub(super) fn without_sink(plan: Plan) -> DfResult<Plan> {
    plan.transform_up(|node| {
        Ok(match node.downcast_ref::<CellWriteExec>() {
            Some(sink) => Transformed::yes(Arc::clone(sink.input())),
            None => Transformed::no(node),
        })
    })
    .data()
}

impl DisplayAs for CellWriteExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sink { frame, spec } = self.sink();
        write!(
            f,
            "CellWriteExec: location={}, frame={frame}, codec={:?}, target_cell_bytes={}",
            spec.location, spec.codec, spec.target_cell_bytes
        )?;
        match spec.schema.partition_columns.is_empty() {
            true => Ok(()),
            false => write!(
                f,
                ", partitioned by [{}]",
                spec.schema.partition_columns.join(", ")
            ),
        }
    }
}

impl ExecutionPlan for CellWriteExec {
    fn name(&self) -> &'static str {
        "CellWriteExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        match <[Plan; 1]>::try_from(children) {
            Ok([input]) => Ok(Self::over(input, Arc::clone(&self.sink))),
            Err(children) => {
                Err(Error::Bug(format!("a write over {} inputs", children.len())).into())
            }
        }
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        Err(Error::Bug("a write in the middle of a plan".into()).into())
    }

    fn try_to_proto(
        &self,
        context: &datafusion::physical_plan::proto::ExecutionPlanEncodeCtx<'_>,
    ) -> DfResult<Option<datafusion_proto::protobuf::PhysicalPlanNode>> {
        crate::sql::encode_write(self, context).map(Some)
    }
}
