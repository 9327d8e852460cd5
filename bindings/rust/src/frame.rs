//! Frames as objects: facts, writing, reading.

use crate::answer::Answer;
use crate::node::Apiary;
use apiary_actors::{QueryOptions, WriteOptions, WriteReport};
use apiary_engine::catalog::FrameEntry;
use apiary_engine::ledger::{Cell, Snapshot};
use apiary_engine::sql::parse;
use apiary_engine::{Error, Result};
use apiary_protocol::keys;
use apiary_protocol::names::FrameName;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use std::sync::Arc;

/// Any error that a stream of batches may carry.
pub type InputError = Box<dyn std::error::Error + Send + Sync>;

/// A frame (table). A name and a handle: every call sees the newest committed state.
#[derive(Clone, Debug)]
pub struct Frame {
    apiary: Apiary,
    name: FrameName,
}

/// Facts about a frame's newest version.
#[derive(Clone, Debug)]
pub struct FrameInfo {
    /// Equal to the Delta table's `metaData.id`.
    pub id: String,
    /// Relative to the storage's root.
    pub location: String,
    /// Whether an existing Delta table was attached; such a one is never purged.
    pub attached: bool,
    pub version: u64,
    pub schema: SchemaRef,
    pub partition_by: Vec<String>,
    /// Data files.
    pub cell_count: usize,
    /// `None` when another writer left the counts out.
    pub row_count: Option<u64>,
    pub total_bytes: u64,
    /// Milliseconds since the Unix epoch, by the creator's clock; `None` when it left that out.
    pub created_at_ms: Option<i64>,
    /// Of the newest commit, milliseconds since the Unix epoch.
    pub committed_at_ms: i64,
}

/// What to read of a frame.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// All columns when absent.
    pub columns: Option<Vec<String>>,
    /// A predicate in SQL, as after `WHERE`.
    pub filter: Option<String>,
    /// How long it may take, and who watches it.
    pub query: QueryOptions,
}

impl Frame {
    pub(crate) fn new(apiary: Apiary, name: FrameName) -> Self {
        Self { apiary, name }
    }

    /// `hive.box.frame`.
    pub fn name(&self) -> &FrameName {
        &self.name
    }

    /// The columns, partition columns among them.
    pub async fn schema(&self) -> Result<SchemaRef> {
        Ok(self.snapshot().await?.1.schema.logical.clone())
    }

    /// Facts about the newest version.
    ///
    /// # Errors
    /// `NotFound` when the frame was dropped, `Corrupt` when its log is damaged.
    pub async fn info(&self) -> Result<FrameInfo> {
        let (entry, snapshot) = self.snapshot().await?;
        Ok(FrameInfo {
            id: entry.id.to_string(),
            location: entry.location,
            attached: entry.attached,
            version: snapshot.version,
            schema: snapshot.schema.logical.clone(),
            partition_by: snapshot.schema.partition_columns.clone(),
            cell_count: snapshot.cell_count(),
            row_count: snapshot.row_count(),
            total_bytes: snapshot.total_bytes(),
            created_at_ms: snapshot.metadata.created_time,
            committed_at_ms: snapshot.timestamp_ms,
        })
    }

    /// The keys of the newest version's cells, relative to the storage's root, in order.
    pub async fn cell_keys(&self) -> Result<Vec<String>> {
        let (_, snapshot) = self.snapshot().await?;
        let location = &snapshot.location;
        let key = |cell: &Arc<Cell>| {
            keys::cell(location, cell.physical_path())
                .map_err(|error| Error::corrupt(location, error))
        };
        snapshot.cells().map(key).collect()
    }

