//! The root supervisor: start order, restart policy, drain.
//!
//! Parent: none. Messages: `BeginStop`. Reads and writes no object. Start order: Ledger, Cache, Bees,
//! Planner, Heartbeat, Forager, then for a resident node the Keeper; stop order is the reverse. A child that
//! keeps ending ends the root, which ends all; every handle then answers that the node is stopped.
//!
//! Invariants: a tree that fails to start leaves no actor; after [`Tree::shutdown`] none is alive.

use crate::bees::{self, Bees, BeesHandle};
use crate::cache::{self, Cache, CacheHandle};
use crate::chamber::Chambers;
use crate::context::Context;
use crate::forager::{self, Forager, ForagerHandle};
use crate::heartbeat::{self, Heartbeat, SwarmHandle};
use crate::keeper::{self, Keeper};
use crate::ledger::{self, LedgerActor, LedgerHandle};
use crate::mailbox::{Address, Alive, Census, Reply, address};
use crate::node::Role;
use crate::planner::{self, Planner};
use crate::supervision::{Child, Children, Supervised, start_error};
use crate::traced::Traced;
use apiary_engine::behavior::temperature::Thresholds;
use apiary_engine::catalog::Catalog;
use apiary_engine::error::{Error, Result};
use apiary_engine::host::Host;
use apiary_engine::settings::Settings;
use apiary_engine::sql::Environment;
use apiary_engine::store::Meadow;
use apiary_protocol::ids::NodeId;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, oneshot, watch};

/// How long a stop waits for what runs.
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);
/// How long one actor may take to stop before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// How long a stop waits for parts of cells to be written: they can be fetched again.
const CACHE_DEADLINE: Duration = Duration::from_secs(3);
/// How long a stop waits for tasks that were aborted to be gone.
const QUIET_DEADLINE: Duration = Duration::from_secs(5);
const QUIET_POLL: Duration = Duration::from_millis(10);
/// Requests under way at once, per actor.
const REQUESTS_MAX: usize = 4096;

pub(crate) enum Message {
    /// From now on nobody is restarted. Answers with the children in stop order.
    BeginStop {
        reply: Reply<Vec<(&'static str, ActorCell)>>,
    },
}

pub(crate) struct Arguments {
    node: String,
    host: Host,
    children: Vec<Box<dyn Supervised>>,
    census: Census,
}

pub(crate) struct State {
    host: Host,
    children: Children,
    _alive: Alive,
}

pub(crate) struct Root;

impl Actor for Root {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        with: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let Arguments {
            node,
            host,
            children,
            census,
        } = with;
        let children = Children::start(children, &myself.get_cell(), &node).await?;
        Ok(State {
            host,
            children,
            _alive: census.enter(),
        })
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        Message::BeginStop { reply }: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let _ = reply.send(state.children.begin_stop());
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let now = state.host.clock.monotonic();
        state
            .children
            .on_event(event, &myself.get_cell(), now)
            .await?;
        Ok(())
    }
}

/// What a tree stands on.
pub(crate) struct Ground<'a> {
    pub(crate) host: &'a Host,
    pub(crate) meadow: &'a Meadow,
    pub(crate) settings: &'a Arc<Settings>,
    pub(crate) chambers: &'a Arc<Chambers>,
    pub(crate) catalog: &'a Arc<Catalog>,
    /// Its handle is in the chambers.
    pub(crate) cache: Option<cache::Planned>,
}

/// The running tree: its root and the addresses of its children.
#[derive(Debug)]
pub(crate) struct Tree {
    root: ActorRef<Message>,
    pub(crate) ledger: LedgerHandle,
    /// The only one: it numbers the tasks of the node.
    pub(crate) bees: BeesHandle,
    pub(crate) planner: Address<planner::Message>,
    pub(crate) swarm: SwarmHandle,
    pub(crate) forager: ForagerHandle,
    pub(crate) cache: Option<Arc<CacheHandle>>,
    pub(crate) environment: Environment,
    pub(crate) census: Census,
    stopping: AtomicBool,
    stopped: Mutex<bool>,
}

