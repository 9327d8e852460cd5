//! DataFusion by itself, without a node: joins, groups, windows and a sort that spills. When this
//! differs between two runs of a seed, so will everything above it.

use crate::host::Hardware;
use crate::world::{Running, World};
use apiary_engine::host::SpillFactory;
use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use std::sync::Arc;

const ROW_COUNT: u64 = 40_000;
const POOL_BYTES: usize = 4 << 20;

const QUERIES: [&str; 4] = [
    "SELECT key % 17 AS k, count(*), sum(value), count(DISTINCT label) FROM t GROUP BY 1",
    "SELECT a.label, count(*) FROM t a JOIN t b ON a.key = b.value GROUP BY a.label",
    "SELECT key, label, value FROM t ORDER BY label, value, key",
    "SELECT label, max(r) FROM (SELECT label, row_number() OVER (PARTITION BY label ORDER BY key) \
     AS r FROM t) GROUP BY label",
];

pub fn run(world: &mut World) -> Result<(), String> {
    let computer = world.computer("alone", Hardware::default());
    let node = world.start(&computer).map_err(|error| error.to_string())?;
    node.block_on(queries(world, &node))
        .map_err(|error| error.to_string())?;
    match world.trace.coverage().get("spilled_bytes") {
        Some(bytes) if *bytes > 0 => Ok(()),
        _ => Err("the sort was to spill and did not".into()),
    }
}

async fn queries(world: &World, node: &Running) -> Result<()> {
    let spill: &Arc<dyn SpillFactory> = match &node.host.spill {
        Some(spill) => spill,
        None => return datafusion::common::internal_err!("a simulated host spills into memory"),
    };
    let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Custom(spill.chamber()));
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_limit(POOL_BYTES, 1.0)
        .with_disk_manager_builder(disk)
        .build_arc()?;
    let config = SessionConfig::new()
        .with_target_partitions(4)
        .with_batch_size(1024)
        .with_sort_spill_reservation_bytes(64 << 10)
        .set_usize("datafusion.execution.planning_concurrency", 4);
    let context = SessionContext::new_with_config_rt(config, runtime);
    let table = table(world)?;
    context.register_table("t", Arc::new(table))?;
    for (index, query) in QUERIES.iter().enumerate() {
        let batches = context.sql(query).await?.collect().await?;
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let text = pretty_format_batches(&batches)?.to_string();
        let crc = crate::trace::checksum([text.as_bytes()]);
        world.trace.event(
            &node.name,
            format_args!("query {index}: {rows} rows {crc:08x}"),
        );
    }
    Ok(())
}

fn table(world: &World) -> Result<MemTable> {
    let mut rng = world.rng.fork("rows");
    let mut partitions = Vec::new();
    for _ in 0..4 {
        let keys: Int64Array = (0..ROW_COUNT / 4)
            .map(|_| rng.below(ROW_COUNT) as i64)
            .collect();
        let values: Int64Array = (0..ROW_COUNT / 4).map(|_| rng.below(1000) as i64).collect();
        let labels: StringArray = (0..ROW_COUNT / 4)
            .map(|_| Some(format!("label number {}", rng.below(50))))
            .collect();
        partitions.push(vec![RecordBatch::try_from_iter([
            ("key", Arc::new(keys) as _),
            ("value", Arc::new(values) as _),
            ("label", Arc::new(labels) as _),
        ])?]);
    }
    MemTable::try_new(partitions[0][0].schema(), partitions)
}
