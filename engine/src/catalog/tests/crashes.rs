//! A node that dies at any request of a flow leaves what the next one finishes or aborts.

use super::frames::append;
use super::reins::Reins;
use super::*;
use crate::ledger::Snapshot;

/// More than any flow here needs.
const REQUESTS_MAX: u64 = 60;

/// Runs a flow that stops at a request; true when it got to its end before.
async fn killed(flow: impl Future<Output = Result<()>>, reins: &Reins) -> bool {
    tokio::select! {
        biased;
        result = flow => {
            assert!(result.is_ok(), "{result:?}");
            true
        }
        () = reins.stopped() => false,
    }
}

/// Kills a flow at each of its requests, before and after the effect, and then lets another node
/// look. Gives the number of requests.
async fn at_each_request<F, A>(
    prepare: impl AsyncFn(&Catalog) -> Result<()>,
    flow: impl Fn(Catalog) -> F,
    afterwards: impl Fn(Store, u64) -> A,
) -> Result<u64>
where
    F: Future<Output = Result<()>>,
    A: Future<Output = Result<()>>,
{
    for request in 0..REQUESTS_MAX {
        let mut is_over = true;
        for with_effect in [false, true] {
            let store = memory();
            prepare(&catalog(&store, 1)).await?;
            let reins = Reins::stopping(&store, request, with_effect);
            let seen: Store = reins.clone();
            let ended = killed(flow(catalog(&seen, 2)), &reins).await;
            check_invariants(&store).await?;
            afterwards(Arc::clone(&store), request).await?;
            check_invariants(&store).await?;
            is_over &= ended;
        }
        if is_over {
            return Ok(request);
        }
    }
    panic!("the flow has no end");
}

#[tokio::test(start_paused = true)]
async fn a_creation_killed_anywhere_is_finished_or_aborted_by_the_next() -> Result<()> {
    let requests = at_each_request(
        async |_| Ok(()),
        |node| async move {
            node.create_frame(&frame("t"), &schema(), false)
                .await
                .map(drop)
        },
        |store, request| async move {
            let node = catalog(&store, 3);
            let (entry, snapshot) = node.create_frame(&frame("t"), &schema(), true).await?;
            assert_eq!(
                snapshot.metadata.id,
                entry.id.to_string(),
                "request {request}"
            );
            assert_eq!(newest(&node).await?.frames().count(), 1);
            assert!(node.drop_frame(&frame("t"), false, true).await?);
            Ok(())
        },
    )
    .await?;
    assert!(
        requests >= 8,
        "{requests} requests are too few to have been all"
    );
    Ok(())
}

/// Cells that do not exist: the ledger does not look.
fn adds() -> Vec<Add> {
    let add = |path: &str| Add {
        path: path.into(),
        partition_values: Default::default(),
        size: 7,
        modification_time: 0,
        data_change: true,
        ..Add::default()
    };
    vec![add("a.parquet"), add("b.parquet")]
}

#[tokio::test(start_paused = true)]
async fn a_creation_with_rows_killed_anywhere_shows_all_of_them_or_no_frame() -> Result<()> {
    at_each_request(
        async |_| Ok(()),
        |node| async move {
            let new = node.plan_frame(&frame("t")).await?;
            node.create_filled(&new, &schema(), adds()).await.map(drop)
        },
        |store, request| async move {
            let node = catalog(&store, 3);
            let cells = |snapshot: &Snapshot| snapshot.cell_count();
            if let Ok(entry) = node.view().await?.frame(&frame("t")) {
                let snapshot = node.ledger(&entry.location).load().await?;
                assert_eq!(cells(&snapshot), 2, "request {request}");
            }
            let (_, snapshot) = node.create_frame(&frame("t"), &schema(), true).await?;
            let found = cells(&snapshot);
            assert!(found == 0 || found == 2, "request {request}: {found} cells");
            assert!(node.drop_frame(&frame("t"), false, true).await?);
            Ok(())
        },
    )
    .await
    .map(drop)
}

