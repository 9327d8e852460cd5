//! What a reader holds of the cache.

use super::Message;
use apiary_protocol::cache::PartId;
use bytes::Bytes;
use ractor::ActorRef;
use tokio::sync::oneshot;

/// What a reader was given.
pub(crate) struct Taken {
    pub(crate) parts: Vec<TakenPart>,
    /// Held as long as the reader reads and fetches.
    pub(crate) guard: Guard,
}

pub(crate) enum TakenPart {
    /// On disk, and it stays there.
    Held,
    /// Not written yet.
    Here(Bytes),
    /// The reader fetches it, and tells.
    Lead,
    /// Another reader is fetching it; nothing comes when that one fails.
    Coming(oneshot::Receiver<Bytes>),
    /// The reader fetches it for itself alone.
    Around,
}

/// Gives back what a reader took, however the reader ends.
pub(crate) struct Guard {
    pub(super) cache: ActorRef<Message>,
    pub(super) pins: Vec<PartId>,
    pub(super) leads: Vec<PartId>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let (pins, leads) = (
            std::mem::take(&mut self.pins),
            std::mem::take(&mut self.leads),
        );
        if !pins.is_empty() || !leads.is_empty() {
            let _ = self.cache.send_message(Message::Release { pins, leads });
        }
    }
}
