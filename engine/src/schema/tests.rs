use super::types;
use super::*;
use arrow::datatypes::{DataType, TimeUnit, UnionFields, UnionMode};

/// A small seeded generator; the whole test is a function of its seed.
struct Random(u64);
impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % bound
    }
}

fn random_type(random: &mut Random, depth: usize) -> DataType {
    use DataType::*;
    let nullable = random.below(2) == 0;
    match random.below(if depth == 0 { 26 } else { 32 }) {
        0 => Boolean,
        1 => Int8,
        2 => Int16,
        3 => Int32,
        4 => Int64,
        5 => UInt8,
        6 => UInt16,
        7 => UInt32,
        8 => UInt64,
        9 => Float16,
        10 => Float32,
        11 => Float64,
        12 => {
            let precision = 1 + random.below(38) as u8;
            Decimal128(precision, random.below(precision as usize + 1) as i8)
        }
        13 => Decimal32(9, 2),
        14 => Decimal64(18, 18),
        15 => Decimal256(38, 3),
        16 => [Utf8, LargeUtf8, Utf8View][random.below(3)].clone(),
        17 => [Binary, LargeBinary, BinaryView, FixedSizeBinary(7)][random.below(4)].clone(),
        18 => Date32,
        19 => Date64,
        20..=23 => {
            use TimeUnit::*;
            let unit = [Second, Millisecond, Microsecond, Nanosecond][random.below(4)];
            Timestamp(
                unit,
                [None, Some("UTC".into()), Some("+02:00".into())][random.below(3)].clone(),
            )
        }
        24 => Dictionary(Box::new(Int16), Box::new(Utf8)),
        25 => Dictionary(Box::new(Int32), Box::new(UInt64)),
        26 => List(Arc::new(Field::new(
            "item",
            random_type(random, depth - 1),
            nullable,
        ))),
        27 => LargeList(Arc::new(Field::new(
            "x",
            random_type(random, depth - 1),
            nullable,
        ))),
        28 => FixedSizeList(
            Arc::new(Field::new("item", random_type(random, depth - 1), nullable)),
            3,
        ),
        29 => types::map(
            random_type(random, 0),
            random_type(random, depth - 1),
            nullable,
        ),
        _ => {
            let count = 1 + random.below(3);
            Struct(
                (0..count)
                    .map(|i| Field::new(format!("f{i}"), random_type(random, depth - 1), nullable))
                    .collect(),
            )
        }
    }
}

fn metadata_of(schema: &FrameSchema) -> Metadata {
    Metadata {
        id: "x".into(),
        name: None,
        description: None,
        format: apiary_protocol::delta::Format {
            provider: "parquet".into(),
            options: Default::default(),
        },
        schema_string: schema.to_schema_string(),
        partition_columns: schema.partition_columns.clone(),
        configuration: Default::default(),
        created_time: None,
    }
}

fn one(data_type: DataType) -> Result<FrameSchema> {
    FrameSchema::new(
        Arc::new(Schema::new(vec![Field::new("c", data_type, true)])),
        vec![],
    )
}

fn foreign(schema: &str) -> Result<FrameSchema> {
    let mut metadata = metadata_of(&one(DataType::Int32).unwrap());
    metadata.schema_string = schema.into();
    FrameSchema::from_metadata(&metadata)
}

#[test]
fn random_schemas_survive_the_ledger() {
    let mut random = Random(7);
    for round in 0..500 {
        let count = 1 + random.below(6);
        let fields: Vec<Field> = (0..count)
            .map(|i| {
                Field::new(
                    format!("col {i}"),
                    random_type(&mut random, 3),
                    random.below(2) == 0,
                )
                .with_metadata([("comment".to_string(), format!("ü \" {round}"))].into())
            })
            .collect();
        let partitions = match fields[0].data_type().is_nested() || count == 1 {
            true => vec![],
            false => vec!["COL 0".to_string()],
        };
        let schema = FrameSchema::new(Arc::new(Schema::new(fields)), partitions).unwrap();
        let read = FrameSchema::from_metadata(&metadata_of(&schema)).unwrap();
        assert_eq!(schema, read, "round {round}");
        let again = FrameSchema::new(read.logical.clone(), read.partition_columns.clone());
        assert_eq!(
            schema,
            again.unwrap(),
            "normalising twice changes nothing, round {round}"
        );
    }
}

#[test]
fn types_that_a_frame_cannot_hold_are_refused_by_name() {
    use DataType::*;
    let union = Union(UnionFields::empty(), UnionMode::Sparse);
    let cases = [
        (Null, "null"),
        (Time32(TimeUnit::Second), "Time32"),
        (Time64(TimeUnit::Nanosecond), "Time64"),
        (Duration(TimeUnit::Second), "Duration"),
        (
            Interval(arrow::datatypes::IntervalUnit::MonthDayNano),
            "Interval",
        ),
        (union, "union"),
        (Decimal256(39, 0), "decimal(39, 0)"),
        (Decimal128(5, -2), "decimal(5, -2)"),
        (Struct(Fields::empty()), "struct without fields"),
    ];
    for (data_type, name) in cases {
        let text = one(data_type.clone()).unwrap_err().to_string();
        assert!(text.contains(name) && text.contains("\"c\""), "{text}");
        let nested = one(types::list(data_type, true)).unwrap_err().to_string();
        assert!(nested.contains("\"c.element\""), "{nested}");
    }
}

