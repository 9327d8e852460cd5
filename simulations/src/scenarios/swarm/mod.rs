//! A swarm: several nodes on one object store, with clients whose queries and writes are shared among
//! all of them, while nodes crash, come back with or without their disks, freeze and wake, stop cleanly,
//! and the store has its bad hours. Then nothing goes wrong any more: every statement must end soon and
//! well, nodes stop cleanly, and whoever is left sweeps what the others left behind.

mod nemesis;
mod place;

use super::node;
use crate::checkers::{self, keeper_1, ledger_1, member_1, query_3, reader};
use crate::clock;
use crate::host::Hardware;
use crate::object_store::profiles::{self, Profile};
use crate::workload::answers::{self, Facts, QUESTIONS, WIDE_QUESTIONS};
use crate::workload::asker::{Asker, CREATE_SINK, Common, Weather};
use crate::workload::client::{self, Writer};
use crate::workload::model::Model;
use crate::workload::rows::{Batch, CREATE_FRAME};
use crate::world::World;
use apiary_actors::Node;
use futures::FutureExt;
use nemesis::Nemesis;
use place::{Place, step};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// All clients finish within this once nothing goes wrong any more.
const FINISH_MAX: Duration = Duration::from_secs(3_600);
/// A node stops within this when nothing goes wrong.
const STOP_MAX: Duration = Duration::from_secs(180);
/// What dead coordinators left is gone within this: until they are known to be dead, the age of an
/// orphan, a look, and until their end was asked for again.
const QUERIES_SWEPT: Duration = Duration::from_secs(2 * 3_600);
/// Batches of the writers and of the frame that is asked about have other numbers.
const FACTS_FROM: u64 = 1_000;

/// In a thousand runs with few rows, those in which some are wide.
const WIDE: u64 = 600;

/// What goes wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nodes and the store.
    Swarm,
    /// Nothing but coordination objects.
    Damage,
}

pub fn run(world: &mut World) -> Result<(), String> {
    play(world, Trouble::Swarm)
}

pub fn run_damaged(world: &mut World) -> Result<(), String> {
    play(world, Trouble::Damage)
}

/// What all of one run have in common.
struct Cast {
    common: Arc<Common>,
    model: Model,
    places: Vec<Place>,
    /// What the store is at its best.
    profile: &'static Profile,
}

fn play(world: &mut World, trouble: Trouble) -> Result<(), String> {
    let mut cast = prepare(world)?;
    for place in &mut cast.places {
        place.start(world)?;
    }
    *cast.common.weather.lock() = Weather {
        calm_since: None,
        is_stormy: trouble == Trouble::Swarm,
        is_damaging: trouble == Trouble::Damage,
    };
    world.store.set_faults(cast.profile.faults);
    Nemesis::new(world, trouble, cast.profile).rage(world, &mut cast)?;
    calm_down(world, &mut cast)?;
    finish(world, cast)
}

