//! Parts of cells on local disk: who fetches which, what is kept, what is written.
//!
//! Parent: Node, of a node whose meadow is not on its machine. Messages: `Take`, `Fetched`, `Damaged`
//! and `Forget` from readers of cells, `Release` when a reader has what it took or is gone, `Opened`
//! and `Did` from its own work, `Save` from a timer, `Observe`, `Farewell` at the node's stop. Reads and
//! writes no object; on local disk it writes parts and the order of their use. Readers read parts
//! themselves, and fetch what they lead. When it crashes, the next instance finds on disk what was
//! written, and readers go around it meanwhile.
//!
//! Invariants: of all readers that want a part which is not here, one fetches it, and when that one
//! fails or goes, the others are told; no reader waits for a write; writes that wait are bounded, and
//! what has no room among them is not kept; one write at a time, after what goes for it is gone, so
//! the files never exceed the limit; what a reader holds is not removed to make room.

mod handle;
mod status;
mod taken;
mod writes;

pub(crate) use handle::CacheHandle;
pub use status::CacheStatus;
pub(crate) use status::View;
pub(crate) use taken::{Guard, Taken, TakenPart};

use crate::mailbox::{Alive, Census, Publisher, Reply, address, remind, spawn_report};
use apiary_engine::behavior::mason::Division;
use apiary_engine::cache::{PartFiles, PartIndex};
use apiary_engine::host::Host;
use apiary_engine::settings::Settings;
use apiary_engine::store::Meadow;
use apiary_protocol::cache::{CellDigest, CellIdentity, PartId, PartName, UseOrder};
use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;
use writes::{Done, Writes};

/// How often the order of use is saved while it changes.
const SAVE_INTERVAL: Duration = Duration::from_secs(300);
/// Requests under way at once.
const REQUESTS_MAX: usize = 4096;

pub(crate) enum Message {
    Opened {
        result: Result<io::Result<(Vec<PartName>, UseOrder)>, String>,
    },
    /// Answers with what is known of each part, in order.
    Take {
        cell: Arc<CellIdentity>,
        indexes: Vec<u32>,
        reply: Reply<Taken>,
    },
    Release {
        pins: Vec<PartId>,
        leads: Vec<PartId>,
    },
    Fetched {
        cell: Arc<CellIdentity>,
        parts: Vec<(u32, Bytes)>,
    },
    /// A part that was taken could not be read.
    Damaged {
        part: PartId,
        reason: String,
    },
    Forget {
        cell: CellDigest,
    },
    Did {
        result: Result<Done, String>,
    },
    Save,
    Observe {
        reply: Reply<View>,
    },
    /// Writes what waits, and the order of use.
    Farewell {
        reply: Reply<()>,
    },
}

#[derive(Clone)]
pub(crate) struct Arguments {
    host: Host,
    files: PartFiles,
    directory: PathBuf,
    bytes_max: u64,
    index_bytes: u64,
    queue_bytes_max: u64,
}

/// The cache of a node, before its tree is there.
pub(crate) struct Planned {
    pub(crate) publisher: Publisher<Message>,
    pub(crate) handle: Arc<CacheHandle>,
    pub(crate) arguments: Arguments,
}

/// `None` for a meadow on this machine, and where there is no place or no room.
pub(crate) fn plan(
    host: &Host,
    meadow: &Meadow,
    settings: &Settings,
    division: &Division,
) -> Option<Planned> {
    let bytes_max = settings.cache_bytes_max.filter(|bytes| *bytes > 0)?;
    let directory = settings.cache_directory.clone()?;
    if !meadow.is_remote() {
        return None;
    }
    let files = PartFiles::new(host.files.clone(), directory.clone());
    let (publisher, address) = address("cache", REQUESTS_MAX);
    let memory = division.cache_with_disk();
    Some(Planned {
        publisher,
        handle: Arc::new(CacheHandle::new(address, files.clone(), host.clone())),
        arguments: Arguments {
            host: host.clone(),
            files,
            directory,
            bytes_max,
            index_bytes: memory.index_bytes,
            queue_bytes_max: memory.queue_bytes,
        },
    })
}

struct Fetching {
    cell: Arc<CellIdentity>,
    waiting: Vec<oneshot::Sender<Bytes>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// What earlier processes left is being listed; readers wait for it.
    Opening,
    Open,
    /// The directory cannot be used.
    Off,
}

pub(crate) struct State {
    with: Arguments,
    phase: Phase,
    waiting: Vec<(Arc<CellIdentity>, Vec<u32>, Reply<Taken>)>,
    index: PartIndex,
    fetching: BTreeMap<PartId, Fetching>,
    writes: Writes,
    doing: Option<AbortOnDropHandle<()>>,
    has_changed: bool,
    save_timer: Option<AbortOnDropHandle<()>>,
    counts: CacheStatus,
    farewell: Option<Reply<()>>,
    _alive: Alive,
}

pub(crate) struct Cache;

