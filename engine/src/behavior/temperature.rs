//! Temperature: how loaded a node is, and what that regulates.
//!
//! `0.4 busy bees + 0.4 memory pressure + 0.2 queue pressure`, each in 0..1. Pure: the caller
//! measures and acts. Thresholds are the same on all nodes: a jitter did not keep a swarm calmer.
//!
//! Invariants: a temperature is in 0..=1 and grows with each of its parts; thresholds keep their
//! order whatever the jitter.

use crate::settings::Backpressure;
use std::fmt;
use std::time::Duration;

/// Tasks that may wait, per bee, before the queue counts as full.
pub const QUEUE_PER_BEE: usize = 2;
/// Hard bound behind the temperature: tasks that may wait, per bee.
pub const QUEUE_PER_BEE_MAX: usize = 256;
/// How long a new write waits on a hot node before it fails.
pub const WRITE_WAIT_MAX: Duration = Duration::from_secs(30);
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// Half-width of the jitter on each threshold, in experiments.
const JITTER: f64 = 0.02;

/// What is measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    pub busy_bees: usize,
    pub bees: usize,
    /// Reserved in the pools of all chambers.
    pub reserved_bytes: u64,
    /// Budgets of all bees together.
    pub pool_bytes: u64,
    /// Of the process: what pools do not see can only raise the pressure.
    pub resident_bytes: u64,
    /// What the process may use.
    pub memory_bytes: u64,
    pub queued_tasks: usize,
}

fn share(part: f64, whole: f64) -> f64 {
    if whole <= 0.0 {
        0.0
    } else {
        (part / whole).clamp(0.0, 1.0)
    }
}

/// The temperature in 0..=1.
pub fn temperature(load: &Load) -> f64 {
    let busy = share(load.busy_bees as f64, load.bees as f64);
    let reserved = share(load.reserved_bytes as f64, load.pool_bytes as f64);
    let resident = share(load.resident_bytes as f64, load.memory_bytes as f64);
    let queue = share(load.queued_tasks as f64, (QUEUE_PER_BEE * load.bees) as f64);
    (0.4 * busy + 0.4 * reserved.max(resident) + 0.2 * queue).clamp(0.0, 1.0)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Regulation {
    Cold,
    Ideal,
    /// The Keeper rests.
    Warm,
    /// New writes wait.
    Hot,
    /// New work is refused.
    Critical,
}

impl fmt::Display for Regulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cold => "cold",
            Self::Ideal => "ideal",
            Self::Warm => "warm",
            Self::Hot => "hot",
            Self::Critical => "critical",
        })
    }
}

/// Where one regulation ends and the next begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    cold_below: f64,
    ideal_max: f64,
    warm_max: f64,
    hot_max: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            cold_below: 0.3,
            ideal_max: 0.7,
            warm_max: 0.85,
            hot_max: 0.95,
        }
    }
}

impl Thresholds {
    /// Of an experiment, one node's: each moved by up to ± 0.02, drawn from the host's entropy.
    pub fn jittered(random: [u8; 4]) -> Self {
        let moved = |at: f64, byte: u8| at + (f64::from(byte) / 255.0 * 2.0 - 1.0) * JITTER;
        let plain = Self::default();
        Self {
            cold_below: moved(plain.cold_below, random[0]),
            ideal_max: moved(plain.ideal_max, random[1]),
            warm_max: moved(plain.warm_max, random[2]),
            hot_max: moved(plain.hot_max, random[3]),
        }
    }

    pub fn regulation(&self, temperature: f64) -> Regulation {
        if temperature < self.cold_below {
            Regulation::Cold
        } else if temperature <= self.ideal_max {
            Regulation::Ideal
        } else if temperature <= self.warm_max {
            Regulation::Warm
        } else if temperature <= self.hot_max {
            Regulation::Hot
        } else {
            Regulation::Critical
        }
    }
}

