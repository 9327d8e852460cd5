//! Writes whose tasks run from bytes, more than once, and leave only what is committed.

use super::super::testing::{run_head, run_stages};
use super::super::tests::{SPREAD, cells, query};
use super::super::{Inputs, TaskJob, read_output, run_task, saved};
use super::*;
use crate::behavior::abandonment::Strategy;
use crate::schema::FrameSchema;
use crate::settings::Codec;
use crate::sql::tests::World;
use crate::sql::{decode_plan, encode_plan};
use apiary_protocol::delta::paths::decode_path;
use apiary_protocol::delta::{Action, Add};
use apiary_protocol::ids::FrameId;
use arrow::util::pretty::pretty_format_batches;

/// A frame `t` of six cells; `p`, partitioned, and `w` to write into.
async fn world() -> World {
    let mut world = World::new().await;
    world.crew.for_swarm = true;
    let cells = cells();
    world.frame("t", &[], &cells).await;
    for (name, partitions) in [("w", vec![]), ("p", vec!["name".to_string()])] {
        let schema = FrameSchema::new(cells[0].schema(), partitions).unwrap();
        world.create(&world.name(name), schema).await;
    }
    world
}

async fn sink(world: &World, frame: &str) -> Sink {
    let name = world.name(frame);
    let view = world.environment.catalog.view().await.unwrap();
    let entry = view.frame(&name).unwrap();
    let spec = WriteSpec {
        location: entry.location.clone(),
        schema: world.snapshot(&name).schema.clone(),
        codec: Codec::Zstd,
        target_cell_bytes: 1 << 20,
        row_group_rows_max: 1_000,
        max_partitions: 100,
        rows_before: 0,
        query: None,
    };
    Sink {
        frame: entry.id,
        spec,
    }
}

async fn cut_of(world: &World, frame: &str, text: &str, id: QueryId) -> (PlannedQuery, CutWrite) {
    let planned = world.plan_insert(text).await.unwrap();
    let sink = Some(sink(world, frame).await);
    let cut = cut_write(&planned, sink, SPREAD, id).await.unwrap();
    let cut = cut.unwrap_or_else(|reason| panic!("{text}: {reason}"));
    (planned, cut)
}

/// Where the tasks of a cut write put their cells.
fn writes(cut: &CutWrite, location: &str) -> Writes {
    let stage = cut.stage.expect("a stage that writes");
    Writes {
        stage,
        tasks: cut.cut.stages[stage as usize - 1].tasks.len(),
        location: location.into(),
    }
}

async fn outputs(world: &World, id: QueryId, writes: &Writes) -> Vec<Arc<StoredOutput>> {
    let mut outputs = Vec::new();
    for task in 0..writes.tasks as u32 {
        let key = TaskKey {
            stage: writes.stage,
            task,
        };
        let meadow = &world.environment.meadow;
        outputs.push(
            read_output(meadow, id, key, 1 << 20)
                .await
                .unwrap()
                .unwrap(),
        );
    }
    outputs
}

async fn collect(world: &World, id: QueryId, writes: &Writes) -> WrittenCells {
    let meadow = &world.environment.meadow;
    let known = outputs(world, id, writes).await.pop().unwrap();
    let known = BTreeMap::from([(known.output.key, known)]);
    collect_cells(meadow, id, &known, writes).await.unwrap()
}

/// Cells at a location, below it, once all deletions are through.
async fn cells_at(world: &World, location: &str) -> BTreeSet<String> {
    let meadow = &world.environment.meadow;
    meadow.quiet().await;
    let listed = meadow.list(location, None).await.unwrap();
    let below = listed.iter().filter_map(|object| {
        let path = object.location.as_ref().strip_prefix(location)?;
        path.ends_with(".parquet").then(|| path[1..].to_string())
    });
    below.collect()
}

fn paths(adds: &[Add]) -> BTreeSet<String> {
    let path = |add: &Add| decode_path(&add.path).unwrap().to_string();
    adds.iter().map(path).collect()
}

