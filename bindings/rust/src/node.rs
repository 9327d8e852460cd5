//! The handle that programs hold.

use crate::answer::Answer;
use crate::builder::Builder;
use crate::frame::Frame;
use crate::host::{CacheLock, Scratch};
use crate::namespace::{DropOptions, Hive};
use crate::runtime::OwnedRuntimes;
use apiary_actors::{Node, NodeStatus, QueryOptions, SwarmNode};
use apiary_engine::catalog::{Catalog, RegistryView};
use apiary_engine::sql::{Session, Statement, parse};
use apiary_engine::{Error, Result};
use apiary_protocol::names::{FrameName, Name};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use futures::TryStreamExt;
use parking_lot::Mutex;
use std::future::Future;
use std::sync::Arc;

/// A running node on some storage. Cheap to clone; every clone is the same node.
///
/// Call [`Apiary::shutdown`] when done. Dropping the last clone (and the last [`Answer`]) without it
/// stops the node as a kill would: nothing that was acknowledged is lost, and no thread stays.
#[derive(Clone, Debug)]
pub struct Apiary {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    node: Node,
    session: Mutex<Session>,
    runtimes: OwnedRuntimes,
    /// These go last: until then somebody may write there.
    _grounds: Grounds,
}

/// Directories of this process on local disk.
#[derive(Debug)]
pub(crate) struct Grounds {
    pub(crate) _scratch: Option<Scratch>,
    pub(crate) _cache: Option<CacheLock>,
}

impl Inner {
    // Gives the handle and not itself: nobody else may own an `Inner`.
    #[allow(clippy::new_ret_no_self)]
    pub(crate) fn new(node: Node, runtimes: OwnedRuntimes, grounds: Grounds) -> Result<Apiary> {
        let session = Mutex::new(Session::new()?);
        Ok(Apiary {
            inner: Arc::new(Self {
                node,
                session,
                runtimes,
                _grounds: grounds,
            }),
        })
    }
}

impl Apiary {
    /// Opens the storage that a URI names, with default settings. A directory is made when it is
    /// missing.
    pub async fn open(uri: &str) -> Result<Self> {
        Self::builder(uri).open().await
    }

    /// [`Apiary::open`] for a program without an executor.
    ///
    /// # Panics
    /// When called inside an asynchronous context.
    pub fn open_blocking(uri: &str) -> Result<Self> {
        Self::builder(uri).open_blocking()
    }

    /// Opens with settings of your own.
    pub fn builder(uri: &str) -> Builder {
        Builder::new(uri)
    }

