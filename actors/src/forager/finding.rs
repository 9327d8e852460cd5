//! Finding queries: the bell, lists, plans, and what is known of queries that this node does not work on.

use super::requests::{self, Polled};
use super::tracked::Tracked;
use super::{Ignored, Message, ORPHAN_AGE, Outcome, State};
use apiary_engine::behavior::listening::{Heard, least_pause, plan_list, plan_look};
use apiary_engine::behavior::membership::NodeState;
use apiary_engine::error::Error;
use apiary_protocol::format::BUILD;
use apiary_protocol::ids::{NodeId, QueryId};
use apiary_protocol::query::{BELL_QUERIES_MAX, EndReason, QueryPlan};
use ractor::ActorRef;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How old what the bell named may be for whoever rings it: about as old as a read before the write.
const BELL_FRESH: Duration = Duration::from_millis(250);
/// How long after its bell a plan may come.
const PLAN_LATE: Duration = Duration::from_secs(5);

impl State {
    pub(super) fn poll_after(&mut self, myself: &ActorRef<Message>, pause: Duration) {
        self.poll = Some(self.remind(myself, pause, Message::Poll));
    }

    /// Whether a bell came before its plan.
    fn awaits_plan(&self, now: Duration) -> bool {
        self.ignored.values().any(|ignored| match ignored {
            Ignored::Planless { since, .. } => now.saturating_sub(*since) < PLAN_LATE,
            _ => false,
        })
    }

    fn heard(&self) -> Heard {
        let (now, view) = (self.now(), self.with.swarm.view());
        let members = view.members.iter();
        let alive = members.filter(|member| member.state == NodeState::Alive);
        let running: usize = self.queries.values().map(Tracked::running).sum();
        Heard {
            quiet: self.active_at.map(|at| now.saturating_sub(at)),
            is_occupied: running >= self.with.chambers.division().bees && !self.awaits_plan(now),
            request: view.request,
            nodes: alive.count() + 1,
        }
    }

    pub(super) fn begin_poll(&mut self, myself: &ActorRef<Message>) {
        if self.draining.is_some() {
            return;
        }
        let now = self.now();
        self.polled_at = now;
        let age = plan_list(&self.heard());
        let lists = self
            .listed_at
            .is_none_or(|at| now.saturating_sub(at) >= age);
        if lists {
            self.listed_at = Some(now);
        }
        let work = requests::poll(
            self.with.environment.meadow.clone(),
            self.bell.clone(),
            lists,
        );
        self.poll = Some(self.spawn(myself, work, |result| Message::Polled { result }));
    }