/// What asks to be admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewWork {
    Query,
    Write(Backpressure),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Admitted,
    /// Asked again when the temperature changes; fails after this long.
    Wait(Duration),
    Refused {
        retry_after: Duration,
    },
}

/// Whether new work may begin. Asked once a statement.
pub fn plan_admission(regulation: Regulation, work: NewWork) -> Admission {
    match (regulation, work) {
        (_, NewWork::Write(Backpressure::Ignore)) => Admission::Admitted,
        (Regulation::Critical, _) | (Regulation::Hot, NewWork::Write(Backpressure::Error)) => {
            Admission::Refused {
                retry_after: RETRY_AFTER,
            }
        }
        (Regulation::Hot, NewWork::Write(Backpressure::Block)) => Admission::Wait(WRITE_WAIT_MAX),
        _ => Admission::Admitted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(busy: usize, reserved: u64, queued: usize) -> Load {
        Load {
            busy_bees: busy,
            bees: 4,
            reserved_bytes: reserved,
            pool_bytes: 100,
            resident_bytes: 0,
            memory_bytes: 200,
            queued_tasks: queued,
        }
    }

    #[test]
    fn the_parts_weigh_four_four_two() {
        assert_eq!(temperature(&load(0, 0, 0)), 0.0);
        assert!((temperature(&load(4, 0, 0)) - 0.4).abs() < 1e-9);
        assert!((temperature(&load(0, 100, 0)) - 0.4).abs() < 1e-9);
        assert!((temperature(&load(0, 0, 8)) - 0.2).abs() < 1e-9);
        assert_eq!(temperature(&load(4, 100, 800)), 1.0);
    }

    #[test]
    fn resident_memory_can_only_raise_the_pressure() {
        let base = load(2, 50, 1);
        let mut last = temperature(&base);
        for resident_bytes in 0..400 {
            let now = temperature(&Load {
                resident_bytes,
                ..base
            });
            assert!(now >= last - 1e-12 && now >= temperature(&base));
            last = now;
        }
    }

    #[test]
    fn an_empty_measurement_is_cold_and_never_not_a_number() {
        assert_eq!(temperature(&Load::default()), 0.0);
    }

    #[test]
    fn thresholds_keep_their_order_and_their_places_under_any_jitter() {
        for byte in 0..=255u8 {
            let thresholds = Thresholds::jittered([byte, 255 - byte, byte, 255 - byte]);
            assert_eq!(thresholds.regulation(0.0), Regulation::Cold);
            assert_eq!(thresholds.regulation(0.5), Regulation::Ideal);
            assert_eq!(thresholds.regulation(0.775), Regulation::Warm);
            assert_eq!(thresholds.regulation(0.9), Regulation::Hot);
            assert_eq!(thresholds.regulation(1.0), Regulation::Critical);
        }
    }

    #[test]
    fn regulation_never_cools_as_the_temperature_rises() {
        let thresholds = Thresholds::default();
        let mut last = Regulation::Cold;
        for step in 0..=1000 {
            let now = thresholds.regulation(f64::from(step) / 1000.0);
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn a_hot_node_queues_queries_and_treats_writes_as_the_caller_says() {
        let hot = |work| plan_admission(Regulation::Hot, work);
        assert_eq!(hot(NewWork::Query), Admission::Admitted);
        assert_eq!(
            hot(NewWork::Write(Backpressure::Ignore)),
            Admission::Admitted
        );
        assert_eq!(
            hot(NewWork::Write(Backpressure::Block)),
            Admission::Wait(WRITE_WAIT_MAX)
        );
        assert!(matches!(
            hot(NewWork::Write(Backpressure::Error)),
            Admission::Refused { .. }
        ));
    }

    #[test]
    fn a_critical_node_refuses_with_a_time_to_come_back() {
        for work in [NewWork::Query, NewWork::Write(Backpressure::Block)] {
            let Admission::Refused { retry_after } = plan_admission(Regulation::Critical, work)
            else {
                panic!("{work:?} was let in");
            };
            assert!(!retry_after.is_zero());
        }
    }
}
