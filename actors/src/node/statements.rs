//! Statements: what each kind of them is run by.

use super::{Node, lost};
use crate::answer::{Answer, Progress, QueryOptions, WriteOptions};
use crate::commit::Committing;
use crate::read::{self, ReadJob};
use crate::results::Reader;
use crate::write::{self, CreateJob, QuerySource, Source, WriteJob};
use apiary_engine::error::{Error, Result};
use apiary_engine::sql::{self, Session, Statement};
use arrow::datatypes::SchemaRef;
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

impl Node {
    /// Runs one statement. Queries return as soon as they are admitted and planned; rows follow.
    pub async fn execute(
        &self,
        statement: Statement,
        session: &Session,
        options: QueryOptions,
    ) -> Result<Answer> {
        let deadline = options
            .deadline
            .unwrap_or_else(|| self.environment().settings.query_deadline());
        let progress = options.progress;
        let presented = options.presented;
        let cancel = options.cancel.unwrap_or_default();
        let (session, label) = (session.clone(), self.label());
        match statement {
            Statement::Query(statement) => {
                let job = ReadJob {
                    session: session.clone(),
                    statement,
                    label,
                    deadline,
                    progress: progress.clone(),
                    presented,
                };
                self.execute_query(job, session, progress, cancel).await
            }
            Statement::Insert {
                frame,
                columns,
                source,
                overwrite,
            } => {
                let frame = session.resolve(&frame)?;
                let options = WriteOptions {
                    overwrite,
                    cancel: Some(cancel),
                    ..Default::default()
                };
                let write = WriteJob {
                    frame,
                    options,
                    label,
                    deadline,
                    progress,
                };
                let source = QuerySource {
                    session: session.clone(),
                    statement: source,
                    columns,
                };
                let report = self.execute_write(write, Source::Query(source)).await?;
                Ok(Answer::without_rows(session, Some(report)))
            }
            Statement::CreateFrameAs {
                frame,
                query,
                partition_by,
                if_not_exists,
            } => {
                let frame = session.resolve(&frame)?;
                let write = WriteJob {
                    frame,
                    options: WriteOptions::default(),
                    label,
                    deadline,
                    progress,
                };
                let source = QuerySource {
                    session: session.clone(),
                    statement: query,
                    columns: Vec::new(),
                };
                let job = CreateJob {
                    source,
                    partition_by,
                    if_not_exists,
                    write,
                };
                let context = self.inner.context.clone();
                let report = self
                    .supervised("CREATE TABLE AS", cancel, |committing| async move {
                        write::create_as(&context, job, committing).await
                    })
                    .await?;
                Ok(Answer::without_rows(session, report))
            }
            other => self.execute_catalog(other, session, deadline, cancel).await,
        }
    }

    async fn execute_query(
        &self,
        job: ReadJob,
        session: Session,
        progress: Arc<Progress>,
        asked: CancellationToken,
    ) -> Result<Answer> {
        let context = self.inner.context.clone();
        let label = job.label.clone();
        let client = self
            .launch(label, Committing::default(), |reply| {
                read::drive(context, job, reply)
            })
            .await?;
        let answer = tokio::select! {
            biased;
            answer = client.answer => answer,
            () = asked.cancelled() => return Err(Error::Cancelled),
        };
        let (schema, reader): (SchemaRef, Reader) = answer.map_err(|_| lost())??;
        let batches = reader.into_stream(self.inner.host.runtimes.query.clone(), client.guard);
        Ok(Answer {
            schema,
            batches,
            has_rows: true,
            session,
            write: None,
            progress,
        })
    }

    /// Statements about names: run beside the bees, because they only read and write small objects.
    async fn execute_catalog(
        &self,
        statement: Statement,
        session: Session,
        deadline: Duration,
        cancel: CancellationToken,
    ) -> Result<Answer> {
        let environment = self.environment().clone();
        let (session, rows) = self
            .supervised("the statement", cancel, |committing| async move {
                let changes = statement.changes_names();
                if changes {
                    // It may write the registry at any step.
                    committing.begin();
                }
                let run = sql::run_catalog_statement(&environment, &session, &statement);
                let ended = tokio::time::timeout(deadline, run).await;
                ended.unwrap_or_else(|_| Err(too_late(deadline, changes)))
            })
            .await?;
        let Some(batch) = rows else {
            return Ok(Answer::without_rows(session, None));
        };
        let schema = batch.schema();
        let batches = futures::stream::once(async move { Ok(batch) }).boxed();
        let progress = Arc::default();
        Ok(Answer {
            schema,
            batches,
            has_rows: true,
            session,
            write: None,
            progress,
        })
    }
}

/// A statement about names that took too long: what it may have changed, it may have changed.
fn too_late(deadline: Duration, changes: bool) -> Error {
    if !changes {
        return Error::Deadline(deadline);
    }
    Error::OutcomeUnknown {
        what: "the statement".into(),
        reason: format!("the deadline of {} ms passed", deadline.as_millis()),
    }
}
