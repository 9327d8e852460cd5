//! Clients of a node: writers that keep what they were told, readers that check what they see.
//!
//! Now and then a writer loses patience and drops its write, in the middle of whatever it does.
//!
//! A writer with transactions repeats a write whose outcome it does not know, also after a crash,
//! under the same `txn`; one without gives every write a new number and never repeats it.

use super::model::{Fate, Model};
use super::rows::{self, Batch, FRAME, Row};
use crate::checkers::{query_1, query_3};
use crate::files::SimFiles;
use crate::rng::Rng;
use crate::trace::{Trace, checksum};
use apiary_actors::{Node, QueryOptions, WriteOptions};
use apiary_engine::error::{Error, ErrorKind, Result};
use apiary_engine::sql::{self, Session};
use apiary_protocol::names::FrameName;
use arrow::record_batch::RecordBatch;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::TryStreamExt;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// In a thousand writes, those that are dropped before their answer.
const DROPPED_WRITES: u64 = 150;
/// A dropped write is waited for less than two to the power of this, in microseconds.
const PATIENCE_EXPONENT: (u64, u64) = (8, 20);

/// A writer's state; it outlives the nodes that it talks to.
#[derive(Clone, Debug)]
pub struct Writer {
    pub name: String,
    pub model: Model,
    pub trace: Trace,
    /// The disk that must have power for an answer to count; none on a remote meadow.
    pub disk: Option<SimFiles>,
    pub rng: Rng,
    pub with_txn: bool,
    pub rows_max: u64,
    /// Waits for every answer.
    pub is_patient: bool,
    /// Writes that need no repetition any more.
    pub finished_count: u64,
    next_number: u64,
    number_step: u64,
    /// With transactions: the write to repeat.
    unfinished: Option<Batch>,
}

impl Writer {
    /// The `index`th of `count` writers; their batch numbers do not meet.
    pub fn new(index: u64, count: u64, model: &Model, trace: &Trace, rng: &Rng) -> Self {
        let name = format!("writer-{index}");
        Self {
            rng: rng.fork(&name),
            name,
            model: model.clone(),
            trace: trace.clone(),
            disk: None,
            with_txn: index.is_multiple_of(2),
            rows_max: 20,
            is_patient: false,
            finished_count: 0,
            next_number: index,
            number_step: count,
            unfinished: None,
        }
    }

    fn is_heard(&self) -> bool {
        self.disk.as_ref().is_none_or(|disk| !disk.is_dark())
    }

    /// Writes, with pauses, until `total` writes in all are finished. Dropped at any moment, it goes on
    /// with another node where it was. Errors are those that no retry mends.
    pub async fn write_until(&mut self, node: &Node, total: u64) -> Result<()> {
        while self.finished_count < total || self.unfinished.is_some() {
            tokio::time::sleep(Duration::from_micros(self.rng.below(20_000))).await;
            self.write_one(node).await?;
        }
        Ok(())
    }

    /// One write; with transactions, first the unfinished one until it is done.
    async fn write_one(&mut self, node: &Node) -> Result<()> {
        let batch = match self.unfinished {
            Some(batch) => batch,
            None => {
                let batch = Batch {
                    number: self.next_number,
                    row_count: self.rng.between(1, self.rows_max),
                };
                self.next_number += self.number_step;
                self.finished_count += u64::from(!self.with_txn);
                self.model.begin(batch);
                batch
            }
        };
        // Until an answer comes it may have happened, whatever becomes of this future.
        self.unfinished = self.with_txn.then_some(batch);
        let patience = self.draw_patience();
        let Ok(result) = timeout(patience, self.send(node, batch)).await else {
            self.trace
                .event(&self.name, format_args!("dropped {batch:?}"));
            self.trace.count("writes_dropped", 1);
            return Ok(());
        };
        if !self.is_heard() {
            return Ok(());
        }
        match &result {
            Ok(version) => {
                self.finished_count += u64::from(self.unfinished.take().is_some());
                self.model
                    .learn(batch.number, Fate::Acknowledged { version: *version });
                self.trace.event(
                    &self.name,
                    format_args!("acknowledged {batch:?} at {version}"),
                );
                self.trace.count("writes_acknowledged", 1);
            }
            Err(error) => {
                let kind = error.kind();
                self.trace
                    .event(&self.name, format_args!("error {batch:?} {kind:?} {error}"));
                self.trace.count("writes_failed", 1);
                match kind {
                    ErrorKind::OutcomeUnknown => self.trace.count("outcomes_unknown", 1),
                    // An earlier attempt of a repeated write may be the one that landed.
                    ErrorKind::Retry if !self.with_txn => {
                        self.model.learn(batch.number, Fate::Refused)
                    }
                    ErrorKind::Retry => {}
                    _ => return result.map(|_| ()),
                }
            }
        }
        Ok(())
    }

