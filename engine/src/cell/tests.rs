mod bounds;

use super::*;
use crate::error::Error;
use crate::host::testing;
use crate::settings::Settings;
use arrow::array::*;
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::*;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::SessionConfig;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use std::collections::BTreeMap;

/// A meadow in memory and a pool of its own.
struct World {
    host: Host,
    meadow: Meadow,
    context: Arc<TaskContext>,
}

fn world(pool_bytes: usize, crew: usize) -> World {
    let host = testing::host();
    let meadow = Meadow::over(
        Arc::new(InMemory::new()),
        "memory",
        &host,
        &Settings::default(),
    );
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(pool_bytes)))
        .build_arc()
        .unwrap();
    let config = SessionConfig::new().with_target_partitions(crew);
    let context = TaskContext::default()
        .with_runtime(runtime)
        .with_session_config(config);
    World {
        host,
        meadow,
        context: Arc::new(context),
    }
}

fn stream(
    schema: SchemaRef,
    items: Vec<Result<RecordBatch, DataFusionError>>,
) -> SendableRecordBatchStream {
    Box::pin(RecordBatchStreamAdapter::new(
        schema,
        futures::stream::iter(items),
    ))
}

fn spec(schema: Schema, partitions: &[&str]) -> WriteSpec {
    let partitions = partitions.iter().map(|name| name.to_string()).collect();
    WriteSpec {
        location: "h/b/f".into(),
        schema: Arc::new(FrameSchema::new(Arc::new(schema), partitions).unwrap()),
        codec: Codec::Lz4Raw,
        target_cell_bytes: 16 << 20,
        row_group_rows_max: 256 * 1024,
        max_partitions: 20_000,
        rows_before: 0,
    }
}

impl World {
    async fn write(&self, spec: &WriteSpec, batches: Vec<RecordBatch>) -> Result<WrittenCells> {
        let schema = batches[0].schema();
        let input = stream(schema, batches.into_iter().map(Ok).collect());
        write_cells(&self.host, &self.meadow, spec, input, self.context.clone()).await
    }

    async fn object_count(&self) -> usize {
        self.meadow.list("h/b/f", None).await.unwrap().len()
    }

    async fn bytes(&self, add: &Add) -> bytes::Bytes {
        let path = apiary_protocol::delta::paths::decode_path(&add.path).unwrap();
        let path = object_store::path::Path::parse(format!("h/b/f/{path}")).unwrap();
        self.meadow
            .object_store()
            .get(&path)
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap()
    }

    /// The rows of a cell as an independent reader sees them, without the partition columns.
    async fn read(&self, add: &Add) -> RecordBatch {
        let bytes = self.bytes(add).await;
        assert_eq!(bytes.len() as i64, add.size);
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options).unwrap();
        let schema = reader.schema().clone();
        let batches: Vec<_> = reader
            .build()
            .unwrap()
            .map(|batch| batch.unwrap())
            .collect();
        concat_batches(&schema, &batches).unwrap()
    }
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true)))
        .unwrap()
}

fn ints(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

fn column(name: &str, data_type: DataType) -> Schema {
    Schema::new(vec![Field::new(name, data_type, true)])
}

/// The error's text of writing one column into a frame with another type.
async fn refusal(to: DataType, values: ArrayRef) -> String {
    let world = world(64 << 20, 1);
    let first = batch(vec![("c", new_null_array(values.data_type(), 3))]);
    let rows = batch(vec![("c", values)]);
    let error = world
        .write(&spec(column("c", to), &[]), vec![first, rows])
        .await
        .unwrap_err();
    assert_eq!(world.object_count().await, 0);
    assert!(matches!(error, Error::Rejected(_)), "{error:?}");
    error.to_string()
}

async fn accepted(to: DataType, values: ArrayRef) -> ArrayRef {
    let world = world(64 << 20, 1);
    let spec = spec(column("c", to), &[]);
    let written = world
        .write(&spec, vec![batch(vec![("c", values)])])
        .await
        .unwrap();
    let read = world.read(&written.adds[0]).await;
    spec.schema.restore_batch(&read).unwrap().column(0).clone()
}

#[tokio::test]
async fn values_that_fit_are_cast_and_others_refused_with_column_row_and_value() {
    let narrowed = accepted(DataType::Int8, ints([-128, 127])).await;
    assert_eq!(narrowed.as_primitive::<Int8Type>().values(), &[-128, 127]);
    let text = refusal(DataType::Int8, ints([1, 128])).await;
    assert!(
        text.contains("\"c\"") && text.contains("row 4") && text.contains("128"),
        "{text}"
    );
    assert!(
        refusal(DataType::UInt64, ints([-1]))
            .await
            .contains("row 3")
    );
    assert!(
        refusal(DataType::UInt8, Arc::new(Int16Array::from(vec![0, 256])))
            .await
            .contains("row 4")
    );
    let huge: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX]));
    assert!(
        refusal(DataType::Int64, huge.clone())
            .await
            .contains("row 3")
    );
    assert_eq!(
        accepted(DataType::UInt64, huge.clone()).await.as_ref(),
        huge.as_ref()
    );
    assert!(refusal(DataType::Float64, huge).await.contains("row 3"));
    let float = accepted(DataType::Float64, ints([1 << 53])).await;
    assert_eq!(
        float.as_primitive::<Float64Type>().value(0),
        (1u64 << 53) as f64
    );
}

