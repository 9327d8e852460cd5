//! Stores that exist, as slow as their makers or others who measured say they are, and no worse. What is
//! not known is not made up: where there is no figure, it is nought.

use super::faults::{Faults, Latency};
use std::time::Duration;

/// A kind of store.
#[derive(Debug)]
pub struct Profile {
    /// What it models.
    pub name: &'static str,
    pub faults: Faults,
}

/// A directory on the SD card of a small board.
///
/// A card of application class A1 makes 1,500 random reads and 500 random writes of 4 KiB a second, and
/// writes 10 MB/s in a row (SD Association, Application Performance Class): 0.7 ms for a read, and four
/// of 2 ms for a durable write, which syncs a file and two directories. A write may take 250 ms (SanDisk
/// SD Card Product Manual 2.2, 4.7.2). How often it does nobody says: that is made up.
const SD_CARD: Latency = Latency {
    least_us: 700,
    most_us: 8_000,
    per_mib_us: 105_000,
    tail: 5,
    tail_factor: 250,
};

/// A server in the same house.
///
/// Writing 1 KB takes 14, 25 and 46 ms, 1 MB 11 to 55 ms, 10 MB 18 to 117 ms with two servers on two file
/// systems (putf.sh/benchmarks, single-file write latency). Nobody gives a tail.
const HOME_S3: Latency = Latency {
    least_us: 14_000,
    most_us: 46_000,
    per_mib_us: 10_000,
    tail: 0,
    tail_factor: 1,
};

/// Amazon S3 from the same region.
///
/// First byte and small objects: roughly 100 to 200 ms; a request for each 85 to 90 MB/s; a small one is
/// best repeated after two seconds, which is the length of the tail (AWS, Best practices design patterns:
/// optimizing Amazon S3 performance). How many are in it AWS does not say: a twentieth, the share of large
/// requests that it advises to repeat.
const AWS_S3: Latency = Latency {
    least_us: 100_000,
    most_us: 200_000,
    per_mib_us: 12_000,
    tail: 50,
    tail_factor: 20,
};

pub const ALL: &[Profile] = &[
    Profile {
        name: "SD card",
        faults: Faults {
            latency: SD_CARD,
            // A directory has no order.
            list_unordered: true,
            ..Faults::NONE
        },
    },
    Profile {
        name: "home S3 server",
        faults: Faults {
            latency: HOME_S3,
            ..Faults::NONE
        },
    },
    Profile {
        name: "AWS S3",
        faults: Faults {
            latency: AWS_S3,
            ..Faults::NONE
        },
    },
    // Google publishes no latencies: those of S3. One write in a second of one object (Cloud Storage,
    // Quotas and limits: maximum rate of writes to the same object name).
    Profile {
        name: "GCS",
        faults: Faults {
            latency: AWS_S3,
            write_pause: Duration::from_secs(1),
            ..Faults::NONE
        },
    },
];
