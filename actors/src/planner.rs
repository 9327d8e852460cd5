//! Supervisor of the running statements: one child each.
//!
//! Parent: Node. Messages: `Run` a statement, `Abandoned` from a driver that counts a failed
//! attempt, `Drain`, `Observe`. Reads and writes no object. When it crashes, all its children end
//! with it, and their clients see an error; nothing is restarted but the Planner itself.
//!
//! Invariants: while it drains it takes nothing new; `Drain` is answered when no child is left.

use crate::mailbox::{Address, Alive, Census, Reply};
use crate::query::{self, Job, Query};
use crate::traced::Traced;
use apiary_engine::error::Result;
use apiary_engine::host::Host;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use std::collections::BTreeSet;
use std::time::Duration;

const CONTROL_DEADLINE: Duration = Duration::from_secs(10);

pub(crate) enum Message {
    /// Dropped without a reply while the Planner drains.
    Run {
        job: Job,
        reply: Reply<()>,
    },
    Abandoned,
    Drain {
        reply: Reply<()>,
    },
    Observe {
        reply: Reply<View>,
    },
}

/// What `Observe` answers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct View {
    pub(crate) running_queries: usize,
    /// Attempts that failed since this instance started.
    pub(crate) abandoned_tasks: u64,
}

#[derive(Clone)]
pub(crate) struct Arguments {
    /// Names the node in spans.
    pub(crate) node: String,
    pub(crate) host: Host,
    pub(crate) census: Census,
}

pub(crate) struct State {
    with: Arguments,
    running: BTreeSet<ActorId>,
    abandoned_tasks: u64,
    draining: Option<Vec<Reply<()>>>,
    _alive: Alive,
}

pub(crate) struct Planner;

impl Actor for Planner {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        _: ActorRef<Message>,
        with: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let alive = with.census.enter();
        Ok(State {
            with,
            running: BTreeSet::new(),
            abandoned_tasks: 0,
            draining: None,
            _alive: alive,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Run { job, reply } if state.draining.is_none() => {
                let Arguments { node, host, census } = state.with.clone();
                let query = Traced::new(Query, &node, "query");
                let arguments = query::Arguments {
                    node,
                    job,
                    host,
                    census,
                };
                let child = query.spawn_linked(arguments, myself.get_cell()).await?;
                state.running.insert(child.get_id());
                let _ = reply.send(());
            }
            Message::Run { .. } => {}
            Message::Abandoned => state.abandoned_tasks += 1,
            Message::Drain { reply } => state.draining.get_or_insert_default().push(reply),
            Message::Observe { reply } => {
                let (running_queries, abandoned_tasks) =
                    (state.running.len(), state.abandoned_tasks);
                let _ = reply.send(View {
                    running_queries,
                    abandoned_tasks,
                });
            }
        }
        state.answer_drain();
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorTerminated(cell, ..)
        | SupervisionEvent::ActorFailed(cell, _) = &event
        {
            state.running.remove(&cell.get_id());
            state.answer_drain();
        }
        Ok(())
    }
}

impl State {
    fn answer_drain(&mut self) {
        if self.running.is_empty() {
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

/// The callers' handle.
#[derive(Clone, Debug)]
pub(crate) struct PlannerHandle {
    address: Address<Message>,
}

impl PlannerHandle {
    pub(crate) fn new(address: Address<Message>) -> Self {
        Self { address }
    }

    /// Starts a statement's driver as a child.
    pub(crate) async fn run(&self, job: Job) -> Result<()> {
        let started = self
            .address
            .call(CONTROL_DEADLINE, |reply| Message::Run { job, reply })
            .await;
        started.map_err(|error| error.into_error(self.address.name()))
    }

    pub(crate) fn count_abandoned(&self) {
        self.address.tell(Message::Abandoned);
    }

    /// Takes nothing new and waits up to `deadline` for what runs; false when some still run.
    pub(crate) async fn drain(&self, deadline: Duration) -> bool {
        self.address
            .call(deadline, |reply| Message::Drain { reply })
            .await
            .is_ok()
    }

    pub(crate) async fn observe(&self) -> Result<View> {
        let observed = self
            .address
            .call(CONTROL_DEADLINE, |reply| Message::Observe { reply })
            .await;
        observed.map_err(|error| error.into_error(self.address.name()))
    }
}
