//! What befalls a request: how long it takes, and whether it fails.
//!
//! The rates of [`Faults::many`] are far above those of any real store and say nothing about one; the
//! latencies of a [`Profile`](super::profiles::Profile) are those of the store that it is named after.

use crate::rng::Rng;
use std::time::Duration;

/// How long a request takes: a first byte, the bytes, and now and then much longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Until the first byte, in microseconds: drawn evenly from here …
    pub least_us: u64,
    /// … to here.
    pub most_us: u64,
    /// For each mebibyte of the body.
    pub per_mib_us: u64,
    /// Of a thousand requests, those whose first byte takes longer.
    pub tail: u64,
    /// They take up to so many times as long. The factor falls off as one over a number that is drawn
    /// evenly: the tail is heavy.
    pub tail_factor: u64,
}

impl Latency {
    fn draw(&self, body_bytes: u64, rng: &mut Rng) -> Duration {
        let first = rng.between(self.least_us, self.most_us);
        let factor = match rng.chance(self.tail) {
            true => (self.tail_factor / rng.between(1, 8)).max(1),
            false => 1,
        };
        Duration::from_micros(first * factor + self.per_mib_us * body_bytes / (1 << 20))
    }
}

/// How often, in a thousand requests, what goes wrong; and how slow it is.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    pub before_effect: u64,
    pub after_effect: u64,
    /// Creates only: 409, nothing written.
    pub refused_create: u64,
    pub throttled: u64,
    /// Requests whose connection goes silent: the answer is an error, a minute later.
    pub silent: u64,
    /// Of these, those that have had their effect.
    pub silent_after_effect: u64,
    /// Bodies that break off before their end.
    pub broken_body: u64,
    /// Bodies that come in pieces with pauses.
    pub slow_body: u64,
    /// Reads and writes together; half of it passes before the effect.
    pub latency: Latency,
    /// A byte of a cell takes as long as so many: small cells stand for large ones.
    pub cell_factor: u64,
    /// Lists leave out what was written so lately, of each object as it falls.
    pub list_late: Duration,
    /// Lists come in another order than that of the keys.
    pub list_unordered: bool,
    /// A create that finds an object writes over it and says that all went well.
    pub ignores_create: bool,
    /// The least time between two writes of one key; the second is told to slow down.
    pub write_pause: Duration,
    /// Coordination objects that are damaged as soon as they are written.
    pub damaged: u64,
    /// Only the rows of outputs.
    pub damaged_rows: bool,
}

/// After so long a client gives a silent connection up.
pub const SILENCE: Duration = Duration::from_secs(60);

impl Faults {
    /// Slow as a remote store, never wrong.
    pub const NONE: Self = Self {
        before_effect: 0,
        after_effect: 0,
        refused_create: 0,
        throttled: 0,
        silent: 0,
        silent_after_effect: 500,
        broken_body: 0,
        slow_body: 0,
        latency: Latency {
            least_us: 5_000,
            most_us: 40_000,
            per_mib_us: 10_000,
            tail: 0,
            tail_factor: 1,
        },
        cell_factor: 1,
        list_late: Duration::ZERO,
        list_unordered: false,
        ignores_create: false,
        write_pause: Duration::ZERO,
        damaged: 0,
        damaged_rows: false,
    };

    /// Far worse than any store one would use; how much worse is drawn.
    pub fn many(rng: &mut Rng) -> Self {
        Self::NONE.worsened(rng)
    }

    /// The same store on a day that is far worse than any.
    pub fn worsened(self, rng: &mut Rng) -> Self {
        Self {
            before_effect: rng.between(20, 200),
            after_effect: rng.between(20, 200),
            refused_create: rng.between(20, 200),
            throttled: rng.between(20, 100),
            silent: rng.between(0, 15),
            broken_body: rng.between(0, 50),
            slow_body: rng.between(0, 50),
            latency: Latency {
                least_us: 2_000,
                most_us: rng.between(10_000, 100_000),
                tail: 20,
                tail_factor: 50,
                ..self.latency
            },
            ..self
        }
    }

    /// What befalls one request of so many bytes.
    pub fn draw(&self, is_create: bool, body_bytes: u64, rng: &mut Rng) -> Draw {
        let took = self.latency.draw(body_bytes, rng);
        let roll = rng.below(1000);
        let mut bound = 0;
        let mut falls = |chance: u64| {
            bound += chance;
            roll < bound
        };
        let fate = if falls(self.before_effect) {
            Fate::Before
        } else if falls(self.after_effect) {
            Fate::After
        } else if falls(self.throttled) {
            Fate::Throttled
        } else if falls(self.silent) {
            match rng.chance(self.silent_after_effect) {
                true => Fate::SilentAfter,
                false => Fate::SilentBefore,
            }
        } else if is_create && falls(self.refused_create) {
            Fate::Refused
        } else {
            Fate::Good
        };
        let body = match (rng.chance(self.broken_body), rng.chance(self.slow_body)) {
            (true, _) => Body::Broken,
            (false, true) => Body::Slow,
            (false, false) => Body::Whole,
        };
        Draw { fate, body, took }
    }
}

/// What befalls one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    pub fate: Fate,
    /// Of a read that succeeds.
    pub body: Body,
    pub took: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Good,
    Before,
    After,
    Refused,
    Throttled,
    SilentBefore,
    SilentAfter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    Whole,
    Broken,
    Slow,
}