    pub(super) fn polled(&mut self, myself: &ActorRef<Message>, result: Outcome<Polled>) {
        match result {
            Ok(Ok(Polled { bell, rung, listed })) => {
                if bell.is_some() {
                    self.bell = bell;
                }
                if let Some(listed) = listed {
                    let there: BTreeSet<QueryId> = listed.iter().copied().collect();
                    // One that is awaited is not listed yet.
                    self.ignored.retain(|query, ignored| {
                        there.contains(query) || !matches!(ignored, Ignored::Foreign { .. })
                    });
                    for query in listed {
                        self.found(myself, query, false);
                    }
                }
                let is_rung = !rung.is_empty();
                let new: Vec<QueryId> = rung
                    .iter()
                    .filter(|id| !self.rung.contains(id))
                    .copied()
                    .collect();
                if is_rung {
                    self.rung = rung;
                }
                self.heard_at = Some(self.polled_at);
                let awaited = self.awaited();
                for query in new {
                    self.found(myself, query, true);
                }
                for query in awaited {
                    self.found(myself, query, false);
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, "the bell cannot be read"),
            Err(panic) => tracing::error!(panic, "reading the bell panicked"),
        }
        let listening = self.with.environment.host.laboratory.listening;
        let pause = plan_look(listening, &self.heard());
        self.poll_after(myself, pause);
    }

    /// Tells the others of a query of this node.
    pub(super) fn ring(&mut self, query: QueryId) {
        let now = self.now();
        let is_fresh = |at: Duration| now.saturating_sub(at) < BELL_FRESH;
        let named = self.heard_at.is_some_and(is_fresh);
        let named = named.then(|| self.rung.clone());
        if self.rung.len() == BELL_QUERIES_MAX {
            self.rung.remove(0);
        }
        self.rung.push(query);
        let ring = requests::ring(self.with.environment.clone(), query, named);
        // It has no result that this actor acts on.
        drop(self.with.environment.host.runtimes.control.spawn(ring));
    }

    /// Queries whose bell came before their plan.
    fn awaited(&self) -> Vec<QueryId> {
        let now = self.now();
        let is_due = |ignored: &Ignored| match ignored {
            Ignored::Planless { since, again_at } => {
                now.saturating_sub(*since) < PLAN_LATE && now >= *again_at
            }
            _ => false,
        };
        let awaited = self.ignored.iter().filter(|(_, ignored)| is_due(ignored));
        awaited.map(|(query, _)| *query).collect()
    }

    /// A query that somebody named.
    fn found(&mut self, myself: &ActorRef<Message>, query: QueryId, is_rung: bool) {
        if self.queries.contains_key(&query) || self.cleaning.contains_key(&query) {
            return;
        }
        let now = self.now();
        match self.ignored.get(&query) {
            Some(Ignored::Reading { .. }) => return,
            Some(Ignored::Own { since }) => {
                if now.saturating_sub(*since) > ORPHAN_AGE {
                    self.ignored.remove(&query);
                    self.clean(myself, query, Some(EndReason::Failed.into()), None);
                }
                return;
            }
            Some(Ignored::Planless { since, .. }) if now.saturating_sub(*since) > ORPHAN_AGE => {
                // What a dead node left behind, or a late worker.
                self.ignored.remove(&query);
                return self.clean(myself, query, None, None);
            }
            Some(Ignored::Foreign { coordinator, since }) => {
                let age = now.saturating_sub(*since);
                let coordinator = *coordinator;
                let is_gone = coordinator.is_some_and(|node| self.is_gone(node));
                // Nobody knows whose it is: older than any query may be.
                let is_ancient = coordinator.is_none() && age > self.ancient();
                if (is_gone && age > ORPHAN_AGE * 4) || is_ancient {
                    self.ignored.remove(&query);
                    let end = Some(EndReason::Abandoned.into());
                    self.clean(myself, query, end, coordinator);
                }
                return;
            }
            _ => {}
        }
        if is_rung {
            self.active_at = Some(now);
        }
        let since = match self.ignored.get(&query) {
            Some(Ignored::Planless { since, .. }) => *since,
            _ => now,
        };
        let work = requests::read_plan(self.with.environment.meadow.clone(), query);
        let work = self.spawn(myself, work, move |result| Message::Planned {
            query,
            result,
        });
        self.ignored
            .insert(query, Ignored::Reading { since, _work: work });
    }

    pub(super) fn planned(
        &mut self,
        myself: &ActorRef<Message>,
        query: QueryId,
        result: Outcome<Option<QueryPlan>>,
    ) {
        let known = self.ignored.remove(&query);
        if self.queries.contains_key(&query) || self.draining.is_some() {
            return;
        }
        let now = self.now();
        let since = match known {
            Some(Ignored::Reading { since, .. }) => since,
            _ => now,
        };
        let foreign = |coordinator| Ignored::Foreign { coordinator, since };
        match result {
            // An earlier instance's, or one whose driver has not told yet.
            Ok(Ok(Some(plan))) if plan.coordinator == self.with.node_id => {
                self.ignored.insert(query, Ignored::Own { since });
            }
            Ok(Ok(Some(plan))) if plan.build == BUILD => {
                self.active_at = Some(now);
                let tracked = self.track(Arc::new(plan), None);
                self.queries.insert(query, tracked);
                self.advance(myself, query);
            }
            Ok(Ok(Some(plan))) => {
                let (build, node) = (&plan.build, plan.coordinator);
                tracing::info!(%query, build, "a query of another build is left to its own");
                self.ignored.insert(query, foreign(Some(node)));
            }
            // The bell may come before the plan.
            Ok(Ok(None)) => {
                let least = least_pause(self.with.swarm.view().request);
                let pause = (now.saturating_sub(since) / 2).max(least);
                let again_at = now + pause;
                self.ignored
                    .insert(query, Ignored::Planless { since, again_at });
            }
            Ok(Err(error @ Error::Corrupt { .. })) => {
                tracing::warn!(%error, "a query's plan cannot be read");
                self.ignored.insert(query, foreign(None));
            }
            // Read again when it is listed the next time.
            Ok(Err(error)) => tracing::debug!(%error, "a query's plan cannot be read now"),
            Err(panic) => tracing::error!(panic, "reading a query's plan panicked"),
        }
    }

    /// Longer than any query of this meadow may take.
    fn ancient(&self) -> Duration {
        self.with.environment.settings.query_deadline() * 2
    }

    /// Whether a node was seen to be dead, or was not seen at all.
    pub(super) fn is_gone(&self, node: NodeId) -> bool {
        let view = self.with.swarm.view();
        view.member(node)
            .is_none_or(|member| member.state == NodeState::Dead)
    }
}
