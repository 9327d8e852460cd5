//! Queries over frames in a meadow in memory.

use super::pruning::CellIndex;
use super::*;
use crate::ledger::{Intent, Ledger};
use crate::schema::FrameSchema;
use apiary_protocol::delta::{Action, Add, DeletionVector, Remove, StringMap};
use apiary_protocol::ids::CommitId;
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

/// A node's worth of what queries need, and the frames they read.
struct World {
    environment: Environment,
    fixed: Arc<Fixed>,
    session: Session,
    crew: Crew,
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
    async fn new() -> Self {
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
        };
        Self {
            environment,
            fixed,
            session: Session::new().unwrap(),
            crew,
        }
    }

    fn name(&self, text: &str) -> FrameName {
        let parts: Vec<String> = text.split('.').map(str::to_string).collect();
        self.session.resolve(&parts).unwrap()
    }

    /// A frame with one cell for each batch, in that order, with small row groups and pages.
    async fn frame(&self, name: &str, partition_by: &[&str], cells: &[RecordBatch]) {
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
            tags: None,
            deletion_vector: None,
            base_row_id: None,
            default_row_commit_version: None,
            clustering_provider: None,
        }
    }

    fn share(&self) -> Self {
        Self {
            environment: self.environment.clone(),
            fixed: Arc::clone(&self.fixed),
            session: self.session.clone(),
            crew: self.crew.clone(),
        }
    }

    fn snapshot(&self, name: &FrameName) -> Arc<Snapshot> {
        Arc::clone(&self.fixed.0.lock()[name])
    }

    fn location(&self, name: &FrameName) -> String {
        self.snapshot(name).location.clone()
    }

    async fn create(&self, name: &FrameName, schema: FrameSchema) {
        let catalog = &self.environment.catalog;
        catalog.create_hive(&name.hive, true).await.unwrap();
        catalog
            .create_box(&name.hive, &name.box_name, true)
            .await
            .unwrap();
        let (_, snapshot) = catalog.create_frame(name, &schema, false).await.unwrap();
        self.fixed.0.lock().insert(name.clone(), snapshot);
    }

    async fn commit(&self, name: &FrameName, actions: Vec<Action>) {
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

    async fn plan(&self, text: &str) -> Result<PlannedQuery> {
        let Statement::Query(statement) = parse(text)?.remove(0) else {
            panic!("{text} is no query")
        };
        plan_query(&self.environment, &self.session, &statement, &self.crew).await
    }

    async fn try_sql(&self, text: &str) -> Result<Vec<RecordBatch>> {
        let planned = self.plan(text).await?;
        Ok(collect(planned.plan, planned.context).await?)
    }

    async fn sql(&self, text: &str) -> String {
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

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
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

fn numbers(values: impl IntoIterator<Item = i64>) -> ArrayRef {
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
async fn names_are_found_whatever_their_parts_case_and_quotes() {
    let world = World::new().await;
    world.frame("Orders", &[], &rising(1)).await;
    world.frame("Shop.Main.My Frame", &[], &rising(2)).await;
    for name in [
        "orders",
        "ORDERS",
        "\"Orders\"",
        "default.orders",
        "\"DEFAULT\".\"default\".orders",
    ] {
        assert_eq!(
            world.number(&format!("SELECT count(*) FROM {name}")).await,
            100,
            "{name}"
        );
    }
    for name in ["shop.main.\"my frame\"", "\"SHOP\".MAIN.\"My Frame\""] {
        assert_eq!(
            world.number(&format!("SELECT count(*) FROM {name}")).await,
            200,
            "{name}"
        );
    }
    let error = world
        .try_sql("SELECT * FROM shop.main.none")
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "frame shop.main.none not found");
    // Two spellings in one query are one frame at one snapshot.
    let planned = world
        .plan("SELECT count(*) FROM orders a, default.\"ORDERS\" b WHERE a.id = b.id")
        .await
        .unwrap();
    assert_eq!(planned.frames.len(), 1);
}

#[tokio::test]
async fn literals_and_common_table_expressions_name_no_frames() {
    let world = World::new().await;
    world.frame("t", &[], &rising(1)).await;
    assert_eq!(
        world
            .number("SELECT count(*) FROM t WHERE name <> 'x FROM nowhere; DROP TABLE t'")
            .await,
        100
    );
    assert_eq!(
        world
            .number("WITH nowhere AS (SELECT 1 AS a) SELECT a FROM nowhere")
            .await,
        1
    );
    assert_eq!(
        world
            .number("SELECT count(*) FROM generate_series(1, 5)")
            .await,
        5
    );
    assert_eq!(
        world
            .number("WITH t AS (SELECT * FROM t WHERE id < 10) SELECT count(*) FROM t")
            .await,
        10
    );
}

#[tokio::test]
async fn information_schema_lists_what_the_registry_has() {
    let world = World::new().await;
    world.frame("t", &[], &rising(1)).await;
    let tables = world.sql("SELECT table_catalog, table_name FROM information_schema.tables WHERE table_schema = 'default'").await;
    assert!(tables.contains("| default       | t "), "{tables}");
    let columns = world
        .sql("SELECT column_name FROM information_schema.columns WHERE table_name = 't'")
        .await;
    assert!(
        columns.contains("id") && columns.contains("name"),
        "{columns}"
    );
    assert!(
        world
            .sql("SHOW datafusion.execution.batch_size")
            .await
            .contains("8192")
    );
}

#[tokio::test]
async fn a_filter_that_one_cell_can_satisfy_reads_one_cell() {
    let world = World::new().await;
    world.frame("t", &[], &rising(20)).await;
    for (filter, cells) in [
        ("id = 1234", 1),
        ("id >= 1900", 1),
        ("id < 50 OR id > 1950", 2),
        ("id IN (5, 705, 1999)", 3),
        ("id BETWEEN 190 AND 210 AND k = 1", 2),
        ("id IS NULL", 0),
        ("name = 'n01234'", 1),
        ("name LIKE 'n0123%'", 1),
        ("k = 3", 20),
        ("k + 1 > 100", 20),
    ] {
        let text = format!("SELECT count(k) FROM t WHERE {filter}");
        let planned = world.plan(&text).await.unwrap();
        let totals = scan_totals(&planned.plan).unwrap();
        if totals.cells_total > 0 {
            assert_eq!(
                (totals.cells_kept, totals.cells_total),
                (cells, 20),
                "{filter}"
            );
        }
        assert_eq!(planned.scan_bytes, totals.bytes_kept);
    }
    let plan = world.explain("SELECT name FROM t WHERE id = 1234").await;
    assert!(
        plan.contains(
            "frame=default.default.t, version=1, cells=1 of 20 (19 pruned by statistics)"
        ),
        "{plan}"
    );
}

#[tokio::test]
async fn partition_columns_are_constants_of_a_cell_and_prune_it() {
    let world = World::new().await;
    let part = |day: Option<&str>, kind: i64, ids: std::ops::Range<i64>| {
        let rows = (ids.end - ids.start) as usize;
        let day: ArrayRef = Arc::new(StringArray::from(vec![day; rows]));
        let day = arrow::compute::cast(&day, &DataType::Date32).unwrap();
        batch(vec![
            ("day", day),
            ("id", numbers(ids)),
            ("kind", numbers(std::iter::repeat_n(kind, rows))),
        ])
    };
    let cells = [
        part(Some("2026-01-01"), 1, 0..100),
        part(Some("2026-01-02"), 2, 100..150),
        part(None, 3, 150..160),
    ];
    world.frame("t", &["kind", "day"], &cells).await;
    assert_eq!(
        world
            .number("SELECT count(*) FROM t WHERE day = DATE '2026-01-02'")
            .await,
        50
    );
    assert_eq!(
        world
            .number("SELECT count(*) FROM t WHERE day IS NULL")
            .await,
        10
    );
    assert_eq!(
        world
            .number("SELECT sum(kind) FROM t WHERE day > DATE '2025-12-31'")
            .await,
        200
    );
    let plan = world
        .explain("SELECT id FROM t WHERE kind = 2 AND id > 5")
        .await;
    assert!(
        plan.contains("cells=1 of 3 (2 pruned by partition)"),
        "{plan}"
    );
    // Columns come in the order of the schema, not with the partition columns last.
    let answer = world.sql("SELECT * FROM t WHERE id = 149").await;
    assert!(
        answer.contains("| day        | id  | kind |")
            && answer.contains("| 2026-01-02 | 149 | 2    |"),
        "{answer}"
    );
}

#[tokio::test]
async fn counts_and_extremes_are_answered_from_the_log_where_that_is_exact() {
    let world = World::new().await;
    world.frame("t", &[], &rising(5)).await;
    let plan = world
        .explain("SELECT count(*), min(id), max(id), count(k) FROM t")
        .await;
    assert!(!plan.contains("FrameScanExec"), "{plan}");
    let answer = world.sql("SELECT count(*), min(id), max(id) FROM t").await;
    assert!(answer.contains("500") && answer.contains("499"), "{answer}");
    // A text may have been cut in the log: it is read.
    let plan = world.explain("SELECT min(name) FROM t").await;
    assert!(plan.contains("FrameScanExec"), "{plan}");
    assert!(
        world
            .sql("SELECT min(name) FROM t")
            .await
            .contains("n00000")
    );
    // With deletions the count is still known, the extremes are not.
    world.delete("t", 0, &[0, 1, 2]).await;
    let plan = world.explain("SELECT count(*) FROM t").await;
    assert!(!plan.contains("FrameScanExec"), "{plan}");
    assert_eq!(world.number("SELECT count(*) FROM t").await, 497);
    assert_eq!(world.number("SELECT min(id) FROM t").await, 3);
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
async fn pruning_never_changes_an_answer() {
    let entropy = crate::host::testing::SeededEntropy::new(20_260);
    let world = World::new().await;
    let mut rows: Vec<(Option<i64>, i64, i64)> = vec![];
    let mut cells = vec![];
    for cell in 0..40_i64 {
        let part = cell % 5;
        let base = entropy.below(1000) as i64;
        let here: Vec<(Option<i64>, i64, i64)> = (0..60)
            .map(|_| {
                let a = (entropy.below(10) > 0 && cell % 9 != 0)
                    .then(|| base + entropy.below(50) as i64);
                (a, entropy.below(1000) as i64 - 500, part)
            })
            .collect();
        cells.push(batch(vec![
            ("a", maybe_numbers(here.iter().map(|row| row.0))),
            ("b", numbers(here.iter().map(|row| row.1))),
            ("p", numbers(here.iter().map(|row| row.2))),
        ]));
        rows.extend(here);
    }
    world.frame("t", &["p"], &cells).await;
    let mut pruned = 0;
    for _ in 0..120 {
        let number = |bound: u64, base: i64| entropy.below(bound) as i64 + base;
        let (x, y, z, p) = (
            number(1100, -20),
            number(1100, -20),
            number(1000, -500),
            number(6, 0),
        );
        type Check = Box<dyn Fn(&(Option<i64>, i64, i64)) -> bool>;
        let filters: [(String, Check); 8] = [
            (format!("a = {x}"), Box::new(move |r| r.0 == Some(x))),
            (
                format!("a > {x} AND a < {y}"),
                Box::new(move |r| r.0.is_some_and(|a| a > x && a < y)),
            ),
            (
                format!("a < {x} OR p = {p}"),
                Box::new(move |r| r.0.is_some_and(|a| a < x) || r.2 == p),
            ),
            (
                format!("p <> {p} AND b >= {z}"),
                Box::new(move |r| r.2 != p && r.1 >= z),
            ),
            (
                format!("a IS NULL AND p = {p}"),
                Box::new(move |r| r.0.is_none() && r.2 == p),
            ),
            (
                format!("a IS NOT NULL AND NOT (b < {z})"),
                Box::new(move |r| r.0.is_some() && r.1 >= z),
            ),
            (
                format!("a IN ({x}, {y}, {z}) OR b = {z}"),
                Box::new(move |r| r.0.is_some_and(|a| [x, y, z].contains(&a)) || r.1 == z),
            ),
            (
                format!("a + b > {x} AND p < {p}"),
                Box::new(move |r| r.0.is_some_and(|a| a + r.1 > x) && r.2 < p),
            ),
        ];
        for (filter, check) in filters {
            let text = format!("SELECT count(b) FROM t WHERE {filter}");
            let expected = rows.iter().filter(|row| check(row)).count() as i64;
            let planned = world.plan(&text).await.unwrap();
            let totals = scan_totals(&planned.plan).unwrap();
            pruned += totals.cells_total - totals.cells_kept;
            assert_eq!(world.number(&text).await, expected, "{filter}");
        }
    }
    assert!(pruned > 1000, "only {pruned} cells were pruned");
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

impl World {
    /// The same frames, queried by a crew whose joins spill.
    fn spilling(&self) -> World {
        World {
            crew: Crew {
                spilling_joins: SpillingJoins::All,
                ..self.crew.clone()
            },
            ..self.share()
        }
    }
}

#[tokio::test]
async fn joins_that_spill_give_the_answers_of_hash_joins() {
    let world = World::new().await;
    world.frame("t", &[], &rising(3)).await;
    let spilling = world.spilling();
    for (query, merges) in [
        (
            "SELECT a.id, b.name FROM t a JOIN t b ON a.id = b.k ORDER BY 1, 2",
            true,
        ),
        (
            "SELECT a.id, b.id FROM t a LEFT JOIN t b ON a.id = b.k AND b.id < 50 ORDER BY 1, 2",
            true,
        ),
        (
            "SELECT a.id, b.id FROM t a FULL JOIN t b ON a.id = b.id + 250 ORDER BY 1, 2",
            true,
        ),
        (
            "SELECT count(*) FROM t a JOIN t b ON a.name = b.name JOIN t c ON b.id = c.k",
            true,
        ),
        (
            "SELECT id FROM t WHERE id NOT IN (SELECT k FROM t) ORDER BY id LIMIT 3",
            false,
        ),
        // Limits above joins whose keys are in the order that is asked for.
        (
            "SELECT id FROM t WHERE id IN (SELECT k + 200 FROM t) ORDER BY id LIMIT 3",
            true,
        ),
        (
            "SELECT id FROM t a WHERE NOT EXISTS (SELECT 1 FROM t b WHERE b.k = a.id) ORDER BY id LIMIT 3",
            true,
        ),
        (
            "SELECT a.id FROM t a JOIN t b ON a.id = b.k + 200 ORDER BY a.id LIMIT 3",
            true,
        ),
        (
            "SELECT count(*) FROM (SELECT a.id FROM t a JOIN t b ON a.id = b.k LIMIT 5)",
            true,
        ),
        // Nothing to sort by.
        ("SELECT count(*) FROM t a JOIN t b ON a.id < b.k", false),
    ] {
        assert_eq!(spilling.sql(query).await, world.sql(query).await, "{query}");
        let plan = spilling.explain(query).await;
        assert_eq!(plan.contains("SortMergeJoin"), merges, "{query}\n{plan}");
        assert!(
            !world.explain(query).await.contains("SortMergeJoin"),
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_semi_join_with_few_groups_is_done_before_the_joins_beside_it() {
    let world = World::new().await;
    world.frame("t", &[], &rising(3)).await;
    let query = "SELECT a.id, c.id FROM t a, t b, t c WHERE a.id = b.k AND b.id = c.id \
        AND b.id IN (SELECT id % 150 FROM t GROUP BY id % 150 HAVING sum(id) > 440) \
        ORDER BY c.id";
    // Pairs are id and id + 150, so 148 and 149 of them remain: sums of 446 and 448.
    let expected: Vec<i64> = (146..150).collect();
    let batches = world.try_sql(query).await.unwrap();
    let ids: Vec<i64> = batches
        .iter()
        .flat_map(|batch| {
            batch
                .column(1)
                .as_primitive::<Int64Type>()
                .values()
                .to_vec()
        })
        .collect();
    assert_eq!(ids, expected);
    let plan = world.explain(query).await;
    let logical = plan.split("physical_plan").next().unwrap();
    let (semi, inner) = (logical.find("LeftSemi"), logical.find("Inner Join"));
    assert!(inner.is_some() && inner < semi, "{plan}");
    // A semi join against a whole table stays where it was.
    let whole = world
        .explain("SELECT a.id FROM t a JOIN t b ON a.id = b.k WHERE a.id IN (SELECT k FROM t)")
        .await;
    let logical = whole.split("physical_plan").next().unwrap();
    assert!(
        logical.find("LeftSemi") < logical.find("Inner Join"),
        "{whole}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn partitions_that_spill_at_the_same_time_do_not_wait_for_each_other() {
    const BATCHES: i64 = 400;
    let world = World::new().await;
    let planned = world.plan("SELECT 1").await.unwrap();
    for _ in 0..10 {
        let rows = |first: i64| {
            let batches = (0..BATCHES).map(|index| {
                let start = first + index * 64;
                batch(vec![("n", numbers(start..start + 64))])
            });
            batches.collect::<Vec<_>>()
        };
        let inputs = [rows(0), rows(1 << 20)];
        let schema = inputs[0][0].schema();
        let source = MemorySourceConfig::try_new_exec(&inputs, schema, None).unwrap();
        let by_hash = Partitioning::Hash(vec![Arc::new(Column::new("n", 0))], 2);
        let plan = Arc::new(RepartitionExec::try_new(source, by_hash).unwrap());
        // No memory at all: every batch goes through a file.
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(GreedyMemoryPool::new(0)))
            .build_arc()
            .unwrap();
        let context = TaskContext::default()
            .with_session_config(planned.context.session_config().clone())
            .with_runtime(runtime);
        let context = Arc::new(context);
        let readers = (0..2).map(|partition| {
            let mut rows = plan.execute(partition, context.clone()).unwrap();
            tokio::spawn(async move {
                let mut count = 0;
                while let Some(batch) = rows.next().await {
                    count += batch.unwrap().num_rows() as i64;
                }
                count
            })
        });
        let readers: Vec<_> = readers.collect();
        let mut count = 0;
        for reader in readers {
            count += reader.await.unwrap();
        }
        assert_eq!(count, 2 * BATCHES * 64);
        assert!(plan.metrics().unwrap().spill_count().unwrap() > 0);
    }
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

#[tokio::test]
async fn an_insert_brings_literals_to_the_columns_types() {
    let world = World::new().await;
    let schema = Schema::new(vec![
        Field::new("a", DataType::Int32, true),
        Field::new("D", DataType::Date32, true),
        Field::new("m", DataType::Decimal128(10, 2), true),
    ]);
    let schema = FrameSchema::new(Arc::new(schema), vec![]).unwrap();
    let plan = async |text: &str| {
        let Statement::Insert {
            columns, source, ..
        } = parse(text).unwrap().remove(0)
        else {
            panic!()
        };
        plan_insert(
            &world.environment,
            &world.session,
            &schema,
            &columns,
            &source,
            &world.crew,
        )
        .await
    };
    let planned = plan("INSERT INTO t (m, d) VALUES (1.5, '2026-02-03'), (NULL, NULL)")
        .await
        .unwrap();
    let names: Vec<_> = planned
        .schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    assert_eq!(names, ["m", "D"]);
    assert_eq!(planned.schema.field(1).data_type(), &DataType::Date32);
    let rows = collect(planned.plan, planned.context).await.unwrap();
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
    let error = plan("INSERT INTO t VALUES (1, 2)").await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("2 values for 3 columns (a, D, m)"),
        "{error}"
    );
    assert!(
        plan("INSERT INTO t (x) VALUES (1)")
            .await
            .unwrap_err()
            .to_string()
            .contains("no column x")
    );
    assert!(
        plan("INSERT INTO t (a, A) VALUES (1, 2)")
            .await
            .unwrap_err()
            .to_string()
            .contains("twice")
    );
}

#[tokio::test]
async fn the_index_of_a_hundred_thousand_cells_is_read_once() {
    let world = World::new().await;
    let name = world.name("big");
    let schema = Schema::new(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Int64, true),
    ]);
    world
        .create(&name, FrameSchema::new(Arc::new(schema), vec![]).unwrap())
        .await;
    let one = batch(vec![("a", numbers(0..1)), ("b", numbers(0..1))]);
    let add = world
        .cell(&world.location(&name), "x.parquet", &one, &name)
        .await;
    let adds = (0..2_000_i64).map(|index| Add {
        path: format!("{index:06}.parquet"),
        stats: Some(format!(
            r#"{{"numRecords":10,"minValues":{{"a":{index},"b":0}},"maxValues":{{"a":{index},"b":9}},"nullCount":{{"a":0,"b":0}}}}"#
        )),
        ..add.clone()
    });
    world.commit(&name, adds.map(Action::Add).collect()).await;
    let index: Arc<CellIndex> = world.snapshot(&name).derived(CellIndex::new);
    let plan = world.explain("SELECT b FROM big WHERE a = 1500").await;
    assert!(plan.contains("cells=1 of 2000"), "{plan}");
    let again = world.snapshot(&name).derived(CellIndex::new);
    assert!(Arc::ptr_eq(&index, &again));
    assert_eq!(world.number("SELECT count(*) FROM big").await, 20_000);
}