#[tokio::test]
async fn float64_rounds_to_float32_and_overflow_is_refused() {
    let doubles: ArrayRef = Arc::new(Float64Array::from(vec![0.1, f64::INFINITY, f64::NAN]));
    let floats = accepted(DataType::Float32, doubles).await;
    let floats = floats.as_primitive::<Float32Type>();
    assert_eq!(floats.value(0), 0.1f32);
    assert!(floats.value(1).is_infinite() && floats.value(2).is_nan());
    let text = refusal(
        DataType::Float32,
        Arc::new(Float64Array::from(vec![1.0, 1e39])),
    )
    .await;
    assert!(text.contains("row 4"), "{text}");
}

#[tokio::test]
async fn times_are_exact_or_refused() {
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    let nanos = DataType::Timestamp(TimeUnit::Nanosecond, None);
    let exact: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![-1000, 5_000]));
    assert_eq!(
        accepted(nanos.clone(), exact.clone()).await.as_ref(),
        exact.as_ref()
    );
    assert_eq!(
        accepted(micros.clone(), exact)
            .await
            .as_primitive::<TimestampMicrosecondType>()
            .values(),
        &[-1, 5]
    );
    let odd: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![1000, 1001]));
    assert!(refusal(nanos, odd.clone()).await.contains("row 4"));
    assert!(refusal(micros.clone(), odd).await.contains("row 4"));
    let zoned: ArrayRef = Arc::new(TimestampSecondArray::from(vec![7]).with_timezone("+02:00"));
    assert!(refusal(micros, zoned.clone()).await.contains("zone"));
    let utc = accepted(
        DataType::Timestamp(TimeUnit::Second, Some("+05:00".into())),
        zoned,
    )
    .await;
    assert_eq!(
        utc.as_primitive::<TimestampMicrosecondType>().value(0),
        7_000_000
    );
    let midnight: ArrayRef = Arc::new(Date64Array::from(vec![86_400_000]));
    assert_eq!(
        accepted(DataType::Date32, midnight)
            .await
            .as_primitive::<Date32Type>()
            .value(0),
        1
    );
    assert!(
        refusal(DataType::Date32, Arc::new(Date64Array::from(vec![1])))
            .await
            .contains("row 3")
    );
}

#[tokio::test]
async fn unsafe_casts_are_refused_even_without_rows() {
    let world = world(64 << 20, 1);
    for (from, to) in [
        (DataType::Utf8, DataType::Int32),
        (DataType::Int32, DataType::Utf8),
        (DataType::Float64, DataType::Int64),
        (DataType::Boolean, DataType::Int8),
        (DataType::Decimal128(10, 2), DataType::Float64),
        (
            crate::schema::types::list(DataType::Utf8, true),
            crate::schema::types::list(DataType::Int8, true),
        ),
    ] {
        let empty = RecordBatch::new_empty(Arc::new(column("c", from)));
        let error = world
            .write(&spec(column("c", to), &[]), vec![empty])
            .await
            .unwrap_err();
        assert!(error.to_string().contains("row 0"), "{error}");
    }
    let decimals = |values: Vec<i128>| -> ArrayRef {
        Arc::new(
            Decimal128Array::from(values)
                .with_precision_and_scale(10, 2)
                .unwrap(),
        )
    };
    let text = refusal(DataType::Decimal128(3, 1), ints([99, 100])).await;
    assert!(text.contains("row 4"), "{text}");
    let cut = accepted(DataType::Decimal128(9, 1), decimals(vec![120])).await;
    assert_eq!(cut.as_primitive::<Decimal128Type>().value(0), 12);
    assert!(
        refusal(DataType::Decimal128(9, 1), decimals(vec![120, 121]))
            .await
            .contains("row 4")
    );
}

