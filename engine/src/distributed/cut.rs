//! From a physical plan to stages and tasks.
//!
//! The planner of `datafusion-distributed` decides where a plan is cut and into how many tasks; its
//! boundaries are then replaced by reads of stored outputs, and each task gets its own share of the
//! scans. The last stage, the head, is one task and stays with whoever asks.
//!
//! What cannot be cut is told with the reason, and runs on one node.

use super::exchange::{ExchangeReadExec, Kind, Reads};
use crate::error::{Error, Result};
use crate::sql::{FrameScanExec, PlannedQuery, guarded};
use apiary_protocol::ids::QueryId;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::analyze::AnalyzeExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::explain::ExplainExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::memory::LazyMemoryExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions,
};
use datafusion_distributed::{
    BroadcastExec, DesiredTaskCountEvent, DesiredTaskCountEventResponse, DistributedExec,
    DistributedExt, DistributedLeafExec, NetworkBoundaryExt, NetworkBroadcastExec,
    NetworkShuffleExec, ScaleUpLeafNodeEvent, ScaleUpLeafNodeEventResponse, SessionStateBuilderExt,
    Stage,
};
use std::collections::BTreeSet;
use std::sync::Arc;

type Plan = Arc<dyn ExecutionPlan>;
type DfResult<T> = datafusion::common::Result<T>;

/// The groups of a scan up to here are put together in one task, the head as a rule: a stage more
/// would cost more than it saves.
pub const ONE_TASK_GROUPS_BYTES: u64 = 32 << 20;

/// What the swarm offers a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Most tasks of a stage.
    pub tasks_max: usize,
    /// A scan gets one task for so many bytes.
    pub bytes_per_task: u64,
    /// A side of a join that all tasks need and that scans at most so much is made by each of them: a
    /// stage of its own would cost more.
    pub repeated_bytes_max: u64,
    /// Groups of a scan up to here are put together in one task: [`ONE_TASK_GROUPS_BYTES`].
    pub one_task_bytes_max: u64,
}

/// A plan in stages.
#[derive(Debug)]
pub struct Cut {
    /// In order: a stage reads only stages before it.
    pub stages: Vec<CutStage>,
    /// The last stage.
    pub head: Plan,
    /// Stages that the head reads.
    pub inputs: Vec<u32>,
}

#[derive(Debug)]
pub struct CutStage {
    /// Counted from 1.
    pub stage: u32,
    pub inputs: Vec<u32>,
    /// Partitions of each task's output.
    pub partitions: usize,
    /// Every task that reads of its outputs reads all of them.
    pub is_read_whole: bool,
    pub tasks: Vec<CutTask>,
}

#[derive(Debug)]
pub struct CutTask {
    pub plan: Plan,
    pub scan_bytes: u64,
}

/// Cuts a plan that was made for the swarm; `Err` says why it stays whole.
pub async fn cut(
    planned: &PlannedQuery,
    spread: Spread,
    query: QueryId,
) -> Result<std::result::Result<Cut, String>> {
    if let Some(reason) = whole(&planned.plan)? {
        return Ok(Err(reason));
    }
    let plan = distributed(planned, spread).await?;
    if !plan.is::<DistributedExec>() {
        return Ok(Err("it has no part that two tasks could share".into()));
    }
    let [root] = plan.children()[..] else {
        return Err(Error::Bug("a distributed plan without a root".into()));
    };
    let options = planned.context.session_config().options();
    let mut cutting = Cutting {
        query,
        options,
        repeated_bytes_max: spread.repeated_bytes_max,
        stages: Vec::new(),
        refused: None,
    };
    let head = Arc::clone(root)
        .transform_up(|node| cutting.replace_boundary(node))
        .map_err(Error::from)?
        .data;
    let head = guarded(specialise(&head, 0, 1)?, options)?;
    cutting.check_windows(&head)?;
    let Cutting {
        stages, refused, ..
    } = cutting;
    if let Some(reason) = refused {
        return Ok(Err(reason));
    }
    let inputs = inputs(&head)?;
    if stages.is_empty() {
        return Ok(Err("all of it is one task".into()));
    }
    Ok(Ok(Cut {
        stages,
        head,
        inputs,
    }))
}

