//! Tests of the tree: a real node over a meadow in memory, on one thread with paused time.

mod bees;
mod cache;
mod commits;
mod creations;
mod damage;
mod keeper;
mod nodes;
mod results;
mod stalls;

use crate::chamber::Chambers;
use crate::mailbox::Census;
use crate::node::{Node, Role};
use crate::root::{Ground, Tree};
use crate::{Answer, QueryOptions, WriteOptions};
use apiary_engine::behavior::mason::plan_division;
use apiary_engine::catalog::Catalog;
use apiary_engine::error::Result;
use apiary_engine::host::{Host, testing};
use apiary_engine::settings::Settings;
use apiary_engine::sql::{Session, parse};
use apiary_engine::store::Meadow;
use apiary_protocol::ids::NodeId;
use apiary_protocol::names::FrameName;
use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use std::sync::Arc;
use std::time::Duration;

pub(crate) fn settings(bees: usize) -> Settings {
    Settings {
        bees: Some(bees),
        memory_bytes: Some(512 << 20),
        ..Settings::default()
    }
}

pub(crate) fn memory_meadow(host: &Host, settings: &Settings) -> Meadow {
    Meadow::over(Arc::new(InMemory::new()), "memory://tests", host, settings)
}

pub(crate) async fn tree(bees: usize, role: Role) -> Result<(Host, Tree)> {
    tree_with(settings(bees), role).await
}

pub(crate) async fn tree_with(settings: Settings, role: Role) -> Result<(Host, Tree)> {
    let bees = settings.bees.unwrap_or(1);
    let (host, settings) = (testing::host(), Arc::new(settings));
    let meadow = memory_meadow(&host, &settings);
    let division = plan_division(512 << 20, bees);
    let chambers = Arc::new(Chambers::new(&host, &settings, division, None)?);
    let id = NodeId::from_random([7; 16]);
    let catalog = Arc::new(Catalog::new(host.clone(), meadow.clone()));
    let ground = Ground {
        host: &host,
        meadow: &meadow,
        settings: &settings,
        chambers: &chambers,
        catalog: &catalog,
        cache: None,
    };
    let tree = Tree::start(id, ground, role).await?;
    Ok((host, tree))
}

pub(crate) async fn node(settings: Settings) -> Result<Node> {
    let host = testing::host();
    let meadow = memory_meadow(&host, &settings);
    Node::start(host, meadow, settings, Role::Resident).await
}

/// A node with a frame of one column and that many rows.
pub(crate) async fn with_numbers(settings: Settings, count: i64) -> Node {
    let node = node(settings).await.expect("a node");
    sql(&node, "CREATE TABLE t (n BIGINT)")
        .await
        .expect("created");
    node.write(
        &frame("t"),
        stream(vec![numbers(0..count)]),
        WriteOptions::default(),
    )
    .await
    .expect("written");
    node
}

/// A node whose every put takes 20 ms and every get 1 ms, with an empty frame.
pub(crate) async fn slow_node() -> Node {
    let host = testing::host();
    let slow = ThrottleConfig {
        wait_put_per_call: Duration::from_millis(20),
        wait_get_per_call: Duration::from_millis(1),
        ..ThrottleConfig::default()
    };
    let store = Arc::new(ThrottledStore::new(InMemory::new(), slow));
    let meadow = Meadow::over(store, "memory://slow", &host, &settings(2));
    let node = Node::start(host, meadow, settings(2), Role::Brief)
        .await
        .expect("a node");
    sql(&node, "CREATE TABLE t (n BIGINT)")
        .await
        .expect("created");
    node
}

pub(crate) fn frame(name: &str) -> FrameName {
    FrameName::parse("default", "default", name).expect("a name")
}

/// Runs every statement of a text; the answer of the last.
pub(crate) async fn sql(node: &Node, text: &str) -> Result<Answer> {
    let mut session = Session::new()?;
    let mut last = None;
    for statement in parse(text)? {
        let answer = node
            .execute(statement, &session, QueryOptions::default())
            .await?;
        session = answer.session.clone();
        last = Some(answer);
    }
    last.ok_or_else(|| apiary_engine::Error::rejected("no statement"))
}

pub(crate) async fn rows(node: &Node, text: &str) -> Result<Vec<RecordBatch>> {
    sql(node, text).await?.batches.try_collect().await
}

/// The single integer that a query gives.
pub(crate) async fn number(node: &Node, text: &str) -> Result<i64> {
    let batches = rows(node, text).await?;
    let column = batches[0].column(0).clone();
    let column = arrow::compute::cast(&column, &DataType::Int64).expect("an integer");
    Ok(column
        .as_any()
        .downcast_ref::<Int64Array>()
        .expect("int64")
        .value(0))
}

pub(crate) async fn keys_under(node: &Node, prefix: &str) -> Vec<String> {
    let meadow = &node.environment().meadow;
    let listed = meadow.list(prefix, None).await.expect("a list");
    let key = |object: &object_store::ObjectMeta| object.location.to_string();
    listed.iter().map(key).collect()
}

/// Cells of the frame `t`, whether its ledger names them or not.
pub(crate) async fn cell_count(node: &Node) -> usize {
    let keys = keys_under(node, "default/default/t").await;
    keys.iter().filter(|key| key.ends_with(".parquet")).count()
}

pub(crate) fn numbers_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]))
}

pub(crate) fn numbers(range: std::ops::Range<i64>) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(range));
    RecordBatch::try_new(numbers_schema(), vec![column]).expect("one column")
}

pub(crate) fn stream(batches: Vec<RecordBatch>) -> SendableRecordBatchStream {
    let batches = futures::stream::iter(batches.into_iter().map(Ok));
    Box::pin(RecordBatchStreamAdapter::new(numbers_schema(), batches))
}

/// Lets everything that is ready run.
pub(crate) async fn settle() {
    for _ in 0..60 {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn nobody(census: &Census) -> bool {
    census.count() == 0
}