#[tokio::test]
async fn columns_match_by_name_in_any_order_and_case() {
    let world = world(64 << 20, 1);
    let schema = Schema::new(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("B", DataType::Int64, true),
        Field::new("missing", DataType::Utf8, true),
    ]);
    let spec = spec(schema, &[]);
    let rows = batch(vec![
        ("extra", ints([9])),
        ("b", ints([2])),
        ("a", ints([1])),
        ("A", ints([3])),
    ]);
    let written = world.write(&spec, vec![rows]).await.unwrap();
    assert_eq!(written.warnings.len(), 2);
    assert!(
        written
            .warnings
            .iter()
            .any(|text| text.contains("\"extra\"")),
        "{:?}",
        written.warnings
    );
    let read = world.read(&written.adds[0]).await;
    assert_eq!(read.column(0).as_primitive::<Int64Type>().value(0), 1);
    assert_eq!(read.column(1).as_primitive::<Int64Type>().value(0), 2);
    assert_eq!(read.column(2).null_count(), 1);
}

#[tokio::test]
async fn required_columns_must_be_there_and_hold_no_null() {
    let world = world(64 << 20, 1);
    let required = spec(
        Schema::new(vec![Field::new("a", DataType::Int64, false)]),
        &[],
    );
    let error = world
        .write(&required, vec![batch(vec![("b", ints([1]))])])
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("\"a\"") && error.to_string().contains("missing"),
        "{error}"
    );
    let nulls: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
    let error = world
        .write(&required, vec![batch(vec![("a", nulls)])])
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("row 1") && error.to_string().contains("null"),
        "{error}"
    );
}

#[tokio::test]
async fn nested_values_are_judged_with_the_row_they_are_in() {
    let list = |values: Vec<Vec<i64>>| -> ArrayRef {
        Arc::new(LargeListArray::from_iter_primitive::<Int64Type, _, _>(
            values
                .into_iter()
                .map(|v| Some(v.into_iter().map(Some).collect::<Vec<_>>())),
        ))
    };
    let bytes = crate::schema::types::list(DataType::Int8, true);
    let text = refusal(bytes.clone(), list(vec![vec![1, 2], vec![], vec![3, 300]])).await;
    assert!(
        text.contains("c.element") && text.contains("row 5"),
        "{text}"
    );
    let kept = accepted(bytes, list(vec![vec![9], vec![1, 2]]).slice(1, 1)).await;
    assert_eq!(
        kept.as_list::<i32>()
            .value(0)
            .as_primitive::<Int8Type>()
            .values(),
        &[1, 2]
    );
    let wanted = DataType::Struct(
        vec![
            Field::new("x", DataType::Int8, false),
            Field::new("y", DataType::Int8, true),
        ]
        .into(),
    );
    let inner = Fields::from(vec![Field::new("X", DataType::Int64, true)]);
    let rows = |nulls: Option<Vec<bool>>| -> ArrayRef {
        let values: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        Arc::new(StructArray::new(
            inner.clone(),
            vec![values],
            nulls.map(Into::into),
        ))
    };
    let text = refusal(wanted.clone(), rows(None)).await;
    assert!(text.contains("c.x") && text.contains("row 4"), "{text}");
    let kept = accepted(wanted, rows(Some(vec![true, false]))).await;
    assert!(kept.is_null(1) && kept.as_struct().column(1).null_count() == 2);
}