/// The frames, before anything goes wrong, and the clients.
fn prepare(world: &mut World) -> Result<Cast, String> {
    let mut rng = world.rng.fork("cast");
    let mut questions: Vec<&str> = (0..rng.between(4, 8))
        .filter_map(|_| rng.pick(QUESTIONS).copied())
        .collect();
    let rows_max = if rng.chance(300) { 400 } else { 40 };
    let mut wide = world.rng.fork("wide");
    // Of many rows that would be too much for us.
    let is_wide = rows_max == 40 && wide.chance(WIDE);
    questions.extend(wide.pick(WIDE_QUESTIONS).filter(|_| is_wide));
    let batches = (0..rng.between(3, 9)).map(|number| Batch {
        number: FACTS_FROM + number,
        row_count: rng.between(1, rows_max),
    });
    let batches = batches.collect();
    let computer = world.computer("maker", Hardware::default());
    let running = world.start(&computer).map_err(|error| error.to_string())?;
    let facts = running.block_on(async {
        let facts = Facts::new(batches, questions.iter().copied()).await?;
        let made = async {
            let settings = node::sweeping_settings();
            let started = node::start_on_store(&world.store, &running.host, settings).await?;
            for text in answers::CREATE_FRAMES
                .iter()
                .chain(&[CREATE_SINK, CREATE_FRAME])
            {
                client::execute(&started, text).await?;
            }
            facts.write(&started).await?;
            started.shutdown().await
        };
        made.await.map_err(|error| format!("preparing: {error}"))?;
        Ok::<_, String>(facts)
    })?;
    let (common, model) = (Common::new(facts, &world.trace), Model::default());
    let node_count = rng.between(2, 6);
    let asker_count = rng.between(1, 4);
    let writer_count = rng.between(0, 2);
    let mut places: Vec<Place> = (0..node_count)
        // A task that is too large for most is not for all.
        .map(|index| {
            Place::new(
                world,
                index,
                &common,
                &model,
                &mut rng,
                is_wide && index % 3 != 2,
            )
        })
        .collect();
    for index in 0..asker_count {
        let count = rng.between(3, 12);
        let asker = Asker::new(index, count, &questions, &common, &model, &world.rng);
        let place = rng.below(node_count) as usize;
        places[place].add_asker(asker);
    }
    for index in 0..writer_count {
        let writer = Writer::new(index, writer_count, &model, &world.trace, &world.rng);
        let place = rng.below(node_count) as usize;
        places[place].add_writer(writer);
    }
    let profile = rng.pick(profiles::ALL).unwrap_or(&profiles::ALL[0]);
    let store = profile.name;
    world.trace.event(
        "world",
        format_args!("{node_count} nodes on {store}, {asker_count} askers, {writer_count} writers"),
    );
    Ok(Cast {
        common,
        model,
        places,
        profile,
    })
}

/// Nothing goes wrong any more: whoever is down starts, whoever is frozen wakes, all clients finish.
fn calm_down(world: &mut World, cast: &mut Cast) -> Result<(), String> {
    world.store.set_faults(cast.profile.faults);
    for place in &mut cast.places {
        place.thaw();
        if place.is_down() {
            place.start(world)?;
        }
    }
    let since = clock::now();
    world.trace.event("world", format_args!("calm"));
    cast.common.weather.lock().calm_since = Some(since);
    let all_done = |places: &[Place]| places.iter().all(Place::is_idle);
    let end = since + FINISH_MAX;
    while !all_done(&cast.places) {
        if clock::now() >= end {
            return Err(
                "SWARM-1: clients have not finished an hour after nothing went wrong".into(),
            );
        }
        step(world, cast, Duration::from_secs(5))?;
        // A stop that had begun ends; its clients go on with the next node.
        for place in &mut cast.places {
            if place.is_down() {
                place.start(world)?;
            }
        }
    }
    Ok(())
}

/// All nodes but one stop; that one sweeps; then it stops, too.
fn finish(world: &mut World, mut cast: Cast) -> Result<(), String> {
    check_members(world, &mut cast)?;
    let survivor = world.rng.below(cast.places.len() as u64) as usize;
    for index in (0..cast.places.len()).filter(|index| *index != survivor) {
        stop(world, &mut cast, index)?;
    }
    let before = clock::now();
    let left = |world: &World| queries_left(world).into_iter().next();
    while let Some(key) = left(world) {
        if clock::now() - before > QUERIES_SWEPT {
            let after = QUERIES_SWEPT.as_secs();
            return Err(format!(
                "KEEPER-1: {key} is still there after {after} s with a node that lives"
            ));
        }
        step(world, &mut cast, Duration::from_secs(60))?;
    }
    check_frames(world, &mut cast, survivor)?;
    // The long ages cost more time to simulate than all the rest.
    if world.rng.chance(200) {
        let limits = node::limits();
        let objects = objects(world)?;
        let named = reader::ever_named(&objects);
        step(world, &mut cast, limits.cells)?;
        let ages = settled(world.store.ages())?;
        world.trace.count("long_lives", 1);
        let ages = ages.iter().map(|(key, age)| (key.as_str(), *age));
        keeper_1::check_ages(ages, &named, limits)?;
    }
    stop(world, &mut cast, survivor)?;
    let objects = objects(world)?;
    keeper_1::check_queries(objects.keys().map(String::as_str))
}