    fn draw_patience(&mut self) -> Duration {
        if self.is_patient || !self.rng.chance(DROPPED_WRITES) {
            return Duration::MAX;
        }
        let (low, high) = PATIENCE_EXPONENT;
        let bound = 1 << self.rng.between(low, high);
        Duration::from_micros(self.rng.below(bound))
    }

    async fn send(&self, node: &Node, batch: Batch) -> Result<u64> {
        let arrow = batch
            .to_arrow()
            .map_err(|error| Error::Bug(error.to_string()))?;
        let schema = arrow.schema();
        let input = futures::stream::iter([Ok(arrow)]);
        let input = Box::pin(RecordBatchStreamAdapter::new(schema, input));
        let txn = self
            .with_txn
            .then(|| (self.name.clone(), batch.number as i64));
        let frame = FrameName::parse("default", "default", FRAME)?;
        let options = WriteOptions {
            txn,
            ..WriteOptions::default()
        };
        Ok(node.write(&frame, input, options).await?.version)
    }
}

/// Runs one statement and collects its answer.
pub async fn execute(node: &Node, text: &str) -> Result<Vec<RecordBatch>> {
    let mut batches = Vec::new();
    for statement in sql::parse(text)? {
        let answer = node
            .execute(statement, &Session::new()?, QueryOptions::default())
            .await?;
        batches = answer.batches.try_collect().await?;
    }
    Ok(batches)
}

/// As [`execute`], traced: rows and checksum of the answer in the order in which it came.
pub async fn execute_traced(
    node: &Node,
    text: &str,
    name: &str,
    trace: &Trace,
) -> Result<Vec<RecordBatch>> {
    let result = execute(node, text).await;
    match &result {
        Ok(batches) => {
            let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
            let shown = arrow::util::pretty::pretty_format_batches(batches)
                .map_or_else(|error| error.to_string(), |table| table.to_string());
            let crc = checksum([shown.as_bytes()]);
            trace.event(name, format_args!("answer {rows} rows {crc:08x} to {text}"));
            trace.count("queries_answered", 1);
        }
        Err(error) => {
            trace.event(
                name,
                format_args!("error {:?} {error} to {text}", error.kind()),
            );
            trace.count("queries_failed", 1);
        }
    }
    result
}

/// All rows of the frame, through SQL.
pub async fn read_all(node: &Node, trace: &Trace) -> Result<Vec<Row>> {
    let text = "SELECT batch, row, value, label FROM journal";
    let batches = execute_traced(node, text, "reader", trace).await?;
    rows::from_arrow(&batches).map_err(Error::Bug)
}

/// Queries while writers write: every answer must be whole and hold what was acknowledged before.
/// A query that failed is no violation when the error's kind is one that faults explain.
pub async fn watch(
    node: Node,
    model: Model,
    trace: Trace,
    mut rng: Rng,
    disk: Option<SimFiles>,
) -> std::result::Result<(), String> {
    loop {
        tokio::time::sleep(Duration::from_micros(rng.below(100_000))).await;
        let before = model.acknowledged();
        let text =
            "SELECT batch, count(*) AS c, count(DISTINCT row) AS d FROM journal GROUP BY batch";
        let answer = execute_traced(&node, text, "watcher", &trace).await;
        if disk.as_ref().is_some_and(SimFiles::is_dark) {
            continue;
        }
        let batches = match answer {
            Ok(batches) => batches,
            Err(error) if matches!(error.kind(), ErrorKind::Retry | ErrorKind::OutcomeUnknown) => {
                continue;
            }
            Err(error) => return Err(query_3::unexplained(error)),
        };
        model.with(|writes| query_1::check_counts(writes, &before, &batches))?;
    }
}

/// Waits for a watcher's violation.
pub async fn first_violation(
    watcher: AbortOnDropHandle<std::result::Result<(), String>>,
) -> String {
    match watcher.await {
        Ok(Ok(())) => "a watcher stopped watching".into(),
        Ok(Err(violation)) => violation,
        Err(error) => format!("a watcher ended: {error}"),
    }
}