/// One column of every type that a frame holds, three rows with a null and extremes.
fn all_types() -> RecordBatch {
    let strings = vec![Some("ü"), None, Some("")];
    let map = {
        let mut builder = MapBuilder::new(None, StringBuilder::new(), UInt32Builder::new());
        builder.keys().append_value("k");
        builder.values().append_value(u32::MAX);
        builder.append(true).unwrap();
        builder.append(false).unwrap();
        builder.append(true).unwrap();
        builder.finish()
    };
    let nested = StructArray::from(vec![
        (
            Arc::new(Field::new("u", DataType::UInt64, true)),
            Arc::new(UInt64Array::from(vec![Some(u64::MAX), None, Some(0)])) as ArrayRef,
        ),
        (
            Arc::new(Field::new("s", DataType::Utf8, true)),
            Arc::new(StringArray::from(strings.clone())) as ArrayRef,
        ),
    ]);
    let list = ListArray::from_iter_primitive::<UInt16Type, _, _>(vec![
        Some(vec![Some(u16::MAX), None]),
        None,
        Some(vec![]),
    ]);
    let decimal = |p, s, max: i128| -> ArrayRef {
        let values = Decimal128Array::from(vec![Some(max), None, Some(-max)]);
        Arc::new(values.with_precision_and_scale(p, s).unwrap())
    };
    let dictionary: DictionaryArray<Int8Type> =
        vec![Some("a"), None, Some("b")].into_iter().collect();
    let fixed = FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(
        vec![
            Some(vec![Some(1), Some(2)]),
            None,
            Some(vec![None, Some(3)]),
        ],
        2,
    );
    batch(vec![
        (
            "bool",
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
        ),
        (
            "i8",
            Arc::new(Int8Array::from(vec![Some(i8::MIN), None, Some(i8::MAX)])),
        ),
        (
            "i16",
            Arc::new(Int16Array::from(vec![Some(i16::MIN), None, Some(i16::MAX)])),
        ),
        (
            "i32",
            Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(i32::MAX)])),
        ),
        (
            "i64",
            Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)])),
        ),
        (
            "u8",
            Arc::new(UInt8Array::from(vec![Some(0), None, Some(u8::MAX)])),
        ),
        (
            "u16",
            Arc::new(UInt16Array::from(vec![Some(0), None, Some(u16::MAX)])),
        ),
        (
            "u32",
            Arc::new(UInt32Array::from(vec![Some(0), None, Some(u32::MAX)])),
        ),
        (
            "u64",
            Arc::new(UInt64Array::from(vec![Some(0), None, Some(u64::MAX)])),
        ),
        (
            "f32",
            Arc::new(Float32Array::from(vec![Some(f32::MIN), None, Some(0.1)])),
        ),
        (
            "f64",
            Arc::new(Float64Array::from(vec![
                Some(f64::NEG_INFINITY),
                None,
                Some(-0.0),
            ])),
        ),
        ("d9", decimal(9, 2, 999_999_999)),
        ("d18", decimal(18, 0, 10i128.pow(18) - 1)),
        ("d38", decimal(38, 10, 10i128.pow(38) - 1)),
        ("utf8", Arc::new(StringArray::from(strings.clone()))),
        ("large", Arc::new(LargeStringArray::from(strings.clone()))),
        ("view", Arc::new(StringViewArray::from(strings.clone()))),
        ("dictionary", Arc::new(dictionary)),
        (
            "binary",
            Arc::new(BinaryArray::from(vec![
                Some(&b"\xff\0"[..]),
                None,
                Some(b""),
            ])),
        ),
        (
            "bview",
            Arc::new(BinaryViewArray::from(vec![
                Some(&b"\xff\0"[..]),
                None,
                Some(b""),
            ])),
        ),
        (
            "date",
            Arc::new(Date32Array::from(vec![
                Some(-719_162),
                None,
                Some(2_932_896),
            ])),
        ),
        (
            "ts",
            Arc::new(
                TimestampMicrosecondArray::from(vec![Some(-1), None, Some(1)]).with_timezone("UTC"),
            ),
        ),
        (
            "ntz",
            Arc::new(TimestampMillisecondArray::from(vec![
                Some(-1),
                None,
                Some(1),
            ])),
        ),
        (
            "ns",
            Arc::new(TimestampNanosecondArray::from(vec![
                Some(-1000),
                None,
                Some(1000),
            ])),
        ),
        ("list", Arc::new(list)),
        ("fixed", Arc::new(fixed)),
        ("map", Arc::new(map)),
        ("struct", Arc::new(nested)),
    ])
}

#[tokio::test]
async fn every_type_is_read_back_as_it_was_written() {
    let rows = all_types();
    let spec = spec(rows.schema().as_ref().clone(), &[]);
    for codec in [Codec::None, Codec::Snappy, Codec::Zstd, Codec::Lz4Raw] {
        let world = world(64 << 20, 2);
        let spec = WriteSpec {
            codec,
            ..spec.clone()
        };
        let written = world.write(&spec, vec![rows.clone()]).await.unwrap();
        let read = world.read(&written.adds[0]).await;
        let restored = spec.schema.restore_batch(&read).unwrap();
        for (index, field) in spec.schema.logical.fields().iter().enumerate() {
            let wanted = cast(rows.column(index), field.data_type()).unwrap();
            assert_eq!(restored.column(index), &wanted, "{}", field.name());
        }
        assert_eq!(
            (written.rows, written.bytes as i64),
            (3, written.adds[0].size)
        );
    }
}

