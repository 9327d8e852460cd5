//! Supervisor of the bees: the queue, admission by temperature, crews.
//!
//! Parent: Node. Messages: `Admit` (may this statement begin?), `Submit` a task, `Withdraw` it,
//! `Released` from a bee, `Tick` while writes wait for the node to cool, `Observe`. Reads and writes
//! no object. When it crashes, its bees end with it and running tasks are aborted; drivers see a
//! lost bee and try again with the next instance.
//!
//! Invariants: first come, first served; no bee is in two crews; a statement is admitted once, and
//! what it starts is not held back by the heat it makes; the queue has a hard bound.

mod handle;

pub(crate) use handle::{BeesHandle, TaskEnd};

use crate::answer::BeeStatus;
use crate::bee::{self, Bee, Facts, Work};
use crate::chamber::{Chamber, Chambers};
use crate::mailbox::{Address, Alive, Census, Reply, spawn_report};
use crate::supervision::{Child, Children, Supervised};
use apiary_engine::behavior::temperature::{
    Admission, Load, NewWork, QUEUE_PER_BEE_MAX, Regulation, Thresholds, WRITE_WAIT_MAX,
    plan_admission, temperature,
};
use apiary_engine::error::{Error, Result};
use apiary_engine::host::Host;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// How often waiting writes look whether the node has cooled.
const TICK: Duration = Duration::from_millis(250);
/// How old a reading of resident memory may be.
const RESIDENT_FRESH: Duration = Duration::from_millis(250);
const CONTROL_DEADLINE: Duration = Duration::from_secs(10);

/// A piece of work that wants a crew.
pub(crate) struct Task {
    task_id: u64,
    label: String,
    bees_wanted: usize,
    bees_least: usize,
    work: Work,
    reply: Reply<(Result<()>, Facts)>,
}

/// What `Observe` answers.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) bees: Vec<BeeStatus>,
    pub(crate) queued_tasks: usize,
    pub(crate) temperature: f64,
    pub(crate) regulation: Regulation,
    pub(crate) resident_bytes: u64,
}

pub(crate) enum Message {
    /// Answers with the temperature at which it was let in.
    Admit {
        work: NewWork,
        reply: Reply<Result<f64>>,
    },
    Submit(Task),
    Withdraw {
        task_id: u64,
    },
    Released {
        task_id: u64,
    },
    Tick,
    Observe {
        reply: Reply<View>,
    },
}

#[derive(Clone)]
pub(crate) struct Arguments {
    /// Names the node in spans.
    pub(crate) node: String,
    pub(crate) host: Host,
    pub(crate) chambers: Arc<Chambers>,
    pub(crate) thresholds: Thresholds,
    pub(crate) census: Census,
}

struct Crew {
    label: String,
    chamber: Chamber,
    /// Indexes of bees; the first leads.
    members: Vec<usize>,
}

struct Waiting {
    work: NewWork,
    reply: Reply<Result<f64>>,
    until: Duration,
}

pub(crate) struct State {
    host: Host,
    chambers: Arc<Chambers>,
    thresholds: Thresholds,
    children: Children,
    bees: Vec<Address<bee::Message>>,
    /// The task of each bee, by index.
    tasks: Vec<Option<u64>>,
    crews: BTreeMap<u64, Crew>,
    queue: VecDeque<Task>,
    waiting: VecDeque<Waiting>,
    tick: Option<AbortOnDropHandle<()>>,
    resident: Option<(Duration, u64)>,
    _alive: Alive,
}

pub(crate) struct Bees;

impl Actor for Bees {
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
            chambers,
            thresholds,
            census,
        } = with;
        let mut children: Vec<Box<dyn Supervised>> = Vec::new();
        let mut bees = Vec::new();
        for index in 0..chambers.division().bees {
            let arguments = bee::Arguments {
                node: node.clone(),
                bee_id: bee_id(index),
                host: host.clone(),
                parent: myself.clone(),
                census: census.clone(),
            };
            let (child, address) = Child::<Bee>::new("bee", 1, move || (Bee, arguments.clone()));
            children.push(Box::new(child.labelled(bee_id(index))));
            bees.push(address);
        }
        let children = Children::start(children, &myself.get_cell(), &node).await?;
        Ok(State {
            host,
            chambers,
            thresholds,
            children,
            tasks: vec![None; bees.len()],
            bees,
            crews: BTreeMap::new(),
            queue: VecDeque::new(),
            waiting: VecDeque::new(),
            tick: None,
            resident: None,
            _alive: census.enter(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Admit { work, reply } => state.admit(work, reply),
            Message::Submit(task) => state.submit(task),
            Message::Withdraw { task_id } => state.withdraw(task_id),
            Message::Released { task_id } => state.release(task_id),
            Message::Tick => state.tick = None,
            Message::Observe { reply } => {
                let _ = reply.send(state.view());
            }
        }
        state.dispatch();
        state.look_at_waiting(&myself);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let now = state.host.clock.monotonic();
        if let Some(index) = state
            .children
            .on_event(event, &myself.get_cell(), now)
            .await?
        {
            let led = state
                .crews
                .iter()
                .find(|(_, crew)| crew.members.first() == Some(&index));
            if let Some(task_id) = led.map(|(task_id, _)| *task_id) {
                state.release(task_id);
            }
            state.dispatch();
        }
        Ok(())
    }
}

fn bee_id(index: usize) -> String {
    format!("bee-{index}")
}

