//! Windows that see all of their partition, computed partition after partition.
//!
//! DataFusion's operator for them collects its whole input before it computes anything, and asks for
//! none of that memory. The input comes in the order of the partition keys, so a piece of whole
//! partitions can be computed as soon as the next partition begins. Then the largest partition is what
//! must fit, and it is reserved: without PARTITION BY that is everything.
//!
//! Invariant: the rows and their order are those of DataFusion's operator.

use arrow::array::{Array, RecordBatch};
use arrow::compute::{SortColumn, concat};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::utils::evaluate_partition_ranges;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::windows::WindowAggExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties,
    ReplaceChildrenOptions,
};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use std::fmt;
use std::sync::Arc;

type Plan = Arc<dyn ExecutionPlan>;

/// A piece has so many bytes, or a partition more.
const PIECE_BYTES: usize = 1 << 20;
/// Rows are held as they came and, while they are computed, once more as one batch.
const COPIES: usize = 2;

#[derive(Debug)]
pub(super) struct WindowsInPieces;

impl PhysicalOptimizerRule for WindowsInPieces {
    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        plan.transform_up(|node| match node.is::<WindowAggExec>() {
            true => Ok(Transformed::yes(WindowPiecesExec::over(node))),
            false => Ok(Transformed::no(node)),
        })
        .data()
    }

    fn name(&self) -> &str {
        "apiary_windows_in_pieces"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Runs its child, a [`WindowAggExec`], on one piece of that one's input after the other.
#[derive(Debug)]
pub(super) struct WindowPiecesExec {
    window: Plan,
}

impl WindowPiecesExec {
    pub(super) fn over(window: Plan) -> Plan {
        Arc::new(Self { window })
    }
}

impl DisplayAs for WindowPiecesExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ExecutionPlan for WindowPiecesExec {
    fn name(&self) -> &'static str {
        "WindowPiecesExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.window.properties()
    }

    fn children(&self) -> Vec<&Plan> {
        vec![&self.window]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Plan>) -> Result<Plan> {
        let [window] = <[Plan; 1]>::try_from(children)
            .or_else(|_| internal_err!("WindowPiecesExec has one child"))?;
        Ok(Self::over(window))
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let Some(window) = self.window.downcast_ref::<WindowAggExec>() else {
            return self.window.execute(partition, context);
        };
        let consumer = MemoryConsumer::new(format!("WindowPieces[{partition}]"));
        let pieces = Pieces {
            input: window.input().execute(partition, context.clone())?,
            keys: window.partition_by_sort_keys()?,
            held: Vec::new(),
            held_bytes: 0,
            reservation: consumer.register(context.memory_pool()),
        };
        let window = Arc::new(window.clone());
        let computed = pieces.cut().map(move |piece: Result<Piece>| {
            let (batches, reservation) = piece?;
            let rows = compute(&window, batches, partition, &context)?;
            // The piece's memory is free when its rows have been handed on.
            Ok::<_, DataFusionError>(rows.map(move |rows| {
                let _held = &reservation;
                rows
            }))
        });
        let schema = self.schema();
        let rows = computed.try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

/// Runs a window on a piece of its input.
fn compute(
    window: &Arc<WindowAggExec>,
    batches: Vec<RecordBatch>,
    partition: usize,
    context: &Arc<TaskContext>,
) -> Result<SendableRecordBatchStream> {
    let input: Plan = Arc::new(PieceExec {
        batches,
        properties: window.input().properties().clone(),
    });
    let keep = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
    let window = Arc::clone(window).replace_children(vec![input], keep)?;
    window.execute(partition, Arc::clone(context))
}

/// Cuts sorted rows between two partitions.
struct Pieces {
    input: SendableRecordBatchStream,
    keys: Vec<PhysicalSortExpr>,
    held: Vec<RecordBatch>,
    held_bytes: usize,
    reservation: MemoryReservation,
}

type Piece = (Vec<RecordBatch>, MemoryReservation);

impl Pieces {
    fn cut(self) -> impl Stream<Item = Result<Piece>> {
        stream::try_unfold(self, |mut pieces| async move {
            let piece = pieces.next().await?;
            Ok(piece.map(|piece| (piece, pieces)))
        })
    }

    async fn next(&mut self) -> Result<Option<Piece>> {
        while let Some(batch) = self.input.next().await {
            let batch = batch?;
            if batch.num_rows() == 0 {
                continue;
            }
            let end = match self.held_bytes >= PIECE_BYTES {
                true => self.last_end(&batch)?,
                false => None,
            };
            let Some(end) = end else {
                self.hold(batch)?;
                continue;
            };
            let rest = batch.slice(end, batch.num_rows() - end);
            self.held.push(batch.slice(0, end));
            let piece = self.take();
            self.hold(rest)?;
            return Ok(Some(piece));
        }
        Ok((!self.held.is_empty()).then(|| self.take()))
    }

    fn hold(&mut self, batch: RecordBatch) -> Result<()> {
        let bytes = batch.get_array_memory_size();
        self.reservation.try_grow(bytes * COPIES)?;
        self.held_bytes += bytes;
        self.held.push(batch);
        Ok(())
    }

    fn take(&mut self) -> Piece {
        self.held_bytes = 0;
        (std::mem::take(&mut self.held), self.reservation.take())
    }

    /// Where the last partition that begins in a batch begins; `None` when all its rows belong to the
    /// partition of the row before.
    fn last_end(&self, batch: &RecordBatch) -> Result<Option<usize>> {
        let Some(before) = self.held.last() else {
            return Ok(None);
        };
        let before = before.slice(before.num_rows() - 1, 1);
        let columns = self.keys.iter().map(|key| {
            let first = key.evaluate_to_sort_column(&before)?;
            let rest = key.evaluate_to_sort_column(batch)?;
            Ok(SortColumn {
                values: concat(&[&first.values as &dyn Array, &rest.values])?,
                options: first.options,
            })
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let partitions = evaluate_partition_ranges(batch.num_rows() + 1, &columns)?;
        let start = partitions.last().map_or(0, |partition| partition.start);
        Ok(start.checked_sub(1))
    }
}

/// The input of a window, cut to one piece.
#[derive(Debug)]
struct PieceExec {
    batches: Vec<RecordBatch>,
    /// Those of the whole input.
    properties: Arc<PlanProperties>,
}

impl DisplayAs for PieceExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ExecutionPlan for PieceExec {
    fn name(&self) -> &'static str {
        "PieceExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Plan> {
        vec![]
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Plan>) -> Result<Plan> {
        Ok(self)
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let batches = stream::iter(self.batches.clone().into_iter().map(Ok));
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            batches,
        )))
    }
}
