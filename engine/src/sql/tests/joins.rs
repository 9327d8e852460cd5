//! Joins that spill, and joins that are planned early.

use super::*;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;

impl World {
    /// The same frames, queried by a crew whose joins spill.
    fn spilling(&self) -> World {
        World {
            crew: Crew {
                spilling_joins: SpillingJoins::All,
                ..self.crew.clone()
            },
            ..self.share()
        }
    }
}

#[tokio::test]
async fn joins_that_spill_give_the_answers_of_hash_joins() {
    let world = World::new().await;
    world.frame("t", &[], &rising(3)).await;
    let spilling = world.spilling();
    for (query, merges) in [
        (
            "SELECT a.id, b.name FROM t a JOIN t b ON a.id = b.k ORDER BY 1, 2",
            true,
        ),
        (
            "SELECT a.id, b.id FROM t a LEFT JOIN t b ON a.id = b.k AND b.id < 50 ORDER BY 1, 2",
            true,
        ),
        (
            "SELECT a.id, b.id FROM t a FULL JOIN t b ON a.id = b.id + 250 ORDER BY 1, 2",
            true,
        ),
        (
            "SELECT count(*) FROM t a JOIN t b ON a.name = b.name JOIN t c ON b.id = c.k",
            true,
        ),
        (
            "SELECT id FROM t WHERE id NOT IN (SELECT k FROM t) ORDER BY id LIMIT 3",
            false,
        ),
        // Limits above joins whose keys are in the order that is asked for.
        (
            "SELECT id FROM t WHERE id IN (SELECT k + 200 FROM t) ORDER BY id LIMIT 3",
            true,
        ),
        (
            "SELECT id FROM t a WHERE NOT EXISTS (SELECT 1 FROM t b WHERE b.k = a.id) ORDER BY id LIMIT 3",
            true,
        ),
        (
            "SELECT a.id FROM t a JOIN t b ON a.id = b.k + 200 ORDER BY a.id LIMIT 3",
            true,
        ),
        (
            "SELECT count(*) FROM (SELECT a.id FROM t a JOIN t b ON a.id = b.k LIMIT 5)",
            true,
        ),
        // Nothing to sort by.
        ("SELECT count(*) FROM t a JOIN t b ON a.id < b.k", false),
    ] {
        assert_eq!(spilling.sql(query).await, world.sql(query).await, "{query}");
        let plan = spilling.explain(query).await;
        assert_eq!(plan.contains("SortMergeJoin"), merges, "{query}\n{plan}");
        assert!(
            !world.explain(query).await.contains("SortMergeJoin"),
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_semi_join_with_few_groups_is_done_before_the_joins_beside_it() {
    let world = World::new().await;
    world.frame("t", &[], &rising(3)).await;
    let query = "SELECT a.id, c.id FROM t a, t b, t c WHERE a.id = b.k AND b.id = c.id \
        AND b.id IN (SELECT id % 150 FROM t GROUP BY id % 150 HAVING sum(id) > 440) \
        ORDER BY c.id";
    // Pairs are id and id + 150, so 148 and 149 of them remain: sums of 446 and 448.
    let expected: Vec<i64> = (146..150).collect();
    let batches = world.try_sql(query).await.unwrap();
    let ids: Vec<i64> = batches
        .iter()
        .flat_map(|batch| {
            batch
                .column(1)
                .as_primitive::<Int64Type>()
                .values()
                .to_vec()
        })
        .collect();
    assert_eq!(ids, expected);
    let plan = world.explain(query).await;
    let logical = plan.split("physical_plan").next().unwrap();
    let (semi, inner) = (logical.find("LeftSemi"), logical.find("Inner Join"));
    assert!(inner.is_some() && inner < semi, "{plan}");
    // A semi join against a whole table stays where it was.
    let whole = world
        .explain("SELECT a.id FROM t a JOIN t b ON a.id = b.k WHERE a.id IN (SELECT k FROM t)")
        .await;
    let logical = whole.split("physical_plan").next().unwrap();
    assert!(
        logical.find("LeftSemi") < logical.find("Inner Join"),
        "{whole}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn partitions_that_spill_at_the_same_time_do_not_wait_for_each_other() {
    const BATCHES: i64 = 400;
    let world = World::new().await;
    let planned = world.plan("SELECT 1").await.unwrap();
    for _ in 0..10 {
        let rows = |first: i64| {
            let batches = (0..BATCHES).map(|index| {
                let start = first + index * 64;
                batch(vec![("n", numbers(start..start + 64))])
            });
            batches.collect::<Vec<_>>()
        };
        let inputs = [rows(0), rows(1 << 20)];
        let schema = inputs[0][0].schema();
        let source = MemorySourceConfig::try_new_exec(&inputs, schema, None).unwrap();
        let by_hash = Partitioning::Hash(vec![Arc::new(Column::new("n", 0))], 2);
        let plan = Arc::new(RepartitionExec::try_new(source, by_hash).unwrap());
        // No memory at all: every batch goes through a file.
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(GreedyMemoryPool::new(0)))
            .build_arc()
            .unwrap();
        let context = TaskContext::default()
            .with_session_config(planned.context.session_config().clone())
            .with_runtime(runtime);
        let context = Arc::new(context);
        let readers = (0..2).map(|partition| {
            let mut rows = plan.execute(partition, context.clone()).unwrap();
            tokio::spawn(async move {
                let mut count = 0;
                while let Some(batch) = rows.next().await {
                    count += batch.unwrap().num_rows() as i64;
                }
                count
            })
        });
        let readers: Vec<_> = readers.collect();
        let mut count = 0;
        for reader in readers {
            count += reader.await.unwrap();
        }
        assert_eq!(count, 2 * BATCHES * 64);
        assert!(plan.metrics().unwrap().spill_count().unwrap() > 0);
    }
}

#[tokio::test]
async fn a_join_that_makes_many_batches_of_one_lets_others_run() {
    let mut world = World::new().await;
    world.crew.bees = 1;
    for query in [
        "SELECT count(a.value + b.value) FROM generate_series(1, 4000) a, generate_series(1, 8000) b",
        "SELECT count(*) FROM generate_series(1, 4000) a JOIN generate_series(1, 8000) b \
            ON a.value < b.value + 10000",
        "SELECT count(*) FROM generate_series(1, 4000) a JOIN generate_series(1, 8000) b \
            ON a.value % 1 = b.value % 1",
    ] {
        let mut answer = std::pin::pin!(world.try_sql(query));
        let mut turns = 0;
        let batches = std::future::poll_fn(|context| {
            let polled = answer.as_mut().poll(context);
            turns += 1;
            polled
        });
        assert!(batches.await.is_ok(), "{query}");
        // 32 million rows in batches of 8,192, 128 of them to a turn.
        assert!(turns >= 30, "{turns} turns: {query}");
    }
}

#[tokio::test]
async fn a_plan_that_is_nested_too_deeply_to_be_read_back_is_no_bytes() {
    let world = World::new().await;
    let planned = world.plan("SELECT 1").await.unwrap();
    let nested = |depth: usize| {
        (0..depth).fold(planned.plan.clone(), |plan, _| {
            Arc::new(CoalescePartitionsExec::new(plan))
        })
    };
    let bytes = encode_plan(&nested(10)).unwrap();
    assert!(decode_plan(&world.environment, &bytes, &planned.context).is_ok());
    assert!(encode_plan(&nested(60)).is_err());
}
