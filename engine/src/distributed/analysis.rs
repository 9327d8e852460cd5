//! What a shared query took, told from what its tasks left: for EXPLAIN ANALYZE.
//!
//! Outputs say who made them and at what cost; records of failures say what was tried in vain. Reads
//! them, and makes text of them; decides nothing.

use super::cut::CutStage;
use super::input::{FIRST_READ_BYTES_MIN, StoredOutput, read_output};
use crate::behavior::abandonment::ATTEMPTS_MAX;
use crate::error::{Error, Result};
use crate::store::Meadow;
use apiary_protocol::ids::{NodeId, QueryId};
use apiary_protocol::keys;
use apiary_protocol::query::{Failure, Output, TaskFacts, TaskKey};
use datafusion::physical_plan::displayable;
use futures::{StreamExt, TryStreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const READS_AT_ONCE: usize = 16;
/// Characters of an error that are shown.
const ERROR_CHARACTERS: usize = 300;

/// A query as it was cut.
#[derive(Clone, Debug)]
pub struct Analysed {
    query: QueryId,
    coordinator: NodeId,
    stages: Vec<AnalysedStage>,
    /// Stages that the head reads.
    head: Vec<u32>,
}

#[derive(Clone, Debug)]
struct AnalysedStage {
    stage: u32,
    inputs: Vec<u32>,
    tasks: u32,
    partitions: usize,
    /// Its first task's plan, in lines.
    shape: String,
}

/// What its tasks left.
#[derive(Debug, Default)]
pub struct Execution {
    outputs: BTreeMap<TaskKey, Output>,
    failures: Vec<Failure>,
}

/// Reads every output that is not `known`, and the records of failed attempts.
pub async fn read_execution(
    meadow: &Meadow,
    analysed: &Analysed,
    known: &BTreeMap<TaskKey, Arc<StoredOutput>>,
) -> Result<Execution> {
    let query = analysed.query;
    let is_known = |key: &TaskKey| known.contains_key(key);
    let (there, wanted): (Vec<TaskKey>, Vec<TaskKey>) = analysed.keys().partition(is_known);
    let there = there.into_iter().filter_map(|key| known.get(&key));
    let mut outputs: BTreeMap<TaskKey, Output> = there
        .map(|output| (output.output.key, output.output.clone()))
        .collect();
    let read = futures::stream::iter(wanted)
        .map(|key| read_output(meadow, query, key, FIRST_READ_BYTES_MIN))
        .buffered(READS_AT_ONCE)
        .try_filter_map(|found| async move { Ok(found) })
        .try_collect::<Vec<Arc<StoredOutput>>>();
    let (read, failures) = futures::try_join!(read, read_failures(meadow, query))?;
    let read = read.into_iter().map(|output| output.output.clone());
    outputs.extend(read.map(|output| (output.key, output)));
    Ok(Execution { outputs, failures })
}

/// Records of failed attempts at tasks of a query.
pub async fn read_failures(meadow: &Meadow, query: QueryId) -> Result<Vec<Failure>> {
    let objects = meadow.list(&keys::query_failures(query), None).await?;
    let keys: Vec<String> = objects
        .iter()
        .map(|object| object.location.to_string())
        .collect();
    futures::stream::iter(keys)
        .map(|key| async move {
            let Some(bytes) = meadow.get(&key).await? else {
                return Ok(None);
            };
            let failure = Failure::from_bytes(&bytes);
            failure
                .map(Some)
                .map_err(|error| Error::corrupt(&key, error))
        })
        .buffered(READS_AT_ONCE)
        .try_filter_map(|found| async move { Ok(found) })
        .try_collect()
        .await
}

impl Analysed {
    pub fn new<'a>(
        query: QueryId,
        coordinator: NodeId,
        stages: impl Iterator<Item = &'a CutStage>,
        head: &[u32],
    ) -> Self {
        let stages = stages.map(|stage| AnalysedStage {
            stage: stage.stage,
            inputs: stage.inputs.clone(),
            tasks: stage.tasks.len() as u32,
            partitions: stage.partitions,
            shape: stage.tasks.first().map_or(String::new(), |task| {
                displayable(task.plan.as_ref()).indent(false).to_string()
            }),
        });
        Self {
            query,
            coordinator,
            stages: stages.collect(),
            head: head.to_vec(),
        }
    }

    fn keys(&self) -> impl Iterator<Item = TaskKey> + '_ {
        self.stages.iter().flat_map(|stage| {
            let stage_number = stage.stage;
            (0..stage.tasks).map(move |task| TaskKey {
                stage: stage_number,
                task,
            })
        })
    }

    /// Stages that have to run one after the other, along the longest way to the head.
    fn chain(&self) -> u64 {
        let mut chains: BTreeMap<u32, u64> = BTreeMap::new();
        let longest = |inputs: &[u32], chains: &BTreeMap<u32, u64>| {
            let chains = inputs.iter().filter_map(|input| chains.get(input));
            chains.max().copied().unwrap_or(0)
        };
        for stage in &self.stages {
            let before = longest(&stage.inputs, &chains);
            chains.insert(stage.stage, before + 1);
        }
        longest(&self.head, &chains)
    }

    /// The storage operations that had to follow each other, from the plan's put to the last output's
    /// get, as they were counted by those who did them: put of the plan, get of the bell, get of the
    /// plan, and for each stage along the longest chain put and get of an output. The coordinator's own
    /// tasks need neither bell nor plan; a task that was taken over needs a look and a claim more; an
    /// output above some megabytes one put more, and one that the first read did not bring one get. Not in it: polls that
    /// found nothing, reads of cells, and what goes on beside it (the bell is rung while the plan is
    /// written; what is read of outputs beyond their indexes is read ahead, and counts once).
    fn critical_path(&self, execution: &Execution, has_fetched: bool) -> u32 {
        let outputs = execution.outputs.iter();
        let read = outputs.filter(|(key, _)| self.head.contains(&key.stage));
        let get = |output: &Output| u32::from(output.node != self.coordinator);
        let paths = read.map(|(_, output)| output.facts.path.saturating_add(get(output)));
        paths.max().unwrap_or(0) + u32::from(has_fetched)
    }

    /// Rows (what, text): the whole, and one for each stage with a line for each task. `has_fetched`
    /// says whether the head read more of outputs than came with their indexes.
    pub fn rows(
        &self,
        execution: &Execution,
        has_fetched: bool,
        names: &BTreeMap<NodeId, String>,
    ) -> Vec<(String, String)> {
        let mut rows = vec![
            ("swarm".to_string(), self.whole(execution)),
            (
                "critical_path".to_string(),
                format!(
                    "{} storage operations after each other; of tasks on other nodes at least {}: \
                     plan put, bell get, plan get, then put and get of {} stages in a row",
                    self.critical_path(execution, has_fetched),
                    3 + 2 * self.chain(),
                    self.chain()
                ),
            ),
        ];
        for stage in &self.stages {
            let text = stage.text(execution, names);
            rows.push((format!("stage {}", stage.stage), text));
        }
        rows
    }

    fn whole(&self, execution: &Execution) -> String {
        let outputs = execution.outputs.values();
        let nodes: BTreeSet<NodeId> = outputs.map(|output| output.node).collect();
        let sum = |fact: fn(&TaskFacts) -> u64| -> u64 {
            let outputs = execution.outputs.values();
            outputs.map(|output| fact(&output.facts)).sum()
        };
        format!(
            "shared: {} stages of {} tasks on {} nodes, and the head on this node; tasks ran {} ms, \
             read {} bytes in {} requests, {} more from caches, wrote {} bytes, spilled {} bytes; {} \
             attempts failed",
            self.stages.len(),
            self.keys().count(),
            nodes.len(),
            sum(|facts| facts.duration_ms),
            sum(|facts| facts.read_bytes),
            sum(|facts| facts.requests),
            sum(|facts| facts.cached_bytes),
            sum(|facts| facts.bytes),
            sum(|facts| facts.spilled_bytes),
            execution.failures.len()
        )
    }
}

