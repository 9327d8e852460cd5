//! A write that is shared: its tasks put cells into the frame, and this node commits all of them in one
//! version; or its rows come together here, in their order, and this node writes them.
//!
//! Invariants: what is handed on is of one execution of the query, each task's cells once; cells are
//! handed on or deleted, as far as anybody here knows of them; the query is over before anything is
//! committed, so nobody waits for its ledger.

use super::head::{Head, Unanswered, ended, is_not_ended, tried};
use super::offer::{is_considered, offer};
use super::{Rows, Shared, cut, publish};
use crate::chamber::Chamber;
use crate::commit::Uploaded;
use crate::context::{Context, Ladder};
use crate::read::EXECUTIONS_MAX;
use crate::write::{Gathered, QuerySource, Target, WriteJob, write_rows, write_spec};
use apiary_engine::distributed::{Sink, Writes, collect_cells};
use apiary_engine::error::{Error, Result};
use apiary_engine::ledger::Snapshot;
use apiary_engine::sql::{Frames, PlannedQuery};
use apiary_protocol::names::FrameName;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Gathers the cells of a write by the swarm, when it can be shared and should be. `planned` is the plan
/// for this node alone.
pub(crate) async fn shared_write(
    context: &Context,
    job: &WriteJob,
    target: &Target,
    source: &QuerySource,
    planned: &PlannedQuery,
) -> Result<Option<Gathered>> {
    let mut executions_lost = 0;
    loop {
        // Run once more it reads what is there then.
        let frames = (executions_lost == 0).then(|| planned.frames.clone());
        let begun = begin(context, job, target, source, planned, frames).await?;
        let Some((shared, read)) = begun else {
            return Ok(None);
        };
        match run(context, job, target, shared).await {
            Ok(uploaded) => {
                let limit = context.environment.settings.max_partitions;
                uploaded.check_partitions(limit)?;
                return Ok(Some(Gathered { uploaded, read }));
            }
            Err(Unanswered::Failed(error)) => return Err(error),
            Err(Unanswered::LostInput(error)) => {
                executions_lost += 1;
                if executions_lost >= EXECUTIONS_MAX {
                    return Err(error);
                }
                tracing::warn!(%error, "the write is run once more");
            }
        }
    }
}

type Read = Vec<(FrameName, Arc<Snapshot>)>;

/// Shares the rows of a write, with what they are read from.
async fn begin(
    context: &Context,
    job: &WriteJob,
    target: &Target,
    source: &QuerySource,
    planned: &PlannedQuery,
    frames: Option<Frames>,
) -> Result<Option<(Shared, Read)>> {
    let distribute = context.environment.settings.distribute;
    if planned.frames.snapshots().is_empty() || !is_considered(distribute, planned.scan_bytes) {
        return Ok(None);
    }
    let sink = target.frame.map(|frame| Sink {
        frame,
        spec: write_spec(context, target),
    });
    let written = async {
        let offer = offer(context, context.swarm.recent().await?.as_ref(), distribute).await;
        if !offer.is_wanted(distribute, planned.scan_bytes) {
            return Ok(Err("it is not worth it".into()));
        }
        let schema = target.schema.clone();
        let shared = context.plan_shared_insert(source, schema, frames).await?;
        let read = shared.frames.snapshots();
        let written = cut(context, shared, &planned.schema, &offer, Rows::Cells(sink)).await?;
        Ok::<_, Error>(written.map(|written| (written, offer, read)))
    };
    match written.await {
        Ok(Ok((written, offer, read))) => {
            if let Some(making) = target.making.as_ref().filter(|_| written.writing.is_some()) {
                making.share();
            }
            let location = Some(target.location.as_str());
            let shared = publish(context, job.deadline, written, &offer, None, location).await?;
            return Ok(Some((shared, read)));
        }
        Ok(Err(reason)) => tracing::debug!(reason, write = job.label, "the write is not shared"),
        Err(error) => tracing::warn!(%error, write = job.label, "the write is not shared"),
    }
    Ok(None)
}

async fn run(
    context: &Context,
    job: &WriteJob,
    target: &Target,
    shared: Shared,
) -> std::result::Result<Uploaded, Unanswered> {
    let writes = shared.writes.clone();
    let (coordinated, head) = shared.gathered().await;
    let uploaded = match (head, writes) {
        (Ok(head), Some(writes)) => head.collect(context, job, target, &writes).await,
        (Ok(head), None) => {
            let lives = is_not_ended(context, head.query);
            let written = head.write(context, job, target);
            futures::try_join!(written, lives).map(|(uploaded, ())| uploaded)
        }
        (Err(error), _) => Err(error),
    };
    // Without a pause between the two: the cells are deleted by whoever has them then.
    ended(coordinated, uploaded)
}

impl Head {
    /// The cells of all tasks.
    async fn collect(
        &self,
        context: &Context,
        job: &WriteJob,
        target: &Target,
        writes: &Writes,
    ) -> Result<Uploaded> {
        let meadow = &context.environment.meadow;
        let cells = collect_cells(meadow, self.query, &self.known, writes).await?;
        job.progress.rows_done.store(cells.rows, Ordering::Relaxed);
        let mut uploaded = target.uploaded(context);
        uploaded.cells = cells;
        Ok(uploaded)
    }

    /// The rows that come together here, as cells.
    async fn write(&self, context: &Context, job: &WriteJob, target: &Target) -> Result<Uploaded> {
        let mut ladder = Ladder::new();
        loop {
            let (head, environment) = (self.clone(), context.environment.clone());
            let (spec, progress) = (write_spec(context, target), job.progress.clone());
            let (strategy, mut uploaded) = (ladder.strategy, target.uploaded(context));
            let work = move |chamber: Chamber| async move {
                let planned = head.decode(&environment, &chamber, strategy)?;
                uploaded.cells =
                    write_rows(&environment, &planned, &chamber, strategy, &spec, &progress)
                        .await?;
                Ok(uploaded)
            };
            let failure = match tried(context, &job.label, strategy, work).await? {
                Ok(uploaded) => return Ok(uploaded),
                Err(failure) => failure,
            };
            ladder.failed(&context.planner, failure, false)?;
        }
    }
}
