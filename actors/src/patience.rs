//! Many requests at once, and no wait for the slowest of them.

use futures::StreamExt;
use std::time::Duration;

/// The answers to requests, so many of which are under way at once, that come within this time; what is
/// still on its way then is dropped. In the order in which they come.
pub(crate) async fn answered<C: Default + Extend<T>, T>(
    requests: impl Iterator<Item = impl Future<Output = Option<T>>>,
    at_once: usize,
    patience: Option<Duration>,
) -> C {
    let too_late = async {
        match patience {
            Some(patience) => tokio::time::sleep(patience).await,
            None => std::future::pending().await,
        }
    };
    futures::stream::iter(requests)
        .buffer_unordered(at_once)
        .take_until(too_late)
        .filter_map(async |answer| answer)
        .collect()
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(300);

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_an_answer_that_does_not_come() {
        let requests = (0..5_u32).map(|task| async move {
            match task {
                1 => std::future::pending().await,
                2 => return None,
                _ => tokio::time::sleep(PATIENCE / 2).await,
            }
            Some(task)
        });
        let mut answers: Vec<u32> = answered(requests, 8, Some(PATIENCE)).await;
        answers.sort_unstable();
        assert_eq!(answers, [0, 3, 4]);
    }
}
