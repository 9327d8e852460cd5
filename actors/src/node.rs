//! The root of the tree and the handle that callers hold.
//!
//! Every door spawns its work on the control runtime and waits only for the outcome, so a caller may
//! use any executor. Dropping a door's future takes the statement back, unless it has begun to
//! commit: then it goes on to its end.

mod statements;

use crate::answer::{NodeStatus, WriteOptions, WriteReport};
use crate::cache;
use crate::chamber::Chambers;
use crate::commit::Committing;
use crate::context::Context;
use crate::mailbox::{Reply, stopped};
use crate::planner::PlannerHandle;
use crate::query::Job;
use crate::results::ResultsBudget;
use crate::root::{Ground, Tree};
use crate::swarm::{self, SwarmNode};
use crate::traced::actor_span;
use crate::write::{self, Source, WriteJob};
use apiary_engine::behavior::{leafcutter, mason};
use apiary_engine::catalog::{Catalog, RegistryView};
use apiary_engine::error::{Error, Result};
use apiary_engine::host::Host;
use apiary_engine::schema::FrameSchema;
use apiary_engine::settings::Settings;
use apiary_engine::sql::Environment;
use apiary_engine::store::{Meadow, StoreTime};
use apiary_protocol::ids::NodeId;
use apiary_protocol::names::FrameName;
use datafusion::execution::SendableRecordBatchStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// How long a node lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `start`, the embedded crate: heartbeats, keeps house.
    Resident,
    /// One command: no heartbeat, no Keeper, no Forager.
    Brief,
}

/// A running node. Cheap to clone; the last clone does not stop it, [`Node::shutdown`] does.
#[derive(Clone, Debug)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    node_id: NodeId,
    host: Host,
    context: Arc<Context>,
    tree: Tree,
    role: Role,
    started_at: Duration,
    target_cell_bytes: u64,
    next_statement: AtomicU64,
}

/// The receiving end of a statement: its client, and the token that its going cancels.
struct Client<T> {
    answer: oneshot::Receiver<T>,
    guard: DropGuard,
}

impl Node {
    /// Proves the meadow, starts the tree, and returns when it is ready. When any part fails to
    /// start, the parts that did are stopped again.
    pub async fn start(host: Host, meadow: Meadow, settings: Settings, role: Role) -> Result<Self> {
        let control = host.runtimes.control.clone();
        let start = async move {
            settings.check()?;
            let store_time = meadow.prove().await?;
            Self::start_proved(host, meadow, settings, role, store_time).await
        };
        joined(control.spawn(start).await)?
    }

    async fn start_proved(
        host: Host,
        meadow: Meadow,
        settings: Settings,
        role: Role,
        store_time: StoreTime,
    ) -> Result<Self> {
        let node_id = NodeId::from_random(host.entropy.bytes());
        let span = actor_span(&node_id.short(), "node");
        let start = Self::start_named(node_id, host, meadow, settings, role, store_time);
        start.instrument(span).await
    }