impl Tree {
    /// Starts all actors; on an error those that started are stopped again.
    pub(crate) async fn start(node_id: NodeId, ground: Ground<'_>, role: Role) -> Result<Self> {
        let Ground {
            host,
            meadow,
            settings,
            chambers,
            catalog,
            cache,
        } = ground;
        let (census, node) = (Census::default(), node_id.short());
        let (ledger_child, ledger) = ledger_child(host, meadow, settings, &census);
        let (bees_child, bees) = bees_child(node.clone(), host, chambers, &census);
        let planner_arguments = planner::Arguments {
            node: node.clone(),
            host: host.clone(),
            census: census.clone(),
        };
        let (planner_child, planner) = Child::<Planner>::new("planner", REQUESTS_MAX, move || {
            (Planner, planner_arguments.clone())
        });
        let mut children: Vec<Box<dyn Supervised>> = vec![Box::new(ledger_child)];
        let cache = cache.map(|planned| {
            let cache::Planned {
                publisher,
                handle,
                arguments,
            } = planned;
            let with = (arguments, census.clone());
            let factory = move || (Cache, with.clone());
            children.push(Box::new(Child::published("cache", publisher, factory)));
            handle
        });
        children.push(Box::new(bees_child));
        children.push(Box::new(planner_child));
        let is_resident = role == Role::Resident;
        let bees_handle = BeesHandle::new(bees);
        // A commit or a snapshot is several storage requests, each with its own deadline.
        let ledger = LedgerHandle::new(ledger, settings.storage_deadline() * 4);
        let environment = Environment {
            host: host.clone(),
            meadow: meadow.clone(),
            catalog: catalog.clone(),
            snapshots: Arc::new(ledger.clone()),
            settings: settings.clone(),
            caches: chambers.caches().clone(),
        };
        let (heartbeat_publisher, heartbeat) = address("heartbeat", REQUESTS_MAX);
        let (forager_publisher, forager) = address("forager", REQUESTS_MAX);
        let (view_sender, view) = watch::channel(Arc::default());
        let swarm = SwarmHandle::new(heartbeat, view);
        let forager = ForagerHandle::new(forager);
        let arguments = heartbeat::Arguments {
            node_id,
            host: host.clone(),
            meadow: meadow.clone(),
            name: settings
                .name
                .clone()
                .unwrap_or_else(|| host.machine.host_name()),
            is_resident,
            chambers: chambers.clone(),
            bees: bees_handle.clone(),
            forager: forager.clone(),
            cache: cache.clone(),
            view: view_sender,
            census: census.clone(),
        };
        children.push(Box::new(Child::published(
            "heartbeat",
            heartbeat_publisher,
            move || (Heartbeat, arguments.clone()),
        )));
        let arguments = forager::Arguments {
            node_id,
            is_resident,
            environment: environment.clone(),
            bees: bees_handle.clone(),
            chambers: chambers.clone(),
            swarm: swarm.clone(),
            census: census.clone(),
        };
        children.push(Box::new(Child::published(
            "forager",
            forager_publisher,
            move || (Forager, arguments.clone()),
        )));
        if is_resident {
            let arguments = keeper::Arguments {
                node_id,
                host: host.clone(),
                meadow: meadow.clone(),
                settings: settings.clone(),
                catalog: catalog.clone(),
                bees: bees_handle.clone(),
                census: census.clone(),
            };
            let (child, _) =
                Child::<Keeper>::new("keeper", REQUESTS_MAX, move || (Keeper, arguments.clone()));
            children.push(Box::new(child));
        }
        let root = Traced::new(Root, &node, "node");
        let arguments = Arguments {
            node,
            host: host.clone(),
            children,
            census: census.clone(),
        };
        let (root, _) = Traced::spawn(None, root, arguments)
            .await
            .map_err(|error| start_error("the node", error))?;
        let (stopping, stopped) = (AtomicBool::new(false), Mutex::new(false));
        Ok(Self {
            root,
            ledger,
            bees: bees_handle,
            planner,
            swarm,
            forager,
            cache,
            environment,
            census,
            stopping,
            stopped,
        })
    }