impl AnalysedStage {
    fn text(&self, execution: &Execution, names: &BTreeMap<NodeId, String>) -> String {
        let (partitions, inputs) = (self.partitions, &self.inputs);
        let mut text = format!("{partitions} partitions, reads stages {inputs:?}\n");
        for task in 0..self.tasks {
            let key = TaskKey {
                stage: self.stage,
                task,
            };
            let failures = execution.failures.iter();
            for failure in failures.filter(|failure| failure.key == key) {
                text.push_str(&failure_line(failure, names));
            }
            match execution.outputs.get(&key) {
                Some(output) => text.push_str(&output_line(output, names)),
                None => text.push_str(&format!("task {task} has no output\n")),
            }
        }
        text + &self.shape
    }
}

fn place(node: NodeId, bee: &str, names: &BTreeMap<NodeId, String>) -> String {
    let short = node.short();
    // Records name the node again.
    let bee = bee.strip_prefix(&short).unwrap_or(bee).trim();
    match names.get(&node) {
        Some(name) => format!("{name} ({short}) {bee}"),
        None => format!("{short} {bee}"),
    }
}

fn output_line(output: &Output, names: &BTreeMap<NodeId, String>) -> String {
    let TaskFacts {
        rows,
        bytes,
        waited_ms,
        duration_ms,
        budget_bytes,
        peak_bytes,
        cache_hits,
        cached_bytes,
        requests_saved,
        spilled_bytes,
        read_bytes,
        requests,
        path: _,
    } = output.facts;
    let place = place(output.node, &output.bee, names);
    // Most meadows have no cache in front of them.
    let cached = match cache_hits {
        0 => String::new(),
        hits => format!(
            ", {cached_bytes} bytes in {hits} parts from its cache ({requests_saved} requests saved)"
        ),
    };
    format!(
        "task {} on {place}, attempt {}: waited {waited_ms} ms, {duration_ms} ms, {rows} rows, \
         {bytes} bytes, read {read_bytes} bytes in {requests} requests{cached}, spilled \
         {spilled_bytes} bytes, peak {peak_bytes} of {budget_bytes} bytes\n",
        output.key.task, output.attempt
    )
}

