//! Ending queries: what they left is deleted, and a node that stops gives back what it runs.

use super::requests;
use super::{Cleaning, Ending, Message, Outcome, State};
use crate::mailbox::Reply;
use apiary_protocol::ids::{NodeId, QueryId};
use apiary_protocol::query::EndReason;
use ractor::ActorRef;
use std::time::Duration;

/// How long workers have to see that a query has ended before its objects go.
const GRACE: Duration = Duration::from_secs(2);

impl State {
    pub(super) fn finish(&mut self, myself: &ActorRef<Message>, query: QueryId, ending: Ending) {
        self.active_at = Some(self.now());
        // Also one that an earlier instance knew.
        self.queries.remove(&query);
        self.ignored.remove(&query);
        self.clean(myself, query, Some(ending), None);
    }

    /// Another node's query is over. Its coordinator deletes what is there; what was on its way from
    /// here may come later than that.
    pub(super) fn leave(&mut self, myself: &ActorRef<Message>, query: QueryId) {
        if let Some(tracked) = self.queries.remove(&query)
            && tracked.has_run()
        {
            drop(tracked);
            self.clean_later(myself, query, None);
        }
    }

    fn clean_later(&mut self, myself: &ActorRef<Message>, query: QueryId, end: Option<Ending>) {
        let message = Message::Clean {
            query,
            end: end.clone(),
        };
        let timer = self.remind(myself, GRACE * 2, message);
        self.cleaning
            .insert(query, Cleaning::Later { end, _timer: timer });
    }

    /// Deletes what is under a query, after saying that it is over; not when `unless_alive` is.
    pub(super) fn clean(
        &mut self,
        myself: &ActorRef<Message>,
        query: QueryId,
        end: Option<Ending>,
        unless_alive: Option<NodeId>,
    ) {
        if let Some(Cleaning::Now { .. }) = self.cleaning.get(&query) {
            return;
        }
        let grace = match (&end, self.with.is_resident && self.draining.is_none()) {
            (Some(_), true) => GRACE,
            _ => Duration::ZERO,
        };
        let with = self.with.clone();
        let work = requests::clean(
            with.environment,
            with.node_id,
            query,
            end.clone(),
            unless_alive,
            grace,
        );
        let work = self.spawn(myself, work, move |result| Message::Cleaned {
            query,
            end,
            result,
        });
        self.cleaning.insert(query, Cleaning::Now { _work: work });
    }

    pub(super) fn cleaned(
        &mut self,
        myself: &ActorRef<Message>,
        query: QueryId,
        end: Option<Ending>,
        result: Outcome<()>,
    ) {
        self.cleaning.remove(&query);
        match result {
            Ok(Ok(())) => tracing::debug!(%query, "what a query left is gone"),
            Ok(Err(error)) => {
                tracing::warn!(%error, %query, "what a query left stays for now");
                // One that was to be abandoned is found again, and its coordinator asked again.
                let is_abandoned = |end: &Ending| end.reason == EndReason::Abandoned;
                if self.draining.is_none() && !end.as_ref().is_some_and(is_abandoned) {
                    self.clean_later(myself, query, end);
                }
            }
            Err(panic) => tracing::error!(panic, "cleaning up after a query panicked"),
        }
    }

    /// Hands other nodes' tasks back and ends what is left of this node's queries.
    pub(super) fn drain(&mut self, myself: &ActorRef<Message>, reply: Reply<()>) {
        self.draining.get_or_insert_default().push(reply);
        self.poll = None;
        self.ignored.clear();
        let waiting: Vec<(QueryId, Option<Ending>)> = self
            .cleaning
            .iter()
            .filter_map(|(query, cleaning)| match cleaning {
                Cleaning::Later { end, .. } => Some((*query, end.clone())),
                Cleaning::Now { .. } => None,
            })
            .collect();
        for (query, tracked) in std::mem::take(&mut self.queries) {
            if tracked.is_mine() {
                self.clean(myself, query, Some(EndReason::Cancelled.into()), None);
            } else if tracked.has_run() {
                // Only what is over is deleted.
                self.clean(myself, query, None, None);
            }
        }
        // At once: whoever is late cleans up after itself.
        for (query, end) in waiting {
            self.clean(myself, query, end, None);
        }
    }

    pub(super) fn answer_drain(&mut self) {
        if self.cleaning.is_empty() {
            for reply in self
                .draining
                .iter_mut()
                .flat_map(|replies| replies.drain(..))
            {
                let _ = reply.send(());
            }
        }
    }
}
