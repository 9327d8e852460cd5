//! The swarm for whoever asks.

use super::{CONTROL_DEADLINE, Message};
use crate::mailbox::Address;
use apiary_engine::behavior::membership::SwarmView;
use apiary_engine::error::Result;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How old what is seen of the swarm may be when tasks are placed: as old as a busy node's look.
const RECENT: Duration = Duration::from_secs(2);

/// The swarm for whoever asks.
#[derive(Clone, Debug)]
pub(crate) struct SwarmHandle {
    address: Address<Message>,
    view: watch::Receiver<Arc<SwarmView>>,
}

impl SwarmHandle {
    pub(crate) fn new(address: Address<Message>, view: watch::Receiver<Arc<SwarmView>>) -> Self {
        Self { address, view }
    }

    /// As it was seen last.
    pub(crate) fn view(&self) -> Arc<SwarmView> {
        self.view.borrow().clone()
    }

    /// As it is now: every beat is read.
    pub(crate) async fn refresh(&self) -> Result<Arc<SwarmView>> {
        self.younger_than(Duration::ZERO).await
    }

    /// As it was a moment ago, or is now: for one query after the other, whose tasks a node that has
    /// just come takes anyway.
    pub(crate) async fn recent(&self) -> Result<Arc<SwarmView>> {
        self.younger_than(RECENT).await
    }

    async fn younger_than(&self, max_age: Duration) -> Result<Arc<SwarmView>> {
        let refreshed = self
            .address
            .call(CONTROL_DEADLINE, |reply| Message::Refresh {
                max_age,
                reply,
            })
            .await;
        refreshed.map_err(|error| error.into_error(self.address.name()))
    }

    pub(crate) fn set_busy(&self, busy: bool) {
        self.address.tell(Message::Busy { busy });
    }

    pub(crate) async fn farewell(&self, deadline: Duration) -> Result<()> {
        let said = self
            .address
            .call(deadline, |reply| Message::Farewell { reply })
            .await;
        said.map_err(|error| error.into_error(self.address.name()))?
    }
}
