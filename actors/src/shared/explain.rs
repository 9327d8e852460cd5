//! EXPLAIN of a query that would be shared: its stages, its tasks, and where each would run.

use super::offer::{Offer, offer};
use super::{Rows, Written, cut, stage_plan};
use crate::context::Context;
use crate::read::ReadJob;
use apiary_engine::behavior::abandonment::Strategy;
use apiary_engine::behavior::placement::Distribute;
use apiary_engine::error::Result;
use datafusion::physical_plan::displayable;
use datafusion::sql::parser::{ExplainStatement, Statement as DfStatement};

/// What EXPLAIN says of sharing the statement that it explains: nothing when there is nobody to share
/// with.
pub(crate) async fn explain(context: &Context, job: &ReadJob) -> Result<Vec<(String, String)>> {
    let distribute = context.environment.settings.distribute;
    let DfStatement::Explain(explained) = job.statement.as_ref() else {
        return Ok(Vec::new());
    };
    if distribute == Distribute::Off || explained.options.analyze {
        return Ok(Vec::new());
    }
    let job = explained_job(job, explained);
    let offer = offer(context, context.swarm.recent().await?.as_ref(), distribute).await;
    let is_alone = offer.workers.len() == 1 && offer.open_bees == 0;
    if distribute == Distribute::Auto && is_alone {
        return Ok(Vec::new());
    }
    let planned = context
        .plan(&job.session, &job.statement, Strategy::FIRST)
        .await?;
    let here = |reason: String| {
        Ok(vec![(
            "swarm".into(),
            format!("runs on this node: {reason}"),
        )])
    };
    if !offer.is_wanted(distribute, planned.scan_bytes) {
        let bytes = planned.scan_bytes;
        return here(format!("a scan of {bytes} bytes is not worth sharing"));
    }
    let shared = context
        .plan_shared(&job.session, &job.statement, &planned.frames)
        .await?;
    match cut(context, shared, &planned.schema, &offer, Rows::Answer).await? {
        Ok(written) => Ok(described(written, &offer)),
        Err(reason) => here(reason),
    }
}

/// The statement that an EXPLAIN is about.
/// The statement that an EXPLAIN is about.
pub(super) fn explained_job(job: &ReadJob, explained: &ExplainStatement) -> ReadJob {
    ReadJob {
        statement: explained.statement.clone(),
        session: job.session.clone(),
        label: job.label.clone(),
        deadline: job.deadline,
        progress: job.progress.clone(),
        presented: job.presented,
    }
}

/// A row for the whole and one for each stage.
fn described(written: Written, offer: &Offer) -> Vec<(String, String)> {
    let tasks: usize = written
        .stages
        .iter()
        .map(|(stage, _)| stage.tasks.len())
        .sum();
    let mut rows = vec![(
        "swarm".to_string(),
        format!(
            "shared: {} stages of {tasks} tasks, {} nodes, and the head on this node",
            written.stages.len(),
            offer.workers.len()
        ),
    )];
    for (stage, plans) in written.stages {
        let shape = stage
            .tasks
            .first()
            .map(|task| displayable(task.plan.as_ref()).indent(false).to_string());
        let mut text = format!(
            "{} partitions, reads stages {:?}\n",
            stage.partitions, stage.inputs
        );
        let number = stage.stage;
        let shape = shape.unwrap_or_default();
        for (index, task) in stage_plan(stage, plans, offer).tasks.iter().enumerate() {
            let place = task
                .preferred
                .map_or("any node".into(), |node| node.short());
            text.push_str(&format!(
                "task {index} on {place} ({}), {} bytes to scan\n",
                task.reason, task.scan_bytes
            ));
        }
        rows.push((format!("stage {number}"), text + &shape));
    }
    rows
}
