//! One node on one disk, writers and a reader; the power goes at a random moment, again and again,
//! also while the node starts. After each cut: every acknowledged write there once, the others wholly
//! in or wholly out, versions dense and unchanged, cells whole, and the node reads what the
//! independent reader reads.

use super::node;
use crate::checkers::{self, ledger_1, ledger_2, node_1, query_3};
use crate::host::Hardware;
use crate::trace::Trace;
use crate::workload::client::{self, Writer};
use crate::workload::model::{Model, Writes};
use crate::workload::rows::CREATE_FRAME;
use crate::world::{Computer, Lived, Running, World};
use apiary_actors::Node;
use apiary_engine::settings::Settings;
use futures::future::{Either, select};
use std::pin::pin;
use tokio_util::task::AbortOnDropHandle;

const CUTS_PER_RUN: u64 = 10;
const WRITER_COUNT: u64 = 3;
/// More file calls than a life makes: such lives end without a cut in their middle.
const FUSE_MAX: u64 = 900;

/// What outlives the nodes.
struct Story {
    computer: Computer,
    model: Model,
    writers: Vec<Writer>,
    settings: Settings,
    seen: ledger_1::Seen,
    /// Where the frame lies, as the last node said.
    location: Option<String>,
}

pub fn run(world: &mut World) -> Result<(), String> {
    tell(world, node::settings())
}

/// The same with nothing made durable: some seeds must fail.
pub fn run_unsynced(world: &mut World) -> Result<(), String> {
    tell(
        world,
        Settings {
            sync: false,
            ..node::settings()
        },
    )
}

fn tell(world: &mut World, settings: Settings) -> Result<(), String> {
    let hardware = Hardware {
        disk_us_max: world.rng.between(100, 8_000),
        ..Hardware::default()
    };
    let computer = world.computer("box", hardware);
    let model = Model::default();
    let writer = |index| {
        let mut writer = Writer::new(index, WRITER_COUNT, &model, &world.trace, &world.rng);
        writer.disk = Some(computer.disk.clone());
        writer
    };
    let writers = (0..WRITER_COUNT).map(writer).collect();
    let mut story = Story {
        computer,
        model,
        writers,
        settings,
        seen: ledger_1::Seen::new(),
        location: None,
    };
    for life in 0..CUTS_PER_RUN {
        let is_short = world.rng.chance(300);
        let fuse = world.rng.below(if is_short { 60 } else { FUSE_MAX });
        story.computer.disk.cut_after(fuse);
        let running = world
            .start(&story.computer)
            .map_err(|error| error.to_string())?;
        let count = world.rng.between(1, 15);
        let lived = running.block_on_until_dark(live(&mut story, &running, count));
        if let Lived::ToTheEnd(result) = lived {
            result.map_err(|violation| format!("{violation} (in life {life})"))?;
            story.computer.disk.cut_now();
        }
        world.crash(running);
        story.computer.disk.power_cut(&mut world.rng);
        check_disk(&mut story, &world.trace)?;
    }
    finish(world, &mut story)
}

/// A life that power may end: start, check what the last one left, write and read.
async fn live(story: &mut Story, running: &Running, count: u64) -> Result<(), String> {
    let started = node::start_on_disk(&running.host, story.settings.clone())
        .await
        .map_err(node_1::does_not_start)?;
    client::execute(&started, CREATE_FRAME)
        .await
        .map_err(query_3::unexplained)?;
    check(story, running, &started).await?;
    let watcher = AbortOnDropHandle::new(running.spawn(client::watch(
        started.clone(),
        story.model.clone(),
        running.trace().clone(),
        running.rng("watcher"),
        Some(story.computer.disk.clone()),
    )));
    let writing = story.writers.iter_mut().map(|writer| {
        let goal = writer.finished_count + count;
        writer.write_until(&started, goal)
    });
    let writing = pin!(futures::future::try_join_all(writing));
    let watching = pin!(client::first_violation(watcher));
    let violation = match select(writing, watching).await {
        Either::Left((Ok(_), _)) => return Ok(()),
        Either::Left((Err(error), _)) => ledger_2::unexplained(error),
        Either::Right((violation, _)) => violation,
    };
    let objects = node::objects_on_disk(&story.computer);
    let location = story.location.as_deref().unwrap_or(node::LOCATION);
    let blame = |writes: &Writes| checkers::blame(violation, &objects, location, writes);
    Err(story.model.with(blame))
}

/// What a cut left, before a node sees it.
fn check_disk(story: &mut Story, trace: &Trace) -> Result<(), String> {
    let Some(location) = &story.location else {
        return Ok(());
    };
    let objects = node::objects_on_disk(&story.computer);
    let frame = node::read_frame(&objects, location, trace)?;
    let seen = &mut story.seen;
    story
        .model
        .with(|writes| checkers::check_frame(writes, &frame, seen))
}

/// What is on the disk, read by ourselves and by the node.
async fn check(story: &mut Story, running: &Running, started: &Node) -> Result<(), String> {
    let location = node::location(started)
        .await
        .map_err(query_3::unexplained)?;
    let objects = node::objects_on_disk(&story.computer);
    let mut frame = node::read_frame(&objects, &location, running.trace())?;
    story.location = Some(location);
    let seen = &mut story.seen;
    story
        .model
        .with(|writes| checkers::check_frame(writes, &frame, seen))?;
    let mut rows = client::read_all(started, running.trace())
        .await
        .map_err(query_3::unexplained)?;
    rows.sort();
    frame.rows.sort();
    if rows != frame.rows {
        let (node, reader) = (rows.len(), frame.rows.len());
        return Err(format!(
            "QUERY-1: the node reads {node} rows, the independent reader {reader}"
        ));
    }
    Ok(())
}

/// A last life without a cut: writers finish what they began, and the node stops cleanly.
fn finish(world: &mut World, story: &mut Story) -> Result<(), String> {
    let running = world
        .start(&story.computer)
        .map_err(|error| error.to_string())?;
    running.block_on(async {
        let started = node::start_on_disk(&running.host, story.settings.clone())
            .await
            .map_err(node_1::does_not_start)?;
        client::execute(&started, CREATE_FRAME)
            .await
            .map_err(query_3::unexplained)?;
        for writer in &mut story.writers {
            // Nothing may be on its way when two readers are compared.
            writer.is_patient = true;
            let goal = writer.finished_count + 2;
            writer
                .write_until(&started, goal)
                .await
                .map_err(ledger_2::unexplained)?;
        }
        check(story, &running, &started).await?;
        started.shutdown().await.map_err(node_1::does_not_stop)?;
        node_1::check("the node", &started)
    })?;
    world.trace.count(
        "batches_at_the_end",
        story.model.acknowledged_count() as u64,
    );
    Ok(())
}
