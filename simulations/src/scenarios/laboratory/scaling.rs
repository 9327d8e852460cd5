//! Queries of three TPC-H shapes by a swarm of so many nodes on a store like S3: how long they take, and
//! what they ask of the store.
//!
//! Work takes no simulated time; the bytes of the scanned cells do. A cell of about 1.3 kB stands for one
//! of 64 MB: each of its bytes takes as long as 50,000 would.

use super::{board, failed, requests, s3};
use crate::clock;
use crate::scenarios::node;
use crate::workload::answers::{CREATE_FRAMES, Facts};
use crate::workload::client;
use crate::workload::rows::Batch;
use crate::world::{Running, World};
use apiary_actors::Node;
use apiary_engine::behavior::placement::Distribute;
use apiary_engine::settings::Settings;
use futures::FutureExt;
use std::time::Duration;

/// A scan and a small group (as Q1), a scan with a filter (as Q6), a join, a group and the first rows
/// (as Q3).
pub const SHAPES: [(&str, &str); 3] = [
    (
        "q1_ms",
        "SELECT label, count(*), sum(value), avg(row) FROM facts WHERE value % 3 <> 0 GROUP BY label ORDER BY label",
    ),
    (
        "q6_ms",
        "SELECT count(*), sum(value), min(label), max(row) FROM facts",
    ),
    (
        "q3_ms",
        "SELECT w.weight, sum(a.value), count(DISTINCT b.batch) FROM facts a JOIN facts b ON a.row = b.row JOIN weights w \
     ON w.label = b.label GROUP BY w.weight ORDER BY w.weight",
    ),
];

const START_MAX: Duration = Duration::from_secs(300);
const QUERY_MAX: Duration = Duration::from_secs(3_600);

pub fn run(world: &mut World) -> Result<(), String> {
    let count = world.parameter("nodes", 1);
    let cells = world.parameter("cells", 128);
    let mut faults = s3().faults;
    world.store.set_faults(faults);
    let facts = fill(world, cells)?;
    faults.cell_factor = world.parameter("factor", 50_000);
    world.store.set_faults(faults);
    let mut nodes = Vec::new();
    for index in 0..count {
        nodes.push(start(world, index)?);
    }
    let runnings: Vec<&Running> = nodes.iter().map(|(running, _)| running).collect();
    // Long enough to be seen to beat: who is not known to be alive is given nothing.
    world.run_all(&runnings, START_MAX, || false);
    let first = nodes[0].1.take().and_then(|started| started.now_or_never());
    let first = first.ok_or("the first node has not started")?;
    let first = first.map_err(|error| error.to_string())?.map_err(failed)?;
    for (name, text) in SHAPES {
        let (trace, node) = (world.trace.clone(), first.clone());
        let asked = async move { client::execute_traced(&node, text, "asker", &trace).await };
        let mut answer = nodes[0].0.spawn(asked);
        let (began_at, before) = (clock::now(), requests(world));
        let runnings: Vec<&Running> = nodes.iter().map(|(running, _)| running).collect();
        let mut answered = None;
        world.run_all(&runnings, QUERY_MAX, || {
            answered = (&mut answer).now_or_never();
            answered.is_some()
        });
        let answered = answered.ok_or("QUERY-3: a query has not ended")?;
        let rows = answered
            .map_err(|error| error.to_string())?
            .map_err(failed)?;
        facts.check(text, &rows)?;
        let (after, took) = (requests(world), clock::now() - began_at);
        world.trace.count(name, took.as_millis() as u64);
        world.trace.count("query_gets", after.0 - before.0);
        world.trace.count("query_puts", after.1 - before.1);
    }
    Ok(())
}

fn fill(world: &mut World, cells: u64) -> Result<Facts, String> {
    let hardware = board(world);
    let computer = world.computer("maker", hardware);
    let running = world.start(&computer).map_err(|error| error.to_string())?;
    running.block_on(async {
        let batches = (0..cells).map(|number| Batch {
            number,
            row_count: 40,
        });
        let texts = SHAPES.iter().map(|(_, text)| *text);
        let facts = Facts::new(batches.collect(), texts).await?;
        let settings = Settings::default();
        let started = node::start_on_store(&world.store, &running.host, settings);
        let started = started.await.map_err(failed)?;
        for text in CREATE_FRAMES {
            client::execute(&started, text).await.map_err(failed)?;
        }
        facts.write(&started).await.map_err(failed)?;
        started.shutdown().await.map_err(failed)?;
        Ok(facts)
    })
}

type Started = tokio::task::JoinHandle<apiary_engine::Result<Node>>;

fn start(world: &mut World, index: u64) -> Result<(Running, Option<Started>), String> {
    let hardware = board(world);
    let computer = world.computer(&format!("node-{index}"), hardware);
    let running = world.start(&computer).map_err(|error| error.to_string())?;
    let (store, host) = (world.store.clone(), running.host.clone());
    let settings = Settings {
        distribute: Distribute::On,
        ..Settings::default()
    };
    let started = running.spawn(async move { node::start_on_store(&store, &host, settings).await });
    Ok((running, Some(started)))
}