#[test]
fn column_names_are_checked() {
    let schema = |names: &[&str], partitions: &[&str]| {
        let fields: Vec<_> = names
            .iter()
            .map(|n| Field::new(*n, DataType::Int32, true))
            .collect();
        FrameSchema::new(
            Arc::new(Schema::new(fields)),
            partitions.iter().map(|p| p.to_string()).collect(),
        )
        .map_err(|error| error.to_string())
    };
    assert!(schema(&[""], &[]).unwrap_err().contains("empty"));
    assert!(schema(&["a", "A"], &[]).unwrap_err().contains("twice"));
    assert!(schema(&["Ä", "ä"], &[]).unwrap_err().contains("twice"));
    assert!(schema(&["a\nb"], &[]).unwrap_err().contains("control"));
    assert!(
        schema(&[&"x".repeat(256)], &[])
            .unwrap_err()
            .contains("255")
    );
    assert!(schema(&[], &[]).unwrap_err().contains("at least one"));
    assert!(schema(&["a"], &["b"]).unwrap_err().contains("not a column"));
    assert!(schema(&["a"], &["a"]).unwrap_err().contains("every column"));
    assert!(
        schema(&["a", "b"], &["a", "A"])
            .unwrap_err()
            .contains("twice")
    );
    assert_eq!(
        schema(&["a", "B c"], &["b C"]).unwrap().partition_columns,
        ["B c"]
    );
    let nested = DataType::Struct(vec![Field::new("", DataType::Int32, true)].into());
    assert!(
        one(types::list(nested.clone(), true))
            .unwrap_err()
            .to_string()
            .contains("c.element.")
    );
    let nested = Schema::new(vec![
        Field::new(
            "s",
            one(DataType::Int8)
                .map(|_| types::list(DataType::Int8, true))
                .unwrap(),
            true,
        ),
        Field::new("x", DataType::Int8, true),
    ]);
    let error = FrameSchema::new(Arc::new(nested), vec!["s".into()]).unwrap_err();
    assert!(error.to_string().contains("primitive"), "{error}");
}

#[test]
fn foreign_schemas_are_read_and_unknown_types_refused_by_name() {
    let field = |data_type: &str| {
        format!(
            r#"{{"type":"struct","fields":[{{"name":"c","type":{data_type},"nullable":true,"metadata":{{"delta.columnMapping.id":4}}}}]}}"#
        )
    };
    let read = foreign(&field(r#""decimal(12, 2)""#)).unwrap();
    assert_eq!(
        read.logical.field(0).data_type(),
        &DataType::Decimal128(12, 2)
    );
    assert_eq!(
        read.logical.field(0).metadata()["delta.columnMapping.id"],
        "4"
    );
    for name in [
        "void",
        "variant",
        "interval day",
        "decimal(39,0)",
        "decimal(2,3)",
    ] {
        let error = foreign(&field(&format!("{name:?}"))).unwrap_err();
        assert!(
            matches!(&error, Error::Unsupported(text) if text.contains(name)),
            "{error}"
        );
    }
    for text in [
        "",
        "{}",
        r#"{"type":"struct"}"#,
        r#"{"type":"struct","fields":[{}]}"#,
        &field("7"),
    ] {
        assert!(
            matches!(foreign(text), Err(Error::Corrupt { .. })),
            "{text}"
        );
    }
    let deep = "[".repeat(100_000);
    assert!(matches!(foreign(&deep), Err(Error::Corrupt { .. })));
}

#[test]
fn a_note_that_contradicts_the_stored_type_is_left_aside() {
    let text = one(DataType::UInt64).unwrap().to_schema_string();
    assert!(text.contains(r#""apiary.type":"uint64""#), "{text}");
    let changed = foreign(&text.replace("decimal(20,0)", "long")).unwrap();
    assert_eq!(changed.logical.field(0).data_type(), &DataType::Int64);
}

#[test]
fn the_protocol_is_the_least_that_the_columns_need() {
    let zoned = DataType::Timestamp(TimeUnit::Second, Some("UTC".into()));
    assert_eq!(one(zoned).unwrap().protocol().min_reader_version, 1);
    let naive = types::list(DataType::Timestamp(TimeUnit::Second, None), true);
    let protocol = one(naive).unwrap().protocol();
    assert_eq!(
        (protocol.min_reader_version, protocol.min_writer_version),
        (3, 7)
    );
    assert_eq!(protocol.reader_features.unwrap(), ["timestampNtz"]);
}
