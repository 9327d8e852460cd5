//! Handles: how anybody reaches an actor.
//!
//! An [`Address`] resolves to the current instance of an actor, which its supervisor publishes; a
//! dead instance's inbox is gone with it. Mailboxes themselves are unbounded, so the permits of an
//! address bound how many requests are under way; an actor's own results need none, because the work
//! behind them is bounded.
//!
//! Invariants: a message is handed to at most one instance; a request ends with a reply, with
//! [`CallError::Lost`] when the instance that took it died, or by its deadline.

use apiary_engine::error::Error;
use futures::FutureExt;
use ractor::{ActorRef, Message, MessagingErr};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

/// Where a reply goes. Dropped without a reply when the instance dies.
pub(crate) type Reply<T> = oneshot::Sender<T>;

#[derive(Debug)]
pub(crate) enum CallError {
    /// The node stopped: there is no further instance.
    Stopped,
    /// An instance took the message and died before it answered.
    Lost,
    /// No instance, permit or reply in time; the message may have been taken.
    Deadline(Duration),
}

impl CallError {
    /// As an error of a request that can simply be repeated.
    pub(crate) fn into_error(self, actor: &str) -> Error {
        match self {
            Self::Stopped => stopped(),
            Self::Lost => Error::Busy {
                what: format!("the {actor} of this node was restarted while it worked on this"),
                retry_after: Duration::from_millis(100),
            },
            // Not the caller's deadline: whoever asks again may well be answered.
            Self::Deadline(after) => Error::Busy {
                what: format!(
                    "the {actor} of this node did not answer in {} ms",
                    after.as_millis()
                ),
                retry_after: Duration::from_millis(100),
            },
        }
    }
}

/// What every door of a stopped node answers.
pub(crate) fn stopped() -> Error {
    Error::rejected("this node has been shut down: start a new one")
}

type Current<M> = Option<ActorRef<M>>;

/// The supervisor's end of an address.
#[derive(Debug)]
pub(crate) struct Publisher<M> {
    sender: watch::Sender<Current<M>>,
}

impl<M: Message> Publisher<M> {
    pub(crate) fn publish(&self, actor: ActorRef<M>) {
        self.sender.send_replace(Some(actor));
    }

    /// Between two instances: callers wait for the next.
    pub(crate) fn withdraw(&self) {
        self.sender.send_replace(None);
    }
}

/// The callers' end. Cheap to clone.
pub(crate) struct Address<M> {
    name: &'static str,
    current: watch::Receiver<Current<M>>,
    permits: Arc<Semaphore>,
}

impl<M> Clone for Address<M> {
    fn clone(&self) -> Self {
        Self {
            name: self.name,
            current: self.current.clone(),
            permits: self.permits.clone(),
        }
    }
}

impl<M> std::fmt::Debug for Address<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Address({})", self.name)
    }
}

/// An address with room for `permits` requests at once.
pub(crate) fn address<M: Message>(
    name: &'static str,
    permits: usize,
) -> (Publisher<M>, Address<M>) {
    let (sender, current) = watch::channel(None);
    (
        Publisher { sender },
        Address {
            name,
            current,
            permits: Arc::new(Semaphore::new(permits)),
        },
    )
}

impl<M: Message> Address<M> {
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Sends a request and waits for its reply, all within `deadline`.
    pub(crate) async fn call<T>(
        &self,
        deadline: Duration,
        message: impl FnOnce(Reply<T>) -> M,
    ) -> Result<T, CallError> {
        let exchange = async {
            let _permit = self
                .permits
                .acquire()
                .await
                .map_err(|_| CallError::Stopped)?;
            let (reply, answer) = oneshot::channel();
            self.deliver(message(reply)).await?;
            answer.await.map_err(|_| CallError::Lost)
        };
        match tokio::time::timeout(deadline, exchange).await {
            Ok(result) => result,
            Err(_) => Err(CallError::Deadline(deadline)),
        }
    }

    /// Puts a message into the current instance's mailbox, or the next one's when it just died.
    pub(crate) async fn deliver(&self, mut message: M) -> Result<(), CallError> {
        let mut current = self.current.clone();
        loop {
            let actor = current
                .wait_for(Option::is_some)
                .await
                .map_err(|_| CallError::Stopped)?
                .clone()
                .ok_or(CallError::Stopped)?;
            match actor.send_message(message) {
                Ok(()) => return Ok(()),
                Err(MessagingErr::SendErr(returned)) => message = returned,
                Err(_) => return Err(CallError::Stopped),
            }
            // That instance is dead and its supervisor does not know yet.
            current.changed().await.map_err(|_| CallError::Stopped)?;
        }
    }

    /// Tells the current instance something that a dead one need not hear.
    pub(crate) fn tell(&self, message: M) {
        let actor = self.current.borrow().clone();
        if let Some(actor) = actor {
            let _ = actor.send_message(message);
        }
    }

    /// The current instance, for tests that kill it.
    #[cfg(test)]
    pub(crate) fn instance(&self) -> Option<ActorRef<M>> {
        self.current.borrow().clone()
    }
}

/// Runs work outside a handler, in the handler's span, and sends its result to the actor as a
/// message. A panic becomes `Err(text)`. Dropping the handle aborts the work.
pub(crate) fn spawn_report<M, T, F>(
    runtime: &Handle,
    myself: &ActorRef<M>,
    work: F,
    message: impl FnOnce(Result<T, String>) -> M + Send + 'static,
) -> AbortOnDropHandle<()>
where
    M: Message,
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let myself = myself.clone();
    let work = work.in_current_span();
    AbortOnDropHandle::new(runtime.spawn(async move {
        let result = AssertUnwindSafe(work)
            .catch_unwind()
            .await
            .map_err(panic_text);
        let _ = myself.send_message(message(result));
    }))
}

/// A timer: tells the actor after a while. Dropping the handle stops it.
pub(crate) fn remind<M: Message>(
    runtime: &Handle,
    myself: &ActorRef<M>,
    after: Duration,
    message: impl FnOnce() -> M + Send + 'static,
) -> AbortOnDropHandle<()> {
    // Made inside the work: a timer wants its runtime around it.
    let pause = async move { tokio::time::sleep(after).await };
    spawn_report(runtime, myself, pause, |_| message())
}

/// What a panic said.
pub(crate) fn panic_text(panic: Box<dyn std::any::Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => match panic.downcast::<&'static str>() {
            Ok(text) => (*text).to_string(),
            Err(_) => "a panic without a message".to_string(),
        },
    }
}

/// Counts the actors of one node that are alive: each holds an [`Alive`] in its state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Census(Arc<AtomicUsize>);

#[derive(Debug)]
pub(crate) struct Alive(Arc<AtomicUsize>);

impl Census {
    pub(crate) fn enter(&self) -> Alive {
        self.0.fetch_add(1, Ordering::SeqCst);
        Alive(self.0.clone())
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
