//! Names in statements, and what the information schema says.

use super::*;

#[tokio::test]
async fn names_are_found_whatever_their_parts_case_and_quotes() {
    let world = World::new().await;
    world.frame("Orders", &[], &rising(1)).await;
    world.frame("Shop.Main.My Frame", &[], &rising(2)).await;
    for name in [
        "orders",
        "ORDERS",
        "\"Orders\"",
        "default.orders",
        "\"DEFAULT\".\"default\".orders",
    ] {
        assert_eq!(
            world.number(&format!("SELECT count(*) FROM {name}")).await,
            100,
            "{name}"
        );
    }
    for name in ["shop.main.\"my frame\"", "\"SHOP\".MAIN.\"My Frame\""] {
        assert_eq!(
            world.number(&format!("SELECT count(*) FROM {name}")).await,
            200,
            "{name}"
        );
    }
    let error = world
        .try_sql("SELECT * FROM shop.main.none")
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "frame shop.main.none not found");
    // Two spellings in one query are one frame at one snapshot.
    let planned = world
        .plan("SELECT count(*) FROM orders a, default.\"ORDERS\" b WHERE a.id = b.id")
        .await
        .unwrap();
    assert_eq!(planned.frames.snapshots().len(), 1);
}

#[tokio::test]
async fn literals_and_common_table_expressions_name_no_frames() {
    let world = World::new().await;
    world.frame("t", &[], &rising(1)).await;
    assert_eq!(
        world
            .number("SELECT count(*) FROM t WHERE name <> 'x FROM nowhere; DROP TABLE t'")
            .await,
        100
    );
    assert_eq!(
        world
            .number("WITH nowhere AS (SELECT 1 AS a) SELECT a FROM nowhere")
            .await,
        1
    );
    assert_eq!(
        world
            .number("SELECT count(*) FROM generate_series(1, 5)")
            .await,
        5
    );
    assert_eq!(
        world
            .number("WITH t AS (SELECT * FROM t WHERE id < 10) SELECT count(*) FROM t")
            .await,
        10
    );
}

#[tokio::test]
async fn information_schema_lists_what_the_registry_has() {
    let world = World::new().await;
    world.frame("t", &[], &rising(1)).await;
    let tables = world.sql("SELECT table_catalog, table_name FROM information_schema.tables WHERE table_schema = 'default'").await;
    assert!(tables.contains("| default       | t "), "{tables}");
    let columns = world
        .sql("SELECT column_name FROM information_schema.columns WHERE table_name = 't'")
        .await;
    assert!(
        columns.contains("id") && columns.contains("name"),
        "{columns}"
    );
    assert!(
        world
            .sql("SHOW datafusion.execution.batch_size")
            .await
            .contains("8192")
    );
}