fn failure_line(failure: &Failure, names: &BTreeMap<NodeId, String>) -> String {
    let place = place(failure.node, &failure.bee, names);
    // Each of a node's tries at an attempt has a record.
    let (attempt, tried) = (
        failure.attempt / ATTEMPTS_MAX as u32,
        failure.attempt % ATTEMPTS_MAX as u32 + 1,
    );
    let error = failure.error.message.lines().next().unwrap_or_default();
    let error: String = error.chars().take(ERROR_CHARACTERS).collect();
    format!(
        "task {} failed on {place}, attempt {attempt}, try {tried}: {} ms, budget {} bytes: {error}\n",
        failure.key.task, failure.duration_ms, failure.budget_bytes
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use apiary_protocol::ids::AttemptId;
    use apiary_protocol::query::{ErrorClass, Outcome, Partitions, TaskError};

    fn analysed(inputs: &[&[u32]], head: &[u32]) -> Analysed {
        let stages = inputs
            .iter()
            .enumerate()
            .map(|(index, inputs)| AnalysedStage {
                stage: index as u32 + 1,
                inputs: inputs.to_vec(),
                tasks: 2,
                partitions: 4,
                shape: "Shape\n".into(),
            });
        Analysed {
            query: QueryId::from_random([1; 16]),
            coordinator: NodeId::from_random([1; 16]),
            stages: stages.collect(),
            head: head.to_vec(),
        }
    }

    #[test]
    fn the_chain_is_the_longest_way_through_the_stages() {
        assert_eq!(analysed(&[&[]], &[1]).chain(), 1);
        assert_eq!(analysed(&[&[], &[]], &[1, 2]).chain(), 1);
        assert_eq!(analysed(&[&[], &[1], &[]], &[2, 3]).chain(), 2);
        assert_eq!(analysed(&[&[], &[1], &[2, 1]], &[3]).chain(), 3);
        // What nobody reads is waited for by nobody.
        assert_eq!(analysed(&[&[], &[1], &[2]], &[1]).chain(), 1);
    }

    #[test]
    fn each_task_is_told_with_its_failed_attempts_before_it() {
        let node = NodeId::from_random([0x22; 16]);
        let key = TaskKey { stage: 1, task: 1 };
        let id = AttemptId::from_random([3; 16]);
        let facts = TaskFacts {
            rows: 97,
            bytes: 1_234,
            waited_ms: 3,
            duration_ms: 12,
            budget_bytes: 500,
            peak_bytes: 400,
            cache_hits: 3,
            cached_bytes: 777,
            requests_saved: 2,
            spilled_bytes: 7,
            read_bytes: 5_555,
            requests: 6,
            path: 6,
        };
        let output = Output {
            query: QueryId::from_random([1; 16]),
            key,
            node,
            bee: "bee-0".into(),
            attempt: 1,
            id,
            facts,
            outcome: Outcome::Rows {
                apart: false,
                partitions: Partitions::default(),
            },
        };
        let failure = Failure {
            key,
            node,
            bee: format!("{} bee-2", node.short()),
            attempt: ATTEMPTS_MAX as u32 + 1,
            id,
            strategy: String::new(),
            budget_bytes: 100,
            duration_ms: 9,
            error: TaskError {
                class: ErrorClass::Memory,
                object: None,
                message: "no room\nin the pool".into(),
            },
        };
        let execution = Execution {
            outputs: BTreeMap::from([(key, output)]),
            failures: vec![failure],
        };
        let names = BTreeMap::from([(node, "garden".to_string())]);
        let rows = analysed(&[&[]], &[1]).rows(&execution, false, &names);
        let short = node.short();
        let expected = format!(
            "4 partitions, reads stages []\n\
             task 0 has no output\n\
             task 1 failed on garden ({short}) bee-2, attempt 1, try 2: 9 ms, budget 100 bytes: no room\n\
             task 1 on garden ({short}) bee-0, attempt 1: waited 3 ms, 12 ms, 97 rows, 1234 bytes, \
             read 5555 bytes in 6 requests, 777 bytes in 3 parts from its cache (2 requests saved), \
             spilled 7 bytes, peak 400 of 500 bytes\nShape\n"
        );
        assert_eq!(rows[2], ("stage 1".to_string(), expected));
        assert!(rows[0].1.contains("1 attempts failed"), "{}", rows[0].1);
        // Counted, not computed: the output's put was the sixth, its get is the seventh.
        assert!(
            rows[1].1.starts_with("7 storage operations"),
            "{}",
            rows[1].1
        );
    }
}
