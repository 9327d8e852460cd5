//! Plans that are cut, run task by task through bytes and storage, and put together again.

use super::testing::{run_cut, run_head};
use super::*;
use crate::sql::PlannedQuery;
use crate::sql::tests::{World, batch, numbers};
use apiary_protocol::ids::{AttemptId, NodeId, QueryId};
use apiary_protocol::query::{Failure, TaskKey};
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::util::pretty::pretty_format_batches;
use bytes::Bytes;
use datafusion::physical_plan::collect;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const SPREAD: Spread = Spread {
    tasks_max: 3,
    bytes_per_task: 1,
    repeated_bytes_max: 0,
    one_task_bytes_max: ONE_TASK_GROUPS_BYTES,
};

/// The same, with sides of joins made by every task that needs them.
const REPEATED: Spread = Spread {
    repeated_bytes_max: u64::MAX,
    ..SPREAD
};

/// Six cells of 500 rows.
pub(super) fn cells() -> Vec<RecordBatch> {
    let rows = |start: i64| -> RecordBatch {
        let ids = start..start + 500;
        let names = ids.clone().map(|id| format!("n{}", id % 7));
        let names: ArrayRef = Arc::new(StringArray::from_iter_values(names));
        batch(vec![
            ("id", numbers(ids.clone())),
            ("k", numbers(ids.map(|id| id * 7_919 % 100))),
            ("name", names),
        ])
    };
    (0..6).map(|cell| rows(cell * 500)).collect()
}

async fn world() -> World {
    let mut world = World::new().await;
    world.crew.for_swarm = true;
    let cells = cells();
    world.frame("t", &[], &cells).await;
    world.frame("u", &[], &cells[..2]).await;
    // One cell of several row groups.
    world.frame("one", &[], &cells[..1]).await;
    world
}

pub(super) fn query(byte: u8) -> QueryId {
    QueryId::from_random([byte; 16])
}

async fn cut_of(
    world: &World,
    text: &str,
    id: QueryId,
) -> (PlannedQuery, std::result::Result<Cut, String>) {
    let planned = world.plan(text).await.unwrap();
    let cut = cut(&planned, SPREAD, id).await.unwrap();
    (planned, cut)
}

fn show(rows: &[RecordBatch]) -> String {
    pretty_format_batches(rows).unwrap().to_string()
}

