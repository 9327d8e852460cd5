//! Queries over frames in a meadow in memory.

use super::pruning::CellIndex;
use super::*;
use crate::ledger::{Intent, Ledger};
use crate::schema::FrameSchema;
use apiary_protocol::delta::{Action, Add, DeletionVector, Remove, StringMap};
use apiary_protocol::ids::CommitId;
use apiary_protocol::names::FrameName;
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::util::pretty::pretty_format_batches;
use bytes::Bytes;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{Partitioning, collect};
use futures::StreamExt;
use object_store::memory::InMemory;
use parking_lot::Mutex;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use std::collections::BTreeMap;

mod answers;
mod inserts;
mod joins;
mod names;
mod pruning;

/// A node's worth of what queries need, and the frames they read.
pub(crate) struct World {
    pub(crate) environment: Environment,
    fixed: Arc<Fixed>,
    session: Session,
    pub(crate) crew: Crew,
}

#[derive(Debug, Default)]
struct Fixed(Mutex<BTreeMap<FrameName, Arc<Snapshot>>>);

#[async_trait]
impl Snapshots for Fixed {
    async fn snapshot(&self, frame: &FrameEntry) -> Result<Arc<Snapshot>> {
        Ok(Arc::clone(self.0.lock().get(&frame.name).unwrap()))
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        let host = crate::host::testing::host();
        let settings = Settings::default();
        let meadow = Meadow::over(Arc::new(InMemory::new()), "memory", &host, &settings);
        let catalog = Arc::new(Catalog::new(host.clone(), meadow.clone()));
        let fixed = Arc::new(Fixed::default());
        let snapshots = Arc::clone(&fixed) as Arc<dyn Snapshots>;
        let environment = Environment {
            host,
            meadow,
            catalog,
            snapshots,
            settings: Arc::new(settings),
            caches: Arc::default(),
        };
        let crew = Crew {
            bees: 2,
            runtime: Arc::new(RuntimeEnv::default()),
            spilling_joins: SpillingJoins::None,
            batch_rows: 8192,
            for_swarm: false,
        };
        Self {
            environment,
            fixed,
            session: Session::new().unwrap(),
            crew,
        }
    }

    pub(crate) fn name(&self, text: &str) -> FrameName {
        let parts: Vec<String> = text.split('.').map(str::to_string).collect();
        self.session.resolve(&parts).unwrap()
    }

    /// A frame with one cell for each batch, in that order, with small row groups and pages.
    pub(crate) async fn frame(&self, name: &str, partition_by: &[&str], cells: &[RecordBatch]) {
        let name = self.name(name);
        let partition_by: Vec<String> = partition_by.iter().map(ToString::to_string).collect();
        let schema = FrameSchema::new(cells[0].schema(), partition_by).unwrap();
        self.create(&name, schema).await;
        let location = self.location(&name);
        let mut adds = vec![];
        for (index, batch) in cells.iter().enumerate() {
            adds.push(
                self.cell(&location, &format!("c{index:05}.parquet"), batch, &name)
                    .await,
            );
        }
        self.commit(&name, adds.into_iter().map(Action::Add).collect())
            .await;
    }

