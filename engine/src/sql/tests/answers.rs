//! Pruning and statistics must not change an answer, whatever the log and the footers claim.

use super::*;
use crate::cell::{WriteSpec, write_cells};
use arrow::array::{Decimal128Array, Float64Array, Int32Array, ListArray};
use arrow::datatypes::Int32Type;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;

impl World {
    /// A frame with one cell that claims what it is told to; rows come in row groups of 50 and pages
    /// of 10.
    async fn claiming(&self, name: &str, rows: &RecordBatch, stats: &str) {
        self.claiming_cells(name, rows, &[stats]).await;
    }

    async fn claiming_cells(&self, name: &str, rows: &RecordBatch, stats: &[&str]) {
        let name = self.name(name);
        let schema = FrameSchema::new(rows.schema(), vec![]).unwrap();
        self.create(&name, schema).await;
        let mut actions = vec![];
        for (index, stats) in stats.iter().enumerate() {
            let path = format!("c{index}.parquet");
            let add = self.cell(&self.location(&name), &path, rows, &name).await;
            actions.push(Action::Add(Add {
                stats: Some(stats.to_string()),
                ..add
            }));
        }
        self.commit(&name, actions).await;
    }

    /// Filters find the rows that a reading of all rows finds; `x > 5` so many of them.
    async fn assert_unpruned(&self, frame: &str, above_five: i64) {
        for filter in FLOAT_FILTERS {
            let filtered = format!("SELECT count(*) FROM {frame} WHERE {filter}");
            let all = format!("SELECT sum(CASE WHEN {filter} THEN 1 ELSE 0 END) FROM {frame}");
            let expected = self.number(&all).await;
            assert_eq!(self.number(&filtered).await, expected, "{filter}");
            assert!(filter != "x > 5" || expected == above_five);
        }
    }

    /// A frame with the cells that our own writer makes of the rows.
    async fn written(&self, name: &str, rows: &RecordBatch, row_group_rows_max: usize) {
        let name = self.name(name);
        let schema = FrameSchema::new(rows.schema(), vec![]).unwrap();
        self.create(&name, schema.clone()).await;
        let spec = WriteSpec {
            location: self.location(&name),
            schema: Arc::new(schema),
            codec: crate::settings::Codec::Lz4Raw,
            target_cell_bytes: 16 << 20,
            row_group_rows_max,
            max_partitions: 1,
            rows_before: 0,
            query: None,
        };
        let rows = futures::stream::iter(vec![Ok(rows.clone())]);
        let schema = Arc::clone(&spec.schema.logical);
        let input = Box::pin(RecordBatchStreamAdapter::new(schema, rows));
        let context = Arc::new(datafusion::execution::TaskContext::default());
        let Environment { host, meadow, .. } = &self.environment;
        let written = write_cells(host, meadow, &spec, input, context)
            .await
            .unwrap();
        let adds = written.adds.into_iter().map(Action::Add).collect();
        self.commit(&name, adds).await;
    }
}

fn floats(values: impl IntoIterator<Item = f64>) -> RecordBatch {
    batch(vec![(
        "x",
        Arc::new(Float64Array::from_iter_values(values)) as ArrayRef,
    )])
}

/// What the order of floats makes odd: NaN is above everything, its negative below, and there are two
/// zeros.
const FLOAT_FILTERS: [&str; 8] = [
    "x > 5",
    "x < -5",
    "x = 'NaN'::double",
    "x >= 2",
    "x < 0",
    "x <= 0",
    "x > '-0'::double",
    "x = '-0'::double",
];

fn odd_floats() -> RecordBatch {
    floats([1.0, f64::NAN, -f64::NAN, -0.0, 0.0])
}