#[tokio::test]
async fn statistics_hold_for_every_type_that_has_an_order() {
    let rows = all_types();
    let world = world(64 << 20, 2);
    let written = world
        .write(&spec(rows.schema().as_ref().clone(), &[]), vec![rows])
        .await
        .unwrap();
    let text = written.adds[0].stats.clone().unwrap();
    // 38 digits survive as text; a float parser would lose them.
    assert!(
        text.contains(r#""d38":-9999999999999999999999999999.9999999999"#),
        "{text}"
    );
    let stats: serde_json::Value = serde_json::from_str(&text).unwrap();
    let (min, max, nulls) = (
        &stats["minValues"],
        &stats["maxValues"],
        &stats["nullCount"],
    );
    assert_eq!(stats["numRecords"], 3);
    assert_eq!(
        (&min["i64"], &max["i64"]),
        (&i64::MIN.into(), &i64::MAX.into())
    );
    assert_eq!((&min["u8"], &max["u8"]), (&0.into(), &255.into()));
    assert_eq!((&min["utf8"], &max["view"]), (&"".into(), &"ü".into()));
    assert_eq!(
        (&min["date"], &max["date"]),
        (&"0001-01-01".into(), &"9999-12-31".into())
    );
    assert_eq!(min["ts"], "1969-12-31T23:59:59.999Z");
    assert_eq!(max["ts"], "1970-01-01T00:00:00.001Z");
    assert_eq!(max["ntz"], "1970-01-01T00:00:00.001");
    assert_eq!(
        min["f64"],
        serde_json::Value::Null,
        "minus infinity has no JSON number"
    );
    assert_eq!(max["f64"], 0.0);
    assert_eq!(min["d9"], serde_json::json!(-9999999.99));
    assert_eq!(
        (&max["struct"]["s"], &nulls["struct"]["u"]),
        (&"ü".into(), &1.into())
    );
    for name in ["bool", "binary", "list", "map"] {
        assert!(min.get(name).is_none() && max.get(name).is_none(), "{name}");
    }
    assert_eq!((&nulls["bool"], &nulls["binary"]), (&1.into(), &1.into()));
    assert!(nulls.get("list").is_none() && nulls.get("map").is_none());
}

#[tokio::test]
async fn nan_hides_float_bounds_and_long_strings_are_cut_upwards() {
    let world = world(64 << 20, 1);
    let long = format!("{}{}", "a".repeat(31), "\u{d7ff}zzzz");
    let top = "\u{10ffff}".repeat(40);
    let rows = batch(vec![
        ("f", Arc::new(Float64Array::from(vec![1.0, f64::NAN]))),
        ("g", Arc::new(Float32Array::from(vec![Some(0.0), None]))),
        (
            "s",
            Arc::new(StringArray::from(vec![long.as_str(), "b\"\n"])),
        ),
        (
            "l",
            Arc::new(StringArray::from(vec![long.as_str(), long.as_str()])),
        ),
        ("t", Arc::new(StringArray::from(vec![top.as_str(), "a"]))),
        ("n", new_null_array(&DataType::Int32, 2)),
    ]);
    let written = world
        .write(&spec(rows.schema().as_ref().clone(), &[]), vec![rows])
        .await
        .unwrap();
    let stats: serde_json::Value =
        serde_json::from_str(written.adds[0].stats.as_ref().unwrap()).unwrap();
    let (min, max) = (&stats["minValues"], &stats["maxValues"]);
    assert!(min.get("f").is_none() && max.get("f").is_none());
    assert_eq!((&min["g"], &max["g"]), (&(-0.0).into(), &0.0.into()));
    assert_eq!(max["s"], "b\"\n");
    assert_eq!(
        min["l"].as_str().unwrap(),
        format!("{}\u{d7ff}", "a".repeat(31))
    );
    assert_eq!(
        max["l"].as_str().unwrap(),
        format!("{}\u{e000}", "a".repeat(31))
    );
    assert!(
        max.get("t").is_none(),
        "nothing sorts after the last code point"
    );
    assert!(min.get("n").is_none());
    assert_eq!(stats["nullCount"]["n"], 2);
}

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

/// Rows that do not compress: a multiplicative scramble of the row number.
fn noise(rows: usize) -> RecordBatch {
    let scramble = |row: usize, salt: u64| {
        ((row as u64 + 1) ^ salt.rotate_left(17))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(31)
            .wrapping_mul(salt | 1) as i64
    };
    let columns = ["a", "b", "c", "d"];
    batch(
        columns
            .iter()
            .enumerate()
            .map(|(i, name)| {
                (
                    *name,
                    ints((0..rows).map(|row| scramble(row, i as u64 * 77 + 3))),
                )
            })
            .collect(),
    )
}

#[tokio::test]
async fn cells_are_cut_near_their_target_and_the_crew_changes_no_byte() {
    let mut sizes = Vec::new();
    for crew in [1, 2, 5] {
        let world = world(256 << 20, crew);
        let rows = noise(1_000_000);
        let mut spec = spec(rows.schema().as_ref().clone(), &[]);
        spec.target_cell_bytes = 8 << 20;
        spec.row_group_rows_max = 100_000;
        let written = world.write(&spec, vec![rows]).await.unwrap();
        assert_eq!(written.rows, 1_000_000);
        assert_eq!(
            written
                .adds
                .iter()
                .filter(|add| add.size > (12 << 20))
                .count(),
            0
        );
        assert!(
            written.adds.len() >= 3 && written.adds.len() <= 5,
            "{}",
            written.adds.len()
        );
        let mut described = Vec::new();
        for add in &written.adds {
            let bytes = world.bytes(add).await;
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).unwrap();
            assert!(
                reader
                    .metadata()
                    .row_groups()
                    .iter()
                    .all(|group| group.num_rows() <= 100_000)
            );
            described.push((add.path.clone(), bytes, add.stats.clone()));
        }
        sizes.push(described);
    }
    assert!(sizes.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn a_failing_input_leaves_no_objects() {
    for partitions in [vec![], vec!["a"]] {
        let world = world(64 << 20, 2);
        let rows = noise(if partitions.is_empty() {
            400_000
        } else {
            2_000
        });
        let schema = rows.schema();
        let mut spec = spec(schema.as_ref().clone(), &partitions);
        spec.target_cell_bytes = 1 << 20;
        let failure = DataFusionError::External(Box::new(Error::rejected("the input broke")));
        let input = stream(schema, vec![Ok(rows.clone()), Ok(rows), Err(failure)]);
        let error = write_cells(
            &world.host,
            &world.meadow,
            &spec,
            input,
            world.context.clone(),
        )
        .await
        .unwrap_err();
        assert!(
            matches!(&error, Error::Rejected(text) if text == "the input broke"),
            "{error:?}"
        );
        assert_eq!(world.object_count().await, 0);
        assert_eq!(world.context.memory_pool().reserved(), 0);
    }
}

#[tokio::test]
async fn an_empty_input_makes_no_cell() {
    let world = world(64 << 20, 1);
    let empty = noise(1).slice(0, 0);
    for partitions in [vec![], vec!["a"]] {
        let spec = spec(empty.schema().as_ref().clone(), &partitions);
        let written = world.write(&spec, vec![empty.clone()]).await.unwrap();
        assert_eq!((written.rows, written.adds.len()), (0, 0));
    }
}

#[tokio::test]
async fn a_huge_string_is_one_row_like_any_other() {
    let world = world(512 << 20, 2);
    let huge = "x".repeat(64 << 20);
    let rows = batch(vec![(
        "s",
        Arc::new(StringArray::from(vec!["a", huge.as_str()])),
    )]);
    let written = world
        .write(&spec(rows.schema().as_ref().clone(), &[]), vec![rows])
        .await
        .unwrap();
    let read = world.read(&written.adds[0]).await;
    assert_eq!(read.column(0).as_string::<i32>().value(1).len(), 64 << 20);
}

#[tokio::test]
async fn without_memory_a_write_fails_and_says_so() {
    let world = world(256 << 10, 1);
    let held = datafusion::execution::memory_pool::MemoryConsumer::new("other")
        .register(world.context.memory_pool());
    held.grow(256 << 10);
    let rows = noise(10);
    let error = world
        .write(&spec(rows.schema().as_ref().clone(), &[]), vec![rows])
        .await
        .unwrap_err();
    assert!(matches!(error, Error::ResourcesExhausted(_)), "{error:?}");
}
