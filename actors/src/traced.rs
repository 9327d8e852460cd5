//! Spans: all that an actor does is done in one that names its node and itself.
//!
//! A handler's span is inside that of whoever sent the message, so a line of the ledger also says
//! for which query. Work that a handler starts takes the span along; its result comes back without
//! it, so that spans do not nest ever deeper.

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tracing::{Instrument, Span};

/// Of the level of errors, so that it is there whatever is logged.
pub(crate) fn actor_span(node: &str, actor: &str) -> Span {
    tracing::error_span!("actor", node, actor)
}

/// The span of what is done for one query, whoever does it.
pub(crate) fn query_span(node: &str, actor: &str, query: &str) -> Span {
    // Who sent the message that began it may have worked for another query.
    tracing::error_span!(parent: None, "query", node, actor, query)
}

/// An actor with the names that its spans have.
pub(crate) struct Traced<A> {
    actor: A,
    node: String,
    name: String,
}

impl<A: Actor> Traced<A> {
    pub(crate) fn new(actor: A, node: &str, name: &str) -> Self {
        Self {
            actor,
            node: node.to_string(),
            name: name.to_string(),
        }
    }

    pub(crate) async fn spawn_linked(
        self,
        arguments: A::Arguments,
        supervisor: ActorCell,
    ) -> Result<ActorRef<A::Msg>, SpawnErr> {
        let (reference, _) = Actor::spawn_linked(None, self, arguments, supervisor).await?;
        Ok(reference)
    }

    fn span(&self) -> Span {
        actor_span(&self.node, &self.name)
    }
}

impl<A: Actor> Actor for Traced<A> {
    type Msg = A::Msg;
    type State = A::State;
    type Arguments = A::Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<A::Msg>,
        arguments: A::Arguments,
    ) -> Result<A::State, ActorProcessingErr> {
        let start = self.actor.pre_start(myself, arguments);
        start.instrument(self.span()).await
    }

    async fn post_start(
        &self,
        myself: ActorRef<A::Msg>,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        let started = self.actor.post_start(myself, state);
        started.instrument(self.span()).await
    }

    async fn post_stop(
        &self,
        myself: ActorRef<A::Msg>,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        let stopped = self.actor.post_stop(myself, state);
        stopped.instrument(self.span()).await
    }

    async fn handle(
        &self,
        myself: ActorRef<A::Msg>,
        message: A::Msg,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        let handled = self.actor.handle(myself, message, state);
        handled.instrument(self.span()).await
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<A::Msg>,
        event: SupervisionEvent,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        let handled = self.actor.handle_supervisor_evt(myself, event, state);
        handled.instrument(self.span()).await
    }
}
