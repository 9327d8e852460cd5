//! What must never change has changed: bits of commits, checkpoints, cells, registry and manifest are
//! flipped, their ends cut off. A node that reads it gives the right answer or an error that says what is
//! corrupt; it takes nothing for empty, and nothing for what it is not.

use super::node;
use crate::checkers::{self, ledger_2, node_1, query_3};
use crate::host::Hardware;
use crate::rng::Rng;
use crate::workload::client::{self, Writer};
use crate::workload::model::Model;
use crate::workload::rows::CREATE_FRAME;
use crate::world::World;
use apiary_engine::error::{Error, ErrorKind};
use bytes::Bytes;
use std::collections::BTreeMap;

const WRITES: (u64, u64) = (3, 20);
/// Each with a node of its own.
const DAMAGES: u64 = 8;

pub fn run(world: &mut World) -> Result<(), String> {
    let model = Model::default();
    write(world, &model)?;
    let mut rng = world.rng.fork("damage");
    let objects = super::swarm::settled(world.store.objects())?;
    for index in 0..DAMAGES {
        let Some((key, damaged, how)) = damage(&objects, &mut rng) else {
            continue;
        };
        let sound = objects[&key].clone();
        super::swarm::settled(world.store.replace(&key, damaged, how))?;
        let read = read(world, &model, index);
        read.map_err(|violation| format!("{violation} (with {key} {how})"))?;
        super::swarm::settled(world.store.replace(&key, sound, "mended"))?;
    }
    Ok(())
}

fn write(world: &mut World, model: &Model) -> Result<(), String> {
    let computer = world.computer("maker", Hardware::default());
    let running = world.start(&computer).map_err(|error| error.to_string())?;
    let mut writer = Writer::new(0, 1, model, &world.trace, &world.rng);
    writer.is_patient = true;
    let (least, most) = WRITES;
    let count = world.rng.between(least, most);
    running.block_on(async {
        let started = node::start_on_store(&world.store, &running.host, node::settings()).await;
        let started = started.map_err(node_1::does_not_start)?;
        let made = client::execute(&started, CREATE_FRAME).await;
        made.map_err(query_3::unexplained)?;
        let written = writer.write_until(&started, count).await;
        written.map_err(ledger_2::unexplained)?;
        started.shutdown().await.map_err(node_1::does_not_stop)
    })
}

/// One of the objects, as it is after damage; `None` for one that would be as it was.
fn damage(
    objects: &BTreeMap<String, Bytes>,
    rng: &mut Rng,
) -> Option<(String, Bytes, &'static str)> {
    let is_kept = |key: &&String| !key.starts_with("_swarm/");
    let keys: Vec<&String> = objects.keys().filter(is_kept).collect();
    let key = *rng.pick(&keys)?;
    let body = &objects[key];
    let (left, how) = match rng.below(4) {
        0 | 1 => {
            let mut flipped = body.to_vec();
            *flipped.get_mut(rng.below(body.len() as u64) as usize)? ^= 1 << rng.below(8);
            (Bytes::from(flipped), "flipped")
        }
        2 => (body.slice(..rng.below(body.len() as u64) as usize), "cut"),
        _ => {
            let ends = (0..body.len()).filter(|at| body[*at] == b'\n');
            let ends: Vec<usize> = ends.map(|at| at + 1).collect();
            (body.slice(..*rng.pick(&ends)?), "cut at a line")
        }
    };
    (left != *body).then(|| (key.clone(), left, how))
}

/// All rows, by a node that has seen nothing of it before.
fn read(world: &mut World, model: &Model, index: u64) -> Result<(), String> {
    let computer = world.computer(&format!("reader-{index}"), Hardware::default());
    let running = world.start(&computer).map_err(|error| error.to_string())?;
    running.block_on(async {
        let started = node::start_on_store(&world.store, &running.host, node::settings()).await;
        let started = match started {
            Ok(started) => started,
            Err(error) => return told(world, error),
        };
        match client::read_all(&started, &world.trace).await {
            Ok(rows) => {
                world.trace.count("damage_without_effect", 1);
                let right = model.with(|writes| checkers::check_rows(writes, &rows));
                right.map_err(|reason| format!("QUERY-1: a wrong answer: {reason}"))?;
            }
            Err(error) => told(world, error)?,
        }
        started.shutdown().await.map_err(node_1::does_not_stop)
    })
}

/// Damage is told as damage.
fn told(world: &World, error: Error) -> Result<(), String> {
    if error.kind() != ErrorKind::Corrupt {
        return Err(format!(
            "QUERY-1: damage is told as {:?}: {error}",
            error.kind()
        ));
    }
    world.trace.count("damage_found", 1);
    Ok(())
}
