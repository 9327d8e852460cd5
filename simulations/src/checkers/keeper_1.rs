//! KEEPER-1: after every node stopped cleanly, nothing is left under `_swarm/` but the bell.

pub fn check<'a>(keys: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
    let left = keys
        .into_iter()
        .find(|key| key.starts_with("_swarm/") && *key != "_swarm/bell");
    left.map_or(Ok(()), |key| {
        Err(format!("KEEPER-1: {key} is left after a clean stop"))
    })
}