    async fn start_named(
        node_id: NodeId,
        host: Host,
        meadow: Meadow,
        settings: Settings,
        role: Role,
        store_time: StoreTime,
    ) -> Result<Self> {
        let bees = settings.bees.unwrap_or_else(|| host.machine.cores()).max(1);
        let memory_bytes = settings
            .memory_bytes
            .unwrap_or_else(|| host.machine.memory_bytes());
        let division = mason::plan_division(memory_bytes, bees);
        let cache = cache::plan(&host, &meadow, &settings, &division);
        let parts = cache.as_ref().map(|cache| cache.handle.clone() as _);
        let chambers = Arc::new(Chambers::new(&host, &settings, division, parts)?);
        let settings = Arc::new(settings);
        let started_at = host.clock.monotonic();
        let catalog = Catalog::new(host.clone(), meadow.clone()).with_settings(settings.clone());
        let catalog = Arc::new(catalog);
        let ground = Ground {
            host: &host,
            meadow: &meadow,
            settings: &settings,
            chambers: &chambers,
            catalog: &catalog,
            cache,
        };
        let tree = Tree::start(node_id, ground, role).await?;
        let context = Arc::new(Context {
            node_id,
            environment: tree.environment.clone(),
            bees: tree.bees.clone(),
            ledger: tree.ledger.clone(),
            planner: PlannerHandle::new(tree.planner.clone()),
            swarm: tree.swarm.clone(),
            forager: tree.forager.clone(),
            cache: tree.cache.clone(),
            results: ResultsBudget::new(division.results_bytes),
            commits: TaskTracker::new(),
            store_time,
            chambers,
        });
        let leaf = leafcutter::target_cell_bytes(division.budget_per_bee_bytes);
        let target_cell_bytes = settings.target_cell_bytes.unwrap_or(leaf);
        let next_statement = AtomicU64::new(0);
        tracing::info!(bees, memory_bytes, ?role, "the node is ready");
        let inner = Inner {
            node_id,
            host,
            context,
            tree,
            role,
            started_at,
            target_cell_bytes,
            next_statement,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    pub fn node_id(&self) -> NodeId {
        self.inner.node_id
    }

    pub fn environment(&self) -> &Environment {
        &self.inner.context.environment
    }

    /// The names that exist now.
    pub async fn view(&self) -> Result<Arc<RegistryView>> {
        if self.inner.tree.is_stopping() {
            return Err(stopped());
        }
        self.environment().catalog.view().await
    }

    /// Makes or drops names, as a statement: refused by a node that stops, waited for by its stop.
    /// Dropping this future does not take it back.
    pub async fn change_names<T, F>(
        &self,
        what: &str,
        work: impl FnOnce(Arc<Catalog>) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let work = work(self.environment().catalog.clone());
        self.supervised(what, CancellationToken::new(), |committing| async move {
            committing.begin();
            work.await
        })
        .await
    }

    async fn execute_write(&self, job: WriteJob, source: Source) -> Result<WriteReport> {
        let context = self.inner.context.clone();
        let what = format!("the write to {}", job.frame);
        let cancel = job.options.cancel.clone().unwrap_or_default();
        self.supervised(&what, cancel, |committing| async move {
            write::write(&context, job, source, committing).await
        })
        .await
    }

    /// Writes a stream into a frame: append or overwrite, one commit.
    pub async fn write(
        &self,
        frame: &FrameName,
        input: SendableRecordBatchStream,
        options: WriteOptions,
    ) -> Result<WriteReport> {
        let deadline = options
            .deadline
            .unwrap_or_else(|| self.environment().settings.query_deadline());
        let job = WriteJob {
            frame: frame.clone(),
            options,
            label: self.label(),
            deadline,
            progress: Arc::default(),
        };
        self.execute_write(job, Source::Stream(input)).await
    }

    /// Makes a frame of these columns with a stream's rows, in one commit: nobody sees it without
    /// them. `AlreadyExists` when there is one of that name, also one that others made meanwhile;
    /// then, as after any error but `OutcomeUnknown`, nothing was written.
    pub async fn create_frame_from(
        &self,
        frame: &FrameName,
        schema: FrameSchema,
        input: SendableRecordBatchStream,
        options: WriteOptions,
    ) -> Result<WriteReport> {
        if options.txn.is_some() {
            return Err(Error::rejected(
                "a transaction id belongs to a write into a frame that exists: leave it out",
            ));
        }
        let deadline = options
            .deadline
            .unwrap_or_else(|| self.environment().settings.query_deadline());
        let cancel = options.cancel.clone().unwrap_or_default();
        let job = WriteJob {
            frame: frame.clone(),
            options,
            label: self.label(),
            deadline,
            progress: Arc::default(),
        };
        let context = self.inner.context.clone();
        let what = format!("making frame {frame}");
        self.supervised(&what, cancel, |committing| async move {
            write::create_from(&context, job, schema, input, committing).await
        })
        .await
    }

    pub async fn status(&self) -> Result<NodeStatus> {
        let inner = self.inner.clone();
        joined(
            self.inner
                .host
                .runtimes
                .control
                .spawn(async move { inner.status().await })
                .await,
        )?
    }

    /// The other nodes on this storage. A resident node shows the swarm as it sees it, after a look
    /// that begins now; a brief one, which sees it for the first time, judges by the store's clock.
    pub async fn swarm(&self) -> Result<Vec<SwarmNode>> {
        if self.inner.tree.is_stopping() {
            return Err(stopped());
        }
        let inner = self.inner.clone();
        let look = async move {
            match inner.role {
                Role::Resident => {
                    let view = inner.context.swarm.refresh().await?;
                    Ok(swarm::seen(&view))
                }
                Role::Brief => swarm::at_once(&inner.context).await,
            }
        };
        joined(self.inner.host.runtimes.control.spawn(look).await)?
    }

    /// Actors of this node that live: none once it has stopped.
    pub fn living_actors(&self) -> usize {
        self.inner.tree.census.count()
    }

    /// Refuses new work, finishes what runs, stops every actor. A second call does nothing.
    pub async fn shutdown(&self) -> Result<()> {
        let inner = self.inner.clone();
        let span = actor_span(&inner.node_id.short(), "node");
        let stop = async move { inner.tree.shutdown(&inner.context).await };
        let stop = stop.instrument(span);
        joined(self.inner.host.runtimes.control.spawn(stop).await)?
    }

    fn label(&self) -> String {
        let number = self.inner.next_statement.fetch_add(1, Ordering::Relaxed);
        format!("{}-{number}", self.inner.node_id.short())
    }

    /// Starts a driver under the Planner.
    async fn launch<T, F>(
        &self,
        label: String,
        committing: Committing,
        drive: impl FnOnce(Reply<T>) -> F,
    ) -> Result<Client<T>>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if self.inner.tree.is_stopping() {
            return Err(stopped());
        }
        let cancel = CancellationToken::new();
        let guard = cancel.clone().drop_guard();
        let (reply, answer) = oneshot::channel();
        let job = Job {
            label,
            driver: Box::pin(drive(reply)),
            cancel,
            committing,
        };
        let planner = self.inner.context.planner.clone();
        joined(
            self.inner
                .host
                .runtimes
                .control
                .spawn(async move { planner.run(job).await })
                .await,
        )??;
        Ok(Client { answer, guard })
    }

    /// Runs work under the Planner and gives its result. `asked` takes it back until it commits; from
    /// then on the caller waits for the outcome. When its driver is lost, the error says whether the
    /// work may have taken effect.
    async fn supervised<T, F>(
        &self,
        what: &str,
        asked: CancellationToken,
        work: impl FnOnce(Committing) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let committing = Committing::default();
        let work = work(committing.clone());
        let drive = |reply: Reply<Result<T>>| async move {
            let _ = reply.send(work.await);
        };
        let Client { mut answer, guard } =
            self.launch(self.label(), committing.clone(), drive).await?;
        let ended = tokio::select! {
            biased;
            ended = &mut answer => ended,
            () = asked.cancelled() => {
                drop(guard);
                answer.await
            }
        };
        ended.unwrap_or_else(|_| {
            if committing.has_begun() {
                let (what, reason) = (what.to_string(), "its driver ended".into());
                return Err(Error::OutcomeUnknown { what, reason });
            }
            Err(if asked.is_cancelled() {
                Error::Cancelled
            } else {
                lost()
            })
        })
    }
}

#[cfg(test)]
impl Node {
    pub(crate) fn census(&self) -> &crate::mailbox::Census {
        &self.inner.tree.census
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.inner.context
    }

