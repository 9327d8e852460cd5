//! One rule a test.

use super::*;
use crate::ledger::{Conflict, Reads, invariants};
use apiary_protocol::delta::DomainMetadata;
use apiary_protocol::keys;
use apiary_protocol::registry::DROPPED_PROPERTY;
use std::collections::BTreeSet;

#[tokio::test]
async fn a_created_ledger_loads_and_refreshes_to_the_same() {
    let ledger = ledger();
    assert!(matches!(ledger.load().await, Err(Error::NotFound { .. })));
    let created = create(&ledger).await;
    let loaded = ledger.load().await.unwrap();
    invariants::check_same_content(&created, &loaded).unwrap();
    let refreshed = ledger.refresh(&loaded).await.unwrap();
    assert!(Arc::ptr_eq(&refreshed, &loaded));
}

#[tokio::test]
async fn creating_what_somebody_else_created_for_us_is_no_error() {
    let ledger = ledger();
    let first = create(&ledger).await;
    let again = create(&ledger).await;
    assert_eq!(again.metadata.id, first.metadata.id);
    let other = ledger
        .create(id(&ledger), metadata("another"), protocol())
        .await;
    assert!(matches!(other, Err(Error::AlreadyExists { .. })));
}

#[tokio::test]
async fn a_group_of_appends_is_one_version_and_every_member_is_found_in_it() {
    let ledger = ledger();
    let base = create(&ledger).await;
    let group = vec![
        append(&ledger, &["a"]),
        Intent {
            txn: Some(("app".into(), 1)),
            ..append(&ledger, &["b"])
        },
        append(&ledger, &["c"]),
    ];
    let ids: Vec<CommitId> = group.iter().map(|intent| intent.id).collect();
    let (results, newest) = ledger.commit(base, group).await;
    for result in results {
        let committed = result.unwrap();
        assert_eq!((committed.version, committed.already), (1, false));
    }
    assert_eq!(paths(&newest), ["a", "b", "c"]);
    assert_eq!((newest.row_count(), newest.total_bytes()), (Some(30), 300));
    assert_eq!(newest.txn_version("app"), Some(1));
    let commit = ledger.read_commit(1).await.unwrap().unwrap();
    assert!(ids.into_iter().all(|id| commit.contains(id)));
    assert!(commit.is_blind_append);
}

#[tokio::test]
async fn a_transaction_that_was_committed_before_is_not_committed_again() {
    let ledger = ledger();
    let base = create(&ledger).await;
    let with_txn = |path: &str, version| Intent {
        txn: Some(("app".into(), version)),
        ..append(&ledger, &[path])
    };
    let group = vec![with_txn("a", 1), with_txn("again", 1), with_txn("b", 2)];
    let (results, newest) = ledger.commit(Arc::clone(&base), group).await;
    let already: Vec<_> = results
        .into_iter()
        .map(|result| result.unwrap())
        .map(|committed| (committed.already, committed.recorded_before))
        .collect();
    assert_eq!(already, [(false, false), (true, true), (false, false)]);
    assert_eq!(paths(&newest), ["a", "b"]);
    // Also from a base that does not know of it yet.
    let stale = commit_one(&ledger, &base, with_txn("late", 2))
        .await
        .unwrap();
    assert!(stale.already && stale.recorded_before);
    let newest = ledger.load().await.unwrap();
    assert_eq!(paths(&newest), ["a", "b"]);
}

#[tokio::test]
async fn a_member_that_conflicts_fails_alone() {
    let ledger = ledger();
    let base = create(&ledger).await;
    let one = commit_one(&ledger, &base, append(&ledger, &["a"]))
        .await
        .unwrap()
        .snapshot;
    let delete = |paths: &[&str]| Intent {
        operation: "DELETE",
        actions: paths.iter().map(|path| remove(&one, path, true)).collect(),
        reads: Reads::Cells(paths.iter().map(|path| (path.to_string(), None)).collect()),
        ..append(&ledger, &[])
    };
    let group = vec![
        append(&ledger, &["b"]),
        delete(&["a"]),
        delete(&["a"]),
        append(&ledger, &["c"]),
    ];
    let (results, newest) = ledger.commit(Arc::clone(&one), group).await;
    let versions: Vec<Option<u64>> = results
        .iter()
        .map(|result| result.as_ref().ok().map(|committed| committed.version))
        .collect();
    assert_eq!(versions, [Some(2), Some(3), None, Some(4)]);
    assert!(matches!(
        results[2],
        Err(Error::Conflict(Conflict::ConcurrentDelete { .. }))
    ));
    assert_eq!(paths(&newest), ["b", "c"]);
}

