//! Every TPC-H plan gives the same answer after a journey through bytes, and the answer that
//! DataFusion gives over the same rows in memory; with deleted rows too.

use crate::tpch::{QUERY_COUNT, TABLES, query};
use apiary_engine::catalog::{Catalog, FrameEntry};
use apiary_engine::cell::{WriteSpec, write_cells};
use apiary_engine::distributed::testing::run_cut;
use apiary_engine::distributed::{ONE_TASK_GROUPS_BYTES, Spread, cut};
use apiary_engine::ledger::{Intent, Ledger, Snapshot};
use apiary_engine::schema::FrameSchema;
use apiary_engine::settings::{Codec, Settings};
use apiary_engine::sql::{
    Crew, Environment, PlannedQuery, Session, Snapshots, Statement, decode_plan, encode_plan,
    parse, plan_query,
};
use apiary_engine::store::Meadow;
use apiary_protocol::delta::{Action, Add, DeletionVector, Remove};
use apiary_protocol::ids::{CommitId, QueryId};
use apiary_protocol::names::FrameName;
use arrow::array::RecordBatch;
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::collect;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::{SessionConfig, SessionContext};
use object_store::memory::InMemory;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

const SCALE: f64 = 0.01;

type Frames = BTreeMap<FrameName, Arc<Snapshot>>;

#[derive(Debug, Default)]
struct Fixed(Mutex<Frames>);

#[async_trait::async_trait]
impl Snapshots for Fixed {
    async fn snapshot(&self, frame: &FrameEntry) -> apiary_engine::Result<Arc<Snapshot>> {
        Ok(Arc::clone(&self.0.lock().unwrap()[&frame.name]))
    }
}

struct World {
    environment: Environment,
    fixed: Arc<Fixed>,
    memory: SessionContext,
    runtime: Arc<RuntimeEnv>,
}

impl World {
    fn new() -> Self {
        let host = apiary_engine::host::testing::host();
        let settings = Settings::default();
        let meadow = Meadow::over(Arc::new(InMemory::new()), "memory", &host, &settings);
        let fixed = Arc::new(Fixed::default());
        let environment = Environment {
            catalog: Arc::new(Catalog::new(host.clone(), meadow.clone())),
            snapshots: Arc::clone(&fixed) as Arc<dyn Snapshots>,
            settings: Arc::new(settings),
            caches: Arc::default(),
            host,
            meadow,
        };
        let memory =
            SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
        Self {
            environment,
            fixed,
            memory,
            runtime: Arc::default(),
        }
    }

    /// The table as a frame of several cells and as a table in memory; of every third cell the
    /// first rows are deleted, in both.
    async fn load(&self, table: crate::tpch::Table, deletes: bool) {
        let Environment {
            host,
            meadow,
            settings,
            catalog,
            ..
        } = &self.environment;
        let session = Session::new().unwrap();
        let name = session.resolve(&[table.name().to_string()]).unwrap();
        let schema = FrameSchema::new(table.schema(), vec![]).unwrap();
        let (entry, mut snapshot) = catalog.create_frame(&name, &schema, false).await.unwrap();
        let rows: Vec<RecordBatch> = table.reader(SCALE).map(Result::unwrap).collect();
        let all = concat_batches(&table.schema(), &rows).unwrap();
        let ledger = Ledger::new(
            host.clone(),
            meadow.clone(),
            entry.location.clone(),
            settings,
        );
        let spec = WriteSpec {
            location: entry.location.clone(),
            schema: Arc::new(schema),
            codec: Codec::Lz4Raw,
            target_cell_bytes: 64 << 20,
            row_group_rows_max: 2_000,
            max_partitions: 1,
            rows_before: 0,
            query: None,
        };
        let mut actions = vec![];
        let mut kept = vec![];
        let step = all.num_rows().div_ceil(5).max(1);
        for (index, start) in (0..all.num_rows()).step_by(step).enumerate() {
            let part = all.slice(start, step.min(all.num_rows() - start));
            let stream = futures::stream::iter([Ok(part.clone())]);
            let input = Box::pin(RecordBatchStreamAdapter::new(part.schema(), stream));
            let context = self.memory.task_ctx();
            let written = write_cells(host, meadow, &spec, input, context)
                .await
                .unwrap();
            assert_eq!(written.adds.len(), 1);
            let mut gone = 0;
            for add in written.adds {
                actions.push(Action::Add(add.clone()));
                if deletes && index % 3 == 0 && part.num_rows() > 10 {
                    gone = part.num_rows() / 10;
                    actions.push(Action::Remove(remove(&add)));
                    actions.push(Action::Add(Add {
                        deletion_vector: Some(first_rows(gone)),
                        ..add
                    }));
                }
            }
            let live = (0..part.num_rows()).map(|row| Some(row >= gone)).collect();
            kept.push(filter_record_batch(&part, &live).unwrap());
        }
        // Adds first: a cell must be there before a vector can mark it.
        let (adds, marks): (Vec<_>, Vec<_>) = actions.into_iter().partition(
            |action| matches!(action, Action::Add(add) if add.deletion_vector.is_none()),
        );
        for actions in [adds, marks] {
            if !actions.is_empty() {
                let id = CommitId::from_random(host.entropy.bytes());
                let intent = Intent {
                    actions,
                    ..Intent::append(id, vec![])
                };
                let (results, newest) = ledger.commit(snapshot, vec![intent]).await;
                results.into_iter().for_each(|result| drop(result.unwrap()));
                snapshot = newest;
            }
        }
        self.fixed.0.lock().unwrap().insert(name, snapshot);
        let memory = MemTable::try_new(table.schema(), vec![kept]).unwrap();
        self.memory
            .register_table(table.name(), Arc::new(memory))
            .unwrap();
    }

