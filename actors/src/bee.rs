//! A bee: one core's permit. Runs one task at a time, in a chamber.
//!
//! Parent: Bees. Messages: `Run` a task as the leader of its crew, `Abort` it, and its own
//! `Finished`. Reads and writes no object itself; what runs in the chamber does. When it crashes,
//! the task is aborted and its reply is dropped, which the statement's driver takes as a lost bee;
//! Bees frees the crew and restarts the bee.
//!
//! Invariants: the crew is released only after the task has really ended, so two tasks never share
//! a budget; a panic inside the task is the task's failure.

use crate::bees;
use crate::chamber::Chamber;
use crate::mailbox::{Alive, Census, Reply, panic_text, spawn_report};
use crate::traced::query_span;
use apiary_engine::error::{Error, Result};
use apiary_engine::host::Host;
use futures::FutureExt;
use futures::future::BoxFuture;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

pub(crate) type Work = Box<dyn FnOnce(Chamber) -> BoxFuture<'static, Result<()>> + Send>;

/// What is known of a task that ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) bee: String,
    pub(crate) budget_bytes: u64,
    pub(crate) peak_bytes: u64,
    pub(crate) spilled_bytes: u64,
    pub(crate) duration: Duration,
}

/// A task with its crew's chamber.
pub(crate) struct Assignment {
    pub(crate) task_id: u64,
    pub(crate) label: String,
    pub(crate) chamber: Chamber,
    pub(crate) work: Work,
    pub(crate) reply: Reply<(Result<()>, Facts)>,
}

pub(crate) enum Message {
    Run(Assignment),
    Abort { task_id: u64 },
    Finished { result: Result<Result<()>, String> },
}

#[derive(Clone)]
pub(crate) struct Arguments {
    pub(crate) node: String,
    pub(crate) bee_id: String,
    pub(crate) host: Host,
    pub(crate) parent: ActorRef<bees::Message>,
    pub(crate) census: Census,
}

struct Running {
    task_id: u64,
    chamber: Chamber,
    reply: Reply<(Result<()>, Facts)>,
    started_at: Duration,
    abort: CancellationToken,
    _watch: AbortOnDropHandle<()>,
}

pub(crate) struct State {
    node: String,
    bee_id: String,
    host: Host,
    parent: ActorRef<bees::Message>,
    running: Option<Running>,
    _alive: Alive,
}

pub(crate) struct Bee;

impl Actor for Bee {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        _: ActorRef<Message>,
        with: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let Arguments {
            node,
            bee_id,
            host,
            parent,
            census,
        } = with;
        Ok(State {
            node,
            bee_id,
            host,
            parent,
            running: None,
            _alive: census.enter(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Run(assignment) => state.run(&myself, assignment),
            Message::Abort { task_id } => {
                if let Some(running) = state.running.as_ref().filter(|r| r.task_id == task_id) {
                    running.abort.cancel();
                }
            }
            Message::Finished { result } => state.finish(result),
        }
        Ok(())
    }
}

impl State {
    fn run(&mut self, myself: &ActorRef<Message>, assignment: Assignment) {
        let Assignment {
            task_id,
            label,
            chamber,
            work,
            reply,
        } = assignment;
        let span = query_span(&self.node, &self.bee_id, &label);
        let abort = CancellationToken::new();
        let inside = chamber.clone();
        let task = in_scratch(inside, work).instrument(span);
        let task = AssertUnwindSafe(task).catch_unwind();
        let task = AbortOnDropHandle::new(self.host.runtimes.query.spawn(task));
        let watch = watch(task, abort.clone());
        let watch = spawn_report(&self.host.runtimes.control, myself, watch, |result| {
            Message::Finished { result }
        });
        let started_at = self.host.clock.monotonic();
        self.running = Some(Running {
            task_id,
            chamber,
            reply,
            started_at,
            abort,
            _watch: watch,
        });
    }

    fn finish(&mut self, result: Result<Result<()>, String>) {
        let Some(running) = self.running.take() else {
            return;
        };
        let result = result.unwrap_or_else(|panic| Err(Error::Bug(panic)));
        let facts = Facts {
            bee: self.bee_id.clone(),
            budget_bytes: running.chamber.budget_bytes,
            peak_bytes: running.chamber.peak_bytes(),
            spilled_bytes: running.chamber.spilled_bytes(),
            duration: self
                .host
                .clock
                .monotonic()
                .saturating_sub(running.started_at),
        };
        // The crew first: who waits for the reply may look whether the bees are free.
        let _ = self.parent.send_message(bees::Message::Released {
            task_id: running.task_id,
        });
        let _ = running.reply.send((result, facts));
    }
}

/// Runs the work to its end, or until its scratch fails: operators do not always pass on that bytes
/// could not be written, and would wait for them.
async fn in_scratch(chamber: Chamber, work: Work) -> Result<()> {
    let scratch = chamber.clone();
    tokio::select! {
        biased;
        error = scratch.scratch_failed() => Err(error),
        ended = work(chamber) => ended,
    }
}

type Caught = std::result::Result<Result<()>, Box<dyn std::any::Any + Send>>;

/// Ends when the task has really ended, also after an abort.
async fn watch(mut task: AbortOnDropHandle<Caught>, abort: CancellationToken) -> Result<()> {
    let ended = tokio::select! {
        biased;
        ended = &mut task => ended,
        () = abort.cancelled() => {
            task.abort();
            let _ = task.await;
            return Err(Error::Cancelled);
        }
    };
    match ended {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(Error::Bug(format!(
            "a task panicked: {}",
            panic_text(panic)
        ))),
        Err(_) => Err(Error::Cancelled),
    }
}
