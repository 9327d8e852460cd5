//! What is measured in simulated time. No checkers but that answers are right; the measures are counted
//! like coverage, and the laboratory (see `crate::laboratory`) makes tables of them.

pub mod idle;
pub mod scaling;

use crate::clock::SimClock;
use crate::host::Hardware;
use crate::object_store::profiles::{self, Profile};
use crate::world::World;

/// The store that experiments run on.
fn s3() -> &'static Profile {
    let found = profiles::ALL
        .iter()
        .find(|profile| profile.name == "AWS S3");
    found.unwrap_or(&profiles::ALL[0])
}

fn board(world: &mut World) -> Hardware {
    Hardware {
        cores: 2,
        memory_bytes: 256 << 20,
        disk_us_max: 5_000,
        clock: SimClock {
            offset_ms: world.rng.below(10_000) as i64 - 5_000,
            drift_ppm: 0,
        },
    }
}

/// Requests so far, by what they cost: a GET, and what costs as much as a PUT.
fn requests(world: &World) -> (u64, u64) {
    let coverage = world.trace.coverage();
    let of = |kind: &str| coverage.get(kind).copied().unwrap_or(0);
    let gets = of("requests_get") + of("requests_head");
    (gets, of("requests_put") + of("requests_list"))
}

fn failed(error: apiary_engine::Error) -> String {
    error.to_string()
}
