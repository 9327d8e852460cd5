//! Frames are created, filled, dropped, purged and made anew on a disk whose power goes at any step.
//! What was acknowledged holds; whatever was left half done, the next node finishes or aborts, so that
//! a name can always be used again. The last node lives on until all that makers left is swept.

use super::node;
use crate::checkers::{keeper_1, ledger_1, ledger_4, node_1, query_3, reader};
use crate::host::Hardware;
use crate::rng::Rng;
use crate::workload::client;
use crate::world::{Computer, Lived, Running, World};
use apiary_actors::Node;
use apiary_engine::error::{Error, ErrorKind};
use apiary_protocol::names::FrameName;
use arrow::array::{Int64Array, RecordBatch};
use std::collections::{BTreeMap, BTreeSet};

const LIFE_COUNT: u64 = 12;
const FUSE_MAX: u64 = 250;
const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];

/// What a name may be: absent, or a frame with one row that says which statement made it. More than
/// one while the answer to a statement is missing: as before it or as after it.
type Known = BTreeSet<Option<u64>>;

struct Story {
    computer: Computer,
    names: BTreeMap<&'static str, Known>,
    statement_count: u64,
    rng: Rng,
}

pub fn run(world: &mut World) -> Result<(), String> {
    let computer = world.computer("box", Hardware::default());
    let names = NAMES.map(|name| (name, Known::from([None]))).into();
    let rng = world.rng.fork("statements");
    let mut story = Story {
        computer,
        names,
        statement_count: 0,
        rng,
    };
    for life in 0..LIFE_COUNT {
        story.computer.disk.cut_after(world.rng.below(FUSE_MAX));
        let running = world
            .start(&story.computer)
            .map_err(|error| error.to_string())?;
        if let Lived::ToTheEnd(result) = running.block_on_until_dark(live(&mut story, &running)) {
            result.map_err(|violation| format!("{violation} (in life {life})"))?;
            story.computer.disk.cut_now();
        }
        world.crash(running);
        story.computer.disk.power_cut(&mut world.rng);
    }
    let running = world
        .start(&story.computer)
        .map_err(|error| error.to_string())?;
    running.block_on(async {
        let started = start(&running).await?;
        check(&mut story, &running, &started).await?;
        for name in NAMES {
            // Whatever has become of it, the name can be used.
            one(&mut story, &running, &started, name, true).await?;
            one(&mut story, &running, &started, name, false).await?;
        }
        check(&mut story, &running, &started).await?;
        check_house(&story, &running).await?;
        check(&mut story, &running, &started).await?;
        started.shutdown().await.map_err(node_1::does_not_stop)?;
        node_1::check("the node", &started)
    })
}

/// Lets the node live on past every age of sweeping.
async fn check_house(story: &Story, running: &Running) -> Result<(), String> {
    let named = reader::ever_named(&node::objects_on_disk(&story.computer));
    let before = node::ages_on_disk(&story.computer);
    let limits = node::limits();
    tokio::time::sleep(limits.cells).await;
    let after = node::ages_on_disk(&story.computer);
    let swept = |prefix: &str| {
        let gone = before.keys().filter(|key| !after.contains_key(*key));
        gone.filter(|key| key.starts_with(prefix)).count() as u64
    };
    running.trace().count("marks_swept", swept("_making/"));
    running.trace().count("cells_swept", swept("default/"));
    let ages = after.iter().map(|(key, age)| (key.as_str(), *age));
    keeper_1::check_ages(ages, &named, limits)
}

async fn start(running: &Running) -> Result<Node, String> {
    let started = node::start_on_disk(&running.host, node::sweeping_settings()).await;
    started.map_err(node_1::does_not_start)
}

async fn live(story: &mut Story, running: &Running) -> Result<(), String> {
    let started = start(running).await?;
    check(story, running, &started).await?;
    for _ in 0..6 {
        let name = story.rng.pick(&NAMES).copied().unwrap_or(NAMES[0]);
        let is_drop = story.rng.chance(400);
        one(story, running, &started, name, is_drop).await?;
    }
    check(story, running, &started).await
}

