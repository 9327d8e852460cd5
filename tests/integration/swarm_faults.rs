//! What a swarm of real processes survives: nodes that are killed with work in hand or stopped and
//! continued, storage that is slow, busy, forgetful or gone, outputs that are damaged. Every answer is
//! held against that of one node alone.
//!
//! The suite takes small numbers. Longer runs, by hand, take them from the environment:
//! `APIARY_TEST_KILLS=100` of nodes with a claim, `APIARY_TEST_BUCKET_KILLS=20` of those over a bucket, `APIARY_TEST_STOPS=10` of sleeping and dying nodes,
//! `APIARY_TEST_DAMAGES=50` of outputs, `APIARY_TEST_ROUNDS=10` of queries over a bad link,
//! `APIARY_TEST_MINUTES=7` of an idle swarm. `APIARY_TEST_SEED` sets the moments and the faults;
//! `APIARY_TEST_SHOW` prints the requests of a shared query.

mod ground;
mod kills;
mod links;
mod outputs;
mod requests;
mod stops;

use ground::Ground;
use std::time::{Duration, Instant};

/// A number from the environment, for longer runs by hand.
fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => otherwise,
    }
}

/// Looks again and again until there is something to see, but not for ever.
fn seen<T>(at_most: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let began_at = Instant::now();
    loop {
        let seen = look();
        if seen.is_some() || began_at.elapsed() > at_most {
            return seen;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[track_caller]
fn wait_for<T>(what: &str, at_most: Duration, look: impl FnMut() -> Option<T>) -> T {
    seen(at_most, look).unwrap_or_else(|| panic!("waited for {what} in vain"))
}

/// An aggregate with a shuffle: milliseconds.
const SUMS: &str = "SELECT k, count(*) AS n, sum(v) AS s FROM t GROUP BY k ORDER BY k";
/// A join of a frame with itself: seconds, and one row.
const HEAVY: &str = "SELECT count(*) AS n, sum(abs(a.v - b.v)) AS s FROM t a JOIN t b ON a.k = b.k \
                     WHERE a.k < 60";

/// The same for a tenth of the rows.
const JOINED: &str = "SELECT count(*) AS n, sum(abs(a.v - b.v)) AS s FROM t a JOIN t b ON a.k = b.k \
                      WHERE a.k < 6";

/// A frame of twelve cells, 240,000 rows.
fn with_frame(ground: &Ground) {
    ground.sql(&apiary_tests::twelve_cells());
}