/// What is written, into which frame, and what is in it then.
const WRITES: &[(&str, &str)] = &[
    ("w", "SELECT id, k, name FROM t"),
    ("p", "SELECT id, k, name FROM t WHERE k < 50"),
    (
        "p",
        "SELECT a.id, b.k, a.name FROM t a JOIN t b ON a.id = b.id + 500",
    ),
    (
        "w",
        "SELECT id, k, name FROM t WHERE EXISTS (SELECT 1 FROM t u WHERE u.id = t.k + 7)",
    ),
    (
        "w",
        "SELECT id, k, name FROM t UNION ALL SELECT k, id, name FROM t",
    ),
    (
        "p",
        "SELECT id, row_number() OVER (PARTITION BY name ORDER BY id), name FROM t",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_row_is_in_one_cell_however_often_the_tasks_ran() {
    for (index, (frame, select)) in WRITES.iter().enumerate() {
        let world = world().await;
        let id = query(index as u8);
        let text = format!("INSERT INTO {frame} {select}");
        let (planned, cut) = cut_of(&world, frame, &text, id).await;
        let name = world.name(frame);
        let location = world.snapshot(&name).location.clone();
        let writes = writes(&cut, &location);
        assert!(writes.tasks > 1, "{text}: {cut:?}");
        assert_eq!(cut.cut.inputs, [writes.stage], "{text}");
        run_stages(&world.environment, &planned, &cut.cut, id, 2)
            .await
            .unwrap();
        let cells = collect(&world, id, &writes).await;
        assert!(cells.adds.len() >= writes.tasks, "{text}");
        assert_eq!(
            cells_at(&world, &location).await,
            paths(&cells.adds),
            "{text}"
        );
        let adds = cells.adds.into_iter().map(Action::Add).collect();
        world.commit(&name, adds).await;
        let all = |from: &str| format!("SELECT * FROM ({from}) ORDER BY 1, 2, 3");
        let mut local = world.share();
        local.crew.for_swarm = false;
        let written = local.sql(&all(&format!("SELECT * FROM {frame}"))).await;
        let expected = local
            .sql(&all(&format!(
                "SELECT * FROM ({select}) AS s (id, k, name)"
            )))
            .await;
        assert_eq!(written, expected, "{text}");
        let count = local.sql(&format!("SELECT count(*) FROM {frame}")).await;
        assert!(count.contains(&format!("| {} ", cells.rows)), "{count}");
    }
}

#[tokio::test]
async fn rows_in_an_order_come_together_in_the_head_and_so_do_all_when_tasks_may_not_write() {
    let world = world().await;
    let text = "INSERT INTO w SELECT id, k, name FROM t ORDER BY k DESC, id";
    let (planned, cut) = cut_of(&world, "w", text, query(1)).await;
    assert_eq!(cut.stage, None);
    run_stages(&world.environment, &planned, &cut.cut, query(1), 1)
        .await
        .unwrap();
    let rows = run_head(&world.environment, &planned, &cut.cut, query(1))
        .await
        .unwrap();
    let expected = world
        .sql("SELECT id, k, name FROM t ORDER BY k DESC, id")
        .await;
    assert_eq!(pretty_format_batches(&rows).unwrap().to_string(), expected);

    let planned = world
        .plan_insert("INSERT INTO w SELECT id, k, name FROM t")
        .await
        .unwrap();
    let cut = cut_write(&planned, None, SPREAD, query(2)).await.unwrap();
    assert_eq!(cut.unwrap().stage, None);
    assert!(
        cells_at(&world, &world.snapshot(&world.name("w")).location)
            .await
            .is_empty()
    );
}

fn job(planned: &PlannedQuery, cut: &CutWrite, world: &World, id: QueryId) -> TaskJob {
    let stage = &cut.cut.stages[cut.stage.unwrap() as usize - 1];
    TaskJob {
        query: id,
        key: TaskKey {
            stage: stage.stage,
            task: 0,
        },
        options: Arc::new(saved(planned.context.session_config())),
        plan: encode_plan(&stage.tasks[0].plan).unwrap(),
        partitions: stage.partitions,
        strategy: Strategy::FIRST,
        inputs: Inputs::new(&world.environment.meadow, id, []),
        progress: Arc::default(),
    }
}

#[tokio::test]
async fn a_task_that_fails_or_is_not_committed_leaves_no_cell() {
    let world = world().await;
    let location = world.snapshot(&world.name("w")).location.clone();
    let text = "INSERT INTO w SELECT id, 1 / (id - 400), name FROM t";
    let (planned, cut) = cut_of(&world, "w", text, query(1)).await;
    let run = |planned: &PlannedQuery, cut: &CutWrite| {
        let job = job(planned, cut, &world, query(1));
        let (environment, runtime) = (world.environment.clone(), planned.context.runtime_env());
        async move { run_task(&environment, job, runtime, 64 << 20).await }
    };
    let error = run(&planned, &cut).await.unwrap_err();
    assert!(
        error.to_string().to_lowercase().contains("divide by zero"),
        "{error}"
    );
    assert!(cells_at(&world, &location).await.is_empty());

    let text = "INSERT INTO w SELECT id, k, name FROM t";
    let (planned, cut) = cut_of(&world, "w", text, query(1)).await;
    let finished = run(&planned, &cut).await.unwrap();
    assert!(!cells_at(&world, &location).await.is_empty());
    drop(finished);
    assert!(cells_at(&world, &location).await.is_empty());

    // What the frame does not take is refused with the row as the task counts it.
    let text = "INSERT INTO p SELECT id, k, CASE WHEN id % 100 = 7 THEN NULL ELSE name END FROM t";
    let (planned, cut) = cut_of(&world, "p", text, query(1)).await;
    let error = run(&planned, &cut).await.unwrap_err().to_string();
    assert!(
        error.contains("name") && error.contains("in one task of the write"),
        "{error}"
    );
}

#[tokio::test]
async fn cells_of_a_query_that_does_not_commit_are_deleted_and_no_others() {
    let world = world().await;
    let location = world.snapshot(&world.name("p")).location.clone();
    let text = "INSERT INTO p SELECT id, k, name FROM t";
    let (planned, cut) = cut_of(&world, "p", text, query(1)).await;
    let writes = writes(&cut, &location);
    run_stages(&world.environment, &planned, &cut.cut, query(1), 1)
        .await
        .unwrap();
    let (planned, kept) = cut_of(&world, "p", text, query(2)).await;
    run_stages(&world.environment, &planned, &kept.cut, query(2), 1)
        .await
        .unwrap();
    let kept = collect(&world, query(2), &writes).await;
    assert!(cells_at(&world, &location).await.len() > kept.adds.len());
    discard_cells(&world.environment.meadow, query(1), &writes)
        .await
        .unwrap();
    assert_eq!(cells_at(&world, &location).await, paths(&kept.adds));
}

/// Outputs are input: what they name is committed and deleted only when it is this query's.
#[tokio::test]
async fn an_output_that_names_anything_but_its_own_cells_is_refused() {
    let world = world().await;
    let location = world.snapshot(&world.name("w")).location.clone();
    let text = "INSERT INTO w SELECT id, k, name FROM t";
    let (planned, cut) = cut_of(&world, "w", text, query(1)).await;
    let writes = writes(&cut, &location);
    run_stages(&world.environment, &planned, &cut.cut, query(1), 1)
        .await
        .unwrap();
    let sound = outputs(&world, query(1), &writes).await;
    let own = format!("part-x.{}.parquet", query(1));
    let refusal = |path: &str, change: fn(&mut Add)| {
        let mut output = sound[0].output.clone();
        let mut add = Add {
            path: path.into(),
            data_change: true,
            ..Add::default()
        };
        change(&mut add);
        output.outcome = Outcome::Cells(Cells {
            adds: vec![add],
            ..Cells::default()
        });
        super::super::input::tests::stored(output)
    };
    let forged = [
        refusal(&format!("../t/{own}"), |_| {}),
        refusal(&format!("/{own}"), |_| {}),
        refusal(&format!("..%2Ft/{own}"), |_| {}),
        refusal("c00000.parquet", |_| {}),
        refusal(&format!("part-x.{}.parquet", query(2)), |_| {}),
        refusal(&own, |add| add.data_change = false),
        refusal(&own, |add| add.stats = Some(r#"{"numRecords":1}"#.into())),
    ];
    for forged in &forged {
        let all = sound[1..].iter().chain([forged]);
        let error = collected(all.map(AsRef::as_ref), &writes).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    }
    let twice = sound.iter().chain([&sound[0]]);
    assert!(collected(twice.map(AsRef::as_ref), &writes).is_err());
    assert!(collected(sound[1..].iter().map(AsRef::as_ref), &writes).is_err());
    assert!(collected(sound.iter().map(AsRef::as_ref), &writes).is_ok());
}

/// So are plans: cells go nowhere but to where this frame's may lie.
#[tokio::test]
async fn a_plan_that_would_write_to_another_place_is_refused() {
    let world = world().await;
    let planned = world
        .plan_insert("INSERT INTO w SELECT id, k, name FROM t")
        .await
        .unwrap();
    let good = sink(&world, "w").await;
    let bytes = |change: &dyn Fn(&mut Sink)| {
        let mut sink = good.clone();
        change(&mut sink);
        encode_plan(&CellWriteExec::over(planned.plan.clone(), Arc::new(sink))).unwrap()
    };
    let decode = |bytes: &[u8]| decode_plan(&world.environment, bytes, &planned.context);
    assert!(decode(&bytes(&|_| {})).unwrap().is::<CellWriteExec>());
    for location in [
        "",
        "/etc",
        "../t",
        "a/../b",
        "_swarm/queries",
        "a/_delta_log/b",
        "s3://b/c",
    ] {
        let forged = bytes(&|sink| sink.spec.location = location.into());
        let error = decode(&forged).unwrap_err();
        assert!(
            matches!(error, Error::Corrupt { .. }),
            "{location}: {error}"
        );
    }
    // A place that is well formed and another frame's, or inside one.
    let t = world.snapshot(&world.name("t")).location.clone();
    for (frame, location) in [
        (good.frame, t.clone()),
        (good.frame, format!("{t}/inside")),
        (FrameId::from_random([9; 16]), good.spec.location.clone()),
    ] {
        let sink = Sink {
            frame,
            spec: WriteSpec {
                location,
                ..good.spec.clone()
            },
        };
        let cut = cut_write(&planned, Some(sink), SPREAD, query(1))
            .await
            .unwrap();
        let job = job(&planned, &cut.unwrap(), &world, query(1));
        let before = world.environment.meadow.list("", None).await.unwrap().len();
        let runtime = planned.context.runtime_env();
        let refused = run_task(&world.environment, job, runtime, 64 << 20).await;
        assert!(refused.unwrap_err().to_string().contains("another's"));
        assert_eq!(
            world.environment.meadow.list("", None).await.unwrap().len(),
            before
        );
    }
}