    async fn cell(&self, location: &str, path: &str, batch: &RecordBatch, name: &FrameName) -> Add {
        let partition_columns = self.snapshot(name).schema.partition_columns.clone();
        let mut partition_values = StringMap::new();
        let mut kept = vec![];
        for (index, field) in batch.schema().fields().iter().enumerate() {
            if partition_columns.contains(field.name()) {
                let text = arrow::compute::cast(batch.column(index), &DataType::Utf8).unwrap();
                let text = text.as_string::<i32>();
                let value = text.is_valid(0).then(|| text.value(0).to_string());
                partition_values.insert(field.name().clone(), value);
            } else {
                kept.push(index);
            }
        }
        let stored = batch.project(&kept).unwrap();
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(50))
            .set_data_page_row_count_limit(10)
            .set_write_batch_size(10)
            .build();
        let mut writer = ArrowWriter::try_new(vec![], stored.schema(), Some(properties)).unwrap();
        writer.write(&stored).unwrap();
        let bytes = Bytes::from(writer.into_inner().unwrap());
        let size = bytes.len() as i64;
        self.environment
            .meadow
            .put(&format!("{location}/{path}"), bytes)
            .await
            .unwrap();
        Add {
            path: path.to_string(),
            partition_values,
            size,
            modification_time: 1_767_225_600_000,
            data_change: true,
            stats: Some(statistics(&stored)),
            ..Add::default()
        }
    }

    pub(crate) fn share(&self) -> Self {
        Self {
            environment: self.environment.clone(),
            fixed: Arc::clone(&self.fixed),
            session: self.session.clone(),
            crew: self.crew.clone(),
        }
    }

    pub(crate) fn snapshot(&self, name: &FrameName) -> Arc<Snapshot> {
        Arc::clone(&self.fixed.0.lock()[name])
    }

    fn location(&self, name: &FrameName) -> String {
        self.snapshot(name).location.clone()
    }

    pub(crate) async fn create(&self, name: &FrameName, schema: FrameSchema) {
        let catalog = &self.environment.catalog;
        catalog.create_hive(&name.hive, true).await.unwrap();
        catalog
            .create_box(&name.hive, &name.box_name, true)
            .await
            .unwrap();
        let (_, snapshot) = catalog.create_frame(name, &schema, false).await.unwrap();
        self.fixed.0.lock().insert(name.clone(), snapshot);
    }

    pub(crate) async fn commit(&self, name: &FrameName, actions: Vec<Action>) {
        let Environment {
            host,
            meadow,
            settings,
            ..
        } = &self.environment;
        let base = self.snapshot(name);
        let ledger = Ledger::new(
            host.clone(),
            meadow.clone(),
            base.location.clone(),
            settings,
        );
        let id = CommitId::from_random(host.entropy.bytes());
        let intent = Intent {
            actions,
            ..Intent::append(id, vec![])
        };
        let (results, snapshot) = ledger.commit(base, vec![intent]).await;
        results.into_iter().for_each(|result| drop(result.unwrap()));
        self.fixed.0.lock().insert(name.clone(), snapshot);
    }

    /// Marks rows of a cell (by its place in path order) as deleted.
    async fn delete(&self, name: &str, cell: usize, rows: &[u64]) {
        let name = self.name(name);
        let old = self.snapshot(&name).cells().nth(cell).unwrap().add();
        let remove = Remove {
            path: old.path.clone(),
            deletion_timestamp: Some(old.modification_time),
            data_change: true,
            extended_file_metadata: Some(true),
            partition_values: Some(old.partition_values.clone()),
            size: Some(old.size),
            deletion_vector: old.deletion_vector.clone(),
        };
        let add = Add {
            deletion_vector: Some(inline_vector(rows)),
            ..old
        };
        self.commit(&name, vec![Action::Remove(remove), Action::Add(add)])
            .await;
    }

    pub(crate) async fn plan(&self, text: &str) -> Result<PlannedQuery> {
        let Statement::Query(statement) = parse(text)?.remove(0) else {
            panic!("{text} is no query")
        };
        plan_query(
            &self.environment,
            &self.session,
            &statement,
            &self.crew,
            None,
        )
        .await
    }

    /// Plans the rows of an `INSERT`.
    pub(crate) async fn plan_insert(&self, text: &str) -> Result<PlannedQuery> {
        let Statement::Insert {
            frame,
            columns,
            source,
            ..
        } = parse(text)?.remove(0)
        else {
            panic!("{text} is no INSERT")
        };
        let schema = &self.snapshot(&self.name(&frame.join("."))).schema;
        let (environment, session) = (&self.environment, &self.session);
        plan_insert(
            environment,
            session,
            schema,
            &columns,
            &source,
            &self.crew,
            None,
        )
        .await
    }

    async fn try_sql(&self, text: &str) -> Result<Vec<RecordBatch>> {
        let planned = self.plan(text).await?;
        Ok(collect(planned.plan, planned.context).await?)
    }

    pub(crate) async fn sql(&self, text: &str) -> String {
        let batches = self.try_sql(text).await.unwrap();
        pretty_format_batches(&batches).unwrap().to_string()
    }

    /// A single number.
    async fn number(&self, text: &str) -> i64 {
        let batches = self.try_sql(text).await.unwrap();
        batches[0].column(0).as_primitive::<Int64Type>().value(0)
    }

    async fn explain(&self, text: &str) -> String {
        self.sql(&format!("EXPLAIN {text}")).await
    }

    /// The answer of a plan that went through bytes.
    async fn sql_through_bytes(&self, text: &str) -> String {
        let planned = self.plan(text).await.unwrap();
        let bytes = encode_plan(&planned.plan).unwrap();
        let plan = decode_plan(&self.environment, &bytes, &planned.context).unwrap();
        let batches = collect(plan, planned.context).await.unwrap();
        pretty_format_batches(&batches).unwrap().to_string()
    }
}