/// What happens to `late`, made from version 1, when `winner` was committed from version 1 too.
async fn race(
    winner: fn(&Ledger, &Snapshot) -> Intent,
    late: fn(&Ledger, &Snapshot) -> Intent,
) -> String {
    let ledger = ledger();
    let base = create(&ledger).await;
    let one = commit_one(&ledger, &base, append(&ledger, &["a", "b"]))
        .await
        .unwrap()
        .snapshot;
    let (first, second) = (winner(&ledger, &one), late(&ledger, &one));
    let newest = commit_one(&ledger, &one, first).await.unwrap().snapshot;
    // From the stale base, and from a newer base that says what it read: the same outcome.
    let told = Intent {
        read_version: Some(1),
        id: id(&ledger),
        ..second.clone()
    };
    let with_version = commit_one(&ledger, &newest, told.clone()).await;
    let stale_ledger = ledger_after(winner, late).await;
    let outcome = |result: Result<Committed>| match result {
        Ok(committed) => paths(&committed.snapshot).join(" "),
        Err(Error::Conflict(conflict)) => format!("{conflict:?}")
            .split([' ', '{'])
            .next()
            .unwrap_or_default()
            .to_string(),
        Err(error) => format!("{error:?}"),
    };
    let with_version = outcome(with_version);
    assert_eq!(with_version, outcome(stale_ledger));
    with_version
}

async fn ledger_after(
    winner: fn(&Ledger, &Snapshot) -> Intent,
    late: fn(&Ledger, &Snapshot) -> Intent,
) -> Result<Committed> {
    let ledger = ledger();
    let base = create(&ledger).await;
    let one = commit_one(&ledger, &base, append(&ledger, &["a", "b"]))
        .await
        .unwrap()
        .snapshot;
    let (first, second) = (winner(&ledger, &one), late(&ledger, &one));
    commit_one(&ledger, &one, first).await.unwrap();
    commit_one(&ledger, &one, second).await
}

fn an_append(ledger: &Ledger, _: &Snapshot) -> Intent {
    append(ledger, &["x"])
}

fn another_append(ledger: &Ledger, _: &Snapshot) -> Intent {
    append(ledger, &["y"])
}

fn a_delete(ledger: &Ledger, snapshot: &Snapshot) -> Intent {
    Intent {
        actions: vec![remove(snapshot, "a", true)],
        reads: Reads::Cells(BTreeSet::from([("a".into(), None)])),
        ..append(ledger, &[])
    }
}

fn a_compaction(ledger: &Ledger, snapshot: &Snapshot) -> Intent {
    let merged = Add {
        data_change: false,
        ..add("ab", 20)
    };
    Intent {
        operation: "OPTIMIZE",
        actions: vec![
            remove(snapshot, "a", false),
            remove(snapshot, "b", false),
            Action::Add(merged),
        ],
        reads: Reads::Cells(BTreeSet::from([("a".into(), None), ("b".into(), None)])),
        ..append(ledger, &[])
    }
}

fn an_overwrite(ledger: &Ledger, _: &Snapshot) -> Intent {
    Intent {
        replaces_all: true,
        ..append(ledger, &["o"])
    }
}

fn an_insert_select(ledger: &Ledger, _: &Snapshot) -> Intent {
    Intent {
        reads: Reads::Everything,
        ..append(ledger, &["s"])
    }
}

fn an_overwrite_of_what_it_read(ledger: &Ledger, snapshot: &Snapshot) -> Intent {
    Intent {
        replaces_all: true,
        ..an_insert_select(ledger, snapshot)
    }
}

fn a_drop(ledger: &Ledger, snapshot: &Snapshot) -> Intent {
    let mut metadata = (*snapshot.metadata).clone();
    metadata
        .configuration
        .insert(DROPPED_PROPERTY.into(), Some("true".into()));
    Intent {
        actions: vec![Action::MetaData(metadata)],
        ..append(ledger, &[])
    }
}

fn a_property(ledger: &Ledger, snapshot: &Snapshot) -> Intent {
    let mut metadata = (*snapshot.metadata).clone();
    metadata
        .configuration
        .insert("note".into(), Some("x".into()));
    Intent {
        actions: vec![Action::MetaData(metadata)],
        ..append(ledger, &[])
    }
}

#[tokio::test]
async fn an_append_goes_with_every_change_of_data() {
    assert_eq!(race(an_append, another_append).await, "a b x y");
    assert_eq!(race(a_delete, another_append).await, "b y");
    assert_eq!(race(a_compaction, another_append).await, "ab y");
    assert_eq!(race(an_overwrite, another_append).await, "o y");
}

