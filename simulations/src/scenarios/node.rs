//! Starting the real node on a simulated computer.

use crate::checkers::reader::{self, FrameReading};
use crate::object_store::SimStore;
use crate::trace::Trace;
use crate::workload::rows::FRAME;
use crate::world::Computer;
use apiary_actors::{Node, Role};
use apiary_engine::error::Result;
use apiary_engine::host::Host;
use apiary_engine::settings::Settings;
use apiary_engine::store::Meadow;
use apiary_protocol::names::FrameName;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;

/// Where the meadow lies on a simulated disk.
const MEADOW_DIRECTORY: &str = "/meadow";

/// Small enough that checkpoints and cuts of cells happen in a short run.
pub fn settings() -> Settings {
    Settings {
        checkpoint_interval: 7,
        bees: Some(2),
        ..Settings::default()
    }
}

/// A node whose meadow is a directory of its computer's disk.
pub async fn start_on_disk(host: &Host, settings: Settings) -> Result<Node> {
    let meadow = Meadow::open(&format!("file://{MEADOW_DIRECTORY}"), host, &settings)?;
    Node::start(host.clone(), meadow, settings, Role::Resident).await
}

/// A node whose meadow is the world's object store.
pub async fn start_on_store(store: &SimStore, host: &Host, settings: Settings) -> Result<Node> {
    let view = store.view(&host.machine.host_name());
    let meadow = Meadow::over(view, "memory://simulated", host, &settings);
    Node::start(host.clone(), meadow, settings, Role::Resident).await
}

/// All objects of a meadow on a disk, by key.
pub fn objects_on_disk(computer: &Computer) -> BTreeMap<String, Bytes> {
    let key = |path: &Path| {
        let relative = path.strip_prefix(MEADOW_DIRECTORY).ok()?;
        relative.to_str().map(str::to_string)
    };
    computer
        .disk
        .files()
        .into_iter()
        .filter_map(|(path, body)| Some((key(&path)?, body)))
        .collect()
}

/// Where the node says that the clients' frame lies.
pub async fn location(node: &Node) -> Result<String> {
    let name = FrameName::parse("default", "default", FRAME)?;
    Ok(node.view().await?.frame(&name)?.location.clone())
}

/// Reads the clients' frame without the engine.
pub fn read_frame(
    objects: &BTreeMap<String, Bytes>,
    location: &str,
    trace: &Trace,
) -> std::result::Result<FrameReading, String> {
    let frame = reader::read(objects, location)?;
    let (versions, cells, rows) = (frame.versions.len(), frame.cells.len(), frame.rows.len());
    trace.event(
        "checker",
        format_args!("read {versions} versions, {cells} cells, {rows} rows"),
    );
    trace.count("frames_checked", 1);
    Ok(frame)
}
