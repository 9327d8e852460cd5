//! What the Forager asks of the meadow.

use super::Ending;
use crate::bees::BeesHandle;
use crate::patience::answered;
use apiary_engine::behavior::membership::{DEAD_PROMISES, PROMISE_DEFAULT};
use apiary_engine::behavior::temperature::Regulation;
use apiary_engine::distributed::{StoredOutput, discard_cells, first_read_bytes, read_output};
use apiary_engine::error::{Error, Result};
use apiary_engine::sql::Environment;
use apiary_engine::store::Meadow;
use apiary_protocol::heartbeat::Heartbeat;
use apiary_protocol::ids::{AttemptId, NodeId, QueryId};
use apiary_protocol::keys;
use apiary_protocol::planted;
use apiary_protocol::query::{BELL_QUERIES_MAX, Bell, End, EndReason, QueryPlan, TaskKey};
use bytes::Bytes;
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// More outputs than this are looked for with one list, once one of a few of them is there: most looks
/// come too early, and a list costs as much as twelve of these.
const OUTPUTS_ONE_BY_ONE: usize = 12;
pub(super) const OUTPUTS_FIRST: usize = 2;
/// Outputs that are read at once, and bytes of them.
const OUTPUTS_AT_ONCE: u64 = 64;
const OUTPUT_BYTES_AT_ONCE: u64 = 16 << 20;
const DELETES_AT_ONCE: usize = 16;
/// How long a round waits for outputs, for each that is asked for after another: so many times what a
/// request takes, at least, and where that is not known. The slowest of many reads of a bucket takes
/// seconds; whoever asks again waits for the faster of two. Twice as long each time, for a slow line.
const LATE_REQUESTS: u32 = 3;
const LATE_LEAST: Duration = Duration::from_millis(300);
const LATE_UNKNOWN: Duration = Duration::from_secs(1);
pub(super) const LATE_ROUNDS_MAX: u32 = 8;
/// How long the heartbeat of a coordinator may be missing.
const ABSENT_PAUSE: Duration = Duration::from_secs(10);

/// What a poll found.
pub(crate) struct Polled {
    /// The bell's tag, when there is a bell.
    pub(super) bell: Option<String>,
    /// Queries that it names, when it was rung since.
    pub(super) rung: Vec<QueryId>,
    /// All queries, when they were listed.
    pub(super) listed: Option<Vec<QueryId>>,
}

/// Reads the bell, and lists the queries when it is time.
pub(super) async fn poll(meadow: Meadow, heard: Option<String>, lists: bool) -> Result<Polled> {
    let bell = meadow.get_tagged(keys::BELL).await?;
    let (bell, rung) = match bell {
        Some((bytes, tag)) if heard.as_ref() != Some(&tag) => {
            // A bell that cannot be read costs time only: it is rung again.
            let rung = Bell::from_bytes(&bytes).map_or(Vec::new(), |bell| bell.queries);
            (Some(tag), rung)
        }
        Some((_, tag)) => (Some(tag), Vec::new()),
        None => (None, Vec::new()),
    };
    let listed = match lists {
        true => {
            let found = meadow.list_directories(keys::QUERIES_PREFIX).await?;
            Some(found.iter().filter_map(|key| keys::query_of(key)).collect())
        }
        false => None,
    };
    Ok(Polled { bell, rung, listed })
}