    pub(crate) fn kill_ledger(&self) {
        if let Some(ledger) = self.inner.tree.ledger.instance() {
            ledger.kill();
        }
    }

    pub(crate) fn kill_cache(&self) {
        if let Some(cache) = &self.inner.context.cache {
            cache.kill();
        }
    }

    /// Kills what drives the running statements, and nothing else.
    pub(crate) fn kill_statements(&self) {
        if let Some(planner) = self.inner.tree.planner.instance() {
            planner
                .get_cell()
                .get_children()
                .iter()
                .for_each(ractor::ActorCell::kill);
        }
    }
}

/// A driver that ended without a word, before it changed anything.
fn lost() -> Error {
    Error::Busy {
        what: "the statement was lost, because the actor that drove it ended".into(),
        retry_after: Duration::from_millis(100),
    }
}

fn joined<T>(result: std::result::Result<T, tokio::task::JoinError>) -> Result<T> {
    result.map_err(|error| Error::Bug(format!("work of the node ended: {error}")))
}

impl Inner {
    async fn status(&self) -> Result<NodeStatus> {
        let environment = &self.context.environment;
        let bees = self.context.bees.observe().await?;
        let planner = self.context.planner.observe().await?;
        let ledger = self.context.ledger.observe().await?;
        let division = self.context.chambers.division();
        let cache = match &self.context.cache {
            Some(cache) => Some(cache.observe().await?.status),
            None => None,
        };
        Ok(NodeStatus {
            node_id: self.node_id.to_string(),
            name: self.context.node_name(),
            storage: environment.meadow.label().to_string(),
            uptime_ms: self
                .host
                .clock
                .monotonic()
                .saturating_sub(self.started_at)
                .as_millis() as u64,
            bees: bees.bees,
            queued_tasks: bees.queued_tasks,
            running_queries: planner.running_queries,
            temperature: bees.temperature,
            regulation: bees.regulation.to_string(),
            memory_bytes: division.memory_bytes,
            memory_per_bee_bytes: division.budget_per_bee_bytes,
            target_cell_bytes: self.target_cell_bytes,
            footer_bytes: environment.caches.used_bytes() as u64,
            cache,
            resident_bytes: bees.resident_bytes,
            results_bytes: self.context.results.held_bytes(),
            cached_snapshots: ledger.snapshots,
            commits_in_flight: ledger.commits_in_flight,
            abandoned_tasks: planner.abandoned_tasks,
            requests: environment.meadow.requests(),
        })
    }
}
