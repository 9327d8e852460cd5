//! Partitions: many, spelled, refused, spilled.

use super::*;

/// Rows over many partitions in a scattered order.
fn scattered(partitions: i64, rows: i64, batch_rows: i64) -> Vec<RecordBatch> {
    (0..rows / batch_rows)
        .map(|index| {
            let range = index * batch_rows..(index + 1) * batch_rows;
            let key = |row: i64| (row * 7919) % partitions;
            batch(vec![
                ("v", ints(range.clone())),
                ("p", ints(range.clone().map(key))),
                (
                    "s",
                    Arc::new(StringArray::from_iter_values(
                        range.map(|row| format!("text of row {row:0200}")),
                    )),
                ),
            ])
        })
        .collect()
}

#[tokio::test]
async fn ten_thousand_partitions_fit_a_small_budget() {
    let world = world(64 << 20, 2);
    let batches = scattered(10_000, 200_000, 5_000);
    let spec = spec(batches[0].schema().as_ref().clone(), &["p"]);
    let written = world.write(&spec, batches).await.unwrap();
    assert_eq!((written.rows, written.adds.len()), (200_000, 10_000));
    assert_eq!(world.context.memory_pool().reserved(), 0);
    for add in written.adds.iter().step_by(997) {
        let partition: i64 = add
            .partition_values
            .get("p")
            .unwrap()
            .as_ref()
            .unwrap()
            .parse()
            .unwrap();
        let read = world.read(add).await;
        assert_eq!(read.num_columns(), 2);
        let values = read.column(0).as_primitive::<Int64Type>().values();
        assert_eq!(values.len(), 20);
        assert!(values.is_sorted() && values.iter().all(|v| (v * 7919) % 10_000 == partition));
        assert!(
            add.path.starts_with(&format!("p={partition}/part-")),
            "{}",
            add.path
        );
    }
}

#[tokio::test]
async fn more_rows_than_memory_spill_and_come_back() {
    let world = world(64 << 20, 2);
    let batches = scattered(40, 600_000, 8_000);
    let spec = spec(batches[0].schema().as_ref().clone(), &["p"]);
    let given: usize = batches.iter().map(RecordBatch::get_array_memory_size).sum();
    assert!(
        given > 2 * (64 << 20),
        "more than the pool could hold: {given}"
    );
    let written = world.write(&spec, batches).await.unwrap();
    assert_eq!(world.context.memory_pool().reserved(), 0);
    let mut rows: BTreeMap<String, usize> = BTreeMap::new();
    for add in &written.adds {
        let read = world.read(add).await;
        *rows
            .entry(add.partition_values.get("p").unwrap().clone().unwrap())
            .or_default() += read.num_rows();
    }
    assert_eq!(rows.len(), 40);
    assert!(rows.values().all(|count| *count == 15_000), "{rows:?}");
}

#[tokio::test]
async fn partitions_are_limited_and_null_is_refused() {
    let world = world(64 << 20, 1);
    let batches = scattered(100, 1_000, 100);
    let mut spec = spec(batches[0].schema().as_ref().clone(), &["p"]);
    spec.max_partitions = 99;
    let error = world.write(&spec, batches).await.unwrap_err();
    assert!(error.to_string().contains("max_partitions"), "{error}");
    assert_eq!(world.object_count().await, 0);
    let nulls: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
    let rows = batch(vec![("v", ints([1, 2])), ("p", nulls)]);
    let error = world
        .write(&spec, vec![rows])
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("null") && error.contains("row 1") && error.contains("\"p\""),
        "{error}"
    );
}

#[tokio::test]
async fn partition_values_are_spelled_as_delta_spells_them() {
    let cases: Vec<(ArrayRef, &str)> = vec![
        (Arc::new(StringArray::from(vec!["a/b=ü %"])), "a/b=ü %"),
        (Arc::new(BooleanArray::from(vec![true])), "true"),
        (Arc::new(Date32Array::from(vec![-1])), "1969-12-31"),
        (
            Arc::new(UInt64Array::from(vec![u64::MAX])),
            "18446744073709551615",
        ),
        (
            Arc::new(
                Decimal128Array::from(vec![-5])
                    .with_precision_and_scale(5, 2)
                    .unwrap(),
            ),
            "-0.05",
        ),
        (
            Arc::new(TimestampMicrosecondArray::from(vec![1_500_000]).with_timezone("UTC")),
            "1970-01-01 00:00:01.500000",
        ),
        (
            Arc::new(TimestampNanosecondArray::from(vec![1000])),
            "1970-01-01 00:00:00.000001",
        ),
        (Arc::new(BinaryArray::from(vec![&b"raw"[..]])), "raw"),
        (
            Arc::new(Float64Array::from(vec![f64::NEG_INFINITY])),
            "-Infinity",
        ),
    ];
    for (values, text) in cases {
        let world = world(64 << 20, 1);
        let rows = batch(vec![("v", ints([1])), ("p", values)]);
        let spec = spec(rows.schema().as_ref().clone(), &["p"]);
        let written = world.write(&spec, vec![rows]).await.unwrap();
        let value = written.adds[0].partition_values.get("p").unwrap().clone();
        assert_eq!(value.as_deref(), Some(text));
        assert_eq!(world.read(&written.adds[0]).await.num_rows(), 1);
    }
    for values in [
        Arc::new(StringArray::from(vec![""])) as ArrayRef,
        Arc::new(BinaryArray::from(vec![&b"\xff"[..]])),
        Arc::new(StringArray::from(vec!["x".repeat(300)])),
    ] {
        let world = world(64 << 20, 1);
        let rows = batch(vec![("v", ints([1])), ("p", values)]);
        let spec = spec(rows.schema().as_ref().clone(), &["p"]);
        let error = world.write(&spec, vec![rows]).await.unwrap_err();
        assert!(error.to_string().contains("row 0"), "{error}");
    }
}