    /// Appends a stream of batches in one commit. Memory stays bounded however long the stream is.
    /// The columns are those of the first batch, in any order; they are fitted to the frame's.
    ///
    /// ```
    /// # fn main() -> apiary::Result<()> {
    /// # let apiary = apiary::Apiary::open_blocking("memory://")?;
    /// # apiary.block_on(async {
    /// use apiary::arrow::array::{Int64Array, RecordBatch};
    /// use std::sync::Arc;
    ///
    /// let batch = RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(vec![1, 2])) as _)])
    ///     .expect("equal lengths");
    /// let hive = apiary.create_hive("farm").await?;
    /// let frame = hive.create_box("east").await?.create_frame("hens", batch.schema(), &[]).await?;
    /// let report = frame.write(futures::stream::iter([Ok::<_, apiary::Error>(batch)])).await?;
    /// assert_eq!(report.rows_written, 2);
    /// # apiary.shutdown().await
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Rejected` for data that does not fit, naming column and row, and for an error of the stream;
    /// then nothing is written. `OutcomeUnknown` when the commit's fate could not be read back.
    pub async fn write<S, E>(&self, batches: S) -> Result<WriteReport>
    where
        S: Stream<Item = std::result::Result<RecordBatch, E>> + Send + 'static,
        E: Into<InputError>,
    {
        self.write_with(batches, WriteOptions::default()).await
    }

    /// Appends batches that are in memory already, in one commit.
    pub async fn write_batches(&self, batches: Vec<RecordBatch>) -> Result<WriteReport> {
        self.write(stream::iter(batches.into_iter().map(Ok::<_, Error>)))
            .await
    }

    /// Replaces all rows by a stream of batches, in one commit.
    pub async fn overwrite<S, E>(&self, batches: S) -> Result<WriteReport>
    where
        S: Stream<Item = std::result::Result<RecordBatch, E>> + Send + 'static,
        E: Into<InputError>,
    {
        self.write_with(
            batches,
            WriteOptions {
                overwrite: true,
                ..Default::default()
            },
        )
        .await
    }

    /// [`Frame::write`] with a transaction id, a deadline, or another answer to a hot node.
    pub async fn write_with<S, E>(&self, batches: S, options: WriteOptions) -> Result<WriteReport>
    where
        S: Stream<Item = std::result::Result<RecordBatch, E>> + Send + 'static,
        E: Into<InputError>,
    {
        let (first, batches) = first_columns(&self.apiary, batches, &options).await?;
        let schema = match first {
            Some(schema) => schema,
            None => self.schema().await?,
        };
        let input = same_columns(schema, batches);
        self.apiary
            .run(self.apiary.node().write(&self.name, input, options))
            .await
    }

    /// All rows.
    pub async fn read(&self) -> Result<Answer> {
        self.read_with(&ReadOptions::default()).await
    }

    /// Some columns, some rows.
    pub async fn read_with(&self, options: &ReadOptions) -> Result<Answer> {
        let columns = match &options.columns {
            None => "*".to_owned(),
            Some(columns) => columns
                .iter()
                .map(|column| quoted(column))
                .collect::<Vec<_>>()
                .join(", "),
        };
        let FrameName {
            hive,
            box_name,
            frame,
        } = &self.name;
        let [hive, box_name, frame] = [hive, box_name, frame].map(|name| quoted(name.as_str()));
        let mut text = format!("SELECT {columns} FROM {hive}.{box_name}.{frame}");
        if let Some(filter) = &options.filter {
            // The line break ends a comment in the predicate.
            text = format!("{text} WHERE ({filter}\n)");
        }
        let session = self.apiary.session();
        let mut statements = parse(&text)?;
        let (Some(statement), true) = (statements.pop(), statements.is_empty()) else {
            return Err(Error::rejected("the filter is more than one predicate"));
        };
        let query = options.query.clone();
        self.apiary.execute(statement, &session, query).await
    }

    async fn snapshot(&self) -> Result<(FrameEntry, Arc<Snapshot>)> {
        let entry = self.apiary.view().await?.frame(&self.name)?.clone();
        let snapshots = &self.apiary.node().environment().snapshots;
        let snapshot = self.apiary.run(snapshots.snapshot(&entry)).await?;
        Ok((entry, snapshot))
    }
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// The columns of the first batch, if there is one, and all batches, with our errors.
pub(crate) async fn first_columns<S, E>(
    apiary: &Apiary,
    batches: S,
    options: &WriteOptions,
) -> Result<(
    Option<SchemaRef>,
    impl Stream<Item = Result<RecordBatch>> + Send + 'static,
)>
where
    S: Stream<Item = std::result::Result<RecordBatch, E>> + Send + 'static,
    E: Into<InputError>,
{
    // Fused, because an empty stream is asked again behind its first rows.
    let mut batches = batches
        .map_err(|error| input_error(error.into()))
        .fuse()
        .boxed();
    let cancel = options.cancel.clone().unwrap_or_default();
    let first = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(Error::Cancelled),
        first = apiary.run(batches.try_next()) => first?,
    };
    let schema = first.as_ref().map(RecordBatch::schema);
    Ok((schema, stream::iter(first.map(Ok)).chain(batches)))
}

/// A batch whose columns differ from the first one's would be read by position further on.
pub(crate) fn same_columns(
    schema: SchemaRef,
    batches: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
) -> SendableRecordBatchStream {
    let expected = schema.clone();
    let checked = batches.enumerate().map(move |(index, batch)| {
        let batch = batch?;
        if batch.schema_ref().fields() == expected.fields() {
            return Ok(batch);
        }
        Err(DataFusionError::from(Error::rejected(format!(
            "batch {index} of the input has other columns than the first one: {:?} instead of {:?}",
            batch.schema_ref().fields(),
            expected.fields()
        ))))
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, checked))
}

/// Ours pass unchanged; what an input reader says about its data is the caller's to mend.
fn input_error(error: InputError) -> Error {
    let error = match error.downcast::<Error>() {
        Ok(ours) => return *ours,
        Err(other) => other,
    };
    let error = match error.downcast::<DataFusionError>() {
        Ok(theirs) => return Error::from(*theirs),
        Err(other) => other,
    };
    match error.downcast::<ArrowError>() {
        Ok(arrow) => Error::rejected(format!("the input cannot be read: {arrow}")),
        Err(source) => Error::Other {
            what: "the input stream failed".into(),
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apiary_engine::ErrorKind;
    use arrow::array::{ArrayRef, Int64Array, StringArray};

    fn batch(column: &str, array: ArrayRef) -> RecordBatch {
        RecordBatch::try_from_iter([(column, array)]).unwrap()
    }

    #[test]
    fn a_quote_in_a_name_is_doubled() {
        assert_eq!(quoted(r#"a"b"#), r#""a""b""#);
    }

    #[test]
    fn our_error_passes_through_an_input_stream_unchanged() {
        let error = input_error(Box::new(Error::corrupt("key", "short")));
        assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
        let error = input_error(Box::new(ArrowError::CsvError("line 3".into())));
        assert_eq!(error.kind(), ErrorKind::Rejected);
        assert!(error.to_string().contains("line 3"));
    }

    #[test]
    fn a_batch_with_other_columns_than_the_first_is_refused() {
        let first = batch("a", Arc::new(Int64Array::from(vec![1])));
        let second = batch("b", Arc::new(StringArray::from(vec!["x"])));
        let schema = first.schema();
        let stream = same_columns(schema, stream::iter([Ok(first), Ok(second)]));
        let outcome: Vec<_> = futures::executor::block_on(stream.collect());
        assert!(outcome[0].is_ok());
        let error = Error::from(outcome.into_iter().nth(1).unwrap().unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Rejected);
        assert!(error.to_string().starts_with("batch 1 "), "{error}");
    }
}
