//! The floor of a query: what it would take if nothing were wasted.
//!
//! Time: the storage operations that must follow each other, each as long as the store's first byte
//! takes on average and none in its tail, and all bytes of the columns that are read, worked on by all
//! cores of the swarm from beginning to end. Requests: each cell's footer and columns once, the plan
//! once for each node, each task's output written once and read once by each task behind it. Nobody
//! looks for what is not there, nobody beats, nothing is done twice.

use super::tables::Reading;
use crate::object_store::profiles::Profile;
use apiary_engine::laboratory::SmallWorld;
use apiary_protocol::query::QueryPlan;
use std::collections::BTreeSet;
use std::time::Duration;

/// The head of the registry, and the next version of the frames.
const PROBES: u64 = 2;
/// A footer, and columns.
const CELL_READS: u64 = 2;
/// The plan is written, and read.
const PLAN_STEPS: u64 = 2;
/// An output is written, and read.
const STAGE_STEPS: u64 = 2;
/// The plan, the bell, the end.
const QUERY_PUTS: u64 = 3;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    pub took: Duration,
    pub gets: u64,
    pub puts: u64,
}

/// The swarm as far as the floor needs it.
#[derive(Clone, Copy, Debug)]
pub struct Means<'a> {
    pub nodes: u64,
    pub cores: u64,
    pub store: &'a Profile,
    pub world: SmallWorld,
}

/// `plan` when the query was shared.
pub fn of(reading: Reading, plan: Option<&QueryPlan>, means: Means<'_>) -> Floor {
    let latency = means.store.faults.latency;
    let request = Duration::from_micros((latency.least_us + latency.most_us) / 2);
    let bytes = reading.bytes * means.world.factor;
    let rate = means.world.core_bytes_per_second * means.cores;
    let work = Duration::from_secs_f64(bytes as f64 / rate as f64);
    let mut steps = PROBES + CELL_READS;
    let (mut gets, mut puts) = (PROBES + CELL_READS * reading.cells, 0);
    if let Some(plan) = plan {
        steps += PLAN_STEPS + STAGE_STEPS * depth(plan);
        gets += means.nodes - 1 + outputs_read(plan);
        puts += QUERY_PUTS + plan.keys().count() as u64;
    }
    Floor {
        took: work + request * steps as u32,
        gets,
        puts,
    }
}

/// Stages that follow each other.
fn depth(plan: &QueryPlan) -> u64 {
    let mut depths = Vec::new();
    for stage in &plan.stages {
        // A stage reads only stages before it; they are counted from 1.
        let inputs = stage.inputs.iter();
        let before = inputs.filter_map(|input| depths.get(*input as usize - 1));
        depths.push(1 + before.copied().max().unwrap_or(0));
    }
    depths.into_iter().max().unwrap_or(0)
}

/// Each task reads every output of the stages behind it; the head is one task more.
fn outputs_read(plan: &QueryPlan) -> u64 {
    let tasks = |stage: u32| {
        plan.stage(stage)
            .map_or(0, |stage| stage.tasks.len() as u64)
    };
    let read: BTreeSet<u32> = plan
        .stages
        .iter()
        .flat_map(|stage| stage.inputs.iter().copied())
        .collect();
    let by_stages = plan.stages.iter().map(|stage| {
        let inputs = stage.inputs.iter().map(|input| tasks(*input)).sum::<u64>();
        inputs * stage.tasks.len() as u64
    });
    let by_head = plan.stages.iter().map(|stage| stage.stage);
    let by_head = by_head.filter(|stage| !read.contains(stage)).map(tasks);
    by_stages.sum::<u64>() + by_head.sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::swarm::s3;
    use apiary_protocol::ids::{NodeId, QueryId};
    use apiary_protocol::query::{StagePlan, TaskPlan};
    use std::collections::BTreeMap;

    fn plan(stages: &[(&[u32], usize)]) -> QueryPlan {
        let task = TaskPlan {
            plan: vec![],
            preferred: None,
            reason: String::new(),
            memory_bytes: 1,
            scan_bytes: 0,
        };
        let stages = stages.iter().enumerate();
        QueryPlan {
            query: QueryId::from_random([1; 16]),
            coordinator: NodeId::from_random([2; 16]),
            build: "b".into(),
            deadline_ms: 1,
            options: BTreeMap::new(),
            stages: stages
                .map(|(index, (inputs, tasks))| StagePlan {
                    stage: index as u32 + 1,
                    inputs: inputs.to_vec(),
                    partitions: 1,
                    is_read_whole: false,
                    tasks: vec![task.clone(); *tasks],
                })
                .collect(),
        }
    }

    #[test]
    fn the_floor_counts_each_step_and_each_read_once() {
        let world = SmallWorld {
            factor: 10,
            core_bytes_per_second: 1_000,
        };
        let means = Means {
            nodes: 2,
            cores: 4,
            store: s3(),
            world,
        };
        let reading = Reading {
            cells: 3,
            bytes: 800,
        };
        let alone = of(reading, None, means);
        assert_eq!(alone.took, Duration::from_millis(2_000 + 4 * 150));
        assert_eq!((alone.gets, alone.puts), (8, 0));
        // Two scans of two tasks, a join of three, the head.
        let plan = plan(&[(&[], 2), (&[], 2), (&[1, 2], 3)]);
        let shared = of(reading, Some(&plan), means);
        assert_eq!(shared.took, Duration::from_millis(2_000 + 10 * 150));
        assert_eq!((shared.gets, shared.puts), (8 + 1 + 12 + 3, 3 + 7));
    }
}
