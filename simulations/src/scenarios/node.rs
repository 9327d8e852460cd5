//! Starting the real node on a simulated computer.

use crate::checkers::keeper_1::Limits;
use crate::checkers::reader::{self, FrameReading};
use crate::checkers::{self, ledger_5};
use crate::object_store::SimStore;
use crate::rng::Rng;
use crate::trace::Trace;
use crate::workload::client;
use crate::workload::model::Model;
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
use std::time::Duration;

/// Where the meadow lies on a simulated disk.
const MEADOW_DIRECTORY: &str = "/meadow";
/// Where parts of cells of a meadow elsewhere lie on it.
const CACHE_DIRECTORY: &str = "/cache";
/// About thirty of the small cells that are written there.
const CACHE_BYTES_MAX: u64 = 128 << 10;

const SWEEP_AGE: Duration = Duration::from_secs(2 * 3_600);
/// Time for the looks that everything in these scenarios takes: each kill may leave a mark, and the
/// Keeper, who looks every ten minutes, takes one at every second look.
const KEEPER_LOOKS: Duration = Duration::from_secs(8 * 3_600);

/// Small enough that checkpoints and cuts of cells happen in a short run.
pub fn settings() -> Settings {
    Settings {
        checkpoint_interval: 7,
        bees: Some(2),
        ..Settings::default()
    }
}

/// With an age of sweeping that a simulation can wait for.
pub fn sweeping_settings() -> Settings {
    Settings {
        sweep_age_ms: SWEEP_AGE.as_millis() as u64,
        ..settings()
    }
}

/// How old things become while a node with [`sweeping_settings`] lives: heartbeats are swept after an
/// hour, and the Keeper takes its time.
pub fn limits() -> Limits {
    Limits {
        swarm: Duration::from_secs(3_600) + KEEPER_LOOKS,
        cells: SWEEP_AGE + KEEPER_LOOKS,
    }
}

/// A node whose meadow is a directory of its computer's disk.
pub async fn start_on_disk(host: &Host, settings: Settings) -> Result<Node> {
    let meadow = Meadow::open(&format!("file://{MEADOW_DIRECTORY}"), host, &settings)?;
    Node::start(host.clone(), meadow, settings, Role::Resident).await
}

/// A node whose meadow is the world's object store, with a cache on its computer's disk that is too
/// small for all.
pub async fn start_on_store(store: &SimStore, host: &Host, settings: Settings) -> Result<Node> {
    let view = store.view(&host.machine.host_name());
    let meadow = Meadow::over(view, "memory://simulated", host, &settings).as_remote();
    // It is there from the last start, unless the power was cut.
    let _ = host.files.make_directory(Path::new(CACHE_DIRECTORY));
    let settings = Settings {
        cache_directory: Some(CACHE_DIRECTORY.into()),
        cache_bytes_max: Some(CACHE_BYTES_MAX),
        ..settings
    };
    Node::start(host.clone(), meadow, settings, Role::Resident).await
}

/// What the cache of a node did, for the summary.
pub async fn count_cache(node: &Node, trace: &Trace) -> Result<()> {
    if let Some(cache) = node.status().await?.cache {
        trace.count("cached_parts_read", cache.hits);
        trace.count("cached_parts_evicted", cache.evicted);
        trace.count("cached_parts_damaged", cache.damaged);
    }
    Ok(())
}

/// Bits of what a computer has cached change.
pub fn rot_cache(computer: &Computer, rng: &mut Rng) {
    computer.disk.rot(Path::new(CACHE_DIRECTORY), rng);
}

/// Reads all cells of the clients' frame, one column of each, so that every part that is cached of them
/// is read.
pub async fn read_cells(node: &Node) -> Result<()> {
    let text = "SELECT sum(value) FROM journal";
    client::execute(node, text).await.map(drop)
}

/// All objects of a meadow on a disk, by key.
pub fn objects_on_disk(computer: &Computer) -> BTreeMap<String, Bytes> {
    computer
        .disk
        .files()
        .into_iter()
        .filter_map(|(path, body)| Some((key_of(&path)?, body)))
        .collect()
}

/// How long ago the objects of a meadow on a disk were written, by key.
pub fn ages_on_disk(computer: &Computer) -> BTreeMap<String, Duration> {
    let ages = computer.disk.ages().into_iter();
    ages.filter_map(|(path, age)| Some((key_of(&path)?, age)))
        .collect()
}

fn key_of(path: &Path) -> Option<String> {
    let relative = path.strip_prefix(MEADOW_DIRECTORY).ok()?;
    relative.to_str().map(str::to_string)
}

/// Where the node says that the clients' frame lies.
pub async fn location(node: &Node) -> Result<String> {
    let name = FrameName::parse("default", "default", FRAME)?;
    Ok(node.view().await?.frame(&name)?.location.clone())
}

/// Where it lies as long as nobody has dropped it.
pub const LOCATION: &str = "default/default/journal";

/// What a client was told wrong, by the invariant that is broken.
pub async fn blame_on(store: &SimStore, model: &Model, violation: String) -> String {
    if let Err(cause) = store.check() {
        return format!("{cause}; and {violation}");
    }
    match store.objects().await {
        Ok(objects) => model.with(|writes| checkers::blame(violation, &objects, LOCATION, writes)),
        Err(error) => format!("{violation}; and the store cannot be read: {error}"),
    }
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
    trace.count(
        "rewrites_checked",
        ledger_5::check(objects, location, &frame)?,
    );
    Ok(frame)
}