/// Each answer is of one order only.
const SHARED: &[&str] = &[
    "SELECT name, count(*), sum(k), avg(id) FROM t GROUP BY name ORDER BY name",
    "SELECT count(DISTINCT k), min(id), max(name) FROM t",
    "SELECT t.id, u.k FROM t JOIN u ON t.id = u.id ORDER BY t.id, u.k LIMIT 20",
    "SELECT t.k, count(*) FROM t LEFT JOIN u ON t.k = u.k AND u.id < 300 GROUP BY t.k ORDER BY 1",
    "SELECT t.id, u.id FROM t FULL JOIN u ON t.id = u.id + 700 ORDER BY t.id, u.id",
    "SELECT id FROM t WHERE k NOT IN (SELECT k FROM u WHERE id < 40) ORDER BY id",
    "SELECT id FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.id = t.id + 10) ORDER BY id",
    "SELECT id, row_number() OVER (PARTITION BY name ORDER BY k, id) r FROM t ORDER BY id",
    "SELECT id, sum(k) OVER (ORDER BY id ROWS 3 PRECEDING) s FROM t ORDER BY id",
    "SELECT sum(m), count(*) FROM (SELECT max(id) OVER (PARTITION BY name) AS m FROM t)",
    "SELECT name FROM t UNION SELECT name FROM u ORDER BY name",
    "SELECT id FROM t UNION ALL SELECT id FROM u ORDER BY id LIMIT 50",
    "SELECT id FROM t EXCEPT SELECT id FROM u ORDER BY id LIMIT 10",
    "SELECT k, name, count(*) FROM t GROUP BY ROLLUP (k, name) ORDER BY k NULLS FIRST, name NULLS FIRST",
    "SELECT id, k FROM t ORDER BY k DESC, id LIMIT 17 OFFSET 5",
    "SELECT name, k FROM t WHERE id > (SELECT avg(id) FROM u) ORDER BY name, k, id LIMIT 9",
    "SELECT a.id FROM t a, u b, u c WHERE a.k = b.k AND b.id = c.id AND c.k < 20 ORDER BY a.id LIMIT 30",
    "SELECT name, array_agg(k ORDER BY id) FROM t WHERE id < 100 GROUP BY name ORDER BY name",
    "SELECT t.id FROM t, u WHERE t.id + u.id = 1500 AND t.k < u.k ORDER BY t.id",
    "SELECT x FROM (SELECT sum(k) x FROM one UNION ALL SELECT id x FROM t) ORDER BY x",
    "SELECT t.id, one.k FROM t JOIN (SELECT * FROM one ORDER BY id LIMIT 30) one ON t.k = one.k ORDER BY 1, 2",
    "SELECT t.id FROM t WHERE t.k = (SELECT max(k) FROM one) ORDER BY t.id",
    "SELECT a.id, b.r FROM t a JOIN (SELECT id, row_number() OVER (ORDER BY id) r FROM one) b ON a.id = b.id ORDER BY 1",
    // Sort keys that are left out, because columns are constant or equal to each other.
    "SELECT id, row_number() OVER (PARTITION BY name ORDER BY k, id) FROM t WHERE name = 'n1' ORDER BY id",
    "SELECT id, sum(id) OVER (PARTITION BY k, name ORDER BY id) FROM t WHERE name = 'n1' ORDER BY id",
    "SELECT t.id, row_number() OVER (PARTITION BY t.k, u.k ORDER BY t.id, u.id) r FROM t JOIN u ON t.k = u.k \
     WHERE u.id < 40 ORDER BY t.id, r",
    "SELECT t.id, sum(u.id) OVER (PARTITION BY u.id, t.id) r FROM t JOIN u ON t.id = u.id ORDER BY t.id, r",
    "SELECT k, name, rank() OVER (PARTITION BY name, k ORDER BY n) FROM (SELECT k, name, count(*) n FROM t \
     WHERE name = 'n2' GROUP BY ROLLUP (name, k)) ORDER BY k, name",
    // Rows without columns cross a boundary.
    "SELECT (SELECT count(*) FROM t WHERE k < 9) a, (SELECT avg(k) FROM u) b FROM t WHERE id < 3",
    "SELECT a.k, count(*) FROM one a LEFT JOIN t b ON a.k = b.id GROUP BY a.k ORDER BY 1",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_in_tasks_gives_the_answer_of_the_whole() {
    let world = world().await;
    for (index, text) in SHARED.iter().enumerate() {
        let id = query(index as u8);
        let (planned, cut) = cut_of(&world, text, id).await;
        let cut = cut.unwrap_or_else(|reason| panic!("{text}: {reason}"));
        assert!(
            cut.stages.iter().any(|stage| stage.tasks.len() == 3),
            "{text}"
        );
        // A plan that has run is not written any more: its filters hold what they learnt.
        let rows = run_cut(&world.environment, &planned, &cut, id, 2)
            .await
            .unwrap();
        let expected = collect(Arc::clone(&planned.plan), Arc::clone(&planned.context));
        assert_eq!(show(&rows), show(&expected.await.unwrap()), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_sides_of_joins_are_made_by_every_task_instead_of_in_stages() {
    let world = world().await;
    let mut saved = 0;
    for (index, text) in SHARED.iter().enumerate() {
        let id = query(index as u8);
        let (planned, stages) = cut_of(&world, text, id).await;
        let stages = stages.unwrap().stages.len();
        let Ok(cut) = cut(&planned, REPEATED, id).await.unwrap() else {
            continue;
        };
        saved += stages - cut.stages.len();
        let rows = run_cut(&world.environment, &planned, &cut, id, 2)
            .await
            .unwrap();
        let expected = collect(Arc::clone(&planned.plan), Arc::clone(&planned.context));
        assert_eq!(show(&rows), show(&expected.await.unwrap()), "{text}");
    }
    assert!(saved > 5, "{saved}");
}

/// Each task would get other rows.
#[tokio::test]
async fn a_side_that_is_not_the_same_for_everybody_is_a_stage_even_if_it_is_small() {
    let world = world().await;
    let join = |side: &str| format!("SELECT count(*) FROM t JOIN ({side}) u ON t.k = u.k");
    for (side, is_repeated) in [
        ("SELECT k FROM u WHERE id < 40", true),
        ("SELECT k FROM u WHERE id < 40 AND random() < 0.5", false),
        ("SELECT k FROM u WHERE id < 40 LIMIT 10", false),
    ] {
        let planned = world.plan(&join(side)).await.unwrap();
        let stages = async |spread| {
            let cut = cut(&planned, spread, query(1)).await.unwrap();
            cut.unwrap().stages.len()
        };
        let (all, with_repeated) = (stages(SPREAD).await, stages(REPEATED).await);
        assert_eq!(
            with_repeated < all,
            is_repeated,
            "{side}: {with_repeated} of {all}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_shared_stays_whole_and_says_why() {
    let world = world().await;
    for (text, why) in [
        ("SELECT 1", "no part"),
        (
            "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5) \
             SELECT count(*) FROM r JOIN t ON r.n = t.id",
            "recursive",
        ),
        ("EXPLAIN SELECT count(DISTINCT k) FROM t", "explained"),
        // What is constant here is no column where it crosses a boundary.
        (
            "SELECT k, count(*) FROM t, generate_series(1, 3) GROUP BY k",
            "series",
        ),
        (
            "SELECT id, sum(k) OVER (PARTITION BY id % 10, name ORDER BY k) FROM t WHERE id % 10 = 3",
            "a window",
        ),
    ] {
        let (_, cut) = cut_of(&world, text, query(1)).await;
        let reason = cut.err().unwrap_or_else(|| panic!("{text} was cut"));
        assert!(reason.contains(why), "{text}: {reason}");
    }
}

/// An output whose bytes were changed, cut off, swapped or taken away.
#[tokio::test]
async fn a_damaged_output_is_an_error_that_names_it() {
    let world = world().await;
    let text = "SELECT k, count(*) FROM t GROUP BY k";
    let key = keys::query_output(query(1), TaskKey { stage: 1, task: 1 });
    let other = keys::query_output(query(1), TaskKey { stage: 1, task: 0 });
    let meadow = world.environment.meadow.clone();
    let planned = world.plan(text).await.unwrap();
    let spread = Spread {
        tasks_max: 2,
        ..SPREAD
    };
    let cut = cut(&planned, spread, query(1)).await.unwrap().unwrap();
    assert_eq!(cut.inputs, [1], "the head reads it");
    run_cut(&world.environment, &planned, &cut, query(1), 1)
        .await
        .unwrap();
    let sound = meadow.get(&key).await.unwrap().unwrap();
    let flipped = |at: usize| {
        let mut bytes = sound.to_vec();
        bytes[at] ^= 0x10;
        Some(Bytes::from(bytes))
    };
    let last = sound.len() - 1;
    let mut damages: Vec<Option<Bytes>> = (0..last).step_by(97).map(flipped).collect();
    damages.extend([
        flipped(last),
        Some(sound.slice(..last)),
        Some(sound.slice(..5)),
        Some(Bytes::new()),
        meadow.get(&other).await.unwrap(),
        None,
    ]);
    for damage in damages {
        match damage {
            Some(bytes) => meadow.put(&key, bytes).await.unwrap(),
            None => meadow.delete(&key).await.unwrap(),
        }
        let error = run_head(&world.environment, &planned, &cut, query(1))
            .await
            .unwrap_err();
        assert!(is_lost_input(&error), "{error:?}");
        assert!(error.to_string().contains(&key), "{error}");
        let told = local_error(&task_error(&error));
        assert_eq!(told.to_string(), error.to_string());
    }
}

#[tokio::test]
async fn what_tasks_took_and_failed_at_is_read_from_what_they_left() {
    let world = world().await;
    let meadow = &world.environment.meadow;
    let id = query(1);
    let (planned, cut) = cut_of(&world, "SELECT k, count(*) FROM t GROUP BY k", id).await;
    let cut = cut.unwrap();
    run_cut(&world.environment, &planned, &cut, id, 1)
        .await
        .unwrap();
    let error = Error::ResourcesExhausted("no room".into());
    let failure = Failure {
        key: TaskKey { stage: 1, task: 2 },
        node: NodeId::from_random([2; 16]),
        bee: "bee-0".into(),
        attempt: 0,
        id: AttemptId::from_random([3; 16]),
        strategy: String::new(),
        budget_bytes: 1,
        duration_ms: 1,
        error: task_error(&error),
    };
    commit_failure(meadow, id, &failure).await.unwrap();
    let analysed = Analysed::new(
        id,
        NodeId::from_random([9; 16]),
        cut.stages.iter(),
        &cut.inputs,
    );
    let key = TaskKey { stage: 1, task: 0 };
    let known = read_output(meadow, id, key, 1 << 20)
        .await
        .unwrap()
        .unwrap();
    let gets = meadow.requests().get_count;
    let execution = read_execution(meadow, &analysed, &BTreeMap::from([(key, known)]))
        .await
        .unwrap();
    let outputs: usize = cut.stages.iter().map(|stage| stage.tasks.len()).sum();
    // What is known is not read again; the record is.
    assert_eq!(meadow.requests().get_count - gets, outputs as u64);
    let text: String = analysed
        .rows(&execution, false, &BTreeMap::new())
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    assert!(text.contains("task 2 failed on"), "{text}");
    assert!(text.contains("no room"), "{text}");
    assert!(text.contains("1 attempts failed"), "{text}");
    assert!(!text.contains("has no output"), "{text}");

    let key = keys::query_failure(id, failure.key, 0);
    meadow.put(&key, Bytes::from("torn")).await.unwrap();
    let damaged = read_execution(meadow, &analysed, &BTreeMap::new()).await;
    assert!(damaged.unwrap_err().to_string().contains(&key));
}

/// More than one object takes.
#[tokio::test]
async fn a_large_output_lies_apart_and_a_late_attempt_takes_its_own_away() {
    let mut world = World::new().await;
    world.crew.for_swarm = true;
    let wide = |start: i64| {
        let ids = start..start + 4_000;
        // Bytes that do not compress.
        let mut state = start as u64 + 1;
        let mut text = || {
            (0..200).fold(String::new(), |mut text, _| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                text.push(char::from(b'0' + ((state >> 33) % 74) as u8));
                text
            })
        };
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(ids.clone().map(|_| text())));
        batch(vec![("id", numbers(ids)), ("text", texts)])
    };
    let cells: Vec<RecordBatch> = (0..12).map(|cell| wide(cell * 4_000)).collect();
    world.frame("t", &[], &cells).await;
    let text = "SELECT text, count(*) n, min(id) FROM t GROUP BY text ORDER BY 3";
    let planned = world.plan(text).await.unwrap();
    let spread = Spread {
        tasks_max: 2,
        ..SPREAD
    };
    let cut = cut(&planned, spread, query(1)).await.unwrap().unwrap();
    let rows = run_cut(&world.environment, &planned, &cut, query(1), 2)
        .await
        .unwrap();
    let expected = collect(Arc::clone(&planned.plan), Arc::clone(&planned.context))
        .await
        .unwrap();
    assert_eq!(show(&rows), show(&expected));
    let data = format!("{}/data", keys::query_prefix(query(1)));
    let apart = world.environment.meadow.list(&data, None).await.unwrap();
    assert!(!apart.is_empty());
    let outputs = format!("{}/outputs", keys::query_prefix(query(1)));
    let outputs = world.environment.meadow.list(&outputs, None).await.unwrap();
    assert!(apart.len() <= outputs.len(), "{apart:?}");
}
