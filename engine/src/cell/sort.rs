//! Brings the rows of many partitions together, within the chamber's memory: DataFusion's external
//! sort over (partition number, row number), so rows of a partition keep their order.

use crate::error::{Error, Result};
use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::stream::{BoxStream, StreamExt};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::mpsc;

/// The key column; column names of a frame have no control characters.
const KEY: &str = "\u{1}key";
/// Partition number above, row number below.
const ROW_BITS: u32 = 40;
/// Partitions that the key can number.
pub const PARTITIONS_MAX: usize = 1 << 23;

/// A sort that is being fed. It runs while it is fed, in the task that feeds it, so dropping it frees
/// its memory and its spill files at once.
pub struct PartitionSort {
    schema: SchemaRef,
    sender: mpsc::Sender<RecordBatch>,
    sorted: SendableRecordBatchStream,
}

/// Rows of one partition after another.
pub type Runs = BoxStream<'static, Result<Vec<(u32, RecordBatch)>>>;

impl PartitionSort {
    pub fn start(schema: &Schema, context: Arc<TaskContext>) -> Result<Self> {
        let mut fields = schema.fields().to_vec();
        fields.push(Arc::new(Field::new(KEY, DataType::Int64, false)));
        let key = fields.len() - 1;
        let schema = Arc::new(Schema::new(fields));
        let (sender, receiver) = mpsc::channel(1);
        let feed = Feed {
            schema: schema.clone(),
            receiver: Mutex::new(Some(receiver)),
        };
        let source = StreamingTableExec::try_new(
            schema.clone(),
            vec![Arc::new(feed)],
            None,
            Vec::<LexOrdering>::new(),
            false,
            None,
        )?;
        let column = Arc::new(Column::new(KEY, key));
        let ordering = LexOrdering::new([PhysicalSortExpr::new_default(column)])
            .ok_or_else(|| Error::Bug("a sort without a key".into()))?;
        let sorted = SortExec::new(ordering, Arc::new(source)).execute(0, context)?;
        Ok(Self {
            schema,
            sender,
            sorted,
        })
    }

    /// Rows that `indices` chose from a batch whose partition numbers are `numbers` and whose first
    /// row is `row_first` of the write.
    pub async fn push(
        &mut self,
        rows: RecordBatch,
        numbers: &[u32],
        indices: &[u32],
        row_first: u64,
    ) -> Result<()> {
        let last = row_first + numbers.len() as u64;
        if last >= 1 << ROW_BITS {
            return Err(Error::rejected(
                "one write holds at most 2^40 rows; write in parts",
            ));
        }
        let keys: Int64Array = indices
            .iter()
            .map(|index| {
                let number = i64::from(numbers[*index as usize]);
                (number << ROW_BITS) | (row_first + u64::from(*index)) as i64
            })
            .collect();
        let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
        columns.push(Arc::new(keys));
        let batch = RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|error| Error::Bug(format!("rows for the sort: {error}")))?;
        tokio::select! {
            biased;
            sent = self.sender.send(batch) => {
                sent.map_err(|_| Error::Bug("the sort ended before its input".into()))
            }
            // Rows come out when the last one is in, so before that it can only be an error.
            early = self.sorted.next() => match early {
                Some(Err(error)) => Err(error.into()),
                _ => Err(Error::Bug("the sort ended before its input".into())),
            },
        }
    }

    /// Ends the input and gives the rows back, partition by partition.
    pub fn finish(self) -> Runs {
        drop(self.sender);
        self.sorted.map(|batch| runs(batch?)).boxed()
    }
}

/// Splits a sorted batch where the partition changes, without the key.
fn runs(batch: RecordBatch) -> Result<Vec<(u32, RecordBatch)>> {
    let last = batch.num_columns().saturating_sub(1);
    let keys = batch.column(last).as_primitive::<Int64Type>().clone();
    let rows = batch
        .project(&(0..last).collect::<Vec<_>>())
        .map_err(|error| Error::Bug(format!("sorted rows: {error}")))?;
    let number = |row: usize| (keys.value(row) >> ROW_BITS) as u32;
    let mut runs = Vec::new();
    let mut start = 0;
    for row in 1..=keys.len() {
        if row == keys.len() || number(row) != number(start) {
            runs.push((number(start), rows.slice(start, row - start)));
            start = row;
        }
    }
    Ok(runs)
}

/// The input of the sort: what the write sends.
#[derive(Debug)]
struct Feed {
    schema: SchemaRef,
    receiver: Mutex<Option<mpsc::Receiver<RecordBatch>>>,
}

impl PartitionStream for Feed {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let receiver = self.receiver.lock().take();
        let again = receiver.is_none().then(|| {
            Err(DataFusionError::Internal(
                "the rows were read already".into(),
            ))
        });
        let batches = futures::stream::unfold(receiver, |receiver| async move {
            let mut receiver = receiver?;
            receiver
                .recv()
                .await
                .map(|batch| (Ok(batch), Some(receiver)))
        });
        let batches = futures::stream::iter(again).chain(batches);
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches))
    }
}
