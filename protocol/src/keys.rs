//! Every key in the meadow is built and parsed here. Keys are relative to the meadow's root.

pub const MANIFEST: &str = "apiary.json";
pub const REGISTRY_PREFIX: &str = "_registry";
pub const BELL: &str = "_swarm/bell";
pub const NODES_PREFIX: &str = "_swarm/nodes";

/// `{location}/_delta_log/{version:020}.json`
pub fn commit(location: &str, version: u64) -> String {
    format!("{location}/_delta_log/{version:020}.json")
}

/// `{location}/_delta_log`
pub fn log_prefix(location: &str) -> String {
    format!("{location}/_delta_log")
}

/// `{location}/_delta_log/{version:020}.checkpoint.parquet`
pub fn checkpoint(location: &str, version: u64) -> String {
    format!("{location}/_delta_log/{version:020}.checkpoint.parquet")
}

/// `{location}/_delta_log/_last_checkpoint`
pub fn last_checkpoint(location: &str) -> String {
    format!("{location}/_delta_log/_last_checkpoint")
}

/// `_registry/{version:020}.json`
pub fn registry(version: u64) -> String {
    format!("{REGISTRY_PREFIX}/{version:020}.json")
}

/// `_swarm/nodes/{node}`
pub fn heartbeat(node: crate::ids::NodeId) -> String {
    format!("{NODES_PREFIX}/{node}")
}