#[tokio::test]
async fn rows_of_nan_and_of_both_zeros_are_found_in_our_own_cells() {
    let world = World::new().await;
    world.written("t", &odd_floats(), 2).await;
    // Row groups without a NaN beside one that has it.
    let mut many: Vec<f64> = vec![1.0; 200];
    many[120] = f64::NAN;
    world.written("many", &floats(many), 50).await;
    world.assert_unpruned("t", 1).await;
    world.assert_unpruned("many", 1).await;
}

#[tokio::test]
async fn float_bounds_of_other_writers_prune_nothing() {
    let world = World::new().await;
    // As every writer does that skips NaN: delta-rs, Spark, and Parquet's own statistics.
    let stats =
        r#"{"numRecords":5,"minValues":{"x":0.0},"maxValues":{"x":1.0},"nullCount":{"x":0}}"#;
    world.claiming("t", &odd_floats(), stats).await;
    world.assert_unpruned("t", 1).await;
}

#[tokio::test]
async fn float_bounds_of_cells_known_to_hold_no_nan_prune() {
    let world = World::new().await;
    world.written("t", &floats([1.0, 2.0]), 50).await;
    for (filter, cells) in [("x > 5", 0), ("x < 1", 0), ("x > 1", 1)] {
        let planned = world
            .plan(&format!("SELECT x FROM t WHERE {filter}"))
            .await
            .unwrap();
        let totals = scan_totals(&planned.plan).unwrap();
        assert_eq!(totals.cells_kept, cells, "{filter}");
    }
}

#[tokio::test]
async fn row_groups_and_pages_are_pruned_by_floats_that_hold_no_nan() {
    let world = World::new().await;
    let rising = || (0..500).map(f64::from);
    let with_nan = || rising().map(|value| if value == 420.0 { f64::NAN } else { value });
    let column = |values: Vec<f64>| Arc::new(Float64Array::from(values)) as ArrayRef;
    let rows = batch(vec![
        ("x", column(rising().collect())),
        ("y", column(with_nan().collect())),
    ]);
    // Ten row groups of one cell.
    world.written("t", &rows, 50).await;
    for (filter, found, groups) in [
        ("x >= 430", 70, "10 total → 2 matched"),
        // The NaN is above all numbers, and nobody knows which row groups have one.
        ("y > 498", 2, "10 total → 10 matched"),
        ("y < 5 AND x < 5", 5, "10 total → 1 matched"),
    ] {
        let text = format!("SELECT count(x + y) FROM t WHERE {filter}");
        assert_eq!(world.number(&text).await, found, "{filter}");
        let analyzed = world.sql(&format!("EXPLAIN ANALYZE {text}")).await;
        let pruned = format!("row_groups_pruned_statistics={groups}");
        assert!(analyzed.contains(&pruned), "{filter}: {analyzed}");
    }
}

