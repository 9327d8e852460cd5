//! How drivers and the Heartbeat reach the Forager.

use super::{Ending, Message};
use crate::mailbox::{Address, CallError, Reply};
use apiary_engine::distributed::{StoredOutput, Writes};
use apiary_engine::error::{Error, Result};
use apiary_engine::sql::Environment;
use apiary_engine::store::Created;
use apiary_protocol::heartbeat::ClaimProgress;
use apiary_protocol::ids::{NodeId, QueryId};
use apiary_protocol::keys;
use apiary_protocol::planted;
use apiary_protocol::query::{EndReason, QueryPlan, TaskKey};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

const CONTROL_DEADLINE: Duration = Duration::from_secs(10);

/// Outputs whose index was read.
pub(crate) type Known = BTreeMap<TaskKey, Arc<StoredOutput>>;

#[derive(Clone, Debug)]
pub(crate) struct ForagerHandle {
    address: Address<Message>,
}

/// A query under way: ends it, when it is dropped, as cancelled. Of a write that is not answered the
/// cells that its tasks committed are deleted.
pub(crate) struct Coordinated {
    address: Address<Message>,
    query: QueryId,
    reason: EndReason,
    writes: Option<Arc<Writes>>,
}

impl Coordinated {
    pub(crate) fn end(mut self, reason: EndReason) {
        self.reason = reason;
    }
}

impl Drop for Coordinated {
    fn drop(&mut self) {
        if planted!(CancelLost) && self.reason == EndReason::Cancelled {
            return;
        }
        let writes = self.writes.take();
        let ending = Ending {
            reason: self.reason,
            discards: writes.filter(|_| self.reason != EndReason::Answered),
        };
        self.address.tell(Message::Finish {
            query: self.query,
            ending,
        });
    }
}

impl ForagerHandle {
    pub(crate) fn new(address: Address<Message>) -> Self {
        Self { address }
    }

    /// Writes a query's plan where all can see it, and tells them. Gives the query, and what will come
    /// when all is there that the head needs. `writes` is where tasks of it put cells.
    pub(crate) async fn coordinate(
        &self,
        environment: &Environment,
        plan: QueryPlan,
        head: Vec<u32>,
        writes: Option<Arc<Writes>>,
    ) -> Result<(Coordinated, oneshot::Receiver<Result<Known>>)> {
        let query = plan.query;
        let bytes = plan
            .to_bytes()
            .map_err(|error| Error::Bug(format!("a plan: {error}")))?;
        let coordinated = Coordinated {
            address: self.address.clone(),
            query,
            reason: EndReason::Cancelled,
            writes,
        };
        let (reply, answer): (Reply<Result<Known>>, _) = oneshot::channel();
        let message = Message::Coordinate {
            plan: Arc::new(plan),
            head,
            reply,
        };
        let key = keys::query_plan(query);
        // Whoever hears the bell before the plan is there looks again.
        self.address.tell(Message::Ring { query });
        match environment.meadow.create(&key, Bytes::from(bytes)).await? {
            Created::Ours => {}
            Created::Theirs(_) => return Err(Error::Bug(format!("{key} was there before"))),
        }
        let delivered = self.address.deliver(message);
        match tokio::time::timeout(CONTROL_DEADLINE, delivered).await {
            Ok(Ok(())) => Ok((coordinated, answer)),
            Ok(Err(error)) => Err(error.into_error(self.address.name())),
            Err(_) => Err(CallError::Deadline(CONTROL_DEADLINE).into_error(self.address.name())),
        }
    }

    pub(crate) async fn claims(&self) -> Result<Vec<ClaimProgress>> {
        let claims = self
            .address
            .call(CONTROL_DEADLINE, |reply| Message::Claims { reply })
            .await;
        claims.map_err(|error| error.into_error(self.address.name()))
    }

    /// Whose beats matter to this node.
    pub(crate) async fn watched(&self) -> Result<BTreeSet<NodeId>> {
        let watched = self
            .address
            .call(CONTROL_DEADLINE, |reply| Message::Watched { reply })
            .await;
        watched.map_err(|error| error.into_error(self.address.name()))
    }

    /// Gives back what runs for others and ends what is left here; false when that took too long.
    pub(crate) async fn drain(&self, deadline: Duration) -> bool {
        self.address
            .call(deadline, |reply| Message::Drain { reply })
            .await
            .is_ok()
    }
}