/// A deletion vector in the log itself: the portable bitmap in Z85.
fn inline_vector(rows: &[u64]) -> DeletionVector {
    const ALPHABET: &[u8] =
        b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";
    let mut bytes = 1_681_511_377_u32.to_le_bytes().to_vec();
    rows.iter()
        .collect::<roaring::RoaringTreemap>()
        .serialize_into(&mut bytes)
        .unwrap();
    let size_in_bytes = bytes.len() as i32;
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let mut text = String::new();
    for group in bytes.chunks_exact(4) {
        let value = u32::from_be_bytes(group.try_into().unwrap());
        for power in [85_u32.pow(4), 85_u32.pow(3), 85 * 85, 85, 1] {
            text.push(char::from(ALPHABET[(value / power % 85) as usize]));
        }
    }
    DeletionVector {
        storage_type: "i".into(),
        path_or_inline_dv: text,
        offset: None,
        size_in_bytes,
        cardinality: rows.len() as i64,
    }
}

/// What a writer puts into the log: rows, and bounds and null counts of numbers and texts.
fn statistics(batch: &RecordBatch) -> String {
    let (mut min, mut max, mut nulls) = (
        serde_json::Map::new(),
        serde_json::Map::new(),
        serde_json::Map::new(),
    );
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        nulls.insert(field.name().clone(), column.null_count().into());
        if let Some(values) = column.as_primitive_opt::<Int64Type>() {
            if let Some(least) = arrow::compute::min(values) {
                min.insert(field.name().clone(), least.into());
            }
            if let Some(greatest) = arrow::compute::max(values) {
                max.insert(field.name().clone(), greatest.into());
            }
        } else if let Some(values) = column.as_string_opt::<i32>() {
            if let Some(least) = arrow::compute::min_string(values) {
                min.insert(field.name().clone(), least.into());
            }
            if let Some(greatest) = arrow::compute::max_string(values) {
                max.insert(field.name().clone(), greatest.into());
            }
        }
    }
    serde_json::json!({
        "numRecords": batch.num_rows(), "minValues": min, "maxValues": max, "nullCount": nulls
    })
    .to_string()
}

pub(crate) fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<_> = columns
        .iter()
        .map(|(name, column)| Field::new(*name, column.data_type().clone(), true))
        .collect();
    RecordBatch::try_new(
        Arc::new(Schema::new(fields)),
        columns.into_iter().map(|(_, column)| column).collect(),
    )
    .unwrap()
}

pub(crate) fn numbers(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

fn maybe_numbers(values: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Int64Array>())
}

