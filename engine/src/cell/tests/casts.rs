//! What rows must be to get into a frame.

use super::*;

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
    restored(&spec, &read).column(0).clone()
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
