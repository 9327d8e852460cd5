//! The runtimes that an [`Apiary`](crate::Apiary) owns, and polling inside them from anywhere.
//!
//! Query work has one thread per bee; actors, timers and storage have two threads of their own and so
//! never wait behind a query. Never blocks on drop: a runtime that is dropped inside another one
//! would panic, so both are told to stop in the background.

mod gate;

use crate::host::io_thread_count;
use apiary_engine::host::{Blocking, Runtimes};
use apiary_engine::{Error, Result};
use futures::Stream;
use futures::future::join_all;
use gate::Gate;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::runtime::{Builder, Handle, Runtime};

const CONTROL_THREADS: usize = 2;

/// Both runtimes. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct OwnedRuntimes {
    // Options only because `shutdown_background` consumes; always `Some` until the drop.
    query: Option<Runtime>,
    control: Option<Runtime>,
    handles: Runtimes,
    bees: usize,
}

impl OwnedRuntimes {
    pub(crate) fn start(bees: usize) -> Result<Self> {
        let query = runtime("apiary-query", bees)?;
        let control = runtime("apiary-control", CONTROL_THREADS)?;
        let handles = Runtimes {
            query: query.handle().clone(),
            control: control.handle().clone(),
        };
        Ok(Self {
            query: Some(query),
            control: Some(control),
            handles,
            bees,
        })
    }

    pub(crate) fn handles(&self) -> &Runtimes {
        &self.handles
    }

    /// Calls a function on every thread of the runtimes and of the I/O threads behind `blocking`, and
    /// waits for it. A thread that is busy for longer than a gate waits is left out.
    pub(crate) async fn on_each_thread(&self, blocking: &Arc<dyn Blocking>, work: fn()) {
        for (runtime, count) in [
            (&self.handles.query, self.bees.max(1)),
            (&self.handles.control, CONTROL_THREADS),
        ] {
            let gate = Arc::new(Gate::new(count));
            let calls = (0..count).map(|_| {
                let gate = gate.clone();
                runtime.spawn(async move { gate.pass(work) })
            });
            let calls: Vec<_> = calls.collect();
            join_all(calls).await;
        }
        let count = io_thread_count(self.bees);
        let gate = Arc::new(Gate::new(count));
        let calls = (0..count).map(|_| {
            let gate = gate.clone();
            blocking.call(move || gate.pass(work))
        });
        join_all(calls).await;
    }

    /// Polls `future` wherever the caller polls, with our timers and I/O in reach.
    pub(crate) fn inside<F: Future>(&self, future: F) -> Inside<F> {
        Inside {
            handle: self.handles.control.clone(),
            inner: Some(Box::pin(future)),
        }
    }
}

impl Drop for OwnedRuntimes {
    fn drop(&mut self) {
        for runtime in [self.query.take(), self.control.take()]
            .into_iter()
            .flatten()
        {
            runtime.shutdown_background();
        }
    }
}

fn runtime(name: &str, threads: usize) -> Result<Runtime> {
    Builder::new_multi_thread()
        .thread_name(name)
        .worker_threads(threads.max(1))
        .enable_all()
        .build()
        .map_err(|source| Error::Io {
            path: format!("threads of the {name} runtime"),
            source,
        })
}

/// A future or stream that is polled and dropped with a runtime entered.
pub(crate) struct Inside<T> {
    handle: Handle,
    inner: Option<Pin<Box<T>>>,
}

impl<T> Inside<T> {
    pub(crate) fn new(handle: Handle, inner: T) -> Self {
        Self {
            handle,
            inner: Some(Box::pin(inner)),
        }
    }
}

impl<F: Future> Future for Inside<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let _entered = this.handle.enter();
        match this.inner.as_mut() {
            Some(inner) => inner.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}

impl<S: Stream> Stream for Inside<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = self.get_mut();
        let _entered = this.handle.enter();
        match this.inner.as_mut() {
            Some(inner) => inner.as_mut().poll_next(context),
            None => Poll::Ready(None),
        }
    }
}

impl<T> Drop for Inside<T> {
    fn drop(&mut self) {
        // What is inside may spawn its clean-up.
        let _entered = self.handle.enter();
        self.inner = None;
    }
}
