//! Runs a cut plan in one process, stage by stage, for tests.

use super::{Cut, Inputs, TaskJob, commit_output, ready_plan, run_task, saved};
use crate::behavior::abandonment::Strategy;
use crate::error::Result;
use crate::sql::{Environment, PlannedQuery, encode_plan};
use apiary_protocol::ids::{NodeId, QueryId};
use apiary_protocol::query::{Output, TaskFacts, TaskKey};
use arrow::array::RecordBatch;
use datafusion::physical_plan::collect;
use std::sync::Arc;

/// Budget of each task's output buffers.
const BUDGET_BYTES: u64 = 64 << 20;

/// The rows of a cut plan; see [`run_stages`].
pub async fn run_cut(
    environment: &Environment,
    planned: &PlannedQuery,
    cut: &Cut,
    query: QueryId,
    times: usize,
) -> Result<Vec<RecordBatch>> {
    run_stages(environment, planned, cut, query, times).await?;
    run_head(environment, planned, cut, query).await
}

/// Runs all but the head. Each task runs from bytes, with `inputs` of its own; each is run `times`
/// times, and only the first output counts.
pub async fn run_stages(
    environment: &Environment,
    planned: &PlannedQuery,
    cut: &Cut,
    query: QueryId,
    times: usize,
) -> Result<()> {
    let meadow = &environment.meadow;
    let options = Arc::new(saved(planned.context.session_config()));
    let runtime = planned.context.runtime_env();
    for stage in &cut.stages {
        for (task, of_stage) in stage.tasks.iter().enumerate() {
            let key = TaskKey {
                stage: stage.stage,
                task: task as u32,
            };
            for time in 0..times {
                let job = TaskJob {
                    query,
                    key,
                    options: Arc::clone(&options),
                    plan: encode_plan(&of_stage.plan)?,
                    partitions: stage.partitions,
                    strategy: Strategy::FIRST,
                    inputs: Inputs::new(meadow, query, []),
                    progress: Arc::default(),
                };
                let finished =
                    run_task(environment, job, Arc::clone(&runtime), BUDGET_BYTES).await?;
                let output = Output {
                    query,
                    key,
                    node: NodeId::from_random(environment.host.entropy.bytes()),
                    bee: "bee-0".into(),
                    attempt: time as u32,
                    id: finished.made.id,
                    facts: TaskFacts::default(),
                    outcome: finished.made.outcome.clone(),
                };
                let ours = commit_output(meadow, &output, Some(finished.made)).await?;
                assert_eq!(
                    ours.is_some(),
                    time == 0,
                    "the first output of a task is the only one"
                );
            }
        }
    }
    Ok(())
}

/// The rows of the head over the outputs that are there.
pub async fn run_head(
    environment: &Environment,
    planned: &PlannedQuery,
    cut: &Cut,
    query: QueryId,
) -> Result<Vec<RecordBatch>> {
    let inputs = Inputs::new(&environment.meadow, query, []);
    let options = saved(planned.context.session_config());
    // A plan runs once: its operators keep what they have begun.
    let (head, context) = ready_plan(
        environment,
        &encode_plan(&cut.head)?,
        &options,
        inputs,
        Strategy::FIRST,
        planned.context.runtime_env(),
    )?;
    Ok(collect(head, context).await?)
}