impl Actor for Cache {
    type Msg = Message;
    type State = State;
    type Arguments = (Arguments, Census);

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        (with, census): (Arguments, Census),
    ) -> Result<State, ActorProcessingErr> {
        let alive = census.enter();
        let (files, blocking) = (with.files.clone(), with.host.blocking.clone());
        let open = async move {
            let opened = blocking.call(move || files.open()).await;
            opened.and_then(|opened| opened)
        };
        let control = &with.host.runtimes.control;
        let doing = spawn_report(control, &myself, open, |result| Message::Opened { result });
        let counts = CacheStatus {
            directory: with.directory.clone(),
            limit_bytes: with.bytes_max,
            ..CacheStatus::default()
        };
        Ok(State {
            phase: Phase::Opening,
            waiting: Vec::new(),
            index: PartIndex::new(with.bytes_max, with.index_bytes),
            fetching: BTreeMap::new(),
            writes: Writes::new(with.queue_bytes_max),
            doing: Some(doing),
            has_changed: false,
            save_timer: None,
            counts,
            farewell: None,
            with,
            _alive: alive,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Opened { result } => state.opened(&myself, result),
            Message::Take {
                cell,
                indexes,
                reply,
            } => state.take(&myself, cell, indexes, reply),
            Message::Release { pins, leads } => state.release(&pins, &leads),
            Message::Fetched { cell, parts } => state.fetched(&cell, parts),
            Message::Damaged { part, reason } => state.damaged(part, &reason),
            Message::Forget { cell } => state.forget(cell),
            Message::Did { result } => state.did(result),
            Message::Save => {
                state.save();
                state.remind_to_save(&myself);
            }
            Message::Observe { reply } => {
                let _ = reply.send(state.view());
            }
            Message::Farewell { reply } => {
                state.save_timer = None;
                state.farewell = Some(reply);
            }
        }
        state.go_on(&myself);
        Ok(())
    }
}

impl State {
    fn opened(
        &mut self,
        myself: &ActorRef<Message>,
        result: Result<io::Result<(Vec<PartName>, UseOrder)>, String>,
    ) {
        self.doing = None;
        match result {
            Ok(Ok((found, order))) => {
                let gone = self.index.adopt(found, &order);
                self.counts.evicted += gone.len() as u64;
                self.writes.remove(gone);
                self.phase = Phase::Open;
                tracing::debug!(parts = self.index.part_count(), "the cache is open");
            }
            Ok(Err(error)) => self.turn_off(&error.to_string()),
            Err(panic) => self.turn_off(&panic),
        }
        self.remind_to_save(myself);
        for (cell, indexes, reply) in std::mem::take(&mut self.waiting) {
            self.take(myself, cell, indexes, reply);
        }
    }

    fn turn_off(&mut self, reason: &str) {
        let directory = self.with.directory.display();
        tracing::warn!(%directory, reason, "no parts of cells are kept: the cache cannot be used");
        self.phase = Phase::Off;
        self.counts.failures += 1;
    }

    fn remind_to_save(&mut self, myself: &ActorRef<Message>) {
        if self.phase == Phase::Open && self.farewell.is_none() {
            let control = &self.with.host.runtimes.control;
            self.save_timer = Some(remind(control, myself, SAVE_INTERVAL, || Message::Save));
        }
    }

    fn take(
        &mut self,
        myself: &ActorRef<Message>,
        cell: Arc<CellIdentity>,
        indexes: Vec<u32>,
        reply: Reply<Taken>,
    ) {
        if self.phase == Phase::Opening {
            return self.waiting.push((cell, indexes, reply));
        }
        let mut guard = Guard {
            cache: myself.clone(),
            pins: Vec::new(),
            leads: Vec::new(),
        };
        let parts = indexes.iter().copied();
        let parts: Vec<TakenPart> = parts
            .map(|index| self.take_part(&cell, cell.part(index), &mut guard))
            .collect();
        self.count(&cell, &indexes, &parts);
        // A reader that is gone gives all back with the guard.
        let _ = reply.send(Taken { parts, guard });
    }

    fn count(&mut self, cell: &CellIdentity, asked: &[u32], parts: &[TakenPart]) {
        let counts = &mut self.counts;
        let before = counts.hits;
        for (index, part) in asked.iter().zip(parts) {
            if !matches!(part, TakenPart::Lead | TakenPart::Around) {
                counts.hits += 1;
                counts.hit_bytes += u64::from(cell.part_name(*index).length);
            }
        }
        counts.asked += parts.len() as u64;
        counts.requests_saved += u64::from(counts.hits - before == parts.len() as u64);
    }

