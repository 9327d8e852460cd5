//! Placement: how many tasks a query gets, and who should run which. Pure.
//!
//! A preference and no more: whoever has an idle bee takes what its node does not begin.

use super::membership::SwarmView;
use apiary_protocol::cache::{CachedCells, CellIdentity};
use apiary_protocol::ids::NodeId;

/// What a bee scans in a second, roughly: whether to share a query, and what of it to scan again rather
/// than send, rest on it.
pub const BEE_BYTES_PER_SECOND: f64 = 100e6;

/// Whether queries are shared with other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distribute {
    /// When the work is worth more than its coordination.
    #[default]
    Auto,
    /// Whatever can be shared, also on one node.
    On,
    Off,
}

/// How tasks are given away. Experiments compare [`Placing::Shares`] with plain ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placing {
    /// [`place`].
    #[default]
    Shares,
    /// Whoever comes first has them.
    Nowhere,
    /// Whoever has most of a task's cells has it, however many those are; what nobody has is left to
    /// whoever comes first.
    Cached,
}

/// A node that may be given tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    pub node: NodeId,
    pub name: String,
    pub bees: usize,
    pub idle_bees: usize,
    pub budget_bytes: u64,
    /// Cells on its disk.
    pub cached: CachedCells,
}

/// Where a task should run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which of the workers.
    pub worker: usize,
    /// About how many bytes of the task's cells are on that worker's disk.
    pub cached_bytes: u64,
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
                cached: beat.cache.cells.clone(),
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

/// Who should run each task of a stage, which are given by the cells that they read with the bytes of
/// each that are theirs. Every worker gets as many as its bees are worth, whatever lies where; of the
/// ways to do so it is the one that takes the largest cached task first. What is cached nowhere goes to
/// neighbours together, and always the same way for the same swarm, so that a node meets the cells
/// again that it has cached by then.
pub fn place(tasks: &[Vec<(CellIdentity, u64)>], workers: &[Worker]) -> Vec<Place> {
    let mut room = quotas(tasks.len(), workers);
    let mut cached = Vec::new();
    for (task, cells) in tasks.iter().enumerate() {
        for (index, worker) in workers.iter().enumerate() {
            let bytes = cached_bytes(cells, &worker.cached);
            if bytes > 0 {
                cached.push((std::cmp::Reverse(bytes), task, index));
            }
        }
    }
    cached.sort_unstable();
    let mut places = vec![None; tasks.len()];
    for (bytes, task, worker) in cached {
        if places[task].is_none() && room[worker] > 0 {
            room[worker] -= 1;
            let cached_bytes = bytes.0;
            places[task] = Some(Place {
                worker,
                cached_bytes,
            });
        }
    }
    let rest = room.iter().enumerate();
    let mut rest = rest.flat_map(|(worker, room)| std::iter::repeat_n(worker, *room));
    let places = places.into_iter().zip(tasks);
    let places = places.map(|(place, cells)| {
        place.unwrap_or_else(|| {
            let worker = rest.next().unwrap_or_default();
            let cached = workers.get(worker).map(|worker| &worker.cached);
            let cached_bytes = cached.map_or(0, |cached| cached_bytes(cells, cached));
            Place {
                worker,
                cached_bytes,
            }
        })
    });
    places.collect()
}

/// Gives tasks away in one of several ways.
pub fn place_by(
    placing: Placing,
    tasks: &[Vec<(CellIdentity, u64)>],
    workers: &[Worker],
) -> Vec<Option<Place>> {
    let by_cache = |cells: &Vec<(CellIdentity, u64)>| {
        let places = workers.iter().enumerate().map(|(worker, candidate)| Place {
            worker,
            cached_bytes: cached_bytes(cells, &candidate.cached),
        });
        let most = places.rev().max_by_key(|place| place.cached_bytes);
        most.filter(|place| place.cached_bytes > 0)
    };
    match placing {
        Placing::Shares => place(tasks, workers).into_iter().map(Some).collect(),
        Placing::Nowhere => vec![None; tasks.len()],
        Placing::Cached => tasks.iter().map(by_cache).collect(),
    }
}