    /// Runs a future on the calling thread until it is done, for a program without an executor.
    ///
    /// # Panics
    /// When called inside an asynchronous context.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.inner.runtimes.handles().control.block_on(future)
    }

    /// Makes a hive; one that exists is given as it is.
    pub async fn create_hive(&self, name: &str) -> Result<Hive> {
        let name = Name::new("hive", name)?;
        let hive = name.clone();
        self.change_names(&format!("making hive {name}"), |catalog| async move {
            catalog.create_hive(&hive, true).await
        })
        .await?;
        Ok(Hive::new(self.clone(), name))
    }

    /// A hive that exists.
    ///
    /// # Errors
    /// `NotFound` when it does not.
    pub async fn hive(&self, name: &str) -> Result<Hive> {
        let name = Name::new("hive", name)?;
        self.view().await?.boxes(&name)?;
        Ok(Hive::new(self.clone(), name))
    }

    /// All hives, by name.
    pub async fn hives(&self) -> Result<Vec<Hive>> {
        let view = self.view().await?;
        Ok(view
            .hives()
            .into_iter()
            .map(|name| Hive::new(self.clone(), name))
            .collect())
    }

    /// Drops a hive; says whether there was one.
    ///
    /// # Errors
    /// `Rejected` while it has frames, unless `options.cascade`.
    pub async fn drop_hive(&self, name: &str, options: DropOptions) -> Result<bool> {
        let name = Name::new("hive", name)?;
        let DropOptions { cascade, purge } = options;
        self.change_names(&format!("dropping hive {name}"), |catalog| async move {
            catalog.drop_hive(&name, true, cascade, purge).await
        })
        .await
    }

    /// A frame that exists, by its name in SQL: `frame`, `box.frame` or `hive.box.frame`, parts
    /// quoted with `"` where they need it, completed by the current hive and box.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Rejected` for a name that is none.
    pub async fn frame(&self, name: &str) -> Result<Frame> {
        let name = self.resolve(name)?;
        self.view().await?.frame(&name)?;
        Ok(Frame::new(self.clone(), name))
    }

    /// The full name that a text means at the moment; see [`Apiary::frame`]. Does no I/O.
    pub fn resolve(&self, name: &str) -> Result<FrameName> {
        let parts = Parser::new(&GenericDialect {})
            .try_with_sql(name)
            .and_then(|mut parser| parser.parse_multipart_identifier())
            .map_err(|error| {
                Error::rejected(format!(
                    "{name:?} is not a frame name ({error}); write hive.box.frame, with unusual \
                     parts in double quotes"
                ))
            })?;
        let parts: Vec<String> = parts.into_iter().map(|part| part.value).collect();
        self.session().resolve(&parts)
    }

    /// Runs one or more statements, separated by semicolons, in order; gives the answer of the last
    /// one. `USE` is remembered by this object and its clones.
    pub async fn sql(&self, text: &str) -> Result<Answer> {
        let session = self.session();
        let answer = self.sql_with(text, &session).await?;
        *self.inner.session.lock() = answer.session().clone();
        Ok(answer)
    }

    /// [`Apiary::sql`] in a session of the caller's: [`Answer::session`] is what the statements left.
    pub async fn sql_with(&self, text: &str, session: &Session) -> Result<Answer> {
        let options = QueryOptions::default();
        self.execute_all(parse(text)?, session, options).await
    }

    /// Runs statements that [`parse`] gave one after the other, with the same options; gives the answer of
    /// the last one.
    pub async fn execute_all(
        &self,
        mut statements: Vec<Statement>,
        session: &Session,
        options: QueryOptions,
    ) -> Result<Answer> {
        let Some(last) = statements.pop() else {
            return Err(Error::rejected("there is no SQL statement in the text"));
        };
        let cancel = options.cancel.clone().unwrap_or_default();
        let mut session = session.clone();
        for statement in statements {
            let mut answer = self.execute(statement, &session, options.clone()).await?;
            let drained = async {
                while answer.try_next().await?.is_some() {}
                Ok::<_, Error>(())
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(Error::Cancelled),
                drained = drained => drained?,
            }
            session = answer.session().clone();
        }
        self.execute(last, &session, options).await
    }

    /// Runs one statement that [`parse`] gave, in a session, with options.
    pub async fn execute(
        &self,
        statement: Statement,
        session: &Session,
        options: QueryOptions,
    ) -> Result<Answer> {
        let answer = self
            .run(self.node().execute(statement, session, options))
            .await?;
        Ok(Answer::new(self.clone(), answer))
    }

    /// The hive and box that unqualified names mean.
    pub fn session(&self) -> Session {
        self.inner.session.lock().clone()
    }

    /// Facts about this node: bees, memory, temperature, requests made.
    pub async fn status(&self) -> Result<NodeStatus> {
        self.run(self.node().status()).await
    }

    /// The other nodes on this storage, each as this one sees it. An [`Apiary`] that stays learns who is
    /// alive by seeing heartbeats change, so whoever it has just met is unknown for up to a minute; one
    /// that was opened for a single command goes by how old each heartbeat is on the storage's clock. When
    /// it answers, the first heartbeat of an [`Apiary`] that stays is written, so others can see it.
    pub async fn swarm(&self) -> Result<Vec<SwarmNode>> {
        self.run(self.node().swarm()).await
    }

    /// Calls a short function once on each of the node's threads that is not busy, and waits for it.
    ///
    /// For programs whose allocator keeps free memory for each thread: a node that rests has no other
    /// occasion to give it back.
    pub async fn on_each_thread(&self, work: fn()) {
        let blocking = &self.node().environment().host.blocking;
        self.inner.runtimes.on_each_thread(blocking, work).await;
    }

    /// Refuses new work, finishes what runs, stops. A second call does nothing.
    pub async fn shutdown(&self) -> Result<()> {
        self.run(self.node().shutdown()).await
    }

    pub(crate) fn node(&self) -> &Node {
        &self.inner.node
    }

    pub(crate) fn control(&self) -> &tokio::runtime::Handle {
        &self.inner.runtimes.handles().control
    }

    pub(crate) async fn view(&self) -> Result<Arc<RegistryView>> {
        self.run(self.node().view()).await
    }

    pub(crate) async fn change_names<T, F>(
        &self,
        what: &str,
        work: impl FnOnce(Arc<Catalog>) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.run(self.node().change_names(what, work)).await
    }

    /// Polls inside our runtimes, whatever executor the caller has.
    pub(crate) async fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.inner.runtimes.inside(future).await
    }
}