/// Tells the others of a query: a hint, so a failure is only logged. `named` is what the bell names, as
/// far as that is known.
pub(super) async fn ring(environment: Environment, query: QueryId, named: Option<Vec<QueryId>>) {
    let bell = async {
        let mut queries = match named {
            Some(queries) => queries,
            None => match environment.meadow.get_tagged(keys::BELL).await? {
                Some((bytes, _)) => {
                    Bell::from_bytes(&bytes).map_or(Vec::new(), |bell| bell.queries)
                }
                None => Vec::new(),
            },
        };
        queries.retain(|known| *known != query);
        queries.push(query);
        let surplus = queries.len().saturating_sub(BELL_QUERIES_MAX);
        queries.drain(..surplus);
        let id = AttemptId::from_random(environment.host.entropy.bytes());
        let bytes = Bell { id, queries }.to_bytes();
        let bytes = bytes.map_err(|error| Error::Bug(format!("a bell: {error}")))?;
        environment.meadow.put(keys::BELL, Bytes::from(bytes)).await
    };
    if let Err(error) = bell.await {
        tracing::warn!(%error, "the bell was not rung; others find the query later");
    }
}

/// A query's plan; `None` when it is not there, or the query is over.
pub(super) async fn read_plan(meadow: Meadow, query: QueryId) -> Result<Option<QueryPlan>> {
    let (key, end_key) = (keys::query_plan(query), keys::query_end(query));
    let (bytes, has_end) = futures::join!(meadow.get(&key), meadow.has(&end_key));
    let (Some(bytes), false) = (bytes?, has_end?) else {
        return Ok(None);
    };
    let plan = QueryPlan::from_bytes(&bytes).map_err(|error| Error::corrupt(&key, error))?;
    if plan.query != query {
        return Err(Error::corrupt(
            &key,
            format!("it is of query {}", plan.query),
        ));
    }
    Ok(Some(plan))
}

/// What a round of requests asks.
pub(super) struct RoundPlan {
    /// Outputs whose index is wanted, with each whether whoever reads of it reads all of it.
    pub(super) read: Vec<(TaskKey, bool)>,
    /// Outputs of which it is enough to know that they are there.
    pub(super) only_there: Vec<TaskKey>,
    /// How often the patience for outputs is doubled.
    pub(super) late_rounds: u32,
    /// Looks whether the query has ended.
    pub(super) end: bool,
    /// Looks whether its plan is still there.
    pub(super) plan: bool,
}

/// An output that is there.
pub(crate) enum Found {
    There,
    Read(Arc<StoredOutput>),
    Unreadable(Error),
}

pub(crate) struct Round {
    pub(super) found: Vec<(TaskKey, Found)>,
    /// Those that were looked for and are not there.
    pub(super) missed: Vec<TaskKey>,
    /// Others were still on their way.
    pub(super) is_late: bool,
    pub(super) is_over: bool,
    /// Bees of this node that could take a task of somebody else: none while it is warm.
    pub(super) idle_bees: usize,
}

