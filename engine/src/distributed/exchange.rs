//! Reading what an earlier stage wrote: the leaf that stands where a plan was cut.

use super::agreement::Agreement;
use super::input::Inputs;
use crate::error::{Error, Result};
use apiary_protocol::ids::QueryId;
use apiary_protocol::planted;
use apiary_protocol::query::TaskKey;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{LexOrdering, Partitioning, PhysicalExpr};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::streaming_merge::StreamingMergeBuilder;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

type DfResult<T> = datafusion::common::Result<T>;

/// Producers whose partition is read at the same time.
const PRODUCERS_AT_ONCE: usize = 2;

/// How the partitions of producers reach the consumers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A producer has the partitions of all consumers, one after the other; each consumer reads its
    /// own of every producer.
    Shuffle,
    /// Every consumer reads everything.
    Broadcast,
    /// Each consumer reads all partitions of some producers, and keeps them apart.
    Coalesce,
}

/// What one consumer of a stage reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reads {
    pub stage: u32,
    /// Tasks of that stage.
    pub producers: usize,
    pub kind: Kind,
    /// This one of the `consumers` tasks.
    pub consumer: usize,
    pub consumers: usize,
}

impl Reads {
    /// What a partition of the consumer is made of, for `partitions` of them: producers, and which
    /// stored partition of each.
    pub fn sources(&self, partition: usize, partitions: usize) -> Vec<(TaskKey, usize)> {
        let key = |producer: usize| TaskKey {
            stage: self.stage,
            task: producer as u32,
        };
        let missed = usize::from(planted!(ProducerMissed) && self.producers > 1);
        let of_all = |stored: usize| {
            (0..self.producers - missed)
                .map(|task| (key(task), stored))
                .collect()
        };
        match self.kind {
            Kind::Shuffle => of_all(partitions * self.consumer + partition),
            Kind::Broadcast => of_all(partition),
            Kind::Coalesce => {
                // As the planner groups them: the first groups are larger by one.
                let group_max = self.producers.div_ceil(self.consumers.max(1)).max(1);
                let per_producer = (partitions / group_max).max(1);
                let (base, extra) = (
                    self.producers / self.consumers.max(1),
                    self.producers % self.consumers.max(1),
                );
                let length = base + usize::from(self.consumer < extra);
                let start = self.consumer * base + self.consumer.min(extra);
                match partition / per_producer {
                    offset if offset < length => {
                        vec![(key(start + offset), partition % per_producer)]
                    }
                    _ => vec![],
                }
            }
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct ExchangeReadExec {
    query: QueryId,
    reads: Reads,
    properties: Arc<PlanProperties>,
    /// The order of each partition. Those of several producers are merged in it; without one they follow
    /// each other.
    order: Option<LexOrdering>,
    agreement: Agreement,
    metrics: ExecutionPlanMetricsSet,
}

/// What of it is written into a plan, beside its template.
#[derive(Serialize, Deserialize)]
pub(crate) struct EncodedRead {
    query: QueryId,
    reads: Reads,
    agreement: Agreement,
}

impl ExchangeReadExec {
    /// Reads what `written` would give: its columns, its partitions, their order. Here and on the node
    /// that decodes it, no more is known of it than what is written with a plan.
    pub(super) fn new(query: QueryId, reads: Reads, written: &PlanProperties) -> DfResult<Self> {
        let equivalences = written.equivalence_properties();
        let template = template(
            Arc::clone(equivalences.schema()),
            written.partitioning.clone(),
            written.output_ordering().cloned(),
        )?;
        let encoded = EncodedRead {
            query,
            reads,
            agreement: Agreement::of(equivalences),
        };
        Ok(Self::decode(encoded, &template)?)
    }

    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    pub(super) fn for_consumer(&self, consumer: usize, consumers: usize) -> Self {
        Self {
            query: self.query,
            reads: Reads {
                consumer,
                consumers,
                ..self.reads
            },
            properties: Arc::clone(&self.properties),
            order: self.order.clone(),
            agreement: self.agreement.clone(),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    pub(crate) fn encoded(&self) -> EncodedRead {
        EncodedRead {
            query: self.query,
            reads: self.reads,
            agreement: self.agreement.clone(),
        }
    }

    pub(crate) fn template(&self) -> DfResult<Arc<dyn ExecutionPlan>> {
        let partitioning = self.properties.partitioning.clone();
        template(self.schema(), partitioning, self.order.clone())
    }

    pub(crate) fn decode(encoded: EncodedRead, template: &Arc<dyn ExecutionPlan>) -> Result<Self> {
        let EncodedRead {
            query,
            reads,
            agreement,
        } = encoded;
        let known = template.equivalence_properties().clone();
        let mut properties = PlanProperties::clone(template.properties());
        properties.set_eq_properties(agreement.added_to(known)?);
        Ok(Self {
            query,
            reads,
            properties: Arc::new(properties),
            order: template.output_ordering().cloned(),
            agreement,
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }
}

/// A plan that never runs and has this schema, these partitions and this order, because DataFusion
/// writes plans and not properties.
fn template(
    schema: SchemaRef,
    partitioning: Partitioning,
    order: Option<LexOrdering>,
) -> DfResult<Arc<dyn ExecutionPlan>> {
    let empty = Arc::new(EmptyExec::new(schema));
    let spread = Arc::new(RepartitionExec::try_new(empty, partitioning)?);
    Ok(match order {
        None => spread,
        Some(order) => Arc::new(SortExec::new(order, spread).with_preserve_partitioning(true)),
    })
}

impl DisplayAs for ExchangeReadExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reads {
            stage,
            producers,
            kind,
            ..
        } = self.reads;
        write!(
            f,
            "ExchangeReadExec: {kind:?}, stage={stage}, tasks={producers}, partitions={}",
            self.properties.partitioning.partition_count()
        )?;
        match &self.order {
            Some(order) => write!(f, ", in the order [{order}]"),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for ExchangeReadExec {
    fn name(&self) -> &'static str {
        "ExchangeReadExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
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

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DfResult<SendableRecordBatchStream> {
        let inputs = context.session_config().get_extension::<Inputs>();
        let inputs = inputs.ok_or_else(|| Error::Bug("a plan without its inputs".into()))?;
        inputs.check_query(self.query)?;
        let partitions = self.properties.partitioning.partition_count();
        let sources = self.reads.sources(partition, partitions);
        let name = format!("ExchangeRead[{partition}]");
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let pool = context.memory_pool();
        if let Some(order) = &self.order
            && sources.len() > 1
        {
            let streams = sources.into_iter().map(|(key, stored)| {
                let held = MemoryConsumer::new(name.clone()).register(pool);
                inputs.stream(key, stored, self.schema(), held)
            });
            return StreamingMergeBuilder::new()
                .with_streams(streams.collect())
                .with_schema(self.schema())
                .with_expressions(order)
                .with_metrics(metrics)
                .with_batch_size(context.session_config().batch_size())
                .with_reservation(MemoryConsumer::new(format!("{name} merge")).register(pool))
                .build();
        }
        let (schema, pool) = (self.schema(), Arc::clone(pool));
        let streams = futures::stream::iter(sources).map(move |(key, stored)| {
            let held = MemoryConsumer::new(name.clone()).register(&pool);
            inputs.stream(key, stored, Arc::clone(&schema), held)
        });
        // In no order that anybody relies on.
        let rows = streams.flatten_unordered(PRODUCERS_AT_ONCE);
        let rows = rows.inspect(move |batch| {
            if let Ok(batch) = batch {
                metrics.output_rows().add(batch.num_rows());
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn try_to_proto(
        &self,
        context: &datafusion::physical_plan::proto::ExecutionPlanEncodeCtx<'_>,
    ) -> DfResult<Option<datafusion_proto::protobuf::PhysicalPlanNode>> {
        crate::sql::encode_read(self, context).map(Some)
    }
}