/// A task that reads a part of a cell is taken to find its share of what is cached of it.
fn cached_bytes(cells: &[(CellIdentity, u64)], cached: &CachedCells) -> u64 {
    if cached.is_empty() {
        return 0;
    }
    let cells = cells.iter().map(|(cell, bytes)| {
        let size_bytes = cell.size_bytes().max(1);
        let cached = cached.bytes_of(cell.digest(), size_bytes);
        (u128::from(cached) * u128::from(*bytes) / u128::from(size_bytes)) as u64
    });
    cells.fold(0, u64::saturating_add)
}

/// How many of the tasks each worker gets: in proportion to bees.
fn quotas(tasks: usize, workers: &[Worker]) -> Vec<usize> {
    let bees: usize = workers.iter().map(|worker| worker.bees.max(1)).sum();
    let (mut before, mut given) = (0, 0);
    let quota = |worker: &Worker| {
        before += worker.bees.max(1);
        let until = (tasks * before).div_ceil(bees.max(1)).min(tasks);
        until - std::mem::replace(&mut given, until)
    };
    workers.iter().map(quota).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use apiary_protocol::cache::PART_BYTES;
    use apiary_protocol::ids::MeadowId;
    use std::time::Duration;

    fn worker(byte: u8, bees: usize) -> Worker {
        Worker {
            node: NodeId::from_random([byte; 16]),
            name: format!("n{byte}"),
            bees,
            idle_bees: bees,
            budget_bytes: 1,
            cached: CachedCells::default(),
        }
    }

    fn cell(number: usize) -> CellIdentity {
        let meadow = MeadowId::from_random([1; 16]);
        CellIdentity::new(meadow, &format!("cell-{number}"), 8 * PART_BYTES, 0)
    }

    /// Tasks that read one cell each.
    fn tasks(count: usize) -> Vec<Vec<(CellIdentity, u64)>> {
        (0..count)
            .map(|number| vec![(cell(number), 8 * PART_BYTES)])
            .collect()
    }

    fn holding(worker: Worker, cells: &[(usize, usize)]) -> Worker {
        let cells = cells
            .iter()
            .map(|(number, parts)| (cell(*number).digest(), *parts));
        Worker {
            cached: CachedCells::new(cells),
            ..worker
        }
    }

    fn who(places: &[Place]) -> Vec<usize> {
        places.iter().map(|place| place.worker).collect()
    }

    #[test]
    fn a_task_runs_where_most_of_it_is_cached_and_nobody_gets_more_than_its_share() {
        let cold = [worker(1, 1), worker(2, 1)];
        assert_eq!(who(&place(&tasks(4), &cold)), [0, 0, 1, 1]);
        let turned = [
            holding(worker(1, 1), &[(2, 8), (3, 8)]),
            holding(worker(2, 1), &[(0, 8), (2, 1)]),
        ];
        let places = place(&tasks(4), &turned);
        assert_eq!(who(&places), [1, 1, 0, 0]);
        let cached: Vec<u64> = places.iter().map(|place| place.cached_bytes).collect();
        assert_eq!(cached, [8, 0, 8, 8].map(|parts| parts * PART_BYTES));
        let greedy = [
            holding(worker(1, 1), &[(0, 1), (1, 4), (2, 2), (3, 3)]),
            worker(2, 1),
        ];
        assert_eq!(who(&place(&tasks(4), &greedy)), [1, 0, 1, 0]);
    }

    #[test]
    fn a_task_that_reads_a_quarter_of_a_cell_finds_a_quarter_of_what_is_cached() {
        let holder = [worker(1, 1), holding(worker(2, 1), &[(0, 4)])];
        let quarters = vec![vec![(cell(0), 2 * PART_BYTES)]; 2];
        let places = place(&quarters, &holder);
        assert_eq!(who(&places), [1, 0]);
        assert_eq!(places[0].cached_bytes, PART_BYTES);
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
                let places = place(&self::tasks(tasks), &workers);
                assert_eq!(places.len(), tasks);
                let bees: usize = shape.iter().map(|bees| (*bees).max(1)).sum();
                for (index, worker) in workers.iter().enumerate() {
                    let here = places.iter().filter(|place| place.worker == index).count();
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
