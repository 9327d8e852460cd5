//! A day of nodes that have nothing to do.

use super::{board, failed, requests, s3};
use crate::scenarios::node;
use crate::world::{Running, World};
use apiary_engine::settings::Settings;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3_600);

pub fn run(world: &mut World) -> Result<(), String> {
    world.store.set_faults(s3().faults);
    let count = world.parameter("nodes", 1);
    let mut nodes = Vec::new();
    for index in 0..count {
        let hardware = board(world);
        let computer = world.computer(&format!("node-{index}"), hardware);
        let running = world.start(&computer).map_err(|error| error.to_string())?;
        let (store, host) = (world.store.clone(), running.host.clone());
        let started = running.spawn(async move {
            let settings = Settings::default();
            node::start_on_store(&store, &host, settings).await
        });
        nodes.push((running, started));
    }
    let runnings: Vec<&Running> = nodes.iter().map(|(running, _)| running).collect();
    // The first hour is not that of a node at rest.
    world.run_all(&runnings, Duration::from_secs(3_600), || false);
    let before = requests(world);
    world.run_all(&runnings, DAY, || false);
    let after = requests(world);
    for (_, started) in nodes.iter_mut() {
        let started = futures::FutureExt::now_or_never(started);
        let started = started.ok_or("a node has not started")?;
        started
            .map_err(|error| error.to_string())?
            .map_err(failed)?;
    }
    world.trace.count("day_gets", after.0 - before.0);
    world.trace.count("day_puts", after.1 - before.1);
    Ok(())
}
