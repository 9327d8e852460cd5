//! One running statement.
//!
//! Parent: Planner. Messages: `Ended` from its driver. The driver is the statement's sequence of
//! steps (admit, plan, place, watch, retry or abandon, gather or commit) and runs beside the mailbox;
//! it reads and writes what the statement does. When this actor crashes the driver is aborted: its
//! crew is taken back, and its client sees the answer end with an error. It is not restarted.
//!
//! Invariants: the driver ends with the actor; a client that is gone ends both, unless the driver has
//! begun what cannot be taken back: then it goes on to its end.

use crate::commit::Committing;
use crate::mailbox::{Alive, Census, spawn_report};
use crate::traced::query_span;
use apiary_engine::host::Host;
use futures::future::BoxFuture;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

pub(crate) struct Arguments {
    pub(crate) node: String,
    pub(crate) job: Job,
    pub(crate) host: Host,
    pub(crate) census: Census,
}

/// A statement to drive.
pub(crate) struct Job {
    /// Names the statement in logs and in what the bees show.
    pub(crate) label: String,
    pub(crate) driver: BoxFuture<'static, ()>,
    /// Cancelled when the client is gone.
    pub(crate) cancel: CancellationToken,
    pub(crate) committing: Committing,
}

pub(crate) enum Message {
    Ended { result: Result<(), String> },
}

pub(crate) struct State {
    label: String,
    _work: AbortOnDropHandle<()>,
    _alive: Alive,
}

pub(crate) struct Query;

impl Actor for Query {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        with: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let Arguments {
            node,
            job:
                Job {
                    label,
                    mut driver,
                    cancel,
                    committing,
                },
            host,
            census,
        } = with;
        let span = query_span(&node, "query", &label);
        let work = async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = &mut driver => return,
            }
            // It is not being polled now, so it cannot begin to commit behind our back.
            if committing.has_begun() {
                driver.await;
            }
        };
        let work = spawn_report(
            &host.runtimes.control,
            &myself,
            work.instrument(span),
            |result| Message::Ended { result },
        );
        Ok(State {
            label,
            _work: work,
            _alive: census.enter(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        Message::Ended { result }: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if let Err(panic) = result {
            tracing::error!(
                query = state.label,
                panic,
                "the driver of a statement panicked"
            );
        }
        myself.stop(None);
        Ok(())
    }
}
