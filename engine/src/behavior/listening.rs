//! Listening: how often a node looks whether others have queries to share. Pure; the caller looks.
//!
//! A look at the bell is a GET. Behind it, because a bell may be lost, queries are listed, which costs
//! twelve times as much. Queries come in groups, so a node that has just heard of one looks often, and
//! the longer nothing came the more rarely: what it hears it hears within a twentieth of the time for
//! which nothing came. While it works on a query it looks no more than once in a second: hardly a bee
//! would be free.
//!
//! Invariant: a pause is never shorter than the least and never longer than that of a node at rest.

use std::time::Duration;

/// After the last sign of a query a node listens closely for so long.
const WARM: Duration = Duration::from_secs(300);
/// The part of the time without a sign that a pause takes.
const WARM_SHARE: u32 = 20;
/// The least pause: so many times what a request takes, within these.
const REQUESTS: u32 = 10;
const LEAST: Duration = Duration::from_millis(4);
const LEAST_MAX: Duration = Duration::from_millis(20);
/// The same for a node that could begin nothing: a bee may come free at any moment.
const OCCUPIED_REQUESTS: u32 = 100;
const OCCUPIED_MAX: Duration = Duration::from_millis(250);
const WARM_MAX: Duration = Duration::from_secs(1);
const COLD: Duration = Duration::from_secs(20);
/// Queries are listed so often, by a swarm of so many nodes; a larger one lists as often all together.
const LIST_WARM: Duration = Duration::from_secs(10);
const LIST_WARM_NODES: u32 = 8;
const LIST_WARM_MAX: Duration = Duration::from_secs(60);
/// The same at rest: somebody finds what a coordinator left that died, and of whom nobody else knows.
const LIST_COLD: Duration = Duration::from_secs(60);
const LIST_COLD_NODES: u32 = 2;
const LIST_COLD_MAX: Duration = Duration::from_secs(300);

/// Of a plain way, for experiments.
const DOUBLING_LEAST: Duration = Duration::from_secs(1);

/// How a node listens; experiments compare [`Listening::Fading`] with plain ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listening {
    #[default]
    Fading,
    /// Always after the same pause.
    Every(Duration),
    /// After as long as nothing came, between a second and this.
    Doubling(Duration),
}

/// What a node knows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heard {
    /// How long ago the last sign of a query was, if there was one.
    pub quiet: Option<Duration>,
    /// All its bees work on queries that it knows.
    pub is_occupied: bool,
    /// What a request to the meadow takes.
    pub request: Option<Duration>,
    /// Nodes of the swarm that are alive.
    pub nodes: usize,
}

impl Heard {
    fn warm(&self) -> Option<Duration> {
        self.quiet.filter(|quiet| *quiet < WARM)
    }
}

/// The least pause between two requests of one kind.
pub fn least_pause(request: Option<Duration>) -> Duration {
    let pause = request.map_or(LEAST_MAX, |request| request * REQUESTS);
    pause.clamp(LEAST, LEAST_MAX)
}

fn occupied_pause(request: Option<Duration>) -> Duration {
    let pause = request.map_or(OCCUPIED_MAX, |request| request * OCCUPIED_REQUESTS);
    pause.clamp(least_pause(request), OCCUPIED_MAX)
}

/// Until the next look at the bell.
pub fn plan_look(listening: Listening, heard: &Heard) -> Duration {
    match (listening, heard.warm()) {
        (Listening::Every(pause), _) => pause,
        (Listening::Doubling(most), _) => {
            let quiet = heard.quiet.unwrap_or(most);
            quiet.clamp(DOUBLING_LEAST, most.max(DOUBLING_LEAST))
        }
        (Listening::Fading, None) => COLD,
        (Listening::Fading, Some(quiet)) => {
            let least = match heard.is_occupied {
                true => occupied_pause(heard.request),
                false => least_pause(heard.request),
            };
            (quiet / WARM_SHARE).clamp(least, WARM_MAX)
        }
    }
}

/// How old the last list of queries may be.
pub fn plan_list(heard: &Heard) -> Duration {
    let (pause, of, most) = match heard.warm() {
        Some(_) => (LIST_WARM, LIST_WARM_NODES, LIST_WARM_MAX),
        None => (LIST_COLD, LIST_COLD_NODES, LIST_COLD_MAX),
    };
    let nodes = u32::try_from(heard.nodes).unwrap_or(u32::MAX).max(of);
    (pause / of).saturating_mul(nodes).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet(seconds: u64) -> Heard {
        Heard {
            quiet: Some(Duration::from_secs(seconds)),
            nodes: 3,
            ..Heard::default()
        }
    }

    #[test]
    fn pauses_grow_with_the_time_without_a_query_and_stay_within_their_bounds() {
        let look = |heard: &Heard| plan_look(Listening::Fading, heard);
        let mut last = Duration::ZERO;
        for seconds in 0..1_000 {
            let pause = look(&quiet(seconds));
            assert!(
                pause >= last && pause >= LEAST && pause <= COLD,
                "{seconds}"
            );
            last = pause;
        }
        assert_eq!(look(&quiet(0)), LEAST_MAX);
        assert_eq!(look(&quiet(10)), Duration::from_millis(500));
        assert_eq!(look(&quiet(299)), WARM_MAX);
        assert_eq!(look(&quiet(300)), COLD);
        assert_eq!(look(&Heard::default()), COLD, "it never heard of one");
    }

    #[test]
    fn a_node_without_an_idle_bee_looks_less_often() {
        for (seconds, pause) in [(0, OCCUPIED_MAX), (10, Duration::from_millis(500))] {
            let occupied = Heard {
                is_occupied: true,
                ..quiet(seconds)
            };
            assert_eq!(plan_look(Listening::Fading, &occupied), pause);
        }
        let on_a_disk = Heard {
            is_occupied: true,
            request: Some(Duration::from_micros(100)),
            ..quiet(0)
        };
        let pause = plan_look(Listening::Fading, &on_a_disk);
        assert_eq!(pause, Duration::from_millis(10));
    }

    #[test]
    fn a_swarm_lists_no_more_often_for_being_larger() {
        let list = |nodes, seconds| {
            plan_list(&Heard {
                nodes,
                ..quiet(seconds)
            })
        };
        assert_eq!(list(0, 1), LIST_WARM);
        assert_eq!(list(8, 1), LIST_WARM);
        assert_eq!(list(16, 1), LIST_WARM * 2);
        assert_eq!(list(200, 1), LIST_WARM_MAX);
        for (nodes, seconds) in [(1, 60), (2, 60), (3, 90), (8, 240), (200, 300)] {
            assert_eq!(list(nodes, 400), Duration::from_secs(seconds));
        }
    }

    #[test]
    fn a_fast_meadow_is_asked_more_often_than_a_slow_one() {
        let fast = Some(Duration::from_micros(100));
        assert_eq!(least_pause(fast), LEAST);
        assert_eq!(least_pause(Some(Duration::from_secs(1))), LEAST_MAX);
        assert_eq!(least_pause(None), LEAST_MAX);
    }
}
