//! Opening: settings in, a running node out.

use crate::host;
use crate::node::{Apiary, Grounds, Inner};
use crate::runtime::OwnedRuntimes;
use apiary_actors::{Node, Role};
use apiary_engine::Result;
use apiary_engine::host::Host;
use apiary_engine::settings::{Backpressure, Codec, Settings};
use apiary_engine::store::Meadow;
use std::path::PathBuf;

/// How to open storage; see [`Apiary::builder`].
///
/// ```
/// # fn main() -> apiary::Result<()> {
/// let apiary = apiary::Apiary::builder("memory://").bees(2).memory(512 << 20).open_blocking()?;
/// assert_eq!(apiary.block_on(apiary.status())?.bees.len(), 2);
/// apiary.block_on(apiary.shutdown())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is opened"]
pub struct Builder {
    uri: String,
    settings: Settings,
    role: Role,
}

/// What is there before the node is.
struct Ground {
    runtimes: OwnedRuntimes,
    host: Host,
    meadow: Meadow,
    settings: Settings,
}

impl Ground {
    /// Makes the directories of this process, and puts them into the settings.
    fn directories(&mut self) -> Result<Grounds> {
        let scratch = host::scratch(&self.settings, &self.host)?;
        if let Some(scratch) = &scratch {
            self.settings.scratch_directory = Some(scratch.directory().to_path_buf());
        }
        let cache = match self.meadow.is_remote() {
            true => host::cache(&mut self.settings)?,
            false => None,
        };
        Ok(Grounds {
            _scratch: scratch,
            _cache: cache,
        })
    }
}

impl Builder {
    pub(crate) fn new(uri: &str) -> Self {
        Self {
            uri: uri.to_owned(),
            settings: Settings::default(),
            role: Role::Resident,
        }
    }

    /// Memory that the process may use, in bytes; measured when not given.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.settings.memory_bytes = Some(bytes);
        self
    }

    /// Number of bees, which is the number of query threads; one per usable core when not given.
    pub fn bees(mut self, count: usize) -> Self {
        self.settings.bees = Some(count);
        self
    }

    /// The name of this node for people.
    pub fn name(mut self, name: &str) -> Self {
        self.settings.name = Some(name.to_owned());
        self
    }

    /// Where operators spill: each process in a directory of its own below this one, which is made
    /// when it is missing.
    pub fn scratch_directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.scratch_directory = Some(path.into());
        self
    }

    /// Most bytes of cells that are kept on local disk when the storage is not on this machine; 0 for
    /// none. A quarter of what is free there, at most 16 GiB, when not given.
    pub fn cache(mut self, bytes_max: u64) -> Self {
        self.settings.cache_bytes_max = Some(bytes_max);
        self
    }

    /// Where they are kept, from one process to the next and for one at a time; `~/.cache/apiary` when
    /// not given.
    pub fn cache_directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.cache_directory = Some(path.into());
        self
    }

    /// How new cells are compressed.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.settings.codec = codec;
        self
    }

    /// Whether commits on a local directory survive a power cut once acknowledged (the default).
    pub fn sync(mut self, sync: bool) -> Self {
        self.settings.sync = sync;
        self
    }

    /// What a write does while the node is hot.
    pub fn backpressure(mut self, backpressure: Backpressure) -> Self {
        self.settings.backpressure = backpressure;
        self
    }

    /// All settings at once; replaces what was set before.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// A resident node keeps house; a brief one, for a single task, does not.
    pub fn role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    /// Proves the storage and starts the node.
    ///
    /// # Errors
    /// `Rejected` for a URI or setting that is wrong and for storage that does not keep its
    /// promises, `Retry` when the storage cannot be reached, `Corrupt` when what lies there is not
    /// ours or damaged.
    pub async fn open(self) -> Result<Apiary> {
        let role = self.role;
        let mut ground = self.ground()?;
        let grounds = ground.directories()?;
        let Ground {
            runtimes,
            host,
            meadow,
            settings,
        } = ground;
        let node = runtimes
            .inside(Node::start(host, meadow, settings, role))
            .await?;
        Inner::new(node, runtimes, grounds)
    }

    /// [`Builder::open`] for a program without an executor.
    ///
    /// # Panics
    /// When called inside an asynchronous context.
    pub fn open_blocking(self) -> Result<Apiary> {
        let role = self.role;
        let mut ground = self.ground()?;
        let grounds = ground.directories()?;
        let Ground {
            runtimes,
            host,
            meadow,
            settings,
        } = ground;
        let control = runtimes.handles().control.clone();
        let node = control.block_on(Node::start(host, meadow, settings, role))?;
        Inner::new(node, runtimes, grounds)
    }

    /// Reads one object of the storage and gives it as JSON: a commit, a checkpoint's footer, a
    /// version of the registry, a coordination object, a cell's footer. Starts no node, so it also
    /// works on storage that a node refuses.
    pub async fn inspect(self, key: &str) -> Result<serde_json::Value> {
        let ground = self.ground()?;
        ground
            .runtimes
            .inside(crate::inspect::inspect(&ground.meadow, key))
            .await
    }

    fn ground(mut self) -> Result<Ground> {
        let bees = match self.settings.bees {
            Some(0) => {
                return Err(apiary_engine::Error::rejected(
                    "bees is 0; give at least 1, or leave it out for one per core",
                ));
            }
            Some(bees) => bees,
            None => host::cores(),
        };
        // The runtime's threads and the tree's bees must be the same number.
        self.settings.bees = Some(bees);
        self.settings.storage = host::storage_environment();
        let runtimes = OwnedRuntimes::start(bees)?;
        let host = host::system_host(&self.settings, runtimes.handles().clone())?;
        let meadow = {
            let _entered = runtimes.handles().control.enter();
            Meadow::open(&self.uri, &host, &self.settings)?
        };
        Ok(Ground {
            runtimes,
            host,
            meadow,
            settings: self.settings,
        })
    }
}
