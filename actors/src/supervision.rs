//! Supervision policy, for all actors: who is restarted, how often, and when it escalates.
//!
//! A child that ended is restarted from its factory at once. A child that ended more than
//! [`RESTARTS_MAX`] times within [`RESTART_WINDOW`] escalates: its supervisor fails, which ends its
//! other children too, and the supervisor's own supervisor decides in the same way. The children of
//! the Planner are the exception: a statement cannot be run again by a supervisor, so it is not
//! restarted and its client gets an error.
//!
//! Invariants: an instance is published only after it started; a stopping tree restarts nobody.

use crate::mailbox::{Address, Publisher, address};
use crate::traced::Traced;
use apiary_engine::error::{Error, Result};
use async_trait::async_trait;
use ractor::{Actor, ActorCell, SpawnErr, SupervisionEvent};
use std::collections::VecDeque;
use std::time::Duration;

pub(crate) const RESTARTS_MAX: usize = 5;
pub(crate) const RESTART_WINDOW: Duration = Duration::from_secs(60);

/// How often one child ended lately.
#[derive(Debug, Default)]
pub(crate) struct RestartBudget {
    ends: VecDeque<Duration>,
}

impl RestartBudget {
    /// Whether a child that ended `now` (monotonic) may be restarted.
    pub(crate) fn try_restart(&mut self, now: Duration) -> bool {
        self.ends.push_back(now);
        while self
            .ends
            .front()
            .is_some_and(|end| now.saturating_sub(*end) > RESTART_WINDOW)
        {
            self.ends.pop_front();
        }
        self.ends.len() <= RESTARTS_MAX
    }
}

/// One child with its factory.
#[async_trait]
pub(crate) trait Supervised: Send {
    fn name(&self) -> &'static str;
    fn cell(&self) -> Option<&ActorCell>;
    /// Starts an instance as a child of `supervisor` and publishes it. Its spans name the node.
    async fn start(&mut self, supervisor: ActorCell, node: &str) -> Result<()>;
    fn withdraw(&mut self);
}

/// Makes an actor and its arguments.
type Factory<A> = Box<dyn Fn() -> (A, <A as Actor>::Arguments) + Send>;

pub(crate) struct Child<A: Actor> {
    name: &'static str,
    /// Tells it from others of its name.
    label: String,
    publisher: Publisher<A::Msg>,
    factory: Factory<A>,
    cell: Option<ActorCell>,
}

impl<A: Actor> Child<A> {
    /// `permits` bounds the requests that are under way at once.
    pub(crate) fn new(
        name: &'static str,
        permits: usize,
        factory: impl Fn() -> (A, A::Arguments) + Send + 'static,
    ) -> (Self, Address<A::Msg>) {
        let (publisher, address) = address(name, permits);
        (Self::published(name, publisher, factory), address)
    }

    /// A child whose address was made before: two children that know each other.
    pub(crate) fn published(
        name: &'static str,
        publisher: Publisher<A::Msg>,
        factory: impl Fn() -> (A, A::Arguments) + Send + 'static,
    ) -> Self {
        Self {
            name,
            label: name.to_string(),
            publisher,
            factory: Box::new(factory),
            cell: None,
        }
    }

    pub(crate) fn labelled(self, label: String) -> Self {
        Self { label, ..self }
    }
}

#[async_trait]
impl<A: Actor> Supervised for Child<A> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cell(&self) -> Option<&ActorCell> {
        self.cell.as_ref()
    }

    async fn start(&mut self, supervisor: ActorCell, node: &str) -> Result<()> {
        let (actor, arguments) = (self.factory)();
        let reference = Traced::new(actor, node, &self.label)
            .spawn_linked(arguments, supervisor)
            .await
            .map_err(|error| start_error(self.name, error))?;
        self.cell = Some(reference.get_cell());
        self.publisher.publish(reference);
        Ok(())
    }

    fn withdraw(&mut self) {
        self.cell = None;
        self.publisher.withdraw();
    }
}

/// The error of an actor's start, as what the actor itself returned where it did.
pub(crate) fn start_error(name: &str, error: SpawnErr) -> Error {
    match error {
        SpawnErr::StartupFailed(source) => match source.downcast::<Error>() {
            Ok(error) => *error,
            Err(source) => Error::Other {
                what: format!("the start of {name}"),
                source,
            },
        },
        other => Error::Bug(format!("the start of {name}: {other}")),
    }
}

/// The children of one supervisor, in start order.
pub(crate) struct Children {
    node: String,
    children: Vec<(Box<dyn Supervised>, RestartBudget)>,
    stopping: bool,
}

impl Children {
    /// Starts all, in order. On an error those that started end with their supervisor's start.
    pub(crate) async fn start(
        children: Vec<Box<dyn Supervised>>,
        supervisor: &ActorCell,
        node: &str,
    ) -> Result<Self> {
        let mut started = Vec::with_capacity(children.len());
        for mut child in children {
            child.start(supervisor.clone(), node).await?;
            started.push((child, RestartBudget::default()));
        }
        Ok(Self {
            node: node.to_string(),
            children: started,
            stopping: false,
        })
    }

    /// From now on nobody is restarted; the cells in stop order: the last started first.
    pub(crate) fn begin_stop(&mut self) -> Vec<(&'static str, ActorCell)> {
        self.stopping = true;
        self.children
            .iter()
            .rev()
            .filter_map(|(child, _)| Some((child.name(), child.cell()?.clone())))
            .collect()
    }

    /// Applies the policy to an event. `Ok(Some(index))` when that child was restarted; an error
    /// escalates.
    pub(crate) async fn on_event(
        &mut self,
        event: SupervisionEvent,
        supervisor: &ActorCell,
        now: Duration,
    ) -> Result<Option<usize>> {
        let (ended, reason) = match &event {
            SupervisionEvent::ActorFailed(cell, error) => (cell.get_id(), error.to_string()),
            SupervisionEvent::ActorTerminated(cell, _, reason) => (
                cell.get_id(),
                reason.clone().unwrap_or_else(|| "it stopped".into()),
            ),
            _ => return Ok(None),
        };
        let position = self
            .children
            .iter()
            .position(|(child, _)| child.cell().is_some_and(|cell| cell.get_id() == ended));
        let Some(index) = position else {
            return Ok(None);
        };
        let (child, budget) = &mut self.children[index];
        child.withdraw();
        if self.stopping {
            return Ok(None);
        }
        if !budget.try_restart(now) {
            tracing::error!(child = child.name(), reason, "keeps ending; giving up");
            return Err(Error::Bug(format!(
                "{} ended more than {RESTARTS_MAX} times in {} s, last: {reason}",
                child.name(),
                RESTART_WINDOW.as_secs(),
            )));
        }
        tracing::warn!(child = child.name(), reason, "ended; restarting");
        child.start(supervisor.clone(), &self.node).await?;
        Ok(Some(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_may_end_five_times_a_minute_and_not_more() {
        let mut budget = RestartBudget::default();
        for second in 0..RESTARTS_MAX as u64 {
            assert!(budget.try_restart(Duration::from_secs(second)));
        }
        assert!(!budget.try_restart(Duration::from_secs(RESTARTS_MAX as u64)));
    }

    #[test]
    fn a_child_that_ends_now_and_then_is_always_restarted() {
        let mut budget = RestartBudget::default();
        for minute in 0..1000 {
            assert!(budget.try_restart(Duration::from_secs(minute * 13)));
        }
    }
}