#[tokio::test]
async fn a_compaction_conflicts_with_whatever_removed_its_cells_and_with_nothing_else() {
    assert_eq!(race(an_append, a_compaction).await, "ab x");
    for winner in [a_delete, a_compaction, an_overwrite] {
        assert_eq!(race(winner, a_compaction).await, "ConcurrentDelete");
        assert_eq!(race(a_compaction, a_delete).await, "ConcurrentDelete");
    }
}

#[tokio::test]
async fn an_overwrite_replaces_what_is_there_when_it_lands() {
    assert_eq!(race(an_append, an_overwrite).await, "o");
    assert_eq!(race(a_compaction, an_overwrite).await, "o");
    assert_eq!(race(a_delete, an_overwrite).await, "o");
}

#[tokio::test]
async fn what_was_computed_from_the_table_conflicts_with_changes_of_it() {
    assert_eq!(race(a_delete, an_insert_select).await, "ConcurrentDelete");
    assert_eq!(
        race(an_insert_select, an_insert_select).await,
        "ConcurrentAppend"
    );
    // WriteSerializable: blind appends may be ordered after it.
    assert_eq!(race(an_append, an_insert_select).await, "a b s x");
    // A rewrite of the same rows changes nothing that was read.
    assert_eq!(race(a_compaction, an_insert_select).await, "ab s");
}

/// It would remove rows that it never saw, and that were acknowledged.
#[tokio::test]
async fn an_overwrite_with_what_was_read_from_the_table_conflicts_with_every_append() {
    for append in [an_append, an_insert_select] {
        let late = race(append, an_overwrite_of_what_it_read).await;
        assert_eq!(late, "ConcurrentAppend");
    }
    assert_eq!(race(a_compaction, an_overwrite_of_what_it_read).await, "s");
}

#[tokio::test]
async fn everything_conflicts_with_a_change_of_metadata_and_with_a_drop() {
    for late in [
        another_append,
        a_delete,
        a_compaction,
        an_overwrite,
        an_insert_select,
        a_property,
    ] {
        assert_eq!(race(a_property, late).await, "MetadataChanged");
        assert_eq!(race(a_drop, late).await, "Dropped");
    }
}

#[tokio::test]
async fn nothing_is_committed_to_a_dropped_frame() {
    let ledger = ledger();
    let base = create(&ledger).await;
    let dropped = commit_one(&ledger, &base, a_drop(&ledger, &base))
        .await
        .unwrap()
        .snapshot;
    assert!(dropped.is_dropped() && !base.is_dropped());
    let late = commit_one(&ledger, &dropped, append(&ledger, &["x"])).await;
    assert!(matches!(
        late,
        Err(Error::Conflict(Conflict::Dropped { .. }))
    ));
    assert_eq!(ledger.load().await.unwrap().version, 1);
}

#[tokio::test]
async fn conflicts_are_found_beyond_the_commits_that_a_snapshot_remembers() {
    let ledger = ledger();
    let base = create(&ledger).await;
    let one = commit_one(&ledger, &base, append(&ledger, &["a", "b"]))
        .await
        .unwrap()
        .snapshot;
    let late = Intent {
        read_version: Some(1),
        ..an_insert_select(&ledger, &one)
    };
    let mut newest = commit_one(&ledger, &one, a_delete(&ledger, &one))
        .await
        .unwrap()
        .snapshot;
    for n in 0..80 {
        let intent = append(&ledger, &[&format!("n{n}")]);
        newest = commit_one(&ledger, &newest, intent).await.unwrap().snapshot;
    }
    let result = commit_one(&ledger, &newest, late).await;
    assert!(matches!(
        result,
        Err(Error::Conflict(Conflict::ConcurrentDelete {
            version: 2,
            ..
        }))
    ));
}

#[tokio::test]
async fn adding_a_live_cell_or_removing_a_dead_one_is_refused() {
    let ledger = ledger();
    let base = create(&ledger).await;
    let one = commit_one(&ledger, &base, append(&ledger, &["a"]))
        .await
        .unwrap()
        .snapshot;
    let again = commit_one(&ledger, &one, append(&ledger, &["a"])).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })));
    let delete = Intent {
        actions: vec![remove(&one, "a", true)],
        ..append(&ledger, &[])
    };
    let two = commit_one(&ledger, &one, delete.clone())
        .await
        .unwrap()
        .snapshot;
    let again = commit_one(
        &ledger,
        &two,
        Intent {
            id: id(&ledger),
            ..delete
        },
    )
    .await;
    assert!(matches!(
        again,
        Err(Error::Conflict(Conflict::ConcurrentDelete { .. }))
    ));
}

