//! Making, attaching and dropping frames, one at a time.

use super::*;
use crate::error::ErrorKind;
use crate::ledger::{Conflict, Intent};
use apiary_protocol::delta::Add;
use apiary_protocol::ids::CommitId;
use bytes::Bytes;

/// A blind append of one cell that does not exist: the ledger does not look.
pub(super) fn append(byte: u8) -> Intent {
    let add = Add {
        path: format!("part-{byte}.parquet"),
        partition_values: Default::default(),
        size: 1,
        modification_time: 0,
        data_change: true,
        ..Add::default()
    };
    Intent::append(CommitId::from_random([byte; 16]), vec![add])
}

/// A table that lies in the meadow and that no registry knows.
async fn foreign_table(node: &Catalog, location: &str, like: &str) -> Result<()> {
    let (_, snapshot) = node.create_frame(&frame(like), &schema(), false).await?;
    let body = node
        .meadow
        .get(&keys::commit(&snapshot.location, 0))
        .await?
        .unwrap_or_default();
    node.meadow.put(&keys::commit(location, 0), body).await?;
    node.drop_frame(&frame(like), false, true).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_made_frame_is_live_with_its_id_in_its_ledger() -> Result<()> {
    let store = memory();
    let node = catalog(&store, 1);
    let (entry, snapshot) = node.create_frame(&frame("t"), &schema(), false).await?;
    assert_eq!(entry.location, "default/default/t");
    assert_eq!(
        (snapshot.version, snapshot.metadata.id.clone()),
        (0, entry.id.to_string())
    );
    assert_eq!(*snapshot.schema, schema());
    assert_eq!(catalog(&store, 2).view().await?.frame(&frame("T"))?, &entry);
    let error = node
        .create_frame(&frame("T"), &schema(), false)
        .await
        .expect_err("twice");
    assert_eq!(error.to_string(), "frame default.default.t already exists");
    let (again, snapshot) = catalog(&store, 3)
        .create_frame(&frame("T"), &schema(), true)
        .await?;
    assert_eq!((again, snapshot.version), (entry, 0));
    for missing in ["x.default.t", "default.x.t"] {
        let error = node
            .create_frame(&frame(missing), &schema(), true)
            .await
            .expect_err(missing);
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
    }
    assert_eq!(check_invariants(&store).await?, 2);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_is_made_again_gets_another_location() -> Result<()> {
    let store = memory();
    let node = catalog(&store, 1);
    let mut locations = BTreeSet::new();
    for purge in [false, true, true] {
        let (entry, snapshot) = node.create_frame(&frame("t"), &schema(), false).await?;
        assert_eq!(snapshot.cell_count(), 0);
        assert!(
            locations.insert(entry.location.clone()),
            "{} again",
            entry.location
        );
        assert!(node.drop_frame(&frame("t"), false, purge).await?);
        assert_eq!(is_purged(&node, &entry.location).await?, purge);
        assert!(frames(&node).await?.is_empty());
    }
    assert!(!node.drop_frame(&frame("t"), true, false).await?);
    assert!(!node.drop_frame(&frame("x.y.z"), true, true).await?);
    let error = node
        .drop_frame(&frame("t"), false, false)
        .await
        .expect_err("gone");
    assert_eq!(error.to_string(), "frame default.default.t not found");
    check_invariants(&store).await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_purge_deletes_what_is_under_the_location_and_nothing_beside_it() -> Result<()> {
    let store = memory();
    let node = catalog(&store, 1);
    node.create_frame(&frame("t2"), &schema(), false).await?;
    let (entry, _) = node.create_frame(&frame("t"), &schema(), false).await?;
    let neighbours = [
        "default/default/t.x/a",
        "default/default/tt",
        "default/default/u/t/a",
    ];
    let inside = [
        "a.parquet",
        "region=x y/b.parquet",
        "_delta_log/_last_checkpoint",
    ];
    for key in neighbours {
        node.meadow.put(key, Bytes::from_static(b"x")).await?;
    }
    for path in inside {
        node.meadow
            .put(
                &format!("{}/{path}", entry.location),
                Bytes::from_static(b"x"),
            )
            .await?;
    }
    // Unreadable as a checkpoint hint, which is only a hint.
    assert!(node.drop_frame(&frame("t"), false, true).await?);
    // The two versions that were, and the fence behind them.
    let fences: Vec<String> = (0..3).map(|v| keys::commit(&entry.location, v)).collect();
    assert_eq!(keys_under(&node, &entry.location).await?, fences);
    for key in neighbours {
        assert!(node.meadow.get(key).await?.is_some(), "{key} is gone");
    }
    assert!(newest(&node).await?.purging.is_empty());
    assert_eq!(frames(&node).await?, ["t2"]);
    check_invariants(&store).await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_writer_in_flight_conflicts_with_the_drop() -> Result<()> {
    let store = memory();
    let (node, writer) = (catalog(&store, 1), catalog(&store, 2));
    let (entry, snapshot) = node.create_frame(&frame("t"), &schema(), false).await?;
    let ledger = writer.ledger(&entry.location);
    let (results, snapshot) = ledger.commit(snapshot, vec![append(1)]).await;
    assert!(results[0].is_ok());
    assert!(node.drop_frame(&frame("t"), false, false).await?);
    let (results, _) = ledger.commit(snapshot, vec![append(2)]).await;
    assert!(
        matches!(
            results[0],
            Err(Error::Conflict(Conflict::Dropped { version: 2 }))
        ),
        "{:?}",
        results[0]
    );
    assert!(ledger.load().await?.is_dropped());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_writer_with_any_old_base_conflicts_with_a_purge() -> Result<()> {
    let store = memory();
    let (node, writer) = (catalog(&store, 1), catalog(&store, 2));
    let (entry, mut newest) = node.create_frame(&frame("t"), &schema(), false).await?;
    let ledger = writer.ledger(&entry.location);
    let mut bases = vec![Arc::clone(&newest)];
    for byte in 1..4 {
        newest = ledger.commit(newest, vec![append(byte)]).await.1;
        bases.push(Arc::clone(&newest));
    }
    assert!(node.drop_frame(&frame("t"), false, true).await?);
    for base in bases {
        let (results, _) = ledger.commit(Arc::clone(&base), vec![append(9)]).await;
        let refused = &results[0];
        assert!(
            matches!(refused, Err(Error::Conflict(Conflict::Dropped { .. }))),
            "base {}: {refused:?}",
            base.version
        );
    }
    let left = ledger.load().await?;
    assert!(left.is_dropped() && left.cell_count() == 0);
    assert!(
        node.attach_frame(&frame("u"), &entry.location)
            .await
            .is_err()
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_writer_conflicts_with_the_purge_of_a_damaged_frame() -> Result<()> {
    let store = memory();
    let (node, writer) = (catalog(&store, 1), catalog(&store, 2));
    let (entry, snapshot) = node.create_frame(&frame("t"), &schema(), false).await?;
    let ledger = writer.ledger(&entry.location);
    let (_, newest) = ledger.commit(snapshot, vec![append(1)]).await;
    let first = keys::commit(&entry.location, 0);
    node.meadow.put(&first, Bytes::from_static(b"{")).await?;
    // No marker can be committed; the writer has read the log before.
    assert!(node.drop_frame(&frame("t"), false, true).await?);
    let (results, _) = ledger.commit(newest, vec![append(2)]).await;
    let refused = &results[0];
    assert!(
        matches!(refused, Err(Error::Conflict(Conflict::Dropped { .. }))),
        "{refused:?}"
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_place_where_a_ledger_lies_is_not_used() -> Result<()> {
    let store = memory();
    let node = catalog(&store, 1);
    foreign_table(&node, "default/default/t", "other").await?;
    let (entry, _) = node.create_frame(&frame("t"), &schema(), false).await?;
    assert_eq!(
        entry.location,
        format!("default/default/t.{}", entry.id.short())
    );
    node.meadow
        .put(
            &keys::last_checkpoint("default/default/u"),
            Bytes::from_static(b"{}"),
        )
        .await?;
    let (entry, _) = node.create_frame(&frame("u"), &schema(), false).await?;
    assert!(entry.location.starts_with("default/default/u."));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_table_is_attached_once_detached_untouched_and_never_purged() -> Result<()> {
    let store = memory();
    let node = catalog(&store, 1);
    foreign_table(&node, "lake/old", "other").await?;
    let before = keys_under(&node, "lake/old").await?;
    let entry = node.attach_frame(&frame("old"), "lake/old/").await?;
    assert_eq!(
        (entry.location.as_str(), entry.attached),
        ("lake/old", true)
    );
    let table = node.ledger("lake/old").load().await?;
    assert_eq!(table.metadata.id, entry.id.to_string());
    for (name, location) in [
        ("again", "lake/old"),
        ("old", "lake/old"),
        ("x", "LAKE/OLD"),
        ("x", "default/default/old"),
    ] {
        assert!(
            node.attach_frame(&frame(name), location).await.is_err(),
            "{name} {location}"
        );
    }
    let error = node
        .drop_frame(&frame("old"), false, true)
        .await
        .expect_err("a purge");
    assert_eq!(error.kind(), ErrorKind::Rejected);
    assert!(node.drop_frame(&frame("old"), false, false).await?);
    assert_eq!(keys_under(&node, "lake/old").await?, before);
    assert!(!node.ledger("lake/old").load().await?.is_dropped());
    assert_eq!(
        node.attach_frame(&frame("back"), "lake/old").await?.id,
        entry.id
    );
    check_invariants(&store).await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_is_no_table_or_lies_elsewhere_is_not_attached() -> Result<()> {
    let store = memory();
    let node = catalog(&store, 1);
    let (entry, _) = node.create_frame(&frame("t"), &schema(), false).await?;
    let version = newest(&node).await?.version;
    for location in [
        "nothing/here",
        "s3://bucket/table",
        "/etc",
        "../x",
        "_registry",
        "",
        "default",
        &entry.location,
    ] {
        let error = node
            .attach_frame(&frame("u"), location)
            .await
            .expect_err(location);
        assert_eq!(error.kind(), ErrorKind::Rejected, "{location}: {error}");
    }
    node.drop_frame(&frame("t"), false, false).await?;
    let error = node
        .attach_frame(&frame("u"), &entry.location)
        .await
        .expect_err("dropped");
    assert!(error.to_string().contains("was dropped"), "{error}");
    assert_eq!(
        newest(&node).await?.version,
        version + 2,
        "an attach left something"
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn two_copies_of_one_table_get_different_frame_ids() -> Result<()> {
    let store = memory();
    let node = catalog(&store, 1);
    foreign_table(&node, "lake/a", "other").await?;
    let body = node
        .meadow
        .get(&keys::commit("lake/a", 0))
        .await?
        .unwrap_or_default();
    node.meadow.put(&keys::commit("lake/b", 0), body).await?;
    let a = node.attach_frame(&frame("a"), "lake/a").await?;
    let b = node.attach_frame(&frame("b"), "lake/b").await?;
    assert_ne!(a.id, b.id);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn cascade_drops_what_is_inside_and_nothing_else_does() -> Result<()> {
    let store = memory();
    let node = catalog(&store, 1);
    foreign_table(&node, "lake/old", "other").await?;
    node.create_hive(&name("h"), false).await?;
    node.create_box(&name("h"), &name("b"), false).await?;
    let (entry, _) = node.create_frame(&frame("h.b.t"), &schema(), false).await?;
    node.attach_frame(&frame("h.b.old"), "lake/old").await?;
    let error = node
        .drop_box(&name("h"), &name("b"), false, false, false)
        .await
        .expect_err("full");
    assert!(error.to_string().contains("CASCADE"), "{error}");
    assert!(
        node.drop_hive(&name("h"), false, false, true)
            .await
            .is_err()
    );
    assert!(node.view().await?.frame(&frame("h.b.t")).is_ok());
    assert!(node.drop_hive(&name("h"), false, true, true).await?);
    assert!(is_purged(&node, &entry.location).await?);
    assert_eq!(keys_under(&node, "lake/old").await?.len(), 1);
    assert_eq!(node.view().await?.hives(), [name("default")]);
    check_invariants(&store).await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_frame_whose_ledger_is_damaged_can_be_dropped_and_not_mistaken_for_new() -> Result<()> {
    let store = memory();
    let node = catalog(&store, 1);
    let (entry, _) = node.create_frame(&frame("t"), &schema(), false).await?;
    let key = keys::commit(&entry.location, 0);
    node.meadow.delete(&key).await?;
    let error = node
        .create_frame(&frame("t"), &schema(), true)
        .await
        .expect_err("no ledger");
    assert!(
        error.kind() == ErrorKind::Corrupt && error.to_string().contains(&key),
        "{error}"
    );
    node.meadow
        .put(&key, Bytes::from_static(b"{\"add\":"))
        .await?;
    let error = node
        .create_frame(&frame("t"), &schema(), true)
        .await
        .expect_err("damaged");
    assert!(
        error.kind() == ErrorKind::Corrupt && error.to_string().contains(&key),
        "{error}"
    );
    assert!(node.drop_frame(&frame("t"), false, true).await?);
    check_invariants(&store).await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_another_client_made_unwritable_for_us_can_be_dropped() -> Result<()> {
    let store = memory();
    let node = catalog(&store, 1);
    let (entry, snapshot) = node.create_frame(&frame("t"), &schema(), false).await?;
    let mut metadata = (*snapshot.metadata).clone();
    metadata
        .configuration
        .insert("delta.enableChangeDataFeed".into(), Some("true".into()));
    let protocol =
        serde_json::json!({ "protocol": { "minReaderVersion": 1, "minWriterVersion": 4 } });
    let body = format!(
        "{protocol}\n{}\n",
        serde_json::json!({ "metaData": metadata })
    );
    node.meadow
        .put(&keys::commit(&entry.location, 1), body.into())
        .await?;
    assert!(node.drop_frame(&frame("t"), false, false).await?);
    node.create_frame(&frame("t"), &schema(), false).await?;
    check_invariants(&store).await?;
    Ok(())
}
