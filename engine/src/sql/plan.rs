//! From a parsed query to a physical plan that is ready to run.
//!
//! Frames are resolved to snapshots first and all at once, so that planning itself never waits for
//! storage and a query sees one snapshot of each frame.

use super::distincts::SplitDistincts;
use super::explain::scan_totals;
use super::grouping_sets::ForgetBelowGroupingSets;
use super::large_limits::SpillLargeLimits;
use super::names::{Frames, Hives, QueryFrames};
use super::nested_loops::NestedLoops;
use super::semi_joins::SinkSemiJoins;
use super::spilling::SpillJoins;
use super::windows::WindowsInPieces;
use super::yielding::YieldingJoins;
use super::{Crew, Environment, ForSwarm, PlannedQuery, Session};
use crate::behavior::abandonment::SpillingJoins;
use crate::error::{Error, Result};
use apiary_protocol::names::FrameName;
use chrono::DateTime;
use datafusion::common::TableReference;
use datafusion::common::config::{ConfigNonZeroUsize, ConfigOptions};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::memory_pool::MemoryLimit;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SessionState, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_optimizer::sanity_checker::SanityCheckPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::resolve::resolve_table_references;
use futures::TryStreamExt;
use futures::stream::{self, StreamExt};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Snapshots that one query fetches at the same time.
pub(super) const SNAPSHOTS_AT_ONCE: usize = 16;

/// Build sides of a hash join up to here are collected whole instead of being repartitioned: then
/// the small side of a semi join is the one that is built (a third of Q18's time).
const HASH_JOIN_SINGLE_PARTITION_BYTES: usize = 64 << 20;
const HASH_JOIN_SINGLE_PARTITION_ROWS: usize = 1 << 20;

/// Once memory has run out, a side is collected whole, and stays in a hash table, only up to this
/// part of a bee's memory; rows of unknown size are taken to have so many bytes.
const COLLECTED_SHARE: usize = 8;
const COLLECTED_ROW_BYTES: usize = 64;

/// The part of a bee's memory up to which the first rows of an order are kept in a heap, which cannot
/// spill: at first, and once memory has run out.
const HEAP_SHARE: usize = 4;
const HEAP_SHARE_AFTER: usize = 64;

/// The part of a bee's memory that one sort sets aside for merging its spilled runs.
const SORT_RESERVATION_SHARE: usize = 32;

/// How many bytes a repartition that ran out of memory writes to a spill file before it begins the
/// next one: so few that every batch has a file of its own. When its inputs write to several open
/// files at once, DataFusion 55 reads only the oldest of them, and waits for ever for a batch that
/// is in another one (apache/datafusion#24883).
const REPARTITION_SPILL_FILE_BYTES: usize = 1;

/// Partitions of a task of many: with one, plans that are cut give wrong answers.
const SWARM_PARTITIONS: usize = 2;

const INFORMATION_SCHEMA: &str = "information_schema";

/// Resolves frames to snapshots, once each; plans logically and physically. `frames` are those of
/// another plan of the statement, which then sees what that one sees.
pub async fn plan_query(
    environment: &Environment,
    session: &Session,
    statement: &DfStatement,
    crew: &Crew,
    frames: Option<&Frames>,
) -> Result<PlannedQuery> {
    super::register_meadow(&environment.meadow, &crew.runtime)?;
    let (frames, missing) = match frames.and_then(|frames| frames.0.clone()) {
        Some(frames) => (frames, Vec::new()),
        None => resolve(environment, session, statement).await?,
    };
    let state = session_state(environment, session, crew, &frames);
    let logical = match state.statement_to_plan(statement.clone()).await {
        Ok(logical) => state.optimize(&logical)?,
        // A name that no frame has may be a table function; if planning fails, it was not.
        Err(error) => return Err(missing.into_iter().next().unwrap_or_else(|| error.into())),
    };
    refuse_writes(&logical)?;
    let plan = state
        .query_planner()
        .create_physical_plan(&logical, &state)
        .await?;
    Ok(PlannedQuery {
        schema: plan.schema(),
        scan_bytes: scan_totals(&plan)?.bytes_kept,
        plan,
        context: state.task_ctx(),
        frames: Frames(Some(frames)),
        literals: super::insert::literals(&logical),
    })
}

