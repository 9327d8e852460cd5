//! Every type, and what the log says of its values.

use super::*;

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
        let restored = restored(&spec, &read);
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
