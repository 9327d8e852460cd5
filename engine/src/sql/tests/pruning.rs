//! Cells that are not read, and answers that come from the log.

use super::*;

#[tokio::test]
async fn a_filter_that_one_cell_can_satisfy_reads_one_cell() {
    let world = World::new().await;
    world.frame("t", &[], &rising(20)).await;
    for (filter, cells) in [
        ("id = 1234", 1),
        ("id >= 1900", 1),
        ("id < 50 OR id > 1950", 2),
        ("id IN (5, 705, 1999)", 3),
        ("id BETWEEN 190 AND 210 AND k = 1", 2),
        ("id IS NULL", 0),
        ("name = 'n01234'", 1),
        ("name LIKE 'n0123%'", 1),
        ("k = 3", 20),
        ("k + 1 > 100", 20),
    ] {
        let text = format!("SELECT count(k) FROM t WHERE {filter}");
        let planned = world.plan(&text).await.unwrap();
        let totals = scan_totals(&planned.plan).unwrap();
        if totals.cells_total > 0 {
            assert_eq!(
                (totals.cells_kept, totals.cells_total),
                (cells, 20),
                "{filter}"
            );
        }
        assert_eq!(planned.scan_bytes, totals.bytes_kept);
    }
    let plan = world.explain("SELECT name FROM t WHERE id = 1234").await;
    assert!(
        plan.contains(
            "frame=default.default.t, version=1, cells=1 of 20 (19 pruned by statistics)"
        ),
        "{plan}"
    );
}

#[tokio::test]
async fn partition_columns_are_constants_of_a_cell_and_prune_it() {
    let world = World::new().await;
    let part = |day: Option<&str>, kind: i64, ids: std::ops::Range<i64>| {
        let rows = (ids.end - ids.start) as usize;
        let day: ArrayRef = Arc::new(StringArray::from(vec![day; rows]));
        let day = arrow::compute::cast(&day, &DataType::Date32).unwrap();
        batch(vec![
            ("day", day),
            ("id", numbers(ids)),
            ("kind", numbers(std::iter::repeat_n(kind, rows))),
        ])
    };
    let cells = [
        part(Some("2026-01-01"), 1, 0..100),
        part(Some("2026-01-02"), 2, 100..150),
        part(None, 3, 150..160),
    ];
    world.frame("t", &["kind", "day"], &cells).await;
    assert_eq!(
        world
            .number("SELECT count(*) FROM t WHERE day = DATE '2026-01-02'")
            .await,
        50
    );
    assert_eq!(
        world
            .number("SELECT count(*) FROM t WHERE day IS NULL")
            .await,
        10
    );
    assert_eq!(
        world
            .number("SELECT sum(kind) FROM t WHERE day > DATE '2025-12-31'")
            .await,
        200
    );
    let plan = world
        .explain("SELECT id FROM t WHERE kind = 2 AND id > 5")
        .await;
    assert!(
        plan.contains("cells=1 of 3 (2 pruned by partition)"),
        "{plan}"
    );
    // Columns come in the order of the schema, not with the partition columns last.
    let answer = world.sql("SELECT * FROM t WHERE id = 149").await;
    assert!(
        answer.contains("| day        | id  | kind |")
            && answer.contains("| 2026-01-02 | 149 | 2    |"),
        "{answer}"
    );
}

#[tokio::test]
async fn counts_and_extremes_are_answered_from_the_log_where_that_is_exact() {
    let world = World::new().await;
    world.frame("t", &[], &rising(5)).await;
    let plan = world
        .explain("SELECT count(*), min(id), max(id), count(k) FROM t")
        .await;
    assert!(!plan.contains("FrameScanExec"), "{plan}");
    let answer = world.sql("SELECT count(*), min(id), max(id) FROM t").await;
    assert!(answer.contains("500") && answer.contains("499"), "{answer}");
    // A text may have been cut in the log: it is read.
    let plan = world.explain("SELECT min(name) FROM t").await;
    assert!(plan.contains("FrameScanExec"), "{plan}");
    assert!(
        world
            .sql("SELECT min(name) FROM t")
            .await
            .contains("n00000")
    );
    // With deletions the count is still known, the extremes are not.
    world.delete("t", 0, &[0, 1, 2]).await;
    let plan = world.explain("SELECT count(*) FROM t").await;
    assert!(!plan.contains("FrameScanExec"), "{plan}");
    assert_eq!(world.number("SELECT count(*) FROM t").await, 497);
    assert_eq!(world.number("SELECT min(id) FROM t").await, 3);
}

