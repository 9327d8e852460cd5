//! A store that ignores create-if-absent: no node may start on it, also one that has started on such a
//! meadow when it was sound.

use super::node;
use crate::checkers::node_1;
use crate::host::Hardware;
use crate::object_store::Faults;
use crate::object_store::profiles;
use crate::world::World;
use apiary_engine::error::ErrorKind;

const UNFIT: &str = "cannot be a meadow";

pub fn run(world: &mut World) -> Result<(), String> {
    let profile = world.rng.pick(profiles::ALL).unwrap_or(&profiles::ALL[0]);
    let (computer, store) = (
        world.computer("box", Hardware::default()),
        world.store.clone(),
    );
    let running = world.start(&computer).map_err(|error| error.to_string())?;
    let was_sound = world.rng.chance(500);
    running.block_on(async {
        let start = async || node::start_on_store(&store, &running.host, node::settings()).await;
        if was_sound {
            store.set_faults(profile.faults);
            let started = start().await.map_err(node_1::does_not_start)?;
            started.shutdown().await.map_err(node_1::does_not_stop)?;
        }
        store.set_faults(Faults {
            ignores_create: true,
            ..profile.faults
        });
        match start().await {
            Ok(_) => Err("LEDGER-1: a node starts on a store that ignores create-if-absent".into()),
            Err(error)
                if error.kind() == ErrorKind::Rejected && error.to_string().contains(UNFIT) =>
            {
                world.trace.count("unfit_stores_refused", 1);
                Ok(())
            }
            Err(error) => Err(format!("NODE-1: an unfit store is refused with {error}")),
        }
    })
}
