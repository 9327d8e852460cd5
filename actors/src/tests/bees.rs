use super::{nobody, settings, settle, tree, tree_with};
use crate::bees::{BeesHandle, TaskEnd};
use crate::chamber::Chamber;
use crate::context::Ladder;
use crate::node::Role;
use crate::planner::PlannerHandle;
use apiary_engine::behavior::temperature::NewWork;
use apiary_engine::error::{Error, ErrorKind, Result};
use apiary_engine::settings::Settings;
use datafusion::execution::memory_pool::MemoryConsumer;
use std::future::pending;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Notify};

fn label(text: &str) -> String {
    text.to_string()
}

async fn busy(bees: &BeesHandle) -> usize {
    let view = bees.observe().await.expect("observe always answers");
    view.bees.iter().filter(|bee| bee.state != "idle").count()
}

#[tokio::test(start_paused = true)]
async fn a_crew_holds_its_bees_budgets_together_and_gives_them_back() {
    let (_, tree) = tree(4, Role::Brief).await.expect("a tree");
    let bees = tree.bees.clone();
    let work = |chamber: Chamber| async move { Ok((chamber.bees, chamber.budget_bytes)) };
    let TaskEnd::Done((members, budget), facts) = bees.run(label("t"), 3, 1, work).await else {
        panic!("it ran");
    };
    assert_eq!(members, 3);
    assert_eq!(budget, facts.budget_bytes);
    let one = bees.observe().await.expect("a view").bees[0].memory_budget_bytes;
    assert_eq!(budget, 3 * one);
    assert_eq!(busy(&bees).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_task_is_the_tasks_failure_and_the_bee_works_on() {
    let (_, tree) = tree(1, Role::Brief).await.expect("a tree");
    let bees = tree.bees.clone();
    let work = |_| async { panic!("a codec went wrong") };
    let TaskEnd::<()>::Failed(error, _) = bees.run(label("t"), 1, 1, work).await else {
        panic!("it failed");
    };
    assert_eq!(error.kind(), ErrorKind::Bug);
    assert!(error.to_string().contains("a codec went wrong"));
    assert!(matches!(
        bees.run(label("u"), 1, 1, |_| async { Ok(()) }).await,
        TaskEnd::Done((), _)
    ));
}

#[tokio::test(start_paused = true)]
async fn dropping_a_task_frees_its_bees_and_its_memory_at_once() {
    let (_, tree) = tree(2, Role::Brief).await.expect("a tree");
    let bees = tree.bees.clone();
    let began = Arc::new(Notify::new());
    let begin = began.clone();
    let held = bees.clone();
    let task = tokio::spawn(async move {
        let work = move |chamber: Chamber| async move {
            let memory = MemoryConsumer::new("operator").register(&chamber.runtime.memory_pool);
            memory.try_grow(1 << 20)?;
            begin.notify_one();
            pending::<()>().await;
            memory.free();
            Ok(())
        };
        held.run(label("t"), 2, 1, work).await
    });
    began.notified().await;
    let view = bees.observe().await.expect("a view");
    assert!(
        view.bees
            .iter()
            .all(|bee| bee.memory_used_bytes > 0 && bee.state == "busy(t)")
    );
    task.abort();
    settle().await;
    let view = bees.observe().await.expect("a view");
    assert!(
        view.bees
            .iter()
            .all(|bee| bee.memory_used_bytes == 0 && bee.state == "idle")
    );
}

#[tokio::test(start_paused = true)]
async fn tasks_get_bees_in_the_order_they_came_and_nobody_overtakes_a_large_one() {
    let (_, tree) = tree(2, Role::Brief).await.expect("a tree");
    let bees = tree.bees.clone();
    let order = Arc::new(Mutex::new(Vec::new()));
    let release = Arc::new(Notify::new());
    let mut running = tokio::task::JoinSet::new();
    for (name, wanted, least) in [("first", 1, 1), ("whole", 2, 2), ("small", 1, 1)] {
        let (bees, order, release) = (bees.clone(), order.clone(), release.clone());
        running.spawn(async move {
            let work = move |_| async move {
                order.lock().await.push(name);
                if name == "first" {
                    release.notified().await;
                }
                Ok(())
            };
            bees.run(label(name), wanted, least, work).await
        });
        settle().await;
    }
    assert_eq!(
        *order.lock().await,
        ["first"],
        "the free bee is kept for the whole crew"
    );
    assert_eq!(bees.observe().await.expect("a view").queued_tasks, 2);
    release.notify_one();
    while running.join_next().await.is_some() {}
    assert_eq!(*order.lock().await, ["first", "whole", "small"]);
}

#[tokio::test(start_paused = true)]
async fn a_killed_bee_loses_its_task_and_is_replaced() {
    let (_, tree) = tree(1, Role::Brief).await.expect("a tree");
    let bees = tree.bees.clone();
    let supervisor = tree.bees.instance().expect("running");
    let held = bees.clone();
    let task = tokio::spawn(async move {
        held.run(label("t"), 1, 1, |_| async {
            pending::<Result<()>>().await
        })
        .await
    });
    settle().await;
    assert_eq!(busy(&bees).await, 1);
    for bee in supervisor.get_cell().get_children() {
        bee.kill();
    }
    assert!(matches!(task.await.expect("no panic"), TaskEnd::Lost));
    assert!(matches!(
        bees.run(label("u"), 1, 1, |_| async { Ok(7) }).await,
        TaskEnd::Done(7, _)
    ));
}

#[tokio::test(start_paused = true)]
async fn killed_bees_come_back_with_their_supervisor() {
    let (_, tree) = tree(2, Role::Brief).await.expect("a tree");
    let bees = tree.bees.clone();
    tree.bees.instance().expect("running").kill();
    settle().await;
    assert!(matches!(
        bees.run(label("u"), 2, 2, |_| async { Ok(7) }).await,
        TaskEnd::Done(7, _)
    ));
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_keeps_ending_ends_the_node_and_leaves_nobody() {
    let (_, tree) = tree(2, Role::Brief).await.expect("a tree");
    let bees = tree.bees.clone();
    for _ in 0..=crate::supervision::RESTARTS_MAX {
        if let Some(instance) = tree.bees.instance() {
            instance.kill();
        }
        settle().await;
    }
    let error = bees.observe().await.expect_err("the node is gone");
    assert!(error.to_string().contains("shut down"), "{error}");
    settle().await;
    assert!(nobody(&tree.census));
}

#[tokio::test(start_paused = true)]
async fn an_idle_node_admits_everything_and_is_cold() {
    let (_, tree) = tree(2, Role::Brief).await.expect("a tree");
    let bees = tree.bees.clone();
    let temperature = bees.admit(NewWork::Query).await.expect("admitted");
    assert!(temperature < 0.3);
    assert!(bees.admit(NewWork::Write(Default::default())).await.is_ok());
    assert_eq!(
        bees.observe().await.expect("a view").regulation.to_string(),
        "cold"
    );
}

/// Fills the pool, the bees and the queue, so that the node is as hot as it gets.
async fn heat(bees: &BeesHandle, tasks: usize) -> tokio::task::JoinSet<()> {
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..tasks {
        let bees = bees.clone();
        running.spawn(async move {
            let work = |chamber: Chamber| async move {
                let memory = MemoryConsumer::new("operator").register(&chamber.runtime.memory_pool);
                memory.try_grow(chamber.budget_bytes as usize)?;
                pending::<Result<()>>().await
            };
            let _ = bees.run(label("hot"), 1, 1, work).await;
        });
    }
    settle().await;
    running
}

#[tokio::test(start_paused = true)]
async fn a_critical_node_refuses_and_recovers_when_its_work_is_gone() {
    let (_, tree) = tree(2, Role::Brief).await.expect("a tree");
    let bees = tree.bees.clone();
    let hot = heat(&bees, 6).await;
    let refused = bees.admit(NewWork::Query).await.expect_err("too hot");
    assert!(matches!(refused, Error::Busy { .. }), "{refused}");
    assert_eq!(refused.kind(), ErrorKind::Retry);
    drop(hot);
    settle().await;
    assert!(bees.admit(NewWork::Query).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_write_on_a_hot_node_waits_until_it_cools() {
    use apiary_engine::settings::Backpressure;
    let (_, tree) = tree(2, Role::Brief).await.expect("a tree");
    let bees = tree.bees.clone();
    // 0.4 busy + 0.4 memory + 0.1 queue: hot, not critical.
    let hot = heat(&bees, 4).await;
    assert!(bees.admit(NewWork::Query).await.is_ok(), "queries queue");
    assert!(
        bees.admit(NewWork::Write(Backpressure::Error))
            .await
            .is_err()
    );
    assert!(
        bees.admit(NewWork::Write(Backpressure::Ignore))
            .await
            .is_ok()
    );
    let held = bees.clone();
    let waiting =
        tokio::spawn(async move { held.admit(NewWork::Write(Backpressure::Block)).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    drop(hot);
    assert!(waiting.await.expect("no panic").is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_ladder_gives_a_task_the_whole_crew_after_memory_ran_out() {
    let (_, tree) = tree(4, Role::Brief).await.expect("a tree");
    let bees = tree.bees.clone();
    let planner = PlannerHandle::new(tree.planner.clone());
    let mut ladder = Ladder::new();
    let mut tries = 0;
    let reached = loop {
        tries += 1;
        let least = if ladder.strategy.whole_crew { 4 } else { 1 };
        let work = |chamber: Chamber| async move {
            let memory = MemoryConsumer::new("join").register(&chamber.runtime.memory_pool);
            memory.try_grow(chamber.budget_bytes as usize / chamber.bees * 2)?;
            Ok(chamber.bees)
        };
        match bees.run(label("join"), least, least, work).await {
            TaskEnd::Done(bees, _) => break bees,
            TaskEnd::Failed(error, facts) => {
                ladder
                    .failed(&planner, Some((error, facts)), false)
                    .expect("another attempt");
            }
            TaskEnd::Lost => panic!("no bee was killed"),
        }
    };
    assert_eq!((tries, reached), (2, 4));
    assert_eq!(planner.observe().await.expect("a view").abandoned_tasks, 1);
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_scratch_is_full_ends_even_when_nothing_in_it_does() {
    let full = Settings {
        scratch_bytes_max: 10_000,
        ..settings(1)
    };
    let (_, tree) = tree_with(full, Role::Brief).await.expect("a tree");
    let bees = tree.bees.clone();
    let waits = |chamber: Chamber| async move {
        let file = chamber.runtime.disk_manager.create_tmp_file("rows")?;
        let refused = file.open_writer()?.write(&[0; 20_000]);
        assert!(refused.is_err());
        pending::<Result<()>>().await
    };
    match bees.run(label("t"), 1, 1, waits).await {
        TaskEnd::Failed(error, _) => {
            assert!(error.to_string().contains("scratch_bytes_max"), "{error}");
            assert_eq!(error.kind(), ErrorKind::Rejected);
        }
        _ => panic!("the task did not fail"),
    }
}
