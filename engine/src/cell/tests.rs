//! Cells written to a meadow in memory and read back.

mod bounds;
mod casts;
mod partitions;
mod sizes;
mod types;

use super::*;
use crate::error::Error;
use crate::host::testing;
use crate::settings::Settings;
use arrow::array::*;
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::*;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::SessionConfig;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use std::collections::BTreeMap;

/// A meadow in memory and a pool of its own.
struct World {
    host: Host,
    meadow: Meadow,
    context: Arc<TaskContext>,
}

fn world(pool_bytes: usize, crew: usize) -> World {
    let host = testing::host();
    let meadow = Meadow::over(
        Arc::new(InMemory::new()),
        "memory",
        &host,
        &Settings::default(),
    );
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(pool_bytes)))
        .build_arc()
        .unwrap();
    let config = SessionConfig::new().with_target_partitions(crew);
    let context = TaskContext::default()
        .with_runtime(runtime)
        .with_session_config(config);
    World {
        host,
        meadow,
        context: Arc::new(context),
    }
}

/// What a cell holds, in the types that users see.
fn restored(spec: &WriteSpec, read: &RecordBatch) -> RecordBatch {
    let column = |(stored, column): (&FieldRef, &ArrayRef)| {
        let logical = spec.schema.logical.field_with_name(stored.name()).unwrap();
        (
            stored.name().clone(),
            cast(column, logical.data_type()).unwrap(),
        )
    };
    let stored = read.schema();
    RecordBatch::try_from_iter(stored.fields().iter().zip(read.columns()).map(column)).unwrap()
}

fn stream(
    schema: SchemaRef,
    items: Vec<Result<RecordBatch, DataFusionError>>,
) -> SendableRecordBatchStream {
    Box::pin(RecordBatchStreamAdapter::new(
        schema,
        futures::stream::iter(items),
    ))
}

fn spec(schema: Schema, partitions: &[&str]) -> WriteSpec {
    let partitions = partitions.iter().map(|name| name.to_string()).collect();
    WriteSpec {
        location: "h/b/f".into(),
        schema: Arc::new(FrameSchema::new(Arc::new(schema), partitions).unwrap()),
        codec: Codec::Lz4Raw,
        target_cell_bytes: 16 << 20,
        row_group_rows_max: 256 * 1024,
        max_partitions: 20_000,
        rows_before: 0,
        query: None,
    }
}

impl World {
    async fn write(&self, spec: &WriteSpec, batches: Vec<RecordBatch>) -> Result<WrittenCells> {
        let schema = batches[0].schema();
        let input = stream(schema, batches.into_iter().map(Ok).collect());
        write_cells(&self.host, &self.meadow, spec, input, self.context.clone()).await
    }

    async fn object_count(&self) -> usize {
        self.meadow.list("h/b/f", None).await.unwrap().len()
    }

    async fn bytes(&self, add: &Add) -> bytes::Bytes {
        let path = apiary_protocol::delta::paths::decode_path(&add.path).unwrap();
        let path = object_store::path::Path::parse(format!("h/b/f/{path}")).unwrap();
        self.meadow
            .object_store()
            .get(&path)
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap()
    }

    /// The rows of a cell as an independent reader sees them, without the partition columns.
    async fn read(&self, add: &Add) -> RecordBatch {
        let bytes = self.bytes(add).await;
        assert_eq!(bytes.len() as i64, add.size);
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options).unwrap();
        let schema = reader.schema().clone();
        let batches: Vec<_> = reader
            .build()
            .unwrap()
            .map(|batch| batch.unwrap())
            .collect();
        concat_batches(&schema, &batches).unwrap()
    }
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true)))
        .unwrap()
}

fn ints(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

fn column(name: &str, data_type: DataType) -> Schema {
    Schema::new(vec![Field::new(name, data_type, true)])
}