/// Why a plan is not cut, whatever it costs.
fn whole(plan: &Plan) -> Result<Option<String>> {
    let mut reason = None;
    plan.apply(|node| {
        if node.is::<RecursiveQueryExec>() {
            reason = Some("a recursive query runs in one place".to_string());
        } else if node.is::<AnalyzeExec>() || node.is::<ExplainExec>() {
            reason = Some("it is explained, not run".to_string());
        } else if node.is::<LazyMemoryExec>() && node.schema().fields().is_empty() {
            // DataFusion writes a series without what is projected of it.
            reason = Some("it counts the rows of a series".to_string());
        }
        Ok(match reason {
            Some(_) => TreeNodeRecursion::Stop,
            None => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(reason)
}

/// The plan with the planner's boundaries in it, when there are any.
async fn distributed(planned: &PlannedQuery, spread: Spread) -> Result<Plan> {
    let bytes_per_task = spread.bytes_per_task.max(1);
    let desired = move |event: DesiredTaskCountEvent<'_>| {
        if is_small_final(event.plan, spread.one_task_bytes_max) {
            return Some(Ok(DesiredTaskCountEventResponse::maximum(1)));
        }
        let scan = event.plan.downcast_ref::<FrameScanExec>()?;
        let tasks = scan.kept_bytes().div_ceil(bytes_per_task).max(1);
        let tasks = usize::try_from(tasks).unwrap_or(usize::MAX);
        Some(Ok(DesiredTaskCountEventResponse::desired(tasks)))
    };
    let scale_up = |event: ScaleUpLeafNodeEvent<'_>| {
        let scan = event.plan.downcast_ref::<FrameScanExec>()?;
        let leaf =
            DistributedLeafExec::try_new(Arc::clone(event.plan), scan.split(event.task_count));
        Some(leaf.map(|leaf| ScaleUpLeafNodeEventResponse::new(Arc::new(leaf))))
    };
    let state = SessionStateBuilder::new()
        .with_session_id("apiary".into())
        .with_config(planned.context.session_config().clone())
        .with_runtime_env(planned.context.runtime_env())
        .with_query_planner(Arc::new(Planned(Arc::clone(&planned.plan))))
        .with_distributed_planner()
        .with_distributed_max_tasks_per_stage(spread.tasks_max.max(1))?
        .with_distributed_cardinality_effect_task_scale_factor(1.0)?
        .with_distributed_broadcast_joins(true)?
        .with_distributed_children_isolator_unions(false)?
        // Panics on grouping sets.
        .with_distributed_partial_reduce(false)?
        // Waits for readings of running tasks, which we do not send.
        .with_distributed_dynamic_task_count(false)?
        .with_distributed_metrics_collection(false)?
        .with_distributed_desired_task_count_handler(desired)
        .with_distributed_scale_up_leaf_node_handler(scale_up)
        .build();
    let nothing = LogicalPlanBuilder::empty(false).build()?;
    let planner = Arc::clone(state.query_planner());
    Ok(planner.create_physical_plan(&nothing, &state).await?)
}

/// Whether it puts together the groups of a small scan.
fn is_small_final(plan: &Plan, bytes_max: u64) -> bool {
    let is_final = plan
        .downcast_ref::<AggregateExec>()
        .is_some_and(|aggregate| {
            matches!(
                aggregate.mode(),
                AggregateMode::Final | AggregateMode::FinalPartitioned
            )
        });
    is_final && crate::sql::scan_totals(plan).is_ok_and(|totals| totals.bytes_kept <= bytes_max)
}

/// Gives the plan that there is already.
#[derive(Debug)]
struct Planned(Plan);

#[async_trait]
impl QueryPlanner for Planned {
    async fn create_physical_plan(&self, _: &LogicalPlan, _: &dyn Session) -> DfResult<Plan> {
        Ok(Arc::clone(&self.0))
    }
}

/// A plan while its boundaries are replaced.
struct Cutting<'a> {
    query: QueryId,
    options: &'a ConfigOptions,
    repeated_bytes_max: u64,
    stages: Vec<CutStage>,
    refused: Option<String>,
}

impl Cutting<'_> {
    /// A boundary becomes a read of what the stage below it wrote, and that stage is noted.
    fn replace_boundary(&mut self, node: Plan) -> DfResult<Transformed<Plan>> {
        let Some(boundary) = node.as_network_boundary() else {
            return Ok(Transformed::no(node));
        };
        let Stage::Local(local) = boundary.input_stage() else {
            return Err(Error::Bug("a boundary above a stage that is elsewhere".into()).into());
        };
        let kind = if node.is::<NetworkShuffleExec>() {
            Kind::Shuffle
        } else if node.is::<NetworkBroadcastExec>() {
            Kind::Broadcast
        } else {
            Kind::Coalesce
        };
        let mut plan = Arc::clone(&local.plan);
        if let Some(broadcast) = plan.downcast_ref::<BroadcastExec>() {
            // Each partition is stored once, however many read it.
            plan = Arc::clone(broadcast.input());
            if let Some(repeated) = repeatable(&plan)?
                && crate::sql::scan_totals(&repeated)?.bytes_kept <= self.repeated_bytes_max
            {
                return Ok(Transformed::yes(repeated));
            }
        } else if kind == Kind::Shuffle
            && node.output_ordering().is_some()
            && let Some(spread) = plan.downcast_ref::<RepartitionExec>()
        {
            // The planner made this operator anew and left out that it keeps the order.
            let again = RepartitionExec::try_new(
                Arc::clone(spread.input()),
                spread.partitioning().clone(),
            )?;
            plan = Arc::new(again.with_preserve_order());
        }
        if let Some(reason) = unsafe_to_cut(&plan, local.tasks)? {
            self.refused.get_or_insert(reason);
        }
        let partitions = plan.output_partitioning().partition_count();
        let plan = guarded(plan, self.options)?;
        if plan.output_partitioning().partition_count() != partitions {
            self.refused
                .get_or_insert("a join of it needs one of its sides whole".into());
        }
        let stage = u32::try_from(self.stages.len() + 1)
            .map_err(|_| Error::Bug("too many stages".into()))?;
        let mut tasks = Vec::with_capacity(local.tasks);
        for task in 0..local.tasks {
            let plan = specialise(&plan, task, local.tasks)?;
            self.check_windows(&plan)?;
            let scan_bytes = crate::sql::scan_totals(&plan)?.bytes_kept;
            tasks.push(CutTask { plan, scan_bytes });
        }
        self.stages.push(CutStage {
            stage,
            inputs: inputs(&plan)?,
            partitions,
            is_read_whole: kind == Kind::Broadcast,
            tasks,
        });
        let reads = Reads {
            stage,
            producers: local.tasks,
            kind,
            consumer: 0,
            consumers: 1,
        };
        let read = ExchangeReadExec::new(self.query, reads, node.properties())?;
        Ok(Transformed::yes(Arc::new(read)))
    }

    /// A window looks up how its input is sorted, and what made a sort key needless may be more than what
    /// is known of rows that crossed a boundary.
    fn check_windows(&mut self, plan: &Plan) -> DfResult<()> {
        plan.apply(|node| {
            let keys = match (node.downcast_ref(), node.downcast_ref()) {
                (Some(window), None) => WindowAggExec::partition_by_sort_keys(window),
                (None, Some(window)) => BoundedWindowAggExec::partition_by_sort_keys(window),
                _ => return Ok(TreeNodeRecursion::Continue),
            };
            if keys.is_err() {
                let reason = "a window of it relies on an order that is not written with a plan";
                self.refused.get_or_insert(reason.into());
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(())
    }
}

/// A part of a plan as each of several tasks can run it whole: the same rows whoever runs it, and of
/// nothing but scans.
fn repeatable(plan: &Plan) -> DfResult<Option<Plan>> {
    let mut is_repeatable = true;
    let whole = Arc::clone(plan).transform_up(|node| {
        if let Some(leaf) = node.downcast_ref::<DistributedLeafExec>() {
            return Ok(Transformed::yes(Arc::clone(leaf.original())));
        }
        Ok(Transformed::no(node))
    })?;
    whole.data.apply(|node| {
        let is_known = node.is::<FrameScanExec>()
            || node.is::<FilterExec>()
            || node.is::<ProjectionExec>()
            || node.is::<HashJoinExec>()
            || node.is::<CoalescePartitionsExec>()
            || node.is::<RepartitionExec>();
        // Which rows come first is not the same everywhere.
        is_repeatable &= is_known && node.fetch().is_none();
        node.apply_expressions(&mut |expression| {
            is_repeatable &= !is_volatile(expression);
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(match is_repeatable {
            true => TreeNodeRecursion::Continue,
            false => TreeNodeRecursion::Stop,
        })
    })?;
    Ok(is_repeatable.then_some(whole.data))
}

/// Why what the planner did is not to be relied on for this stage.
fn unsafe_to_cut(plan: &Plan, tasks: usize) -> Result<Option<String>> {
    let mut reason = None;
    plan.apply(|node| {
        let is_single = node.is::<DistributedLeafExec>()
            && node.output_partitioning().partition_count() < 2
            && tasks > 1;
        if is_single {
            // What is above it may rely on there being no other partition.
            reason = Some("a scan of one partition cannot be shared".into());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(reason)
}

/// A stage's plan for one of its tasks: its share of every scan, its part of every exchange.
fn specialise(plan: &Plan, task: usize, tasks: usize) -> DfResult<Plan> {
    if let Some(leaf) = plan.downcast_ref::<DistributedLeafExec>() {
        let variant = leaf.variants().get(task);
        let variant = variant.ok_or_else(|| Error::Bug("a scan without a share".into()))?;
        return Ok(Arc::clone(variant));
    }
    if let Some(read) = plan.downcast_ref::<ExchangeReadExec>() {
        return Ok(Arc::new(read.for_consumer(task, tasks)));
    }
    if let Some(broadcast) = plan.downcast_ref::<BroadcastExec>() {
        // Its boundary was left out, because one task reads what one task wrote.
        return specialise(broadcast.input(), task, tasks);
    }
    let children = plan.children();
    if children.is_empty() {
        return Ok(Arc::clone(plan));
    }
    let children = children
        .into_iter()
        .map(|child| specialise(child, task, tasks))
        .collect::<DfResult<Vec<_>>>()?;
    Arc::clone(plan).replace_children(
        children,
        ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
    )
}

/// The stages that a plan reads.
fn inputs(plan: &Plan) -> DfResult<Vec<u32>> {
    let mut inputs = BTreeSet::new();
    plan.apply(|node| {
        if let Some(read) = node.downcast_ref::<ExchangeReadExec>() {
            inputs.insert(read.reads().stage);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(inputs.into_iter().collect())
}