/// The frames that the statement names, as they are now, and the errors of names that no frame has.
///
/// Whether the registry has changed and whether the frames have are asked at once: they have by the
/// view that is known, and where that one is old, all is asked again.
async fn resolve(
    environment: &Environment,
    session: &Session,
    statement: &DfStatement,
) -> Result<(Arc<QueryFrames>, Vec<Error>)> {
    let known = environment.catalog.known_view();
    let early = known.map(|view| QueryFrames::new(environment, view));
    let fetch_early = async {
        match &early {
            Some(frames) => Some(fetch_snapshots(frames, session, statement).await),
            None => None,
        }
    };
    let (view, fetched) = futures::join!(environment.catalog.view(), fetch_early);
    let view = view?;
    if let (Some(frames), Some(fetched)) = (early, fetched)
        && frames.is_of(&view)
    {
        return Ok((frames, fetched?));
    }
    let frames = QueryFrames::new(environment, view);
    let missing = fetch_snapshots(&frames, session, statement).await?;
    Ok((frames, missing))
}

/// Fetches what the statement names. Returns the errors of names that no frame has.
async fn fetch_snapshots(
    frames: &QueryFrames,
    session: &Session,
    statement: &DfStatement,
) -> Result<Vec<Error>> {
    let (references, _) = resolve_table_references(statement, true)?;
    let asks_for_all = |reference: &TableReference| {
        reference.schema() == Some(INFORMATION_SCHEMA)
            && matches!(reference.table(), "columns" | "views")
    };
    if references.iter().any(asks_for_all) {
        frames.fetch_all().await;
    }
    let names = references
        .iter()
        .filter(|reference| reference.schema() != Some(INFORMATION_SCHEMA));
    let names = names
        .map(|reference| frame_name(session, reference))
        .collect::<Result<BTreeSet<FrameName>>>()?;
    let fetched = stream::iter(names).map(|name| async move {
        match frames.frame(&name).await {
            Ok(_) => Ok(None),
            Err(error @ Error::NotFound { .. }) => Ok(Some(error)),
            Err(error) => Err(error),
        }
    });
    let missing: Vec<Option<Error>> = fetched.buffered(SNAPSHOTS_AT_ONCE).try_collect().await?;
    Ok(missing.into_iter().flatten().collect())
}

fn frame_name(session: &Session, reference: &TableReference) -> Result<FrameName> {
    let parts = [
        reference.catalog(),
        reference.schema(),
        Some(reference.table()),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().map(str::to_string).collect();
    session.resolve(&parts)
}

fn session_state(
    environment: &Environment,
    session: &Session,
    crew: &Crew,
    frames: &Arc<QueryFrames>,
) -> SessionState {
    // `now()` is the host's time, read once for the whole statement.
    let started_at = DateTime::from_timestamp_millis(environment.host.clock.unix_ms());
    let properties =
        ExecutionProps::new().with_query_execution_start_time(started_at.unwrap_or_default());
    let state = SessionStateBuilder::new()
        // A random identifier would be the only thing that two runs of one query do not share.
        .with_session_id("apiary".into())
        .with_execution_props(properties)
        .with_config(session_config(environment, session, crew))
        .with_runtime_env(Arc::clone(&crew.runtime))
        .with_catalog_list(Arc::new(Hives(Arc::clone(frames))))
        .with_default_features()
        .with_optimizer_rule(Arc::new(SinkSemiJoins))
        .with_physical_optimizer_rules(first_rules());
    let has_run_out = crew.spilling_joins != SpillingJoins::None;
    let heap_share = match has_run_out {
        true => HEAP_SHARE_AFTER,
        false => HEAP_SHARE,
    };
    let state = state.with_physical_optimizer_rule(Arc::new(SpillLargeLimits {
        heap_bytes_max: bee_bytes(crew).map_or(usize::MAX, |bytes| bytes / heap_share),
    }));
    // Where a plan is cut is decided by the kinds of its operators.
    let state = match crew.for_swarm {
        true => state,
        false => state
            .with_physical_optimizer_rule(Arc::new(NestedLoops {
                spills_cross_joins: has_run_out,
            }))
            .with_physical_optimizer_rule(Arc::new(WindowsInPieces)),
    };
    let state = match has_run_out {
        true => state
            .with_optimizer_rule(Arc::new(SplitDistincts))
            .with_physical_optimizer_rule(Arc::new(SpillJoins(crew.spilling_joins)))
            .with_physical_optimizer_rule(Arc::new(SanityCheckPlan::new())),
        false => state,
    };
    match crew.for_swarm {
        true => state.build(),
        false => state
            .with_physical_optimizer_rule(Arc::new(YieldingJoins))
            .build(),
    }
}

/// The functions and names of a context, with other options and memory.
pub fn task_context(
    of: &TaskContext,
    config: SessionConfig,
    runtime: Arc<RuntimeEnv>,
) -> Arc<TaskContext> {
    Arc::new(TaskContext::new(
        of.task_id(),
        of.session_id(),
        config,
        of.scalar_functions().clone(),
        of.higher_order_functions().clone(),
        of.aggregate_functions().clone(),
        of.window_functions().clone(),
        runtime,
    ))
}

/// DataFusion's rules, behind one that they have to see the work of.
fn first_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    rules.insert(0, Arc::new(ForgetBelowGroupingSets));
    rules
}

