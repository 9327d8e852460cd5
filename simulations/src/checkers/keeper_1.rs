//! KEEPER-1: after every node stopped cleanly, nothing is left under `_swarm/` but the bell; after a
//! crash, while any node lives, nothing older than the sweep age. The same holds for the marks of
//! frames in the making, and for cells that no version names.

use std::collections::BTreeSet;
use std::time::Duration;

const SWARM: &str = "_swarm/";
const QUERIES: &str = "_swarm/queries/";
const BELL: &str = "_swarm/bell";
const MAKING: &str = "_making/";

pub fn check<'a>(keys: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
    let left = keys.into_iter().find(|key| is_swept(key));
    left.map_or(Ok(()), |key| {
        Err(format!("KEEPER-1: {key} is left after a clean stop"))
    })
}

/// For a meadow where nodes crashed a short while ago: of the queries nothing is left.
pub fn check_queries<'a>(keys: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
    let left = keys.into_iter().find(|key| key.starts_with(QUERIES));
    left.map_or(Ok(()), |key| {
        Err(format!("KEEPER-1: {key} is left when all queries are over"))
    })
}

/// How old things may become: the ages at which they are swept, and the time until that is done.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub swarm: Duration,
    pub cells: Duration,
}

/// `objects` are all objects with their ages, `named` the keys of all cells that a version names.
pub fn check_ages<'a>(
    objects: impl IntoIterator<Item = (&'a str, Duration)>,
    named: &BTreeSet<String>,
    limits: Limits,
) -> Result<(), String> {
    for (key, age) in objects {
        let is_cell = key.ends_with(".parquet") && !key.contains("/_delta_log/");
        let limit = match () {
            () if key.starts_with(SWARM) && is_swept(key) => limits.swarm,
            () if is_swept(key) => limits.cells,
            () if is_cell && !named.contains(key) => limits.cells,
            () => continue,
        };
        if age > limit {
            let (age, limit) = (age.as_secs(), limit.as_secs());
            return Err(format!(
                "KEEPER-1: {key} is {age} s old, and a node that lives sweeps it within {limit} s"
            ));
        }
    }
    Ok(())
}

fn is_swept(key: &str) -> bool {
    (key.starts_with(SWARM) && key != BELL) || key.starts_with(MAKING)
}