fn texts_of(values: impl IntoIterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// `cells` cells of 100 rows: `id` rising through all, `k` = id modulo 7, `name` = "n{id}".
fn rising(cells: i64) -> Vec<RecordBatch> {
    (0..cells)
        .map(|cell| {
            let ids = cell * 100..(cell + 1) * 100;
            batch(vec![
                ("id", numbers(ids.clone())),
                ("k", numbers(ids.clone().map(|id| id % 7))),
                ("name", texts_of(ids.map(|id| format!("n{id:05}")))),
            ])
        })
        .collect()
}

#[tokio::test]
async fn a_query_reads_cells_of_several_frames() {
    let world = World::new().await;
    world.frame("t", &[], &rising(3)).await;
    world
        .frame(
            "other",
            &[],
            &[batch(vec![("k", numbers(0..7)), ("w", numbers(10..17))])],
        )
        .await;
    assert_eq!(world.number("SELECT count(*) FROM t").await, 300);
    assert_eq!(
        world.number("SELECT sum(id) FROM t WHERE k = 3").await,
        (0..300).filter(|id| id % 7 == 3).sum::<i64>()
    );
    assert_eq!(
        world
            .number("SELECT sum(w) FROM t JOIN other USING (k)")
            .await,
        (0..300).map(|id| id % 7 + 10).sum::<i64>()
    );
    let answer = world
        .sql("SELECT name, id FROM t ORDER BY id DESC LIMIT 2")
        .await;
    assert!(
        answer.contains("n00299") && answer.contains("298"),
        "{answer}"
    );
}

#[tokio::test]
async fn deleted_rows_stay_deleted_with_filters_limits_pages_and_splits() {
    let world = World::new().await;
    let mut crew = world.crew.clone();
    world.frame("t", &[], &rising(4)).await;
    // Half of a row group, a whole row group, every third row, all rows.
    let all: Vec<u64> = (0..100).collect();
    world.delete("t", 0, &all[10..40]).await;
    world.delete("t", 1, &all[50..100]).await;
    world
        .delete("t", 2, &all.iter().copied().step_by(3).collect::<Vec<_>>())
        .await;
    world.delete("t", 3, &all).await;
    let live: Vec<i64> = (0..300)
        .filter(|id| match id / 100 {
            0 => !(10..40).contains(&(id % 100)),
            1 => id % 100 < 50,
            _ => (id % 100) % 3 != 0,
        })
        .collect();
    for bees in [1, 2, 7] {
        crew.bees = bees;
        let world = World {
            crew: crew.clone(),
            ..world.share()
        };
        assert_eq!(
            world.number("SELECT count(id) FROM t").await,
            live.len() as i64
        );
        assert_eq!(
            world.number("SELECT sum(id) FROM t").await,
            live.iter().sum::<i64>()
        );
        for (low, high) in [
            (0, 400),
            (5, 45),
            (38, 42),
            (120, 260),
            (201, 202),
            (300, 400),
        ] {
            let text = format!("SELECT count(k) FROM t WHERE id >= {low} AND id < {high}");
            let expected = live.iter().filter(|id| (low..high).contains(*id)).count() as i64;
            assert_eq!(
                world.number(&text).await,
                expected,
                "{text} with {bees} bees"
            );
            let text = format!(
                "SELECT count(*) FROM (SELECT k FROM t WHERE id >= {low} AND id < {high} LIMIT 30)"
            );
            assert_eq!(
                world.number(&text).await,
                expected.min(30),
                "{text} with {bees} bees"
            );
        }
        let top = world.sql("SELECT id FROM t ORDER BY id DESC LIMIT 1").await;
        assert!(top.contains(&live.last().unwrap().to_string()), "{top}");
    }
}

#[tokio::test]
async fn a_missing_resized_or_broken_cell_is_an_error_that_names_it() {
    let world = World::new().await;
    world.frame("t", &[], &rising(3)).await;
    let key = format!("{}/c00001.parquet", world.location(&world.name("t")));
    let good = world.environment.meadow.get(&key).await.unwrap().unwrap();
    let mut broken = good.to_vec();
    for byte in &mut broken[8..60] {
        *byte ^= 0xff;
    }
    let mut headless = good.to_vec();
    let end = headless.len() - 20;
    for byte in &mut headless[end - 40..end] {
        *byte = 0xff;
    }
    let cases: [Option<Bytes>; 5] = [
        None,
        Some(good.slice(..good.len() - 1)),
        Some(Bytes::from([good.as_ref(), b"more"].concat())),
        Some(Bytes::from(broken)),
        Some(Bytes::from(headless)),
    ];
    for (case, body) in cases.into_iter().enumerate() {
        match body {
            Some(body) => world.environment.meadow.put(&key, body).await.unwrap(),
            None => world.environment.meadow.delete(&key).await.unwrap(),
        }
        // A fresh node: this one may have the good footer in memory.
        let world = World {
            environment: Environment {
                caches: Arc::default(),
                ..world.environment.clone()
            },
            ..world.share()
        };
        let error = world
            .try_sql("SELECT sum(id), max(name) FROM t")
            .await
            .unwrap_err();
        assert_eq!(
            error.kind(),
            crate::ErrorKind::Corrupt,
            "case {case}: {error}"
        );
        assert!(
            error.to_string().contains("c00001.parquet"),
            "case {case}: {error}"
        );
    }
}

#[tokio::test]
async fn a_plan_that_went_through_bytes_gives_the_same_answer() {
    let world = World::new().await;
    world
        .frame(
            "t",
            &["k"],
            &(0..7)
                .map(|k| {
                    let ids: Vec<i64> = (0..200).filter(|id| id % 7 == k).collect();
                    let names = ids.iter().map(|id| format!("n{id}")).collect::<Vec<_>>();
                    batch(vec![
                        ("id", numbers(ids.clone())),
                        ("k", numbers(ids.iter().map(|_| k))),
                        ("name", texts_of(names)),
                    ])
                })
                .collect::<Vec<_>>(),
        )
        .await;
    world.frame("u", &[], &rising(3)).await;
    world.delete("t", 2, &[0, 3, 5]).await;
    world.delete("u", 1, &(0..90).collect::<Vec<_>>()).await;
    for text in [
        "SELECT count(id), sum(id), sum(k) FROM t",
        "SELECT * FROM t WHERE k = 2 ORDER BY id",
        "SELECT id FROM t ORDER BY id DESC LIMIT 5",
        "SELECT t.k, count(*), max(u.name) FROM t JOIN u ON t.id = u.id WHERE u.id > 50 GROUP BY t.k ORDER BY 1",
        "SELECT count(*) FROM t WHERE id > (SELECT avg(id) FROM u)",
        "SELECT id FROM t WHERE id NOT IN (SELECT id FROM u WHERE k < 3) ORDER BY id",
        "SELECT id, sum(id) OVER (PARTITION BY k ORDER BY id) FROM t ORDER BY id LIMIT 20",
        "SELECT name FROM u WHERE name LIKE 'n001%' ORDER BY name",
    ] {
        assert_eq!(
            world.sql_through_bytes(text).await,
            world.sql(text).await,
            "{text}"
        );
    }
}

#[tokio::test]
async fn cells_of_an_older_schema_have_nulls_in_newer_columns() {
    let world = World::new().await;
    let wide = batch(vec![("a", numbers(0..10)), ("b", numbers(10..20))]);
    let narrow = batch(vec![("a", numbers(10..20))]);
    world.frame("t", &[], &[wide, narrow]).await;
    assert_eq!(
        world.number("SELECT count(*) FROM t WHERE b IS NULL").await,
        10
    );
    assert_eq!(world.number("SELECT sum(a) FROM t WHERE b >= 10").await, 45);
    assert_eq!(world.number("SELECT count(b) FROM t").await, 10);
}

#[tokio::test]
async fn what_a_run_read_is_counted() {
    let world = World::new().await;
    world.frame("t", &[], &rising(3)).await;
    let planned = world
        .plan("SELECT sum(id) FROM t WHERE id >= 100")
        .await
        .unwrap();
    collect(Arc::clone(&planned.plan), planned.context)
        .await
        .unwrap();
    let totals = scan_totals(&planned.plan).unwrap();
    assert_eq!((totals.cells_kept, totals.cells_total), (2, 3));
    assert_eq!(totals.requests, 2, "a small cell is one request");
    assert_eq!(totals.read_bytes, totals.bytes_kept);
    let rows = explain_rows(&totals, 5, 10);
    assert!(rows.contains(&("cells".into(), "2 of 3".into())));
    let analyzed = world
        .sql("EXPLAIN ANALYZE SELECT sum(id) FROM t WHERE id >= 100")
        .await;
    assert!(
        analyzed.contains("cells=2 of 3") && analyzed.contains("meadow_requests"),
        "{analyzed}"
    );
}