/// One round: outputs that are looked for, and whether the query is over.
pub(super) async fn round(
    meadow: Meadow,
    bees: BeesHandle,
    query: QueryId,
    plan: RoundPlan,
    request: Option<Duration>,
) -> Result<Round> {
    let RoundPlan {
        mut read,
        mut only_there,
        ..
    } = plan;
    let keys_read = read.iter().map(|(key, _)| *key);
    let mut looked: Vec<TaskKey> = keys_read.chain(only_there.iter().copied()).collect();
    // The more outputs there are, the less is in each.
    let each = OUTPUT_BYTES_AT_ONCE / looked.len().max(1) as u64;
    let first = first_read_bytes(&meadow, request, each);
    // A store that is not on this machine is asked once for what is wanted whole.
    let wholes = read.iter().filter(|(_, is_whole)| *is_whole).count();
    let share = OUTPUT_BYTES_AT_ONCE / wholes.max(1) as u64;
    let whole = if meadow.is_fast() {
        first
    } else {
        share.max(first)
    };
    let at_once = (OUTPUT_BYTES_AT_ONCE / first).min(OUTPUTS_AT_ONCE);
    let mut is_listed = looked.len() > OUTPUTS_ONE_BY_ONE;
    if is_listed && !is_any_there(&meadow, query, &looked[..OUTPUTS_FIRST]).await? {
        looked.truncate(OUTPUTS_FIRST);
        read.clear();
        only_there.clear();
        is_listed = false;
    }
    if is_listed {
        let there = committed(&meadow, query).await?;
        let is_there = |key: &TaskKey| there.contains(&keys::query_output(query, *key));
        read.retain(|(key, _)| is_there(key));
        only_there.retain(is_there);
    }
    let keys_read = read.iter().map(|(key, _)| *key);
    let asked_for: BTreeSet<TaskKey> = keys_read.chain(only_there.iter().copied()).collect();
    let patience = (!meadow.is_fast()).then(|| {
        let after_another = asked_for.len().div_ceil(at_once.max(1) as usize).max(1) as u32;
        let each = request.map_or(LATE_UNKNOWN, |took| (took * LATE_REQUESTS).max(LATE_LEAST));
        each * after_another * (1 << plan.late_rounds)
    });
    let asked = only_there.into_iter().map(|key| (key, None));
    let read = read
        .into_iter()
        .map(|(key, is_whole)| (key, Some(is_whole)));
    let requests = read.chain(asked).map(|(key, read)| {
        let meadow = &meadow;
        async move {
            let found = match (read, is_listed) {
                (Some(is_whole), _) => {
                    let first = if is_whole { whole } else { first };
                    read_output(meadow, query, key, first).await
                }
                (None, true) => return Some((key, Some(Found::There))),
                (None, false) => {
                    let there = meadow.has(&keys::query_output(query, key)).await;
                    return Some((key, there.ok()?.then_some(Found::There)));
                }
            };
            match found {
                Ok(found) => Some((key, found.map(Found::Read))),
                Err(error @ Error::Corrupt { .. }) => Some((key, Some(Found::Unreadable(error)))),
                Err(error) => {
                    tracing::debug!(%error, "an output cannot be read now");
                    None
                }
            }
        }
    });
    let outputs = answered::<BTreeMap<_, _>, _>(requests, at_once as usize, patience);
    let is_there = async |asked: bool, key: String| match asked {
        true => Ok::<_, Error>(Some(meadow.has(&key).await?)),
        false => Ok(None),
    };
    let (answered, has_end, has_plan) = futures::join!(
        outputs,
        is_there(plan.end, keys::query_end(query)),
        is_there(plan.plan, keys::query_plan(query)),
    );
    // What a list did not have was not asked for, and is not there either.
    let is_missed = |key: &TaskKey| match answered.get(key) {
        Some(found) => found.is_none(),
        None => !asked_for.contains(key),
    };
    looked.retain(is_missed);
    let is_late = answered.len() < asked_for.len();
    let found = answered.into_iter();
    let found = found.filter_map(|(key, found)| Some((key, found?)));
    let view = bees.observe().await?;
    let idle = view.bees.iter().filter(|bee| bee.state == "idle").count();
    Ok(Round {
        idle_bees: match view.regulation > Regulation::Ideal {
            true => 0,
            false => idle,
        },
        found: found.collect(),
        missed: looked,
        is_late,
        is_over: has_end? == Some(true) || has_plan? == Some(false),
    })
}

/// Whether one of these outputs is there.
async fn is_any_there(meadow: &Meadow, query: QueryId, outputs: &[TaskKey]) -> Result<bool> {
    let looks = outputs.iter().map(|output| async move {
        let key = keys::query_output(query, *output);
        meadow.has(&key).await
    });
    let found = futures::future::try_join_all(looks).await?;
    Ok(found.contains(&true))
}

/// Keys of the outputs that are there, by one list.
async fn committed(meadow: &Meadow, query: QueryId) -> Result<BTreeSet<String>> {
    let listed = meadow.list(&keys::query_outputs(query), None).await?;
    let keys = listed.iter().map(|object| object.location.to_string());
    Ok(keys.collect())
}