/// A part of a plan that was cut, with what every other plan gets before it is finished: what keeps its
/// answer and its memory right.
pub(crate) fn guarded(
    plan: Arc<dyn ExecutionPlan>,
    options: &ConfigOptions,
) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
    let loops = NestedLoops {
        spills_cross_joins: false,
    };
    WindowsInPieces.optimize(loops.optimize(plan, options)?, options)
}

/// The memory of one bee; `None` when nothing bounds it.
fn bee_bytes(crew: &Crew) -> Option<usize> {
    match crew.runtime.memory_pool.memory_limit() {
        MemoryLimit::Finite(bytes) => Some(bytes),
        _ => None,
    }
}

fn session_config(environment: &Environment, session: &Session, crew: &Crew) -> SessionConfig {
    let laboratory = &environment.host.laboratory;
    let small = |limit: usize| laboratory.small(limit as u64) as usize;
    let partitions = match crew.for_swarm {
        true => SWARM_PARTITIONS,
        false => crew.bees.max(1),
    };
    let mut config = SessionConfig::new()
        .with_create_default_catalog_and_schema(false)
        .with_default_catalog_and_schema(session.hive.to_string(), session.box_name.to_string())
        .with_information_schema(true)
        .with_target_partitions(partitions)
        .with_batch_size(crew.batch_rows.max(1));
    if crew.for_swarm {
        config.set_extension(Arc::new(ForSwarm));
    }
    let options = config.options_mut();
    // A subquery that is planned apart would be run apart, by every task.
    options
        .optimizer
        .enable_physical_uncorrelated_scalar_subquery &= !crew.for_swarm;
    options.optimizer.hash_join_single_partition_threshold =
        small(HASH_JOIN_SINGLE_PARTITION_BYTES);
    options.optimizer.hash_join_single_partition_threshold_rows =
        small(HASH_JOIN_SINGLE_PARTITION_ROWS);
    options.execution.parquet.pushdown_filters = false;
    options.execution.planning_concurrency = crew.bees.max(1);
    options.execution.collect_statistics = true;
    if let Ok(bytes) = ConfigNonZeroUsize::try_new(REPARTITION_SPILL_FILE_BYTES) {
        options.execution.max_spill_file_size_bytes = bytes;
    }
    // What a sort sets aside for its merge must leave room for the sort: DataFusion's 10 MiB for
    // each of them is more than a small bee has.
    if let Some(bee_bytes) = bee_bytes(crew) {
        if crew.spilling_joins != SpillingJoins::None {
            let collected_bytes = HASH_JOIN_SINGLE_PARTITION_BYTES.min(bee_bytes / COLLECTED_SHARE);
            options.optimizer.hash_join_single_partition_threshold = collected_bytes;
            options.optimizer.hash_join_single_partition_threshold_rows =
                collected_bytes / COLLECTED_ROW_BYTES;
        }
        let reserved = &mut options.execution.sort_spill_reservation_bytes;
        *reserved = (*reserved).min(bee_bytes / SORT_RESERVATION_SHARE);
    }
    config
}

/// Statements that change something have their own ways; a plan of one must not slip through.
fn refuse_writes(plan: &LogicalPlan) -> Result<()> {
    let mut refused = None;
    plan.apply(|node| {
        refused = match node {
            LogicalPlan::Dml(dml) => Some(dml.op.to_string()),
            LogicalPlan::Ddl(ddl) => Some(ddl.name().to_string()),
            LogicalPlan::Copy(_) => Some("COPY".to_string()),
            LogicalPlan::Statement(statement) => Some(statement.name().to_string()),
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        Ok(TreeNodeRecursion::Stop)
    })?;
    refused.map_or(Ok(()), |what| Err(Error::Unsupported(what)))
}
