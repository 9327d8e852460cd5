//! One node's try at a task: claim it when it is not ours, run it in a chamber, commit its output.
//!
//! What fails for want of memory, or in a panic, is tried again here with another strategy, each try
//! leaving a record; then the failure is the task's output, and ends the query.

use super::Arguments;
use super::handle::Known;
use super::requests::is_over;
use crate::bee::Facts;
use crate::bees::TaskEnd;
use apiary_engine::behavior::abandonment::{
    self, FailureClass, Record, Strategy, Told, Verdict, plan_next,
};
use apiary_engine::behavior::foraging::Start;
use apiary_engine::behavior::membership::NodeState;
use apiary_engine::distributed::{
    Finished, Inputs, StoredOutput, TaskJob, commit_failure, commit_output, is_lost_input,
    read_failures, run_task, task_error,
};
use apiary_engine::error::{Error, ErrorKind, Result};
use apiary_engine::store::Created;
use apiary_protocol::format::BUILD;
use apiary_protocol::ids::{AttemptId, NodeId};
use apiary_protocol::keys;
use apiary_protocol::planted;
use apiary_protocol::query::{
    Claim, ErrorClass, Failure, Outcome, Output, QueryPlan, TaskError, TaskFacts,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

pub(super) struct AttemptJob {
    pub(super) plan: Arc<QueryPlan>,
    pub(super) options: Arc<BTreeMap<String, String>>,
    pub(super) start: Start,
    /// Of the stages that it reads.
    pub(super) known: Known,
    /// Storage operations that had to follow each other before it could begin.
    pub(super) path: u32,
    pub(super) progress: Arc<AtomicU64>,
}

/// How it ended.
pub(crate) enum AttemptEnd {
    /// The task has an output: this one, or another that was there first.
    Committed(Option<Arc<StoredOutput>>),
    /// No attempt can succeed.
    Failed(TaskError),
    /// Somebody else has this attempt.
    Claimed { by: NodeId, attempt: u32 },
    /// Nothing is known against the task: somebody should try again.
    Released(Error),
    /// It needs more memory than this node has, and somebody has more.
    TooLarge,
}

pub(super) async fn run(with: Arguments, job: AttemptJob) -> AttemptEnd {
    if job.start.must_claim {
        match claim(&with, &job).await {
            Ok(None) => {}
            Ok(Some(by)) => {
                let attempt = job.start.attempt;
                return AttemptEnd::Claimed { by, attempt };
            }
            Err(error) => return AttemptEnd::Released(error),
        }
    }
    match tries(&with, &job).await {
        Ok(end) => end,
        Err(error) => AttemptEnd::Released(error),
    }
}

/// Claims the attempt; `Some` when it is another node's.
async fn claim(with: &Arguments, job: &AttemptJob) -> Result<Option<NodeId>> {
    let Start { key, attempt, .. } = job.start;
    let claim = Claim {
        node: with.node_id,
        key,
        attempt,
        id: AttemptId::from_random(with.environment.host.entropy.bytes()),
    };
    let bytes = claim
        .to_bytes()
        .map_err(|error| Error::Bug(format!("a claim: {error}")))?;
    let claim_key = keys::query_claim(job.plan.query, key, attempt);
    match with
        .environment
        .meadow
        .create(&claim_key, Bytes::from(bytes))
        .await?
    {
        Created::Ours => Ok(None),
        Created::Theirs(bytes) => match Claim::from_bytes(&bytes) {
            // A claim of ours that an earlier instance of the Forager made is run again.
            Ok(claim) if claim.node == with.node_id => Ok(None),
            Ok(claim) => Ok(Some(claim.node)),
            Err(error) => Err(Error::corrupt(claim_key, error)),
        },
    }
}

async fn tries(with: &Arguments, job: &AttemptJob) -> Result<AttemptEnd> {
    let mut history: Vec<Record> = Vec::new();
    let mut strategy = Strategy::FIRST;
    loop {
        let (error, facts) = match try_once(with, job, strategy).await {
            TaskEnd::Done((finished, waited), facts) => {
                return commit_made(with, job, finished, &facts, waited).await;
            }
            TaskEnd::Failed(error, facts) => (Some(error), facts),
            TaskEnd::Lost => (None, Facts::default()),
        };
        if let Some(error) = error.as_ref().filter(|error| is_lost_input(error)) {
            if planted!(LostInputKept) && job.plan.coordinator != with.node_id {
                return Ok(AttemptEnd::Released(Error::Bug(error.to_string())));
            }
            return lost_input(with, job, error).await;
        }
        let class = error
            .as_ref()
            .map_or(FailureClass::BeeLost, abandonment::classify);
        let text = error
            .as_ref()
            .map_or("its bee was lost".into(), ToString::to_string);
        let record = Record {
            bee: format!("{} {}", with.node_id.short(), facts.bee),
            strategy,
            class,
            error: text,
            budget_bytes: facts.budget_bytes,
            duration: facts.duration,
        };
        if let Some(error) = &error {
            leave_record(with, job, &record, error, history.len() as u32).await;
        }
        history.push(record);
        match (plan_next(&history, false), error) {
            (Verdict::Again(next), _) => strategy = next,
            // Storage or this node failed it, not the task.
            (Verdict::Abandon, Some(error))
                if class == FailureClass::Final
                    && !matches!(error.kind(), ErrorKind::Rejected | ErrorKind::Corrupt) =>
            {
                return Ok(AttemptEnd::Released(error));
            }
            (Verdict::Abandon, error) => {
                let elsewhere = failures_elsewhere(with, job).await;
                let is_memory = class == FailureClass::Memory;
                if is_memory && !job.start.is_last && has_larger(with, &elsewhere) {
                    return Ok(AttemptEnd::TooLarge);
                }
                let failure = given_up(class, error, &elsewhere, &history);
                commit_failed(with, job, failure.clone()).await?;
                return Ok(AttemptEnd::Failed(failure));
            }
        }
    }
}

/// An output that the task reads is damaged or gone. No attempt here can do without it, so the query is
/// told: left to itself, a node that lost an input claims one attempt after the other.
async fn lost_input(with: &Arguments, job: &AttemptJob, error: &Error) -> Result<AttemptEnd> {
    let lost = task_error(error);
    let reason = &lost.message;
    tracing::warn!(reason, "an output of this query cannot be read");
    if job.plan.coordinator == with.node_id {
        return Ok(AttemptEnd::Failed(lost));
    }
    // What is over is deleted, outputs before its end.
    if is_over(&with.environment.meadow, job.plan.query).await? {
        return Ok(AttemptEnd::Released(Error::Cancelled));
    }
    commit_failed(with, job, lost.clone()).await?;
    Ok(AttemptEnd::Failed(lost))
}

/// What other nodes left of their attempts at the task. Without it the report is shorter.
async fn failures_elsewhere(with: &Arguments, job: &AttemptJob) -> Vec<Failure> {
    let (query, key) = (job.plan.query, job.start.key);
    match read_failures(&with.environment.meadow, query).await {
        Ok(mut failures) => {
            failures.retain(|failure| failure.key == key && failure.node != with.node_id);
            failures
        }
        Err(error) => {
            tracing::warn!(%error, %query, "the records of other attempts cannot be read");
            Vec::new()
        }
    }
}

/// Whether a node with more memory than this one has not tried it yet. One that was not seen to change
/// yet counts: should it be gone, the query fails later, and no other way.
fn has_larger(with: &Arguments, elsewhere: &[Failure]) -> bool {
    let division = with.chambers.division();
    let own = division.bees as u64 * division.budget_per_bee_bytes;
    let view = with.swarm.view();
    let hopeful = view
        .members
        .iter()
        .filter(|member| matches!(member.state, NodeState::Alive | NodeState::Unknown));
    let mut beats = hopeful.filter_map(|member| member.beat.as_deref());
    beats.any(|beat| {
        beat.node != with.node_id
            && beat.build == BUILD
            && !beat.draining
            && u64::from(beat.cores).saturating_mul(beat.bee_budget_bytes) > own
            && elsewhere.iter().all(|failure| failure.node != beat.node)
    })
}

fn given_up(
    class: FailureClass,
    error: Option<Error>,
    elsewhere: &[Failure],
    history: &[Record],
) -> TaskError {
    let told = |failure: &Failure| Told {
        bee: failure.bee.clone(),
        how: failure.strategy.clone(),
        budget_bytes: failure.budget_bytes,
        duration: Duration::from_millis(failure.duration_ms),
        error: failure.error.message.clone(),
    };
    let elsewhere: Vec<Told> = elsewhere.iter().map(told).collect();
    let report = abandonment::report_after(&elsewhere, history);
    match (class, error) {
        (FailureClass::Final, Some(error)) => task_error(&error),
        (FailureClass::Memory, _) => task_error(&Error::ResourcesExhausted(report)),
        (FailureClass::Panic, _) => task_error(&Error::Bug(report)),
        _ => TaskError {
            class: ErrorClass::Retry,
            object: None,
            message: report,
        },
    }
}

async fn try_once(
    with: &Arguments,
    job: &AttemptJob,
    strategy: Strategy,
) -> TaskEnd<(Finished, Duration)> {
    let Start { key, .. } = job.start;
    let stage = job.plan.stage(key.stage);
    let (Some(stage), Some(task)) = (stage, job.plan.task(key)) else {
        return TaskEnd::Failed(
            Error::Bug("a task that is not in its plan".into()),
            Facts::default(),
        );
    };
    let task = TaskJob {
        query: job.plan.query,
        key,
        options: Arc::clone(&job.options),
        plan: task.plan.clone(),
        partitions: stage.partitions as usize,
        strategy,
        inputs: Inputs::new(&with.environment.meadow, job.plan.query, job.known.clone()),
        progress: Arc::clone(&job.progress),
    };
    let label = format!("{}/{}-{}", job.plan.query, key.stage, key.task);
    let bees = match strategy.whole_crew {
        true => with.chambers.division().bees,
        false => 1,
    };
    let (environment, clock) = (
        with.environment.clone(),
        with.environment.host.clock.clone(),
    );
    let asked_at = clock.monotonic();
    let work = move |chamber: crate::chamber::Chamber| async move {
        let waited = environment.host.clock.monotonic().saturating_sub(asked_at);
        chamber.divide(strategy);
        let runtime = Arc::clone(&chamber.runtime);
        let finished = run_task(&environment, task, runtime, chamber.budget_bytes).await?;
        Ok((finished, waited))
    };
    with.bees.run(label, bees, bees, work).await
}

async fn commit_made(
    with: &Arguments,
    job: &AttemptJob,
    finished: Finished,
    facts: &Facts,
    waited: Duration,
) -> Result<AttemptEnd> {
    let made = finished.made;
    // Outputs were read, if more of them than their indexes; bytes went before an output that names
    // them; then the output.
    let path = job.path + u32::from(finished.has_fetched) + u32::from(made.goes_before()) + 1;
    let facts_of_task = TaskFacts {
        rows: finished.rows,
        bytes: made.bytes,
        waited_ms: waited.as_millis() as u64,
        duration_ms: facts.duration.as_millis() as u64,
        budget_bytes: facts.budget_bytes,
        peak_bytes: facts.peak_bytes,
        cache_hits: finished.cached.hits,
        cached_bytes: finished.cached.bytes,
        requests_saved: finished.cached.requests_saved,
        spilled_bytes: facts.spilled_bytes,
        read_bytes: finished.read_bytes,
        requests: finished.requests,
        path,
    };
    let outcome = made.outcome.clone();
    let output = output(with, job, made.id, facts_of_task, outcome);
    let output = Output {
        bee: facts.bee.clone(),
        ..output
    };
    let meadow = with.environment.meadow.clone();
    if !made.is_cells() {
        let committed = commit_output(&meadow, &output, Some(made)).await?;
        return Ok(AttemptEnd::Committed(committed));
    }
    // Nobody would come for the cells of an output that is later than the end.
    let query = job.plan.query;
    if is_over(&meadow, query).await? {
        return Ok(match job.plan.coordinator == with.node_id {
            // Others took this node for dead.
            true => {
                let reason = "the query was ended by another node";
                AttemptEnd::Failed(task_error(&Error::corrupt(keys::query_plan(query), reason)))
            }
            false => AttemptEnd::Released(Error::Cancelled),
        });
    }
    let over = meadow.clone();
    let commit = async move { commit_output(&over, &output, Some(made)).await };
    let ended = meadow.aside(commit).await;
    let committed = ended.unwrap_or_else(|error| {
        Err(Error::Bug(format!("committing cells ended early: {error}")))
    })?;
    Ok(AttemptEnd::Committed(committed))
}

async fn commit_failed(with: &Arguments, job: &AttemptJob, error: TaskError) -> Result<()> {
    let id = AttemptId::from_random(with.environment.host.entropy.bytes());
    let output = output(with, job, id, TaskFacts::default(), Outcome::Failed(error));
    commit_output(&with.environment.meadow, &output, None)
        .await
        .map(drop)
}

fn output(
    with: &Arguments,
    job: &AttemptJob,
    id: AttemptId,
    facts: TaskFacts,
    outcome: Outcome,
) -> Output {
    Output {
        query: job.plan.query,
        key: job.start.key,
        node: with.node_id,
        bee: String::new(),
        attempt: job.start.attempt,
        id,
        facts,
        outcome,
    }
}

/// The record of a failed try, for people and for the report. Losing it changes nothing.
async fn leave_record(
    with: &Arguments,
    job: &AttemptJob,
    record: &Record,
    error: &Error,
    tries: u32,
) {
    let failure = Failure {
        key: job.start.key,
        node: with.node_id,
        bee: record.bee.clone(),
        // Each try has a record of its own.
        attempt: job.start.attempt * abandonment::ATTEMPTS_MAX as u32 + tries,
        id: AttemptId::from_random(with.environment.host.entropy.bytes()),
        strategy: record.strategy.in_words(),
        budget_bytes: record.budget_bytes,
        duration_ms: record.duration.as_millis() as u64,
        error: task_error(error),
    };
    let left = commit_failure(&with.environment.meadow, job.plan.query, &failure).await;
    if let Err(error) = left {
        tracing::warn!(%error, "a failed attempt left no record");
    }
}
