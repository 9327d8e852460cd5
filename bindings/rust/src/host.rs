//! The real [`Host`]: clock, entropy, files, I/O threads and readings of the machine, and what of the
//! environment a meadow needs.
//!
//! This is the one place of the crates below that reads the environment, the clock or the machine.
//! What can be decided without them is a pure function over a file's content.

mod cache;
mod credentials;
mod machine;
mod scratch;
mod threads;

pub use cache::{CacheLock, cache};
pub use machine::cores;
pub use scratch::Scratch;
pub use threads::thread_count as io_thread_count;

use apiary_engine::host::{Clock, DiskFiles, Entropy, Host, Runtimes};
use apiary_engine::laboratory::Laboratory;
use apiary_engine::settings::{Settings, StorageEnvironment};
use apiary_engine::{Error, Result};
use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The host of a node on this machine. Starts the I/O threads; they end when the last clone of the
/// host is gone.
///
/// `Other` when a thread cannot be started or the machine cannot be read.
pub fn system_host(settings: &Settings, runtimes: Runtimes) -> Result<Host> {
    let bees = settings.bees.unwrap_or_else(cores);
    let blocking = threads::IoThreads::start(bees).map_err(|source| Error::Other {
        what: "starting the I/O threads".into(),
        source: source.into(),
    })?;
    let machine = machine::SystemMachine::read().map_err(|source| Error::Other {
        what: "reading this machine's memory".into(),
        source: source.into(),
    })?;
    Ok(Host {
        clock: Arc::new(SystemClock {
            started: Instant::now(),
        }),
        entropy: Arc::new(SystemEntropy),
        files: Arc::new(DiskFiles),
        blocking: Arc::new(blocking),
        machine: Arc::new(machine),
        runtimes,
        spill: None,
        laboratory: Laboratory::default(),
    })
}

/// Scratch of this process's own, below the directory that the settings name or the system's. A
/// system's one that cannot be used only matters to whoever spills.
pub fn scratch(settings: &Settings, host: &Host) -> Result<Option<Scratch>> {
    let id = host.entropy.bytes();
    match &settings.scratch_directory {
        Some(base) => Scratch::make(base, id).map(Some),
        None => Ok(Scratch::make(&env::temp_dir(), id)
            .inspect_err(|error| tracing::warn!(%error, "the system's temporary directory"))
            .ok()),
    }
}

/// What opening a meadow takes from the environment and the files of the clouds' own tools. The
/// environment wins over a file.
pub fn storage_environment() -> StorageEnvironment {
    let home = env::var_os("HOME")
        .map(PathBuf::from)
        .filter(|home| home.is_absolute());
    let mut variables: BTreeMap<String, String> = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, value)| is_storage_variable(name) && !value.is_empty())
        .collect();
    let read = |variable: &str, default: &str| {
        let path = match variables.get(variable) {
            Some(path) => PathBuf::from(path),
            None => home.as_deref()?.join(default),
        };
        read_text(&path)
    };
    let credentials = read("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials");
    let config = read("AWS_CONFIG_FILE", ".aws/config");
    credentials::add_aws_profile(
        &mut variables,
        credentials.as_deref().unwrap_or_default(),
        config.as_deref().unwrap_or_default(),
    );
    StorageEnvironment {
        variables,
        home,
        working_directory: env::current_dir().ok(),
    }
}

fn is_storage_variable(name: &str) -> bool {
    ["AWS_", "GOOGLE_", "AZURE_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// `None` for a file that is absent or cannot be read: it is optional, and whoever needs it gets the
/// store's own refusal.
fn read_text(path: &Path) -> Option<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "credentials file is not used");
            None
        }
    }
}

#[derive(Debug)]
struct SystemClock {
    started: Instant,
}

impl Clock for SystemClock {
    fn unix_ms(&self) -> i64 {
        // A clock before 1970 is one that was never set.
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

#[derive(Debug)]
struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        // Ids are drawn from this: without it two nodes could take each other's commits for their
        // own, so there is nothing to go on with.
        if let Err(error) = getrandom::fill(bytes) {
            tracing::error!(%error, "the system gives no random bytes");
            std::process::abort();
        }
    }
}
