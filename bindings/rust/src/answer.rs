//! The answer to a statement.

use crate::node::Apiary;
use crate::runtime::Inside;
use apiary_actors::{Progress, WriteReport};
use apiary_engine::Result;
use apiary_engine::sql::Session;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use futures::stream::BoxStream;
use futures::{Stream, TryStreamExt};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// The answer to a statement: a stream of record batches, and what is known about it beforehand.
///
/// Batches come while the query runs. Dropping the answer cancels the query. An answer ends with an
/// error or is whole; it is never a part.
pub struct Answer {
    schema: SchemaRef,
    batches: Inside<BoxStream<'static, Result<RecordBatch>>>,
    has_rows: bool,
    session: Session,
    write: Option<WriteReport>,
    progress: Arc<Progress>,
    // After the stream, so that the runtimes outlive it.
    _apiary: Apiary,
}

impl Answer {
    pub(crate) fn new(apiary: Apiary, answer: apiary_actors::Answer) -> Self {
        let apiary_actors::Answer {
            schema,
            batches,
            has_rows,
            session,
            write,
            progress,
        } = answer;
        let batches = Inside::new(apiary.control().clone(), batches);
        Self {
            schema,
            batches,
            has_rows,
            session,
            write,
            progress,
            _apiary: apiary,
        }
    }

    /// The columns; known before any row, and also when no row comes.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// False for a statement without a result: CREATE, DROP, INSERT.
    pub fn has_rows(&self) -> bool {
        self.has_rows
    }

    /// The hive and box after the statement; `USE` changes them.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// What the statement wrote, when it wrote.
    pub fn write_report(&self) -> Option<&WriteReport> {
        self.write.as_ref()
    }

    /// Counters that move while the query runs.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// All batches in memory. For answers that are known to be small.
    pub async fn collect(self) -> Result<Vec<RecordBatch>> {
        self.try_collect().await
    }
}

impl Stream for Answer {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.batches).poll_next(context)
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer")
            .field("schema", &self.schema)
            .field("has_rows", &self.has_rows)
            .field("write", &self.write)
            .finish_non_exhaustive()
    }
}