impl State {
    fn load(&mut self) -> Load {
        let now = self.host.clock.monotonic();
        let resident_bytes = match self.resident {
            Some((at, bytes)) if now.saturating_sub(at) < RESIDENT_FRESH => bytes,
            _ => {
                let bytes = self.host.machine.resident_bytes();
                self.resident = Some((now, bytes));
                bytes
            }
        };
        let division = self.chambers.division();
        Load {
            busy_bees: self.tasks.iter().flatten().count(),
            bees: self.bees.len(),
            reserved_bytes: self
                .crews
                .values()
                .map(|crew| crew.chamber.reserved_bytes())
                .sum(),
            pool_bytes: division.pool_bytes(),
            resident_bytes,
            memory_bytes: division.memory_bytes,
            queued_tasks: self.queue.len(),
        }
    }

    fn admit(&mut self, work: NewWork, reply: Reply<Result<f64>>) {
        let temperature = temperature(&self.load());
        match plan_admission(self.thresholds.regulation(temperature), work) {
            Admission::Admitted => {
                let _ = reply.send(Ok(temperature));
            }
            Admission::Wait(at_most) => {
                let until = self.host.clock.monotonic() + at_most;
                self.waiting.push_back(Waiting { work, reply, until });
            }
            Admission::Refused { retry_after } => {
                let _ = reply.send(Err(refusal(temperature, retry_after)));
            }
        }
    }

    /// Lets in what waited, in order, once the node is cool enough or the wait is over.
    fn look_at_waiting(&mut self, myself: &ActorRef<Message>) {
        self.waiting.retain(|waiting| !waiting.reply.is_closed());
        if self.waiting.is_empty() {
            return;
        }
        let temperature = temperature(&self.load());
        let regulation = self.thresholds.regulation(temperature);
        let now = self.host.clock.monotonic();
        for waiting in std::mem::take(&mut self.waiting) {
            if plan_admission(regulation, waiting.work) == Admission::Admitted {
                let _ = waiting.reply.send(Ok(temperature));
            } else if now >= waiting.until {
                let _ = waiting
                    .reply
                    .send(Err(refusal(temperature, WRITE_WAIT_MAX)));
            } else {
                self.waiting.push_back(waiting);
            }
        }
        if !self.waiting.is_empty() && self.tick.is_none() {
            let pause = tokio::time::sleep(TICK);
            let tick = spawn_report(&self.host.runtimes.control, myself, pause, |_| {
                Message::Tick
            });
            self.tick = Some(tick);
        }
    }

    fn submit(&mut self, task: Task) {
        if self.queue.len() >= QUEUE_PER_BEE_MAX * self.bees.len() {
            let error = Error::Busy {
                what: format!("{} tasks wait for the bees of this node", self.queue.len()),
                retry_after: Duration::from_secs(2),
            };
            let _ = task.reply.send((Err(error), Facts::default()));
            return;
        }
        self.queue.push_back(task);
    }

    fn withdraw(&mut self, task_id: u64) {
        self.queue.retain(|task| task.task_id != task_id);
        if let Some(leader) = self
            .crews
            .get(&task_id)
            .and_then(|crew| crew.members.first())
        {
            self.bees[*leader].tell(bee::Message::Abort { task_id });
        }
    }

    fn release(&mut self, task_id: u64) {
        if let Some(crew) = self.crews.remove(&task_id) {
            for member in crew.members {
                self.tasks[member] = None;
            }
        }
    }

    /// Gives the head of the queue what is free, as long as that is enough for it. Nobody
    /// overtakes: a task that waits for all bees gets them.
    fn dispatch(&mut self) {
        while let Some(head) = self.queue.front() {
            let mut free: Vec<usize> = (0..self.bees.len())
                .filter(|index| self.tasks[*index].is_none())
                .collect();
            if !head.reply.is_closed() && free.len() < head.bees_least.clamp(1, self.bees.len()) {
                return;
            }
            let Some(task) = self.queue.pop_front() else {
                return;
            };
            if task.reply.is_closed() {
                continue;
            }
            free.truncate(task.bees_wanted.max(task.bees_least).max(1));
            match self.chambers.open(free.len()) {
                Ok(chamber) => self.assign(task, free, chamber),
                Err(error) => {
                    let _ = task.reply.send((Err(error), Facts::default()));
                }
            }
        }
    }

    fn assign(&mut self, task: Task, members: Vec<usize>, chamber: Chamber) {
        let Task {
            task_id,
            label,
            work,
            reply,
            ..
        } = task;
        for member in &members {
            self.tasks[*member] = Some(task_id);
        }
        let leader = members[0];
        let crew = Crew {
            label: label.clone(),
            chamber: chamber.clone(),
            members,
        };
        self.crews.insert(task_id, crew);
        let assignment = bee::Assignment {
            task_id,
            label,
            chamber,
            work,
            reply,
        };
        self.bees[leader].tell(bee::Message::Run(assignment));
    }

    fn view(&mut self) -> View {
        let load = self.load();
        let temperature = temperature(&load);
        let budget = self.chambers.division().budget_per_bee_bytes;
        let status = |(index, task): (usize, &Option<u64>)| {
            let crew = task.and_then(|task_id| self.crews.get(&task_id));
            BeeStatus {
                bee_id: bee_id(index),
                state: crew.map_or("idle".into(), |crew| format!("busy({})", crew.label)),
                memory_used_bytes: crew.map_or(0, |crew| {
                    crew.chamber.reserved_bytes() / crew.members.len().max(1) as u64
                }),
                memory_budget_bytes: budget,
            }
        };
        View {
            bees: self.tasks.iter().enumerate().map(status).collect(),
            queued_tasks: self.queue.len(),
            temperature,
            regulation: self.thresholds.regulation(temperature),
            resident_bytes: load.resident_bytes,
        }
    }
}

fn refusal(temperature: f64, retry_after: Duration) -> Error {
    Error::Busy {
        what: format!("the node is too hot for new work ({temperature:.2})"),
        retry_after,
    }
}
