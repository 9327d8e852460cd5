//! What is done beside whoever began it: deletions of objects that nobody is going to name, and work
//! that must come to its end although who asked for it is gone.
//!
//! Such work begins where nothing can be awaited, in a drop, so it is a task of its own on the control
//! runtime. The stop of a node waits for all of it.

use super::Meadow;
use futures::StreamExt;
use std::future::Future;
use tokio::task::JoinHandle;
use tracing::Instrument;

const DELETES_AT_ONCE: usize = 8;

impl Meadow {
    /// Runs work to its end, whatever becomes of the caller.
    pub fn aside<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let control = &self.host.runtimes.control;
        self.aside.spawn_on(work.in_current_span(), control)
    }

    /// Deletes objects when `first` has ended: what may still be writing one of them. What cannot be
    /// deleted is logged, and left to the sweep.
    pub fn discard(
        &self,
        first: impl Future<Output = ()> + Send + 'static,
        keys: Vec<String>,
    ) -> JoinHandle<()> {
        let meadow = self.clone();
        self.aside(async move {
            first.await;
            let deletes = futures::stream::iter(keys).map(|key| {
                let meadow = &meadow;
                async move {
                    if let Err(error) = meadow.delete(&key).await {
                        tracing::warn!(%key, %error, "what nobody names was not deleted");
                    }
                }
            });
            let mut deletes = deletes.buffer_unordered(DELETES_AT_ONCE);
            while deletes.next().await.is_some() {}
        })
    }

    /// Ends when nothing that began before runs aside any more.
    pub async fn quiet(&self) {
        self.aside.close();
        self.aside.wait().await;
    }
}