    /// Whether new work is refused.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Drains, flushes, takes the heartbeat back, and stops every actor.
    pub(crate) async fn shutdown(&self, context: &Context) -> Result<()> {
        self.stopping.store(true, Ordering::SeqCst);
        let mut stopped = self.stopped.lock().await;
        if *stopped {
            return Ok(());
        }
        if !context.planner.drain(DRAIN_DEADLINE).await {
            tracing::warn!("statements still ran at the end of the drain; they end with an error");
        }
        if !context.forager.drain(STOP_DEADLINE).await {
            tracing::warn!("what distributed queries left is there still; it is swept later");
        }
        context.commits.close();
        if tokio::time::timeout(STOP_DEADLINE, context.commits.wait())
            .await
            .is_err()
        {
            tracing::warn!("a commit still ran when the node stopped; it may land");
        }
        if context.ledger.flush().await.is_err() {
            tracing::warn!("a commit or checkpoint was in flight when the node stopped");
        }
        if let Some(cache) = &self.cache
            && !cache.farewell(CACHE_DEADLINE).await
        {
            tracing::debug!("some parts of cells were not kept: the disk is slow");
        }
        let said = self.swarm.farewell(STOP_DEADLINE).await;
        if let Err(error) = said {
            tracing::warn!(
                %error,
                "the heartbeat was not removed; others will find this node dead"
            );
        }
        self.stop_all().await?;
        if !is_quiet(context).await {
            tracing::warn!("a task still ran when the node stopped; its scratch may stay");
        }
        // Last: what was aborted takes its cells away.
        let quiet = self.environment.meadow.quiet();
        if tokio::time::timeout(STOP_DEADLINE, quiet).await.is_err() {
            tracing::warn!("cells that nobody names were not deleted yet; they are swept later");
        }
        *stopped = true;
        Ok(())
    }

    async fn stop_all(&self) -> Result<()> {
        let (reply, cells) = oneshot::channel();
        // A root that already ended took its children with it.
        if self.root.send_message(Message::BeginStop { reply }).is_ok() {
            for (name, cell) in cells.await.unwrap_or_default() {
                stop(name, &cell).await;
            }
        }
        stop("node", &self.root.get_cell()).await;
        // An actor says that it has stopped a moment before its state is dropped.
        match comes_to_rest(|| self.census.count() > 0).await {
            true => Ok(()),
            false => {
                let alive = self.census.count();
                Err(Error::Bug(format!("{alive} actors outlived their node")))
            }
        }
    }
}

/// Waits a while for what the aborted tasks had started: its scratch goes with it, and a process that
/// ended now would leave it behind.
async fn is_quiet(context: &Context) -> bool {
    comes_to_rest(|| context.chambers.are_in_use()).await
}

/// Waits a while; false when something is still busy.
async fn comes_to_rest(is_busy: impl Fn() -> bool) -> bool {
    let rest = async {
        while is_busy() {
            tokio::time::sleep(QUIET_POLL).await;
        }
    };
    tokio::time::timeout(QUIET_DEADLINE, rest).await.is_ok()
}

async fn stop(name: &str, cell: &ActorCell) {
    if cell.stop_and_wait(None, Some(STOP_DEADLINE)).await.is_err() {
        tracing::warn!(child = name, "did not stop in time; killing it");
        let _ = cell.kill_and_wait(Some(STOP_DEADLINE)).await;
    }
}

fn ledger_child(
    host: &Host,
    meadow: &Meadow,
    settings: &Arc<Settings>,
    census: &Census,
) -> (Child<LedgerActor>, Address<ledger::Message>) {
    let arguments = ledger::Arguments {
        host: host.clone(),
        meadow: meadow.clone(),
        settings: settings.clone(),
        census: census.clone(),
    };
    Child::new("ledger", REQUESTS_MAX, move || {
        (LedgerActor, arguments.clone())
    })
}

fn bees_child(
    node: String,
    host: &Host,
    chambers: &Arc<Chambers>,
    census: &Census,
) -> (Child<Bees>, Address<bees::Message>) {
    let arguments = bees::Arguments {
        node,
        host: host.clone(),
        chambers: chambers.clone(),
        thresholds: match host.laboratory.has_own_thresholds {
            true => Thresholds::jittered(host.entropy.bytes()),
            false => Thresholds::default(),
        },
        census: census.clone(),
    };
    Child::new("bees", REQUESTS_MAX, move || (Bees, arguments.clone()))
}
