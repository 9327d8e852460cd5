//! One node and its whole dialect in short: names, writes from two sides, queries of several shapes
//! whose answers must equal DataFusion's on the same rows in memory, a spill, and a clean stop.

use super::node;
use crate::checkers::{self, keeper_1, ledger_1, ledger_2, node_1, query_3};
use crate::host::Hardware;
use crate::workload::answers::{plain_datafusion, register, shown};
use crate::workload::client::{self, Writer};
use crate::workload::model::Model;
use crate::workload::rows::{Batch, CREATE_FRAME, FRAME};
use crate::world::{Running, World};
use apiary_actors::Node;
use apiary_engine::error::Result;
use apiary_engine::settings::Settings;
use datafusion::prelude::SessionContext;

const WRITES: u64 = 12;
const ROWS_MAX: u64 = 1500;
/// The least that two bees work in: a sort of half a million rows spills.
const MEMORY_BYTES: u64 = 80 << 20;

/// Each gives one answer only: ordered, or a single row.
const QUERIES: [&str; 7] = [
    "SELECT count(*), sum(value), min(label), max(row) FROM journal",
    "SELECT label, count(*), sum(value) FROM journal WHERE value % 3 <> 0 GROUP BY label ORDER BY label",
    "SELECT a.label, count(*) FROM journal a JOIN journal b ON a.value = b.row AND a.batch <> b.batch \
     GROUP BY a.label ORDER BY a.label",
    "SELECT batch, row, rank() OVER (PARTITION BY label ORDER BY value, batch, row) FROM journal \
     ORDER BY batch, row",
    "SELECT batch, max(value) FROM journal WHERE batch IN (SELECT batch FROM journal WHERE row = 7) \
     GROUP BY batch ORDER BY batch",
    "SELECT count(*), max(r) FROM (SELECT row_number() OVER (ORDER BY a.label, a.value, b.row, a.row, \
     a.batch) AS r FROM journal a CROSS JOIN (SELECT row FROM journal WHERE row < 4) b)",
    "SELECT label, value, batch, row FROM journal ORDER BY label, value, batch, row",
];

pub fn run(world: &mut World) -> Result<(), String> {
    let computer = world.computer(
        "box",
        Hardware {
            memory_bytes: MEMORY_BYTES,
            ..Hardware::default()
        },
    );
    let running = world.start(&computer).map_err(|error| error.to_string())?;
    let model = Model::default();
    let mut writer = Writer::new(0, 1, &model, &world.trace, &world.rng);
    writer.rows_max = ROWS_MAX;
    running.block_on(async {
        let violation = query_3::unexplained;
        let started = start(&running).await.map_err(node_1::does_not_start)?;
        client::execute(&started, CREATE_FRAME)
            .await
            .map_err(violation)?;
        writer
            .write_until(&started, WRITES)
            .await
            .map_err(ledger_2::unexplained)?;
        statements(&running, &started).await.map_err(violation)?;
        queries(&running, &started, &model).await?;
        let location = node::location(&started).await.map_err(violation)?;
        started.shutdown().await.map_err(node_1::does_not_stop)?;
        node_1::check("the node", &started)?;
        let objects = node::objects_on_disk(&computer);
        let frame = node::read_frame(&objects, &location, running.trace())?;
        model.with(|writes| checkers::check_frame(writes, &frame, &mut ledger_1::Seen::new()))?;
        keeper_1::check(objects.keys().map(String::as_str))
    })
}

async fn start(running: &Running) -> Result<Node> {
    let settings = Settings {
        memory_bytes: Some(MEMORY_BYTES),
        ..node::settings()
    };
    node::start_on_disk(&running.host, settings).await
}

/// Names and writes through SQL; their answers are in the trace.
async fn statements(running: &Running, started: &Node) -> Result<()> {
    for text in [
        "CREATE HIVE other",
        "CREATE BOX other.side",
        "CREATE TABLE other.side.labels AS SELECT label, count(*) AS c FROM journal GROUP BY label",
        "INSERT INTO other.side.labels VALUES ('by hand', 1)",
        "SELECT * FROM other.side.labels ORDER BY label",
        "SHOW HIVES",
        "SHOW FRAMES IN other.side",
        "DESCRIBE journal",
        "EXPLAIN SELECT count(*) FROM journal WHERE batch = 3",
        "DROP HIVE other CASCADE",
    ] {
        client::execute_traced(started, text, &running.name, running.trace()).await?;
    }
    Ok(())
}

/// The node's answers against DataFusion's on the model's rows.
async fn queries(running: &Running, started: &Node, model: &Model) -> Result<(), String> {
    let plain = plain(model).map_err(|error| error.to_string())?;
    for text in QUERIES {
        let ours = client::execute_traced(started, text, &running.name, running.trace());
        let ours = ours.await.map_err(query_3::unexplained);
        let ours = shown(&ours.map_err(|violation| format!("{violation}, from {text}"))?)?;
        let query = async { plain.sql(text).await?.collect().await };
        let expected = shown(&query.await.map_err(|error| error.to_string())?)?;
        if ours != expected {
            return Err(format!(
                "QUERY-1: {text} gives\n{ours}\nand should\n{expected}"
            ));
        }
    }
    Ok(())
}

fn plain(model: &Model) -> datafusion::error::Result<SessionContext> {
    let context = plain_datafusion();
    let written: Vec<Batch> =
        model.with(|writes| writes.batches.values().map(|(batch, _)| *batch).collect());
    let batches = written.into_iter().map(Batch::to_arrow);
    register(
        &context,
        FRAME,
        batches.collect::<std::result::Result<_, _>>()?,
    )?;
    Ok(context)
}
