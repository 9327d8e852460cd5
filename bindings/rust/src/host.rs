//! The real [`Host`](apiary_engine::host::Host).
use apiary_engine::Result;
use apiary_engine::host::{Host, Runtimes};
use apiary_engine::settings::Settings;

/// Cores that this process may use, at least 1.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get())
}

pub fn system_host(settings: &Settings, runtimes: Runtimes) -> Result<Host> {
    let _ = (settings, runtimes);
    todo!()
}
