//! The session's options travel with a plan: decoded functions and operators read them when they run.

use crate::error::{Error, Result};
use datafusion::config::ConfigOptions;
use datafusion::prelude::SessionConfig;
use std::collections::BTreeMap;

const OURS: &str = "datafusion.";
const OF_THE_MACHINE: [&str; 2] = [
    "datafusion.execution.target_partitions",
    "datafusion.execution.planning_concurrency",
];

/// The options that differ from their defaults.
pub fn saved(config: &SessionConfig) -> BTreeMap<String, String> {
    let defaults: BTreeMap<String, Option<String>> = ConfigOptions::default()
        .entries()
        .into_iter()
        .map(|entry| (entry.key, entry.value))
        .collect();
    config
        .options()
        .entries()
        .into_iter()
        .filter(|entry| entry.key.starts_with(OURS))
        .filter(|entry| {
            // Defaults that follow the machine are no defaults elsewhere.
            OF_THE_MACHINE.contains(&entry.key.as_str())
                || defaults.get(&entry.key) != Some(&entry.value)
        })
        .filter_map(|entry| Some((entry.key, entry.value?)))
        .collect()
}

/// The session of the planning node.
pub(super) fn restored(options: &BTreeMap<String, String>) -> Result<SessionConfig> {
    let mut config = SessionConfig::new();
    for (key, value) in options {
        config
            .options_mut()
            .set(key, value)
            .map_err(|error| Error::corrupt(key, error))?;
    }
    Ok(config)
}