#[tokio::test]
async fn an_intent_that_is_tried_again_is_committed_once() {
    let ledger = ledger();
    let base = create(&ledger).await;
    let intent = Intent {
        txn: Some(("app".into(), 1)),
        ..append(&ledger, &["a"])
    };
    let first = commit_one(&ledger, &base, intent.clone()).await.unwrap();
    for base in [&base, &first.snapshot] {
        let again = commit_one(&ledger, base, intent.clone()).await.unwrap();
        assert_eq!((again.version, again.already), (1, true));
        assert!(!again.recorded_before, "its cells are in the frame");
    }
    assert_eq!(ledger.load().await.unwrap().version, 1);
}

#[tokio::test]
async fn an_append_only_table_keeps_its_rows() {
    let ledger = ledger();
    let mut metadata = metadata("frame");
    metadata
        .configuration
        .insert("delta.appendOnly".into(), Some("true".into()));
    let base = ledger
        .create(id(&ledger), metadata, protocol())
        .await
        .unwrap();
    let one = commit_one(&ledger, &base, append(&ledger, &["a", "b"]))
        .await
        .unwrap()
        .snapshot;
    for refused in [a_delete(&ledger, &one), an_overwrite(&ledger, &one)] {
        let result = commit_one(&ledger, &one, refused).await;
        assert!(matches!(result, Err(Error::Rejected(_))), "{result:?}");
    }
    let compacted = commit_one(&ledger, &one, a_compaction(&ledger, &one))
        .await
        .unwrap();
    assert_eq!(paths(&compacted.snapshot), ["ab"]);
}

#[tokio::test]
async fn timestamps_never_go_backwards() {
    let ledger = ledger();
    let base = create(&ledger).await;
    let mut ahead = (*base).clone();
    ahead.timestamp_ms = 9_000_000_000_000;
    let one = commit_one(&ledger, &Arc::new(ahead), append(&ledger, &["a"]))
        .await
        .unwrap();
    assert_eq!(one.snapshot.timestamp_ms, 9_000_000_000_001);
    let two = commit_one(
        &ledger,
        &ledger.load().await.unwrap(),
        append(&ledger, &["b"]),
    )
    .await;
    assert_eq!(two.unwrap().snapshot.timestamp_ms, 9_000_000_000_002);
}

#[tokio::test]
async fn features_that_we_do_not_know_are_refused_by_name() {
    let ledger = ledger();
    let unknown = Protocol {
        min_reader_version: 3,
        min_writer_version: 7,
        reader_features: Some(vec!["typeWidening".into()]),
        writer_features: Some(vec!["typeWidening".into()]),
    };
    let created = ledger
        .create(id(&ledger), metadata("frame"), unknown.clone())
        .await;
    assert!(matches!(created, Err(Error::Unsupported(what)) if what.contains("typeWidening")));
    let base = create(&ledger).await;
    let upgrade = Intent {
        actions: vec![Action::Protocol(unknown)],
        ..append(&ledger, &[])
    };
    let result = commit_one(&ledger, &base, upgrade).await;
    assert!(matches!(result, Err(Error::Unsupported(what)) if what.contains("typeWidening")));
    assert_eq!(ledger.load().await.unwrap().version, 0);
}

#[tokio::test]
async fn a_frame_with_constraints_is_read_and_not_written() {
    let ledger = ledger();
    let base = create(&ledger).await;
    let mut constrained = (*base.metadata).clone();
    constrained
        .configuration
        .insert("delta.constraints.c".into(), Some("a > 0".into()));
    let intent = Intent {
        actions: vec![Action::MetaData(constrained)],
        ..append(&ledger, &[])
    };
    let one = commit_one(&ledger, &base, intent).await.unwrap().snapshot;
    let refused = commit_one(&ledger, &one, append(&ledger, &["a"])).await;
    assert!(matches!(refused, Err(Error::Unsupported(what)) if what.contains("checkConstraints")));
    assert_eq!(ledger.load().await.unwrap().version, 1);
}

