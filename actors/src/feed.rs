//! A caller's stream of rows, taken in stretches, so that a caller who stalls holds no bee.
//!
//! Rows are gathered outside any chamber until they are worth a bee's while, or are all. A stretch is
//! then what was gathered and what comes after it without a long pause. What one stretch wrote is
//! finished cells, so between two of them a write holds no bee and no memory but what is gathered.

use apiary_engine::error::{Error, Result};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_util::task::AbortOnDropHandle;

/// A stream of fewer bytes is written by one bee, and a bee is not taken for fewer.
const GATHERED_BYTES: usize = 1 << 20;
/// How long a bee waits for the next rows.
const PATIENCE: Duration = Duration::from_secs(1);

/// What was gathered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gathered {
    pub(crate) is_empty: bool,
    /// Nothing comes after it.
    pub(crate) is_last: bool,
}

/// The caller's end. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Feed {
    schema: SchemaRef,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    input: SendableRecordBatchStream,
    gathered: VecDeque<RecordBatch>,
    /// A stream that has ended may not be polled again.
    ended: bool,
}

impl Feed {
    pub(crate) fn new(input: SendableRecordBatchStream) -> Self {
        let schema = input.schema();
        let inner = Inner {
            input,
            gathered: VecDeque::new(),
            ended: false,
        };
        Self {
            schema,
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// Waits until there are rows for a stretch. The caller's stream runs on the query runtime.
    pub(crate) async fn gather(&self, query: &Handle) -> Result<Gathered> {
        let inner = self.inner.clone();
        let gather = async move { inner.lock().await.gather().await };
        AbortOnDropHandle::new(query.spawn(gather))
            .await
            .map_err(|error| Error::Bug(format!("the stream of rows to write failed: {error}")))?
    }

    /// The rows of one stretch.
    pub(crate) fn stretch(&self) -> SendableRecordBatchStream {
        let inner = self.inner.clone();
        let rows = futures::stream::try_unfold(None, move |held| {
            let inner = inner.clone();
            async move {
                let mut held: OwnedMutexGuard<Inner> = match held {
                    Some(held) => held,
                    None => inner.lock_owned().await,
                };
                let next = held.next().await?;
                Ok::<_, DataFusionError>(next.map(|batch| (batch, Some(held))))
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(
            self.schema.clone(),
            rows.fuse(),
        ))
    }
}

impl Inner {
    async fn gather(&mut self) -> Result<Gathered> {
        let mut bytes = 0;
        while !self.ended && bytes < GATHERED_BYTES {
            match self.input.next().await.transpose()? {
                Some(batch) => {
                    bytes += batch.get_array_memory_size();
                    self.gathered.push_back(batch);
                }
                None => self.ended = true,
            }
        }
        Ok(Gathered {
            is_empty: self.gathered.is_empty(),
            is_last: self.ended,
        })
    }

    /// The next batch; `None` at the end and at a pause.
    async fn next(&mut self) -> Result<Option<RecordBatch>, DataFusionError> {
        if let Some(batch) = self.gathered.pop_front() {
            return Ok(Some(batch));
        }
        if self.ended {
            return Ok(None);
        }
        match tokio::time::timeout(PATIENCE, self.input.next()).await {
            Ok(Some(batch)) => batch.map(Some),
            Ok(None) => {
                self.ended = true;
                Ok(None)
            }
            Err(_) => Ok(None),
        }
    }
}