    async fn plan(&self, text: &str, for_swarm: bool) -> PlannedQuery {
        let Statement::Query(statement) = parse(text).unwrap().remove(0) else {
            panic!("{text} is no query")
        };
        let session = Session::new().unwrap();
        let crew = Crew {
            bees: 2,
            runtime: Arc::clone(&self.runtime),
            spilling_joins: Default::default(),
            batch_rows: 8192,
            for_swarm,
        };
        plan_query(&self.environment, &session, &statement, &crew, None)
            .await
            .unwrap()
    }

    /// The answer directly, and the answer of the plan's bytes.
    async fn answers(&self, text: &str) -> (String, String) {
        let planned = self.plan(text, false).await;
        let bytes = encode_plan(&planned.plan).unwrap();
        let decoded = decode_plan(&self.environment, &bytes, &planned.context).unwrap();
        let direct = collect(planned.plan, Arc::clone(&planned.context))
            .await
            .unwrap();
        let through_bytes = collect(decoded, planned.context).await.unwrap();
        (show(&direct), show(&through_bytes))
    }

    /// The answer of three tasks a stage, each run twice, through storage.
    async fn in_tasks(&self, number: u32, text: &str) -> String {
        let planned = self.plan(text, true).await;
        let spread = Spread {
            tasks_max: 3,
            bytes_per_task: 1,
            repeated_bytes_max: 0,
            one_task_bytes_max: ONE_TASK_GROUPS_BYTES,
        };
        let id = QueryId::from_random(self.environment.host.entropy.bytes());
        let cut = cut(&planned, spread, id).await.unwrap();
        let cut = cut.unwrap_or_else(|reason| panic!("query {number} stays whole: {reason}"));
        let rows = run_cut(&self.environment, &planned, &cut, id, 2).await;
        show(&rows.unwrap_or_else(|error| panic!("query {number}: {error}")))
    }
}

fn show(rows: &[RecordBatch]) -> String {
    pretty_format_batches(rows).unwrap().to_string()
}

fn remove(add: &Add) -> Remove {
    Remove {
        path: add.path.clone(),
        deletion_timestamp: Some(add.modification_time),
        data_change: true,
        extended_file_metadata: Some(true),
        partition_values: Some(add.partition_values.clone()),
        size: Some(add.size),
        deletion_vector: None,
    }
}

/// A deletion vector in the log itself, of the first rows: the portable bitmap in Z85.
fn first_rows(count: usize) -> DeletionVector {
    const ALPHABET: &[u8] =
        b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";
    let mut bytes = 1_681_511_377_u32.to_le_bytes().to_vec();
    let rows: roaring::RoaringTreemap = (0..count as u64).collect();
    rows.serialize_into(&mut bytes).unwrap();
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
        cardinality: count as i64,
    }
}

async fn compare(deletes: bool) {
    let world = World::new();
    for table in TABLES {
        world.load(table, deletes).await;
    }
    for number in 1..=QUERY_COUNT {
        let text = query(number, SCALE);
        let (direct, through_bytes) = world.answers(&text).await;
        assert_eq!(direct, through_bytes, "query {number} through bytes");
        let expected = world
            .memory
            .sql(&text)
            .await
            .unwrap()
            .collect()
            .await
            .unwrap();
        assert_eq!(direct, show(&expected), "query {number} against memory");
        let in_tasks = world.in_tasks(number, &text).await;
        assert_eq!(in_tasks, direct, "query {number} in tasks");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_plan_gives_the_same_answer_after_a_journey_through_bytes() {
    compare(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_rows_stay_deleted_on_the_journey() {
    compare(true).await;
}