/// Creates or drops one frame, and learns from the answer.
async fn one(
    story: &mut Story,
    running: &Running,
    started: &Node,
    name: &'static str,
    is_drop: bool,
) -> Result<(), String> {
    story.statement_count += 1;
    let number = story.statement_count;
    let text = match (is_drop, story.rng.chance(500)) {
        (true, true) => format!("DROP TABLE IF EXISTS {name} PURGE"),
        (true, false) => format!("DROP TABLE IF EXISTS {name}"),
        (false, _) => format!("CREATE TABLE {name} AS SELECT {number} AS made_by"),
    };
    let before = story.names.get(name).cloned().unwrap_or_default();
    let done = if is_drop { None } else { Some(number) };
    let open: Known = before.iter().copied().chain([done]).collect();
    story.names.insert(name, open);
    let result = client::execute_traced(started, &text, &running.name, running.trace()).await;
    if story.computer.disk.is_dark() {
        return Ok(());
    }
    running.trace().count("statements_answered", 1);
    let after = match result {
        Ok(_) if !is_drop && !before.contains(&None) => {
            return Err(format!(
                "LEDGER-2: {text} succeeds though {name} was {before:?}"
            ));
        }
        Ok(_) => Known::from([done]),
        Err(Error::AlreadyExists { .. }) if !is_drop && before.iter().any(Option::is_some) => {
            before.into_iter().filter(Option::is_some).collect()
        }
        Err(error) if error.kind() == ErrorKind::OutcomeUnknown => return Ok(()),
        Err(error) => {
            let violation = query_3::unexplained(error);
            return Err(format!("{violation}, from {text}; {name} was {before:?}"));
        }
    };
    story.names.insert(name, after);
    Ok(())
}

/// Each name is what was acknowledged; of the unknown ones, what they are is learnt.
async fn check(story: &mut Story, running: &Running, started: &Node) -> Result<(), String> {
    for (name, known) in story.names.clone() {
        let text = format!("SELECT made_by FROM {name}");
        let result = client::execute_traced(started, &text, &running.name, running.trace()).await;
        if story.computer.disk.is_dark() {
            return Ok(());
        }
        let found = match result {
            Ok(batches) => rows(&batches)?,
            Err(error) if is_absent(&error) => None,
            Err(error) => {
                let violation = query_3::unexplained(error);
                check_cells(story, started, name).await?;
                return Err(format!("{violation}, from {text}"));
            }
        };
        let found = match found.as_deref() {
            None => None,
            Some([made_by]) => Some(*made_by),
            Some(rows) => return Err(format!("LEDGER-2: {name} has the rows {rows:?}")),
        };
        if !known.contains(&found) {
            return Err(format!(
                "LEDGER-2: {name} is known as {known:?} and is {found:?}"
            ));
        }
        if found.is_some() {
            check_cells(story, started, name).await?;
        }
        // One that is half made is not found, and is there once somebody has finished it.
        if found.is_some() {
            story.names.insert(name, Known::from([found]));
        }
    }
    Ok(())
}

/// What an independent reader finds of a frame.
async fn check_cells(story: &Story, started: &Node, name: &str) -> Result<(), String> {
    let name = FrameName::parse("default", "default", name);
    let name = name.map_err(|error| error.to_string())?;
    let view = started.view().await.map_err(query_3::unexplained)?;
    // It may be on its way in or out.
    let Ok(entry) = view.frame(&name) else {
        return Ok(());
    };
    let objects = node::objects_on_disk(&story.computer);
    let frame = reader::read_log(&objects, &entry.location)?;
    ledger_1::check(&frame, &mut ledger_1::Seen::new())?;
    ledger_4::check(&frame)
}

fn is_absent(error: &Error) -> bool {
    match error {
        Error::NotFound { .. } => true,
        Error::Shared(inner) => is_absent(inner),
        _ => false,
    }
}

fn rows(batches: &[RecordBatch]) -> Result<Option<Vec<u64>>, String> {
    let mut rows = Vec::new();
    for batch in batches {
        let column = batch.column(0).as_any().downcast_ref::<Int64Array>();
        let column = column.ok_or("made_by is not of integers")?;
        rows.extend(column.values().iter().map(|value| *value as u64));
    }
    Ok(Some(rows))
}