/// After a while in which nothing happens, what every node sees of the others.
fn check_members(world: &mut World, cast: &mut Cast) -> Result<(), String> {
    let end = clock::now() + member_1::SEEN_WITHIN;
    while clock::now() < end {
        step(world, cast, end - clock::now())?;
    }
    let nodes = cast.places.iter().map(Place::node);
    let nodes: Vec<Node> = nodes.collect::<Option<_>>().ok_or("a node is not up")?;
    let living: BTreeSet<String> = nodes
        .iter()
        .map(|node| node.node_id().to_string())
        .collect();
    for (place, node) in cast.places.iter_mut().zip(nodes) {
        let living = living.clone();
        place.begin(async move {
            let seen = node.swarm().await.map_err(query_3::unexplained)?;
            member_1::check(&node.node_id().to_string(), &seen, &living)
        });
    }
    world.trace.count("views_checked", living.len() as u64);
    wait_idle(world, cast, "what a node sees of the others cannot be read")
}

/// Lets the work of checkers on all nodes end.
fn wait_idle(world: &mut World, cast: &mut Cast, otherwise: &str) -> Result<(), String> {
    let end = clock::now() + STOP_MAX;
    while !cast
        .places
        .iter()
        .all(|place| place.is_down() || place.is_idle())
    {
        if clock::now() >= end {
            return Err(format!("SWARM-1: {otherwise}"));
        }
        step(world, cast, Duration::from_secs(1))?;
    }
    Ok(())
}

fn stop(world: &mut World, cast: &mut Cast, index: usize) -> Result<(), String> {
    cast.places[index].begin_stop();
    let end = clock::now() + STOP_MAX;
    while !cast.places[index].is_down() {
        if clock::now() >= end {
            let name = &cast.places[index].computer.name;
            return Err(format!("SWARM-1: {name} does not stop"));
        }
        step(world, cast, Duration::from_secs(1))?;
    }
    Ok(())
}

fn queries_left(world: &World) -> Vec<String> {
    let ages: BTreeMap<String, Duration> = settled(world.store.ages()).unwrap_or_default();
    let queries = ages.into_keys();
    queries
        .filter(|key| key.starts_with("_swarm/queries/"))
        .collect()
}

/// The frame of the writers, by an independent reader and by the node that is left.
fn check_frames(world: &mut World, cast: &mut Cast, survivor: usize) -> Result<(), String> {
    let started = cast.places[survivor].node();
    let started = started.ok_or("the node that is left has not started")?;
    let model = cast.model.clone();
    let (trace, store) = (world.trace.clone(), world.store.clone());
    let work = async move {
        let violation = query_3::unexplained;
        let location = node::location(&started).await.map_err(violation)?;
        let objects = store.objects().await.map_err(|error| error.to_string())?;
        let frame = node::read_frame(&objects, &location, &trace)?;
        model.with(|writes| checkers::check_frame(writes, &frame, &mut ledger_1::Seen::new()))?;
        let rows = client::read_all(&started, &trace)
            .await
            .map_err(violation)?;
        model.with(|writes| checkers::check_rows(writes, &rows))
    };
    cast.places[survivor].begin(work);
    wait_idle(world, cast, "the frame of the writers cannot be read")
}

fn objects(world: &World) -> Result<BTreeMap<String, bytes::Bytes>, String> {
    settled(world.store.objects())
}

/// What the store in memory gives at once.
pub(super) fn settled<T>(
    asked: impl Future<Output = object_store::Result<T>>,
) -> Result<T, String> {
    let given = asked
        .now_or_never()
        .ok_or("the store lets a checker wait")?;
    given.map_err(|error| error.to_string())
}