#[tokio::test]
async fn pruning_never_changes_an_answer() {
    let entropy = crate::host::testing::SeededEntropy::new(20_260);
    let world = World::new().await;
    let mut rows: Vec<(Option<i64>, i64, i64)> = vec![];
    let mut cells = vec![];
    for cell in 0..40_i64 {
        let part = cell % 5;
        let base = entropy.below(1000) as i64;
        let here: Vec<(Option<i64>, i64, i64)> = (0..60)
            .map(|_| {
                let a = (entropy.below(10) > 0 && cell % 9 != 0)
                    .then(|| base + entropy.below(50) as i64);
                (a, entropy.below(1000) as i64 - 500, part)
            })
            .collect();
        cells.push(batch(vec![
            ("a", maybe_numbers(here.iter().map(|row| row.0))),
            ("b", numbers(here.iter().map(|row| row.1))),
            ("p", numbers(here.iter().map(|row| row.2))),
        ]));
        rows.extend(here);
    }
    world.frame("t", &["p"], &cells).await;
    let mut pruned = 0;
    for _ in 0..120 {
        let number = |bound: u64, base: i64| entropy.below(bound) as i64 + base;
        let (x, y, z, p) = (
            number(1100, -20),
            number(1100, -20),
            number(1000, -500),
            number(6, 0),
        );
        type Check = Box<dyn Fn(&(Option<i64>, i64, i64)) -> bool>;
        let filters: [(String, Check); 8] = [
            (format!("a = {x}"), Box::new(move |r| r.0 == Some(x))),
            (
                format!("a > {x} AND a < {y}"),
                Box::new(move |r| r.0.is_some_and(|a| a > x && a < y)),
            ),
            (
                format!("a < {x} OR p = {p}"),
                Box::new(move |r| r.0.is_some_and(|a| a < x) || r.2 == p),
            ),
            (
                format!("p <> {p} AND b >= {z}"),
                Box::new(move |r| r.2 != p && r.1 >= z),
            ),
            (
                format!("a IS NULL AND p = {p}"),
                Box::new(move |r| r.0.is_none() && r.2 == p),
            ),
            (
                format!("a IS NOT NULL AND NOT (b < {z})"),
                Box::new(move |r| r.0.is_some() && r.1 >= z),
            ),
            (
                format!("a IN ({x}, {y}, {z}) OR b = {z}"),
                Box::new(move |r| r.0.is_some_and(|a| [x, y, z].contains(&a)) || r.1 == z),
            ),
            (
                format!("a + b > {x} AND p < {p}"),
                Box::new(move |r| r.0.is_some_and(|a| a + r.1 > x) && r.2 < p),
            ),
        ];
        for (filter, check) in filters {
            let text = format!("SELECT count(b) FROM t WHERE {filter}");
            let expected = rows.iter().filter(|row| check(row)).count() as i64;
            let planned = world.plan(&text).await.unwrap();
            let totals = scan_totals(&planned.plan).unwrap();
            pruned += totals.cells_total - totals.cells_kept;
            assert_eq!(world.number(&text).await, expected, "{filter}");
        }
    }
    assert!(pruned > 1000, "only {pruned} cells were pruned");
}

#[tokio::test]
async fn the_index_of_a_hundred_thousand_cells_is_read_once() {
    let world = World::new().await;
    let name = world.name("big");
    let schema = Schema::new(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Int64, true),
    ]);
    world
        .create(&name, FrameSchema::new(Arc::new(schema), vec![]).unwrap())
        .await;
    let one = batch(vec![("a", numbers(0..1)), ("b", numbers(0..1))]);
    let add = world
        .cell(&world.location(&name), "x.parquet", &one, &name)
        .await;
    let adds = (0..2_000_i64).map(|index| Add {
        path: format!("{index:06}.parquet"),
        stats: Some(format!(
            r#"{{"numRecords":10,"minValues":{{"a":{index},"b":0}},"maxValues":{{"a":{index},"b":9}},"nullCount":{{"a":0,"b":0}}}}"#
        )),
        ..add.clone()
    });
    world.commit(&name, adds.map(Action::Add).collect()).await;
    let index: Arc<CellIndex> = world.snapshot(&name).derived(CellIndex::new);
    let plan = world.explain("SELECT b FROM big WHERE a = 1500").await;
    assert!(plan.contains("cells=1 of 2000"), "{plan}");
    let again = world.snapshot(&name).derived(CellIndex::new);
    assert!(Arc::ptr_eq(&index, &again));
    assert_eq!(world.number("SELECT count(*) FROM big").await, 20_000);
}
