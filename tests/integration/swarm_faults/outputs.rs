//! Outputs that are damaged as soon as they are there, under the hands of real nodes.

use super::ground::Ground;
use super::{SUMS, number, with_frame};
use apiary_tests::{Node, Random};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// As many groups as rows, with long keys: outputs of more than waits to be one object.
const WIDE: &str = "SELECT count(*) AS n, max(s) AS most, sum(rows) AS rows FROM (SELECT count(*) AS rows, \
                    repeat(md5(CAST(v AS VARCHAR)), 24) AS s FROM t GROUP BY s)";

/// The same with less of it: outputs in one object, of more than comes with the index.
const MIDDLE: &str = "SELECT count(*) AS n, max(s) AS most, sum(rows) AS rows FROM (SELECT count(*) AS rows, \
                      md5(CAST(v AS VARCHAR)) AS s FROM t GROUP BY s)";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Damage {
    Truncated,
    Flipped,
    OtherTask,
    OtherQuery,
    Deleted,
}

const DAMAGES: [Damage; 5] = [
    Damage::Truncated,
    Damage::Flipped,
    Damage::OtherTask,
    Damage::OtherQuery,
    Damage::Deleted,
];

/// Objects of a kind that queries have now.
fn objects(ground: &Ground, kind: &str) -> Vec<PathBuf> {
    let queries = fs::read_dir(ground.bench.meadow().join("_swarm/queries"));
    let queries = queries.into_iter().flatten().flatten();
    let objects = queries.flat_map(|query| {
        let there = fs::read_dir(query.path().join(kind));
        there.into_iter().flatten().flatten()
    });
    objects.map(|object| object.path()).collect()
}

/// Puts other bytes in place of an object in one step; false when it was gone before.
fn replace(ground: &Ground, path: &Path, bytes: &[u8]) -> bool {
    let beside = ground.bench.path("damaged");
    fs::write(&beside, bytes).expect("a file");
    path.exists() && fs::rename(&beside, path).is_ok()
}

/// Damages an object; false when that could not be done.
fn harm(ground: &Ground, path: &Path, damage: Damage, random: &mut Random, foreign: &[u8]) -> bool {
    // One that is being written has a name before it has bytes.
    let Some(mut bytes) = fs::read(path).ok().filter(|bytes| !bytes.is_empty()) else {
        return false;
    };
    match damage {
        Damage::Deleted => return fs::remove_file(path).is_ok(),
        Damage::Truncated => bytes.truncate(random.below(bytes.len() as u64) as usize),
        Damage::Flipped => {
            let bit = random.below(bytes.len() as u64 * 8);
            bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
        Damage::OtherQuery => bytes = foreign.to_vec(),
        Damage::OtherTask => {
            let siblings = objects(
                ground,
                path.parent()
                    .and_then(Path::file_name)
                    .and_then(|name| name.to_str())
                    .expect("a kind"),
            );
            let other = siblings
                .iter()
                .find(|other| *other != path && other.parent() == path.parent());
            match other.and_then(|other| fs::read(other).ok()) {
                Some(other) => bytes = other,
                None => return false,
            }
        }
    }
    replace(ground, path, &bytes)
}

/// Keeps the first output that some query makes.
fn foreign_output(ground: &Ground) -> Vec<u8> {
    let mut query = ground.share(SUMS);
    loop {
        if let Some(bytes) = objects(ground, "outputs")
            .first()
            .and_then(|path| fs::read(path).ok())
        {
            query.finish().success();
            return bytes;
        }
        assert!(!query.has_ended(), "its outputs were not seen");
    }
}

/// Damages one object of each execution, or of the first only, until the query has ended.
fn spoil(
    ground: &Ground,
    kind: &str,
    damage: Damage,
    executions: usize,
    random: &mut Random,
    foreign: &[u8],
    is_over: &AtomicBool,
) -> usize {
    let mut spoilt: Vec<PathBuf> = Vec::new();
    while !is_over.load(Ordering::Relaxed) && spoilt.len() < executions {
        for path in objects(ground, kind) {
            let query = path.ancestors().nth(2).expect("a query").to_path_buf();
            if !spoilt.contains(&query) && harm(ground, &path, damage, random, foreign) {
                spoilt.push(query);
            }
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    spoilt.len()
}

fn answers_stay_right(kind: &str, text: &str, rounds: u64) {
    let ground = Ground::directory();
    with_frame(&ground);
    let expected = ground.sql(text);
    let nodes = [ground.start("a"), ground.start("b")];
    // What the coordinator made itself it does not read again: others have to take part.
    ground.warm_up(&nodes, text);
    let foreign = foreign_output(&ground);
    let mut random = Random(number("APIARY_TEST_SEED", 3));
    let mut counts: BTreeMap<(Damage, &str), u64> = BTreeMap::new();
    let noticed = |counts: &BTreeMap<(Damage, &str), u64>| {
        let mut outcomes = counts.keys().map(|(_, outcome)| *outcome);
        outcomes.any(|outcome| ["right after a rerun", "an error"].contains(&outcome))
    };
    let mut round = 0;
    // On a busy machine damage may always come too late.
    while round < rounds || (!noticed(&counts) && round < 10 * rounds) {
        let damage = DAMAGES[round as usize % DAMAGES.len()];
        let executions = 1 + round as usize / DAMAGES.len() % 2;
        let is_over = AtomicBool::new(false);
        let (finished, spoilt) = std::thread::scope(|scope| {
            let (ground, random, foreign) = (&ground, &mut random, &foreign);
            let is_over = &is_over;
            let spoiler = scope
                .spawn(move || spoil(ground, kind, damage, executions, random, foreign, is_over));
            let finished = ground.share(text).finish();
            is_over.store(true, Ordering::Relaxed);
            (finished, spoiler.join().expect("it spoils"))
        });
        let again = finished.stderr.contains("the query is run once more");
        let outcome = match (finished.code, spoilt) {
            (Some(0), 0) => "not damaged",
            (Some(0), _) if again => "right after a rerun",
            (Some(0), _) => "right, read before",
            _ => "an error",
        };
        match finished.code {
            Some(0) => assert_eq!(finished.stdout, expected, "{damage:?}: {}", finished.stderr),
            _ => {
                let names = finished.stderr.contains("_swarm/queries/");
                assert!(names, "{damage:?}: {}", finished.stderr);
                let lines = finished.stdout.lines().count();
                assert!(lines <= 1, "more than the header: {finished:?}");
            }
        }
        *counts.entry((damage, outcome)).or_default() += 1;
        round += 1;
    }
    println!("{counts:#?}");
    assert!(noticed(&counts), "{counts:?}");
    ground.nothing_is_left();
    ground.all_are_well(&["a", "b"]);
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn a_damaged_output_is_an_error_that_names_it_or_a_rerun_and_never_a_wrong_answer() {
    answers_stay_right("outputs", MIDDLE, number("APIARY_TEST_DAMAGES", 10));
}

#[test]
fn damaged_bytes_of_a_large_output_are_an_error_or_a_rerun_too() {
    answers_stay_right("data", WIDE, number("APIARY_TEST_DAMAGES", 5));
}