#[tokio::test]
async fn null_counts_of_nested_columns_are_unknown() {
    let world = World::new().await;
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([
        Some(vec![Some(1), None, None]),
        Some(vec![Some(2)]),
        None,
    ]);
    let rows = batch(vec![("l", Arc::new(lists) as ArrayRef)]);
    // Parquet's count of leaves without a value, which delta-rs copies.
    for nulls in [0, 3] {
        let name = format!("t{nulls}");
        let stats = format!(r#"{{"numRecords":3,"nullCount":{{"l":{nulls}}}}}"#);
        world.claiming(&name, &rows, &stats).await;
        for (text, expected) in [
            (format!("SELECT count(l) FROM {name}"), 2),
            (format!("SELECT count(*) FROM {name} WHERE l IS NULL"), 1),
            (
                format!("SELECT count(*) FROM {name} WHERE l IS NOT NULL"),
                2,
            ),
        ] {
            assert_eq!(world.number(&text).await, expected, "{text}");
        }
    }
}

#[tokio::test]
async fn more_nulls_than_rows_are_no_count() {
    let world = World::new().await;
    let rows = batch(vec![("a", maybe_numbers([Some(1), None, Some(3)]))]);
    let stats = r#"{"numRecords":3,"nullCount":{"a":7}}"#;
    world.claiming("t", &rows, stats).await;
    assert_eq!(world.number("SELECT count(a) FROM t").await, 2);
    let stats = r#"{"numRecords":3,"nullCount":{"a":18446744073709551615}}"#;
    world.claiming_cells("u", &rows, &[stats, stats]).await;
    assert_eq!(world.number("SELECT count(a) FROM u").await, 4);
}

#[tokio::test]
async fn decimal_bounds_that_went_through_a_float_still_hold() {
    let world = World::new().await;
    let values = [123_456_789_012_345_678_i128, 123_456_789_012_345_677];
    let decimals = Decimal128Array::from_iter_values(values)
        .with_precision_and_scale(38, 2)
        .unwrap();
    let rows = batch(vec![("d", Arc::new(decimals) as ArrayRef)]);
    // 1234567890123456.78 and its like as the nearest float64, shortest digits.
    let stats = r#"{"numRecords":2,"minValues":{"d":1234567890123456.8},"maxValues":{"d":1234567890123456.8},"nullCount":{"d":0}}"#;
    world.claiming("t", &rows, stats).await;
    for (text, expected) in [
        (
            "SELECT count(*) FROM t WHERE d = '1234567890123456.78'::decimal(38,2)",
            1,
        ),
        (
            "SELECT count(*) FROM t WHERE d < '1234567890123456.78'::decimal(38,2)",
            1,
        ),
    ] {
        assert_eq!(world.number(text).await, expected, "{text}");
    }
    let answer = world.sql("SELECT min(d), max(d) FROM t").await;
    assert!(
        answer.contains("1234567890123456.77") && answer.contains("1234567890123456.78"),
        "{answer}"
    );
    // Fewer digits survive any float: those bounds are still answers.
    let small = Decimal128Array::from_iter_values([15_i128, 25])
        .with_precision_and_scale(38, 1)
        .unwrap();
    let rows = batch(vec![("d", Arc::new(small) as ArrayRef)]);
    let stats =
        r#"{"numRecords":2,"minValues":{"d":1.5},"maxValues":{"d":2.5},"nullCount":{"d":0}}"#;
    world.claiming("small", &rows, stats).await;
    let plan = world.explain("SELECT min(d), max(d) FROM small").await;
    assert!(!plan.contains("FrameScanExec"), "{plan}");
}

#[tokio::test]
async fn sums_of_claimed_rows_that_overflow_are_unknown() {
    let world = World::new().await;
    let rows = batch(vec![(
        "a",
        Arc::new(Int32Array::from(vec![1, 2])) as ArrayRef,
    )]);
    let stats = r#"{"numRecords":9223372036854775808,"nullCount":{"a":9223372036854775808}}"#;
    world.claiming_cells("t", &rows, &[stats, stats]).await;
    assert_eq!(world.number("SELECT count(*) FROM t").await, 4);
    assert_eq!(world.number("SELECT count(a) FROM t").await, 4);
}

#[tokio::test]
async fn sums_of_claimed_sizes_do_not_overflow() {
    let world = World::new().await;
    let rows = batch(vec![("a", numbers(0..2))]);
    world.claiming("t", &rows, r#"{"numRecords":2}"#).await;
    let name = world.name("t");
    let add = world.snapshot(&name).cells().next().unwrap().add();
    let huge = (0..4).map(|index| {
        Action::Add(Add {
            path: format!("huge{index}.parquet"),
            size: i64::MAX,
            ..add.clone()
        })
    });
    world.commit(&name, huge.collect()).await;
    let planned = world
        .plan("SELECT sum(a) FROM t WHERE a >= 0")
        .await
        .unwrap();
    assert_eq!(scan_totals(&planned.plan).unwrap().bytes_kept, u64::MAX);
    let error = world.try_sql("SELECT sum(a) FROM t").await.unwrap_err();
    assert!(error.to_string().contains("huge"), "{error}");
}

/// Semi, anti and limited joins in every arrangement, as hash joins and as sort-merge joins.
const LIMITED_JOINS: [&str; 16] = [
    "SELECT id FROM t WHERE id IN (SELECT k FROM u ORDER BY k, id LIMIT 5) ORDER BY id",
    "SELECT id FROM t WHERE id IN (SELECT id FROM u ORDER BY id DESC LIMIT 5) ORDER BY id",
    "SELECT id FROM t WHERE id NOT IN (SELECT id FROM u ORDER BY id LIMIT 250) ORDER BY id",
    "SELECT id FROM t WHERE k IN (SELECT id FROM u ORDER BY id LIMIT 3) ORDER BY id",
    "SELECT id FROM t WHERE k NOT IN (SELECT id FROM u ORDER BY id LIMIT 3) ORDER BY id",
    "SELECT a.id FROM (SELECT id, k FROM t ORDER BY id LIMIT 30) a WHERE a.k IN (SELECT id FROM u WHERE id < 3) ORDER BY 1",
    "SELECT a.id FROM (SELECT id, k FROM t ORDER BY id LIMIT 30) a WHERE a.k NOT IN (SELECT id FROM u WHERE id < 3) ORDER BY 1",
    "SELECT count(*) FROM (SELECT id, k FROM t ORDER BY id LIMIT 30) a WHERE EXISTS (SELECT 1 FROM u WHERE u.id = a.k AND u.k <> a.id)",
    "SELECT count(*) FROM (SELECT id, k FROM t ORDER BY id LIMIT 30) a WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.id = a.k AND u.k < a.id)",
    "SELECT count(*) FROM t WHERE EXISTS (SELECT 1 FROM (SELECT * FROM u ORDER BY id LIMIT 7) v WHERE v.k = t.k AND v.id < t.id)",
    "SELECT count(*) FROM t WHERE NOT EXISTS (SELECT 1 FROM (SELECT * FROM u ORDER BY id LIMIT 7) v WHERE v.k = t.k AND v.id < t.id)",
    "SELECT count(*) FROM t a LEFT JOIN (SELECT * FROM u ORDER BY id LIMIT 7) v ON a.k = v.id AND a.id > v.k",
    "SELECT count(*), count(v.id) FROM t a FULL JOIN (SELECT * FROM u ORDER BY id DESC LIMIT 7) v ON a.id = v.id",
    "SELECT count(*) FROM t WHERE k IN (SELECT k FROM u WHERE id IN (SELECT id FROM t ORDER BY id LIMIT 4))",
    "SELECT id FROM t WHERE k IN (SELECT id FROM u WHERE id < 3) ORDER BY id LIMIT 40",
    "SELECT count(*) FROM t WHERE k = 1 OR id IN (SELECT id FROM u ORDER BY id LIMIT 9)",
];

#[tokio::test]
async fn spilling_joins_answer_as_hash_joins_do_above_below_and_beside_limits() {
    let world = World::new().await;
    world.frame("t", &[], &rising(3)).await;
    world.frame("u", &[], &rising(2)).await;
    for batch_rows in [3, 64, 8192] {
        let hashing = World {
            crew: Crew {
                batch_rows,
                ..world.crew.clone()
            },
            ..world.share()
        };
        let spilling = World {
            crew: Crew {
                spilling_joins: SpillingJoins::All,
                ..hashing.crew.clone()
            },
            ..world.share()
        };
        for text in LIMITED_JOINS {
            let expected = hashing.sql(text).await;
            assert_eq!(spilling.sql(text).await, expected, "{text}");
        }
    }
}

/// The bytes of a deletion vector file, and where each vector begins.
/// Two columns and rows: one of them agrees in all rows, or they are equal, or the rows are sorted.
const CUBES: [(&str, &str, &str); 5] = [
    ("k", "name", "t WHERE k = 3"),
    ("name", "k", "t WHERE k = 3"),
    ("t.id", "u.id", "t JOIN u ON t.id = u.id"),
    ("id", "k", "(SELECT * FROM t ORDER BY id LIMIT 90)"),
    (
        "a.k",
        "a.id",
        "(SELECT k, id FROM t GROUP BY k, id) a JOIN u ON a.id = u.k",
    ),
];

#[tokio::test]
async fn what_a_grouping_set_leaves_out_is_not_taken_for_what_it_was() {
    let world = World::new().await;
    world.frame("t", &[], &rising(6)).await;
    world.frame("u", &[], &rising(2)).await;
    for (bees, batch_rows) in [(1, 8192), (2, 8192), (4, 7)] {
        let crew = Crew {
            bees,
            batch_rows,
            ..world.crew.clone()
        };
        let world = World {
            crew,
            ..world.share()
        };
        for (a, b, from) in CUBES {
            let cube = format!(
                "SELECT {a} AS a, {b} AS b, count(*) AS n FROM {from} GROUP BY CUBE ({a}, {b})"
            );
            // DataFusion refuses to plan an order over a union of columns that it knows to be equal.
            let from = from.replace("t.id = u.id", "t.id <= u.id AND t.id >= u.id");
            let part = |one: &str, other: &str, by: &str| {
                format!("SELECT {one} AS a, {other} AS b, count(*) AS n FROM {from} {by}")
            };
            let apart = [
                part(a, b, &format!("GROUP BY {a}, {b}")),
                part(a, "NULL", &format!("GROUP BY {a}")),
                part("NULL", b, &format!("GROUP BY {b}")),
                part("NULL", "NULL", ""),
            ];
            let apart = apart.join(" UNION ALL ");
            for text in [
                "SELECT a, b, n FROM (ROWS) ORDER BY a, b, n",
                "SELECT a, b, n FROM (ROWS) ORDER BY b NULLS FIRST, a DESC, n",
                "SELECT a, b, n, rank() OVER (PARTITION BY a ORDER BY b, n) r FROM (ROWS) ORDER BY a, b, n",
            ] {
                let expected = world.sql(&text.replace("ROWS", &apart)).await;
                let found = world.sql(&text.replace("ROWS", &cube)).await;
                assert_eq!(found, expected, "{bees} bees: {cube} in {text}");
            }
        }
    }
}

fn vector_file(vectors: &[&[u64]]) -> (Vec<u8>, Vec<DeletionVector>) {
    let (mut file, mut descriptions) = (vec![1], vec![]);
    for rows in vectors {
        let mut bitmap = 1_681_511_377_u32.to_le_bytes().to_vec();
        let rows: roaring::RoaringTreemap = rows.iter().collect();
        rows.serialize_into(&mut bitmap).unwrap();
        descriptions.push(DeletionVector {
            storage_type: "u".into(),
            // The protocol's example: deletion_vector_d2c639aa-….bin below "ab".
            path_or_inline_dv: "ab^-aqEH.-t@S}K{vb[*k^".into(),
            offset: Some(file.len() as i32),
            size_in_bytes: bitmap.len() as i32,
            cardinality: rows.len() as i64,
        });
        file.extend((bitmap.len() as u32).to_be_bytes());
        let checksum = apiary_protocol::delta::crc32(&bitmap);
        file.extend(&bitmap);
        file.extend(checksum.to_be_bytes());
    }
    (file, descriptions)
}

impl World {
    /// Gives the cells of a frame the vectors of one file.
    async fn delete_by_file(&self, name: &str, padding: usize, vectors: &[&[u64]]) {
        let (mut file, mut descriptions) = vector_file(vectors);
        // Between the first vector and the others, what other cells' vectors would take.
        let first_end = descriptions[1].offset.unwrap() as usize;
        file.splice(first_end..first_end, std::iter::repeat_n(0, padding));
        for vector in &mut descriptions[1..] {
            *vector.offset.as_mut().unwrap() += padding as i32;
        }
        let name = self.name(name);
        let key = format!(
            "{}/ab/deletion_vector_d2c639aa-8816-431a-aaf6-d3fe2512ff61.bin",
            self.location(&name)
        );
        let meadow = &self.environment.meadow;
        meadow.put(&key, file.into()).await.unwrap();
        let cells: Vec<_> = self.snapshot(&name).cells().cloned().collect();
        let mut actions = vec![];
        for (cell, vector) in cells.iter().zip(descriptions) {
            let old = cell.add();
            actions.push(Action::Remove(Remove {
                path: old.path.clone(),
                deletion_timestamp: Some(old.modification_time),
                data_change: true,
                extended_file_metadata: Some(true),
                partition_values: Some(old.partition_values.clone()),
                size: Some(old.size),
                deletion_vector: None,
            }));
            actions.push(Action::Add(Add {
                deletion_vector: Some(vector),
                ..old
            }));
        }
        self.commit(&name, actions).await;
    }
}

#[tokio::test]
async fn vectors_in_one_file_are_read_by_range() {
    let world = World::new().await;
    world.frame("t", &[], &rising(4)).await;
    let rows: [&[u64]; 4] = [&[0, 1, 2], &[99], &[], &[5, 6, 50]];
    world.delete_by_file("t", 3 << 20, &rows).await;
    let before = world.environment.meadow.requests();
    assert_eq!(world.number("SELECT sum(id) FROM t").await, {
        let all: i64 = (0..400).sum();
        all - (1 + 2) - 199 - (305 + 306 + 350)
    });
    let read = world.environment.meadow.requests().read_bytes - before.read_bytes;
    assert!(read < 1 << 20, "{read}");
}

#[tokio::test]
async fn a_torn_or_missing_vector_is_an_error_that_names_the_file() {
    let world = World::new().await;
    world.frame("t", &[], &rising(2)).await;
    world.delete_by_file("t", 0, &[&[1], &[2]]).await;
    let name = world.name("t");
    let key = format!(
        "{}/ab/deletion_vector_d2c639aa-8816-431a-aaf6-d3fe2512ff61.bin",
        world.location(&name)
    );
    let meadow = world.environment.meadow.clone();
    let whole = meadow.get(&key).await.unwrap().unwrap();
    for length in 0..whole.len() {
        meadow.put(&key, whole.slice(..length)).await.unwrap();
        let error = world.try_sql("SELECT sum(id) FROM t").await.unwrap_err();
        assert!(error.to_string().contains(&key), "{length}: {error}");
    }
    meadow.delete(&key).await.unwrap();
    let error = world.try_sql("SELECT sum(id) FROM t").await.unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
}

#[tokio::test]
async fn deletion_vectors_are_inside_the_memory_budget() {
    use datafusion::execution::memory_pool::GreedyMemoryPool;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    let world = World::new().await;
    let rows = batch(vec![("a", numbers(0..20_000))]);
    world.frame("t", &[], &[rows]).await;
    let every_other: Vec<u64> = (0..20_000).step_by(2).collect();
    world.delete("t", 0, &every_other).await;
    let with_pool = |bytes: usize| {
        let pool = Arc::new(GreedyMemoryPool::new(bytes));
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc();
        World {
            crew: Crew {
                runtime: runtime.unwrap(),
                ..world.crew.clone()
            },
            ..world.share()
        }
    };
    let small = with_pool(300_000);
    let error = small.try_sql("SELECT sum(a) FROM t").await.unwrap_err();
    assert!(error.to_string().contains("deletion vector"), "{error}");
    let large = with_pool(8 << 20);
    let odd: i64 = (0..20_000).filter(|a| a % 2 == 1).sum();
    assert_eq!(large.number("SELECT sum(a) FROM t").await, odd);
    assert_eq!(large.crew.runtime.memory_pool.reserved(), 0);
}