    fn take_part(
        &mut self,
        cell: &Arc<CellIdentity>,
        part: PartId,
        guard: &mut Guard,
    ) -> TakenPart {
        if self.phase == Phase::Off {
            return TakenPart::Around;
        }
        if let Some(here) = self.writes.find(part) {
            // Two cells may share a digest.
            return match here.cell == *cell {
                true => TakenPart::Here(here.bytes.clone()),
                false => TakenPart::Around,
            };
        }
        if self.index.pin(part) {
            self.has_changed = true;
            guard.pins.push(part);
            return TakenPart::Held;
        }
        if let Some(fetching) = self.fetching.get_mut(&part) {
            if fetching.cell != *cell {
                return TakenPart::Around;
            }
            let (sender, coming) = oneshot::channel();
            fetching.waiting.push(sender);
            return TakenPart::Coming(coming);
        }
        let fetching = Fetching {
            cell: cell.clone(),
            waiting: Vec::new(),
        };
        self.fetching.insert(part, fetching);
        guard.leads.push(part);
        TakenPart::Lead
    }

    fn release(&mut self, pins: &[PartId], leads: &[PartId]) {
        for part in pins {
            self.index.unpin(*part);
        }
        // Whoever waits for one that was not fetched sees its channel close.
        for part in leads {
            self.fetching.remove(part);
        }
    }

    fn fetched(&mut self, cell: &Arc<CellIdentity>, parts: Vec<(u32, Bytes)>) {
        for (index, bytes) in parts {
            let part = cell.part(index);
            if let Some(fetching) = self.fetching.remove(&part)
                && fetching.cell == *cell
            {
                for waiting in fetching.waiting {
                    let _ = waiting.send(bytes.clone());
                }
            }
            self.offer(cell, index, &bytes);
        }
    }

    /// Keeps a part, if it is not kept and there is room.
    fn offer(&mut self, cell: &Arc<CellIdentity>, index: u32, bytes: &Bytes) {
        let part = cell.part(index);
        let is_known = self.writes.find(part).is_some() || self.index.holds(part);
        if is_known || self.phase != Phase::Open || self.farewell.is_some() {
            return;
        }
        let now = self.with.host.clock.monotonic();
        if !self.writes.offer(now, cell, index, bytes) {
            self.counts.dropped += 1;
        }
    }

    fn damaged(&mut self, part: PartId, reason: &str) {
        // Several readers may have met it.
        let Some(name) = self.index.remove(part) else {
            return;
        };
        tracing::debug!(reason, %name, "a cached part cannot be read; it is fetched again");
        self.counts.damaged += 1;
        self.counts.hits = self.counts.hits.saturating_sub(1);
        let bytes = self.counts.hit_bytes;
        self.counts.hit_bytes = bytes.saturating_sub(name.length.into());
        self.writes.remove([name]);
    }

    fn forget(&mut self, cell: CellDigest) {
        let gone = self.index.remove_cell(cell);
        self.counts.damaged += (gone.len() + self.writes.forget(cell)) as u64;
        self.writes.remove(gone);
    }

    fn save(&mut self) {
        if std::mem::take(&mut self.has_changed) {
            self.writes.save();
        }
    }

    /// Begins the next work on the disk, unless some is under way; says farewell when none is left.
    fn go_on(&mut self, myself: &ActorRef<Message>) {
        if self.doing.is_some() || self.phase == Phase::Opening {
            return;
        }
        let mut next = self.writes.next(&mut self.index);
        self.counts.evicted += next.evicted;
        self.counts.dropped += next.dropped;
        if next.job.is_none() && self.farewell.is_some() {
            // The order as it is in the end.
            self.save();
            next = self.writes.next(&mut self.index);
        }
        let Some(job) = next.job else {
            if let Some(reply) = self.farewell.take() {
                let _ = reply.send(());
            }
            return;
        };
        let (files, blocking) = (self.with.files.clone(), self.with.host.blocking.clone());
        let work = async move {
            let done = blocking.call(move || job.run(&files)).await;
            done.unwrap_or_else(Done::failed)
        };
        let control = &self.with.host.runtimes.control;
        self.doing = Some(spawn_report(control, myself, work, |result| Message::Did {
            result,
        }));
    }

    fn did(&mut self, result: Result<Done, String>) {
        self.doing = None;
        let done = result.unwrap_or_else(|panic| Done::failed(io::Error::other(panic)));
        let Done { part, left, result } = done;
        left.into_iter().for_each(|name| self.index.insert(name));
        match (part, result) {
            (None, Ok(())) => {}
            (Some(name), Ok(())) => match self.writes.let_go(name.part) {
                Some(_) => {
                    self.counts.written += 1;
                    self.has_changed = true;
                    self.index.insert(name);
                }
                // It was forgotten meanwhile.
                None => self.writes.remove([name]),
            },
            (_, Err(error)) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &io::Error) {
        self.counts.failures += 1;
        let directory = self.with.directory.display();
        match self.counts.failures {
            1 => {
                tracing::warn!(%error, %directory, "the cache cannot write; queries go on without");
            }
            _ => tracing::debug!(%error, %directory, "the cache cannot write"),
        }
        let now = self.with.host.clock.monotonic();
        self.counts.dropped += self.writes.failed(now);
    }

    fn view(&self) -> View {
        View {
            status: CacheStatus {
                used_bytes: self.index.used_bytes(),
                parts: self.index.part_count(),
                ..self.counts.clone()
            },
            cells: self.index.cells(),
        }
    }
}
