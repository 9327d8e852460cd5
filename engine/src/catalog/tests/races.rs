//! Several nodes change the registry at once.

use super::reins::Reins;
use super::*;
use crate::host::testing::SeededEntropy;
use futures::future::{Either, join_all, select};

const DELAY_MS: u64 = 20;

fn nodes(store: &Store, count: u64, seed: u64) -> Vec<Catalog> {
    (0..count)
        .map(|node| {
            let seed = seed * 1000 + node;
            catalog(&Reins::slow(store, DELAY_MS, seed), seed)
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_is_slow_is_not_aborted_by_who_keeps_house() -> Result<()> {
    let store = memory();
    // Each request takes longer than somebody who wants the name would watch.
    let maker = catalog(&Reins::slow(&store, 20_000, 1), 1);
    let keeper = catalog(&store, 2);
    let (t, schema) = (frame("t"), schema());
    let mut making = std::pin::pin!(maker.create_frame(&t, &schema, false));
    let made = loop {
        let kept = std::pin::pin!(keeper.finish_half_done());
        match select(&mut making, kept).await {
            Either::Left((made, _)) => break made?,
            Either::Right((kept, _)) => drop(kept?),
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    };
    assert_eq!(made.0.location, "default/default/t");
    Ok(())
}

/// Actors spawn these.
fn sendable<F: Future + Send>(flow: F) -> F {
    flow
}

#[tokio::test(start_paused = true)]
async fn flows_may_run_on_any_thread() -> Result<()> {
    let store = memory();
    let node = catalog(&store, 1);
    let hive = name("default");
    sendable(node.create_hive(&hive, true)).await?;
    sendable(node.create_box(&hive, &hive, true)).await?;
    sendable(node.create_frame(&frame("t"), &schema(), false)).await?;
    sendable(node.drop_frame(&frame("t"), false, true)).await?;
    assert!(
        sendable(node.attach_frame(&frame("t"), "no/table"))
            .await
            .is_err()
    );
    assert!(
        sendable(node.drop_box(&hive, &hive, true, true, true))
            .await
            .is_err()
    );
    assert!(
        sendable(node.drop_hive(&hive, true, true, true))
            .await
            .is_err()
    );
    assert_eq!(sendable(node.finish_purges()).await?, 0);
    assert_eq!(sendable(node.view()).await?.hives().len(), 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn of_concurrent_creators_of_one_name_one_wins() -> Result<()> {
    for seed in 0..20 {
        let store = memory();
        let nodes = nodes(&store, 5, seed);
        let (t, schema) = (frame("t"), schema());
        let made = join_all(
            nodes
                .iter()
                .map(|node| node.create_frame(&t, &schema, false)),
        )
        .await;
        let winners: Vec<_> = made.iter().filter_map(|made| made.as_ref().ok()).collect();
        assert_eq!(winners.len(), 1, "seed {seed}");
        for error in made.iter().filter_map(|made| made.as_ref().err()) {
            assert!(
                matches!(error, Error::AlreadyExists { .. }),
                "seed {seed}: {error}"
            );
        }
        assert_eq!(nodes[0].view().await?.frame(&t)?, &winners[0].0);
        check_invariants(&store).await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn concurrent_creators_that_take_an_existing_one_get_the_same() -> Result<()> {
    for seed in 0..20 {
        let store = memory();
        let nodes = nodes(&store, 5, seed);
        let (t, schema) = (frame("t"), schema());
        let made = join_all(
            nodes
                .iter()
                .map(|node| node.create_frame(&t, &schema, true)),
        )
        .await;
        let ids: Result<BTreeSet<FrameId>> = made.into_iter().map(|made| Ok(made?.0.id)).collect();
        assert_eq!(ids?.len(), 1, "seed {seed}");
        check_invariants(&store).await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn concurrent_changes_of_different_names_all_come_about() -> Result<()> {
    let store = memory();
    let nodes = nodes(&store, 8, 1);
    let schema = schema();
    let made = join_all(nodes.iter().enumerate().map(async |(index, node)| {
        node.create_frame(&frame(&format!("t{index}")), &schema, false)
            .await?;
        node.create_hive(&name(&format!("h{index}")), false).await
    }))
    .await;
    assert!(made.iter().all(|made| matches!(made, Ok(true))), "{made:?}");
    assert_eq!(frames(&nodes[0]).await?.len(), 8);
    assert_eq!(nodes[0].view().await?.hives().len(), 9);
    assert_eq!(check_invariants(&store).await?, 24);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_creator_that_was_taken_for_dead_starts_again() -> Result<()> {
    // Its requests take far longer than anybody's patience.
    let store = memory();
    let slow = catalog(&Reins::slow(&store, 10_000, 7), 7);
    let quick = catalog(&Reins::slow(&store, 5, 8), 8);
    let (t, schema) = (frame("t"), schema());
    let (first, second) = futures::join!(slow.create_frame(&t, &schema, true), async {
        while newest(&quick).await?.frames().count() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        quick.create_frame(&t, &schema, true).await
    });
    assert_eq!(first?.0, second?.0);
    check_invariants(&store).await?;
    Ok(())
}

/// One random statement.
async fn statement(node: &Catalog, dice: &SeededEntropy) -> Result<()> {
    let hive = name(["default", "a", "B"][dice.below(3) as usize]);
    let box_name = name(["default", "x"][dice.below(2) as usize]);
    let table = name(["t", "u", "T"][dice.below(3) as usize]);
    let frame = FrameName::new(hive.clone(), box_name.clone(), table);
    let (lenient, thorough) = (dice.below(2) == 0, dice.below(2) == 0);
    match dice.below(16) {
        0 => node.create_hive(&hive, lenient).await.map(drop),
        1 => node.create_box(&hive, &box_name, lenient).await.map(drop),
        2 => node
            .drop_box(&hive, &box_name, lenient, thorough, thorough)
            .await
            .map(drop),
        3 => node
            .drop_hive(&hive, lenient, thorough, thorough)
            .await
            .map(drop),
        4 => node.attach_frame(&frame, "lake/old").await.map(drop),
        5..=9 => node.drop_frame(&frame, lenient, thorough).await.map(drop),
        10 => node.finish_purges().await.map(drop),
        _ => node
            .create_frame(&frame, &schema(), lenient)
            .await
            .map(drop),
    }
}

#[tokio::test(start_paused = true)]
async fn random_concurrent_statements_keep_the_invariants() -> Result<()> {
    for seed in 0..15 {
        let store = memory();
        let author = catalog(&store, 99);
        let (entry, _) = author.create_frame(&frame("x"), &schema(), false).await?;
        let body = author.meadow.get(&keys::commit(&entry.location, 0)).await?;
        let key = keys::commit("lake/old", 0);
        author.meadow.put(&key, body.unwrap_or_default()).await?;
        author.drop_frame(&frame("x"), false, true).await?;

        let nodes = nodes(&store, 4, seed);
        let done = join_all(nodes.iter().enumerate().map(async |(index, node)| {
            let dice = SeededEntropy::new(seed * 77 + index as u64);
            let mut done = 0;
            for _ in 0..15 {
                match statement(node, &dice).await {
                    Ok(()) => done += 1,
                    Err(
                        Error::NotFound { .. } | Error::AlreadyExists { .. } | Error::Rejected(_),
                    ) => {}
                    Err(error) => panic!("seed {seed}: {error}"),
                }
            }
            done
        }))
        .await;
        assert!(
            done.iter().sum::<usize>() > 10,
            "seed {seed}: nearly all was refused"
        );
        check_invariants(&store).await?;
        // All had their answers: nothing may be left half done.
        let left = newest(&author).await?;
        for (name, record) in left.frames() {
            assert_eq!(record.state, FrameState::Live, "seed {seed}: {name}");
        }
        assert!(left.purging.is_empty(), "seed {seed}: {:?}", left.purging);
    }
    Ok(())
}
