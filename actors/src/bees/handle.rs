//! How statements reach the bees: admission, and work in a chamber that ends with its caller.

use super::{CONTROL_DEADLINE, Message, Task, View};
use crate::bee::{Facts, Work};
use crate::chamber::Chamber;
use crate::mailbox::{Address, CallError};
use apiary_engine::behavior::temperature::{NewWork, WRITE_WAIT_MAX};
use apiary_engine::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::oneshot;

/// How a task ended, for the ladder of attempts.
pub(crate) enum TaskEnd<T> {
    Done(T, Facts),
    Failed(Error, Facts),
    /// Its bee died under it.
    Lost,
}

/// The callers' handle. A node makes one, and the rest are its clones: it numbers the tasks, and two of
/// one number would be aborted and released for each other.
#[derive(Clone, Debug)]
pub(crate) struct BeesHandle {
    address: Address<Message>,
    next_task: Arc<AtomicU64>,
}

/// Takes a task back when whoever wanted it is gone.
struct WithdrawOnDrop<'a> {
    address: &'a Address<Message>,
    task_id: u64,
}

impl Drop for WithdrawOnDrop<'_> {
    fn drop(&mut self) {
        self.address.tell(Message::Withdraw {
            task_id: self.task_id,
        });
    }
}

impl BeesHandle {
    pub(crate) fn new(address: Address<Message>) -> Self {
        Self {
            address,
            next_task: Arc::default(),
        }
    }

    #[cfg(test)]
    pub(crate) fn instance(&self) -> Option<ractor::ActorRef<Message>> {
        self.address.instance()
    }

    /// The temperature at which the statement was let in.
    pub(crate) async fn admit(&self, work: NewWork) -> Result<f64> {
        let deadline = WRITE_WAIT_MAX + CONTROL_DEADLINE;
        let admit = |reply| Message::Admit { work, reply };
        match self.address.call(deadline, admit).await {
            // Nothing was begun: the next instance is asked.
            Err(CallError::Lost) => self.address.call(deadline, admit).await,
            other => other,
        }
        .map_err(|error| error.into_error(self.address.name()))?
    }

    pub(crate) async fn observe(&self) -> Result<View> {
        let observed = self
            .address
            .call(CONTROL_DEADLINE, |reply| Message::Observe { reply })
            .await;
        observed.map_err(|error| error.into_error(self.address.name()))
    }

    /// Runs work in a chamber of up to `bees_wanted` bees, at least `bees_least`. Dropping this
    /// future takes the task out of the queue or aborts it.
    pub(crate) async fn run<T, F>(
        &self,
        label: String,
        bees_wanted: usize,
        bees_least: usize,
        work: impl FnOnce(Chamber) -> F + Send + 'static,
    ) -> TaskEnd<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let task_id = self.next_task.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let (value, result) = oneshot::channel();
        let work: Work = Box::new(move |chamber| {
            let work = work(chamber);
            Box::pin(async move {
                let _ = value.send(work.await?);
                Ok(())
            })
        });
        let task = Task {
            task_id,
            label,
            bees_wanted,
            bees_least,
            work,
            reply,
        };
        let _withdraw = WithdrawOnDrop {
            address: &self.address,
            task_id,
        };
        if let Err(error) = self.address.deliver(Message::Submit(task)).await {
            return TaskEnd::Failed(error.into_error(self.address.name()), Facts::default());
        }
        match answer.await {
            Ok((Ok(()), facts)) => match result.await {
                Ok(value) => TaskEnd::Done(value, facts),
                Err(_) => TaskEnd::Lost,
            },
            Ok((Err(error), facts)) => TaskEnd::Failed(error, facts),
            Err(_) => TaskEnd::Lost,
        }
    }
}
