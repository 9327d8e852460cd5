//! A write in tasks: cut so that its tasks end in cells, run, and gathered into one commit.
//!
//! Cells belong to the attempt that writes them until its output is committed; from then on they are
//! the coordinator's, which alone commits or deletes them. So no cell is deleted by one node while
//! another may name it, and what a dead node leaves is of the age of its write when it is swept.

#[cfg(test)]
mod tests;

use super::cut::{Cut, CutStage, Spread, cut};
use super::input::{FIRST_READ_BYTES_MIN, StoredOutput, read_output};
use super::sink::{CellWriteExec, Sink, has_sink, without_sink};
use crate::cell::{Unnamed, WriteSpec, WrittenCells, counted_in_task, write_cells};
use crate::error::{Error, Result};
use crate::sql::{Environment, PlannedQuery};
use crate::store::Meadow;
use apiary_protocol::delta::statistics::Statistics;
use apiary_protocol::ids::QueryId;
use apiary_protocol::keys;
use apiary_protocol::query::{Cells, Outcome, TaskKey};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::execute_stream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, TryStreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const READS_AT_ONCE: usize = 16;

/// A write in stages.
#[derive(Debug)]
pub struct CutWrite {
    pub cut: Cut,
    /// The stage whose tasks write cells; the head has nothing to do then. Without one the rows come
    /// together in the head, in their order if they have one, and who runs it writes them.
    pub stage: Option<u32>,
}

/// Cuts a write whose rows `planned` gives. `sink` is where tasks may put cells; without it the head
/// writes them all.
pub async fn cut_write(
    planned: &PlannedQuery,
    sink: Option<Sink>,
    spread: Spread,
    query: QueryId,
) -> Result<std::result::Result<CutWrite, String>> {
    let mut planned = planned.clone();
    if let Some(sink) = sink {
        planned.plan = CellWriteExec::over(planned.plan, Arc::new(sink));
    }
    let mut cut = match cut(&planned, spread, query).await? {
        Ok(cut) => cut,
        Err(reason) => return Ok(Err(reason)),
    };
    if !planned.plan.is::<CellWriteExec>() || has_sink(&cut.head)? {
        cut.head = without_sink(cut.head)?;
        return Ok(Ok(CutWrite { cut, stage: None }));
    }
    let writes = |stage: &&CutStage| {
        let mut tasks = stage.tasks.iter();
        tasks.all(|task| task.plan.is::<CellWriteExec>())
    };
    let stage = cut.stages.iter().find(writes).map(|stage| stage.stage);
    match (stage, &cut.inputs[..]) {
        (Some(writing), [read]) if writing == *read => Ok(Ok(CutWrite { cut, stage })),
        _ => Ok(Err("its rows do not end in one stage".into())),
    }
}

/// Runs the rows of a task into cells, which are owned until somebody names them. `rows_written`
/// grows meanwhile.
pub(super) async fn write_task(
    environment: &Environment,
    write: &CellWriteExec,
    query: QueryId,
    context: Arc<TaskContext>,
    rows_written: Arc<AtomicU64>,
) -> Result<(Cells, Unnamed)> {
    let Sink { frame, spec } = write.sink();
    let spec = WriteSpec {
        query: Some(query),
        ..spec.clone()
    };
    let (host, meadow) = (&environment.host, &environment.meadow);
    environment
        .catalog
        .check_place(*frame, &spec.location)
        .await?;
    let rows = execute_stream(Arc::clone(write.input()), Arc::clone(&context))?;
    let schema = rows.schema();
    let rows = rows.inspect_ok(move |batch| {
        rows_written.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
    });
    let rows = Box::pin(RecordBatchStreamAdapter::new(schema, rows));
    let written = write_cells(host, meadow, &spec, rows, context).await;
    let WrittenCells {
        adds,
        rows,
        bytes,
        warnings,
    } = written.map_err(counted_in_task)?;
    let owned = Unnamed::new(meadow, &spec.location, &adds)?;
    let cells = Cells {
        adds,
        rows,
        bytes,
        warnings,
    };
    Ok((cells, owned))
}

/// Which tasks of a query write cells, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writes {
    pub stage: u32,
    pub tasks: usize,
    pub location: String,
}

impl Writes {
    fn keys(&self) -> impl Iterator<Item = TaskKey> + use<> {
        let stage = self.stage;
        (0..self.tasks as u32).map(move |task| TaskKey { stage, task })
    }
}