/// Whether a coordinator is dead, whatever the swarm's view says: its heartbeat is not there, or does
/// not change for as long as makes a node dead.
pub(super) async fn is_dead(meadow: &Meadow, node: NodeId) -> Result<bool> {
    if planted!(LiveQuerySwept) {
        return Ok(true);
    }
    let key = keys::heartbeat(node);
    let before = meadow.get_tagged(&key).await?;
    // Where there is none yet: a beat comes a moment after the first plan.
    let pause = before.as_ref().map_or(ABSENT_PAUSE, |(bytes, _)| {
        let promise = Heartbeat::from_bytes(bytes).map_or(PROMISE_DEFAULT, |beat| {
            Duration::from_millis(beat.next_beat_ms)
        });
        promise * DEAD_PROMISES
    });
    tokio::time::sleep(pause).await;
    let now = meadow.get_tagged(&key).await?;
    Ok(now.map(|(_, tag)| tag) == before.map(|(_, tag)| tag))
}

/// Whether a query has ended, as far as can be seen.
pub(super) async fn is_over(meadow: &Meadow, query: QueryId) -> Result<bool> {
    let (plan_key, end_key) = (keys::query_plan(query), keys::query_end(query));
    let (has_plan, has_end) = futures::join!(meadow.has(&plan_key), meadow.has(&end_key));
    Ok(!has_plan? || has_end?)
}

/// Creates the end of a query, unless somebody has.
async fn say_over(
    environment: &Environment,
    node: NodeId,
    query: QueryId,
    reason: EndReason,
) -> Result<()> {
    let end = End {
        query,
        node,
        id: AttemptId::from_random(environment.host.entropy.bytes()),
        reason,
    };
    let bytes = end
        .to_bytes()
        .map_err(|error| Error::Bug(format!("an end: {error}")))?;
    let key = keys::query_end(query);
    let created = environment.meadow.create(&key, Bytes::from(bytes));
    created.await.map(drop)
}

/// Waits for outputs of this node that are on their way, so that none comes after its deletion.
async fn outputs_landed(environment: &Environment) {
    let deadline = environment.settings.storage_deadline();
    let landed = tokio::time::timeout(deadline, environment.meadow.quiet());
    if landed.await.is_err() {
        tracing::warn!("what a query left may not be all of it: something is still on its way");
    }
}

/// Deletes all under a query, its end last; says first that it is over when nobody has yet.
pub(super) async fn clean(
    environment: Environment,
    node: NodeId,
    query: QueryId,
    end: Option<Ending>,
    unless_alive: Option<NodeId>,
    grace: Duration,
) -> Result<()> {
    let meadow = &environment.meadow;
    let end_key = keys::query_end(query);
    if let Some(coordinator) = unless_alive
        && !is_dead(meadow, coordinator).await?
    {
        return Ok(());
    }
    let mut discards = None;
    if let Some(ending) = end {
        say_over(&environment, node, query, ending.reason).await?;
        tokio::time::sleep(grace).await;
        discards = ending.discards;
    }
    outputs_landed(&environment).await;
    if let Some(writes) = discards {
        discard_cells(meadow, query, &writes).await?;
    }
    let objects = meadow.list(&keys::query_prefix(query), None).await?;
    let keys = objects.iter().map(|object| object.location.to_string());
    let (last, first): (Vec<String>, Vec<String>) = keys.partition(|key| *key == end_key);
    let plan_key = keys::query_plan(query);
    if last.is_empty() && first.contains(&plan_key) {
        // It lives: its plan came late.
        return Ok(());
    }
    // The plan goes first: who finds none knows that the query is over.
    let (plan, rest): (Vec<String>, Vec<String>) =
        first.into_iter().partition(|key| *key == plan_key);
    for keys in [plan, rest, last] {
        let mut deletions = futures::stream::iter(keys)
            .map(|key| async move { meadow.delete(&key).await })
            .buffer_unordered(DELETES_AT_ONCE);
        while let Some(deleted) = deletions.next().await {
            deleted?;
        }
    }
    Ok(())
}
