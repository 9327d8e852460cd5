//! Who could take part in a query, and whether it is worth asking them.

use crate::context::Context;
use apiary_engine::behavior::membership::{Member, NodeState, SwarmView, by_age};
use apiary_engine::behavior::placement::{
    BEE_BYTES_PER_SECOND, Distribute, Placing, Worker, is_worth, workers,
};
use apiary_protocol::cache::CachedCells;
use apiary_protocol::format::BUILD;
use std::time::Duration;

/// What a request to the meadow takes, until it was seen.
const REQUEST: Duration = Duration::from_millis(10);
/// What is scanned again rather than sent, where requests cost nothing.
const REPEATED_BYTES: u64 = 8 << 20;
/// A scan below this is not worth looking at the swarm.
const SCAN_BYTES_LEAST: u64 = 64 << 20;

/// Who could take part.
pub(super) struct Offer {
    pub(super) workers: Vec<Worker>,
    /// Bees of nodes that were not seen to be alive yet: what is left for them is nobody's.
    pub(super) open_bees: usize,
    /// What a request to the meadow takes.
    request: Duration,
    pub(super) placing: Placing,
}

impl Offer {
    pub(super) fn bees(&self) -> usize {
        self.workers
            .iter()
            .map(|worker| worker.bees.max(1))
            .sum::<usize>()
            + self.open_bees
    }

    /// A stage is some milliseconds of a node's work, and three requests after each other.
    pub(super) fn repeated_bytes_max(&self) -> u64 {
        let waiting = self.request.as_secs_f64() * 3.0;
        REPEATED_BYTES + (waiting * BEE_BYTES_PER_SECOND) as u64
    }

    pub(super) fn is_wanted(&self, distribute: Distribute, scan_bytes: u64) -> bool {
        if distribute == Distribute::On {
            return true;
        }
        let mut workers = self.workers.clone();
        workers.push(Worker {
            idle_bees: self.open_bees,
            ..self.workers[0].clone()
        });
        scan_bytes >= SCAN_BYTES_LEAST && is_worth(scan_bytes, &workers, self.request)
    }
}

/// Whether a statement that scans so much is shared at all.
pub(super) fn is_considered(distribute: Distribute, scan_bytes: u64) -> bool {
    match distribute {
        Distribute::Off => false,
        Distribute::Auto => scan_bytes >= SCAN_BYTES_LEAST,
        Distribute::On => true,
    }
}

pub(super) async fn offer(context: &Context, swarm: &SwarmView, distribute: Distribute) -> Offer {
    let division = context.chambers.division();
    let cached = match &context.cache {
        Some(cache) => cache.observe().await.unwrap_or_default().cells,
        None => CachedCells::default(),
    };
    let own = Worker {
        node: context.node_id,
        name: "this node".into(),
        bees: division.bees,
        idle_bees: division.bees,
        budget_bytes: division.budget_per_bee_bytes,
        cached,
    };
    Offer {
        workers: workers(own, swarm, BUILD),
        open_bees: open_bees(context, swarm, distribute),
        request: swarm.request.unwrap_or(REQUEST),
        placing: context.environment.host.laboratory.placing,
    }
}

/// Bees of nodes that were not seen to be alive, and whose beat is fresh by the store's clock: what a
/// node left that died long ago helps nobody. Of unknown age they count when all is to be shared.
fn open_bees(context: &Context, swarm: &SwarmView, distribute: Distribute) -> usize {
    let now = context.environment.host.clock.monotonic();
    let is_fresh = |member: &Member| {
        let age = |written_ms| context.store_time.age(written_ms, now);
        match member.written_ms.map(age) {
            Some(age) => by_age(age, member.beat.as_deref()) == NodeState::Alive,
            None => distribute == Distribute::On,
        }
    };
    let members = swarm.members.iter();
    let open = members.filter(|member| member.state == NodeState::Unknown && is_fresh(member));
    let beats = open.filter_map(|member| member.beat.as_deref());
    beats
        .filter(|beat| beat.build == BUILD && !beat.draining)
        .map(|beat| beat.cores as usize)
        .sum()
}