/// The cells that the tasks committed, each task's once. Outputs that are not `known` are read.
/// `Corrupt` when one is not there, or not of cells of this query in this location.
pub async fn collect_cells(
    meadow: &Meadow,
    query: QueryId,
    known: &BTreeMap<TaskKey, Arc<StoredOutput>>,
    writes: &Writes,
) -> Result<WrittenCells> {
    let read = |key: TaskKey| async move {
        match known.get(&key) {
            Some(stored) => Ok(Arc::clone(stored)),
            None => read_output(meadow, query, key, FIRST_READ_BYTES_MIN)
                .await?
                .ok_or_else(|| {
                    let key = keys::query_output(query, key);
                    Error::corrupt(key, "it is not there any more")
                }),
        }
    };
    let outputs: Vec<Arc<StoredOutput>> = futures::stream::iter(writes.keys())
        .map(read)
        .buffered(READS_AT_ONCE)
        .try_collect()
        .await?;
    collected(outputs.iter().map(AsRef::as_ref), writes)
}

fn collected<'a>(
    outputs: impl Iterator<Item = &'a StoredOutput>,
    writes: &Writes,
) -> Result<WrittenCells> {
    let mut all = WrittenCells::default();
    let mut seen = BTreeSet::new();
    for stored in outputs.filter(|stored| stored.output.key.stage == writes.stage) {
        let cells = checked(stored, &writes.location)?;
        seen.insert(stored.output.key.task);
        all.adds.extend(cells.adds.iter().cloned());
        all.rows += cells.rows;
        all.bytes += cells.bytes;
        for warning in &cells.warnings {
            if !all.warnings.contains(warning) {
                all.warnings.push(warning.clone());
            }
        }
    }
    if !seen.into_iter().eq(0..writes.tasks as u32) {
        return Err(Error::Bug("a task of a write has no output".into()));
    }
    all.adds.sort_by(|a, b| a.path.cmp(&b.path));
    if all.adds.windows(2).any(|two| two[0].path == two[1].path) {
        return Err(Error::Bug("two tasks wrote one cell".into()));
    }
    Ok(all)
}

/// Deletes the cells that tasks of a query committed which is not going to commit them. For its
/// coordinator alone, after it has said that the query is over: nobody else knows that no version will
/// name them. What cannot be read names nothing, and is left to the sweep.
pub async fn discard_cells(meadow: &Meadow, query: QueryId, writes: &Writes) -> Result<()> {
    let location = &writes.location;
    let mut outputs = futures::stream::iter(writes.keys())
        .map(|key| read_output(meadow, query, key, FIRST_READ_BYTES_MIN))
        .buffer_unordered(READS_AT_ONCE);
    while let Some(read) = outputs.next().await {
        let cells = match read {
            Ok(None) => continue,
            Ok(Some(stored)) if matches!(stored.output.outcome, Outcome::Failed(_)) => continue,
            Ok(Some(stored)) => checked(&stored, location).map(|cells| cells.adds.clone()),
            Err(error) => Err(error),
        };
        match cells.and_then(|adds| Unnamed::new(meadow, location, &adds)) {
            Ok(owned) => drop(meadow.discard(async {}, owned.hand_over()).await),
            Err(error @ Error::Corrupt { .. }) => {
                tracing::warn!(%error, "the cells of an output stay until they are swept");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The cells of an output, when all of them lie in the location and are this query's: whatever an
/// output says, nothing else is committed or deleted.
fn checked<'a>(stored: &'a StoredOutput, location: &str) -> Result<&'a Cells> {
    let output = &stored.output;
    let corrupt =
        |reason: String| Error::corrupt(keys::query_output(output.query, output.key), reason);
    let cells = match &output.outcome {
        Outcome::Cells(cells) => cells,
        Outcome::Failed(error) => return Err(super::local_error(error)),
        Outcome::Rows { .. } => return Err(corrupt("it is of rows and not of cells".into())),
    };
    let mut rows = 0_u64;
    for add in &cells.adds {
        let counted = add.stats.as_deref().and_then(Statistics::parse_row_count);
        rows = rows.saturating_add(counted.unwrap_or(0));
        let key = keys::added_cell(location, &add.path);
        let key = key.map_err(|error| corrupt(error.to_string()))?;
        if !keys::is_cell_of(&key, output.query) {
            return Err(corrupt(format!("{:?} is no cell of this query", add.path)));
        }
        if add.deletion_vector.is_some() || !add.data_change {
            return Err(corrupt(format!("{:?} is no new cell", add.path)));
        }
    }
    if rows != cells.rows {
        return Err(corrupt(format!("{rows} rows, not {}", cells.rows)));
    }
    Ok(cells)
}