#[tokio::test(start_paused = true)]
async fn of_two_who_make_a_frame_with_rows_one_is_told_that_it_exists() -> Result<()> {
    let store = memory();
    let (one, two) = (catalog(&store, 1), catalog(&store, 2));
    let (first, second) = (
        one.plan_frame(&frame("t")).await?,
        two.plan_frame(&frame("T")).await?,
    );
    one.create_filled(&first, &schema(), adds()).await?;
    let late = two.create_filled(&second, &schema(), adds()).await;
    assert!(matches!(late, Err(Error::AlreadyExists { .. })), "{late:?}");
    let again = two.plan_frame(&frame("t")).await;
    assert!(
        matches!(again, Err(Error::AlreadyExists { .. })),
        "{again:?}"
    );
    check_invariants(&store).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_place_that_was_used_meanwhile_makes_no_frame() -> Result<()> {
    let store = memory();
    let (slow, other) = (catalog(&store, 1), catalog(&store, 2));
    let new = slow.plan_frame(&frame("t")).await?;
    other.create_frame(&frame("t"), &schema(), false).await?;
    other.drop_frame(&frame("t"), false, false).await?;
    let late = slow.create_filled(&new, &schema(), adds()).await;
    assert!(matches!(late, Err(Error::Busy { .. })), "{late:?}");
    assert!(frames(&other).await?.is_empty());
    // The next place is free, whatever happens to the name.
    let new = slow.plan_frame(&frame("t")).await?;
    other.create_frame(&frame("t"), &schema(), false).await?;
    other.drop_frame(&frame("t"), false, false).await?;
    let (entry, snapshot) = slow.create_filled(&new, &schema(), adds()).await?;
    assert_eq!((entry.location, snapshot.cell_count()), (new.location, 2));
    check_invariants(&store).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_name_whose_creation_was_killed_can_be_dropped_and_its_box_too() -> Result<()> {
    at_each_request(
        async |node| {
            node.create_hive(&name("h"), false).await?;
            node.create_box(&name("h"), &name("b"), false)
                .await
                .map(drop)
        },
        |node| async move {
            node.create_frame(&frame("h.b.t"), &schema(), false)
                .await
                .map(drop)
        },
        |store, request| async move {
            let node = catalog(&store, 3);
            if request % 2 == 0 {
                node.drop_frame(&frame("h.b.t"), true, false).await?;
            }
            assert!(
                node.drop_box(&name("h"), &name("b"), false, request % 2 == 1, true)
                    .await?
            );
            assert_eq!(newest(&node).await?.frames().count(), 0);
            Ok(())
        },
    )
    .await
    .map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_drop_killed_anywhere_left_the_frame_live_or_is_finished_by_the_next() -> Result<()> {
    for purge in [false, true] {
        at_each_request(
            async |node| {
                let (entry, _) = node.create_frame(&frame("t"), &schema(), false).await?;
                let cell = format!("{}/a.parquet", entry.location);
                node.meadow
                    .put(&cell, bytes::Bytes::from_static(b"x"))
                    .await
            },
            move |node| async move { node.drop_frame(&frame("t"), false, purge).await.map(drop) },
            move |store, request| async move {
                let node = catalog(&store, 3);
                let was_live = frames(&node).await? == ["t"];
                let (entry, snapshot) = node.create_frame(&frame("t"), &schema(), true).await?;
                assert!(!snapshot.is_dropped(), "request {request}");
                let is_old = entry.location == "default/default/t";
                assert_eq!(is_old, was_live, "request {request}: {}", entry.location);
                node.finish_purges().await?;
                let registry = newest(&node).await?;
                assert!(registry.purging.is_empty());
                assert_eq!(registry.frames().count(), 1);
                let is_purged = is_purged(&node, "default/default/t").await?;
                assert_eq!(
                    is_purged,
                    purge && !was_live,
                    "request {request}: {is_purged}"
                );
                Ok(())
            },
        )
        .await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_drop_killed_anywhere_is_finished_without_anybody_asking_for_its_name() -> Result<()> {
    at_each_request(
        async |node| {
            node.create_frame(&frame("t"), &schema(), false)
                .await
                .map(drop)
        },
        |node| async move { node.drop_frame(&frame("t"), false, true).await.map(drop) },
        |store, request| async move {
            let node = catalog(&store, 3);
            let was_live = frames(&node).await? == ["t"];
            node.finish_half_done().await?;
            let registry = newest(&node).await?;
            assert!(registry.purging.is_empty(), "request {request}");
            assert_eq!(registry.frames().count(), usize::from(was_live));
            let is_purged = is_purged(&node, "default/default/t").await?;
            assert_eq!(is_purged, !was_live, "request {request}");
            assert_eq!(node.finish_half_done().await?, 0);
            Ok(())
        },
    )
    .await
    .map(drop)
}

#[tokio::test(start_paused = true)]
async fn an_attach_killed_anywhere_is_there_or_can_be_done() -> Result<()> {
    at_each_request(
        async |node| {
            let (entry, _) = node.create_frame(&frame("x"), &schema(), false).await?;
            let body = node.meadow.get(&keys::commit(&entry.location, 0)).await?;
            let key = keys::commit("lake/old", 0);
            node.meadow.put(&key, body.unwrap_or_default()).await?;
            node.drop_frame(&frame("x"), false, true).await.map(drop)
        },
        |node| async move { node.attach_frame(&frame("old"), "lake/old").await.map(drop) },
        |store, request| async move {
            let node = catalog(&store, 3);
            match node.attach_frame(&frame("old"), "lake/old").await {
                Ok(_) | Err(Error::AlreadyExists { .. }) => {}
                Err(error) => panic!("request {request}: {error}"),
            }
            assert_eq!(frames(&node).await?, ["old"]);
            Ok(())
        },
    )
    .await
    .map(drop)
}

#[tokio::test(start_paused = true)]
async fn no_writer_is_acknowledged_once_a_purge_has_deleted_anything() -> Result<()> {
    const CELLS: usize = 5;
    at_each_request(
        async |node| {
            let (entry, base) = node.create_frame(&frame("t"), &schema(), false).await?;
            for cell in 0..CELLS {
                let key = format!("{}/{cell}.parquet", entry.location);
                node.meadow
                    .put(&key, bytes::Bytes::from_static(b"x"))
                    .await?;
            }
            let ledger = node.ledger(&entry.location);
            let (results, _) = ledger.commit(base, vec![append(1)]).await;
            assert!(results[0].is_ok());
            Ok(())
        },
        |node| async move { node.drop_frame(&frame("t"), false, true).await.map(drop) },
        |store, request| async move {
            let node = catalog(&store, 3);
            let ledger = node.ledger("default/default/t");
            let left = keys_under(&node, "default/default/t").await?;
            let cells = left.iter().filter(|key| key.ends_with(".parquet")).count();
            for is_finished in [false, true] {
                if is_finished {
                    node.drop_frame(&frame("t"), true, true).await?;
                    node.finish_purges().await?;
                }
                // Their bases are older than anything that the drop wrote.
                for version in 0..2 {
                    let base = old_snapshot(version).await?;
                    let (results, _) = ledger.commit(base, vec![append(7)]).await;
                    let is_whole = cells == CELLS && !is_finished;
                    assert!(
                        is_whole || results[0].is_err(),
                        "request {request}, base {version}: {:?}",
                        results[0]
                    );
                }
            }
            let left = keys_under(&node, "default/default/t").await?;
            let is_log = |key: &String| key.contains("/_delta_log/");
            assert!(left.iter().all(is_log), "request {request}: {left:?}");
            Ok(())
        },
    )
    .await
    .map(drop)
}

/// What a writer knew of frame `t` before the drop, at a version: equal seeds make equal frames.
async fn old_snapshot(version: u64) -> Result<Arc<Snapshot>> {
    let node = catalog(&memory(), 1);
    let (entry, base) = node.create_frame(&frame("t"), &schema(), false).await?;
    let ledger = node.ledger(&entry.location);
    match version {
        0 => Ok(base),
        _ => Ok(ledger.commit(base, vec![append(1)]).await.1),
    }
}