#[tokio::test]
async fn older_versions_can_be_loaded_and_newer_ones_are_not_found() {
    let ledger = ledger();
    let mut newest = create(&ledger).await;
    let mut all = vec![Arc::clone(&newest)];
    for n in 0..12 {
        newest = commit_one(&ledger, &newest, append(&ledger, &[&format!("n{n:02}")]))
            .await
            .unwrap()
            .snapshot;
        all.push(Arc::clone(&newest));
        if ledger.checkpoint_due(newest.version) {
            ledger.checkpoint(&newest).await.unwrap();
        }
    }
    for snapshot in &all {
        let loaded = ledger.load_version(snapshot.version).await.unwrap();
        invariants::check_same_content(&loaded, snapshot).unwrap();
    }
    assert!(matches!(
        ledger.load_version(13).await,
        Err(Error::NotFound { .. })
    ));
}

#[tokio::test]
async fn a_checkpoint_has_the_same_bytes_whoever_writes_it() {
    let ledger = ledger();
    let base = create(&ledger).await;
    let one = commit_one(&ledger, &base, append(&ledger, &["a", "b", "c"]))
        .await
        .unwrap()
        .snapshot;
    let two = commit_one(&ledger, &one, a_delete(&ledger, &one))
        .await
        .unwrap()
        .snapshot;
    let domain = DomainMetadata {
        domain: "d".into(),
        configuration: "{}".into(),
        removed: false,
    };
    let intent = Intent {
        actions: vec![Action::DomainMetadata(domain)],
        txn: Some(("app".into(), 7)),
        ..append(&ledger, &[])
    };
    let three = commit_one(&ledger, &two, intent).await.unwrap().snapshot;
    ledger.checkpoint(&three).await.unwrap();
    let key = keys::checkpoint(LOCATION, 3);
    let bytes = ledger.meadow.get(&key).await.unwrap().unwrap();
    let loaded = ledger.load().await.unwrap();
    invariants::check_same_content(&loaded, &three).unwrap();
    assert_eq!(loaded.retained_tombstones().count(), 1);
    ledger.checkpoint(&loaded).await.unwrap();
    assert_eq!(ledger.meadow.get(&key).await.unwrap().unwrap(), bytes);
}

#[tokio::test]
async fn tombstones_leave_the_checkpoint_when_their_retention_is_over() {
    let ledger = ledger();
    let mut metadata = metadata("frame");
    let retention = (
        "delta.deletedFileRetentionDuration".to_string(),
        Some("interval 1 hour".into()),
    );
    metadata.configuration = [retention].into();
    let base = ledger
        .create(id(&ledger), metadata, protocol())
        .await
        .unwrap();
    let one = commit_one(&ledger, &base, append(&ledger, &["a", "b"]))
        .await
        .unwrap()
        .snapshot;
    let two = commit_one(&ledger, &one, a_delete(&ledger, &one))
        .await
        .unwrap()
        .snapshot;
    assert_eq!(two.retained_tombstones().count(), 1);
    let mut later = (*two).clone();
    later.timestamp_ms += 3_600_001;
    assert_eq!(later.retained_tombstones().count(), 0);
}

#[tokio::test]
async fn an_older_hint_does_not_replace_a_newer_one() {
    let ledger = ledger();
    let base = create(&ledger).await;
    let one = commit_one(&ledger, &base, append(&ledger, &["a"]))
        .await
        .unwrap()
        .snapshot;
    ledger.checkpoint(&one).await.unwrap();
    ledger.checkpoint(&base).await.unwrap();
    assert_eq!(ledger.read_hint().await.unwrap().unwrap().version, 1);
}

#[tokio::test]
async fn a_derived_value_is_built_once_and_not_carried_to_the_next_version() {
    let ledger = ledger();
    let base = create(&ledger).await;
    let first = base.derived(|snapshot| snapshot.version);
    assert!(Arc::ptr_eq(&first, &base.derived(|_| 99_u64)));
    let one = commit_one(&ledger, &base, append(&ledger, &["a"]))
        .await
        .unwrap()
        .snapshot;
    assert_eq!(*one.derived(|snapshot| snapshot.version), 1);
}

#[tokio::test]
async fn a_base_that_is_far_behind_catches_up() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (ours, theirs) = (ledger_over(Arc::clone(&store), 1), ledger_over(store, 2));
    let base = create(&ours).await;
    let mut newest = Arc::clone(&base);
    for n in 0..40 {
        newest = commit_one(&theirs, &newest, append(&theirs, &[&format!("n{n:02}")]))
            .await
            .unwrap()
            .snapshot;
    }
    let refreshed = ours.refresh(&base).await.unwrap();
    invariants::check_same_content(&refreshed, &newest).unwrap();
    let landed = commit_one(&ours, &base, append(&ours, &["z"]))
        .await
        .unwrap();
    assert_eq!((landed.version, landed.attempts), (41, 2));
}
