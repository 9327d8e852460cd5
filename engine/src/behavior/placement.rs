//! Placement: how many tasks a query gets, and who should run which. Pure.
//!
//! A preference and no more: whoever has an idle bee takes what its node does not begin.

use super::membership::SwarmView;
use apiary_protocol::ids::NodeId;

/// What a bee scans in a second, roughly; only the decision whether to share a query rests on it.
const BEE_BYTES_PER_SECOND: f64 = 100e6;

/// Whether queries are shared with other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distribute {
    /// When the work is worth more than its coordination.
    Auto,
    /// Whatever can be shared, also on one node.
    On,
    #[default]
    Off,
}

/// A node that may be given tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    pub node: NodeId,
    pub name: String,
    pub bees: usize,
    pub idle_bees: usize,
    pub budget_bytes: u64,
}

/// The workers of a swarm, this node first: `own` is what it knows of itself.
pub fn workers(own: Worker, swarm: &SwarmView, build: &str) -> Vec<Worker> {
    let mut workers = vec![own];
    for (member, beat) in swarm.workers(build) {
        if member.node != workers[0].node {
            workers.push(Worker {
                node: member.node,
                name: beat.name.clone(),
                bees: beat.cores as usize,
                idle_bees: beat.cores.saturating_sub(beat.load.bees_busy) as usize,
                budget_bytes: beat.bee_budget_bytes,
            });
        }
    }
    workers
}

/// Whether sharing a scan of so many bytes is worth it: the time that other nodes' idle bees save
/// against the requests of a query of a few stages.
pub fn is_worth(scan_bytes: u64, workers: &[Worker], request: std::time::Duration) -> bool {
    /// Sequential requests of a query of three stages.
    const REQUESTS: f64 = 9.0;
    let own = workers.first().map_or(0, |worker| worker.bees).max(1) as f64;
    let others: usize = workers.iter().skip(1).map(|worker| worker.idle_bees).sum();
    let work = scan_bytes as f64 / BEE_BYTES_PER_SECOND;
    let saved = work / own - work / (own + others as f64);
    saved > 2.0 * REQUESTS * request.as_secs_f64()
}

/// Who should run each of `tasks` tasks of a stage: neighbours together, in proportion to bees, and
/// always the same for the same swarm, so that a node meets the cells again that it has cached.
pub fn place(tasks: usize, workers: &[Worker]) -> Vec<usize> {
    let bees: usize = workers.iter().map(|worker| worker.bees.max(1)).sum();
    let mut places = Vec::with_capacity(tasks);
    let mut before = 0;
    for (index, worker) in workers.iter().enumerate() {
        before += worker.bees.max(1);
        let until = (tasks * before).div_ceil(bees.max(1)).min(tasks);
        places.resize(until.max(places.len()), index);
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn worker(byte: u8, bees: usize) -> Worker {
        Worker {
            node: NodeId::from_random([byte; 16]),
            name: format!("n{byte}"),
            bees,
            idle_bees: bees,
            budget_bytes: 1,
        }
    }

    #[test]
    fn every_task_has_a_place_and_every_bee_about_as_many() {
        for tasks in 0..40 {
            for shape in [&[1][..], &[1, 1], &[4, 1, 1], &[2, 3, 4, 5], &[0, 1]] {
                let workers: Vec<Worker> = shape
                    .iter()
                    .enumerate()
                    .map(|(i, bees)| worker(i as u8, *bees))
                    .collect();
                let places = place(tasks, &workers);
                assert_eq!(places.len(), tasks);
                let bees: usize = shape.iter().map(|bees| (*bees).max(1)).sum();
                for (index, worker) in workers.iter().enumerate() {
                    let here = places.iter().filter(|place| **place == index).count();
                    let fair = tasks as f64 * worker.bees.max(1) as f64 / bees as f64;
                    assert!(
                        (here as f64 - fair).abs() <= 1.0,
                        "{tasks} {shape:?} {places:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn small_scans_stay_here_and_large_ones_are_shared_when_others_are_idle() {
        let two = [worker(1, 2), worker(2, 2)];
        let slow = Duration::from_millis(30);
        assert!(!is_worth(1 << 20, &two, slow));
        assert!(is_worth(1 << 30, &two, slow));
        assert!(!is_worth(1 << 30, &two[..1], slow));
        let busy = [
            worker(1, 2),
            Worker {
                idle_bees: 0,
                ..worker(2, 2)
            },
        ];
        assert!(!is_worth(1 << 40, &busy, slow));
    }
}
