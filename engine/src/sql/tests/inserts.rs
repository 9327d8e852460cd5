//! What an INSERT does with its literals.

use super::*;

#[tokio::test]
async fn an_insert_brings_literals_to_the_columns_types() {
    let world = World::new().await;
    let schema = Schema::new(vec![
        Field::new("a", DataType::Int32, true),
        Field::new("D", DataType::Date32, true),
        Field::new("m", DataType::Decimal128(10, 2), true),
    ]);
    let schema = FrameSchema::new(Arc::new(schema), vec![]).unwrap();
    let plan = async |text: &str| {
        let Statement::Insert {
            columns, source, ..
        } = parse(text).unwrap().remove(0)
        else {
            panic!()
        };
        plan_insert(
            &world.environment,
            &world.session,
            &schema,
            &columns,
            &source,
            &world.crew,
            None,
        )
        .await
    };
    let planned = plan("INSERT INTO t (m, d) VALUES (1.5, '2026-02-03'), (NULL, NULL)")
        .await
        .unwrap();
    let names: Vec<_> = planned
        .schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    assert_eq!(names, ["m", "D"]);
    assert_eq!(planned.schema.field(1).data_type(), &DataType::Date32);
    let rows = collect(planned.plan, planned.context).await.unwrap();
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
    let error = plan("INSERT INTO t VALUES (1, 2)").await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("2 values for 3 columns (a, D, m)"),
        "{error}"
    );
    assert!(
        plan("INSERT INTO t (x) VALUES (1)")
            .await
            .unwrap_err()
            .to_string()
            .contains("no column x")
    );
    assert!(
        plan("INSERT INTO t (a, A) VALUES (1, 2)")
            .await
            .unwrap_err()
            .to_string()
            .contains("twice")
    );
}
