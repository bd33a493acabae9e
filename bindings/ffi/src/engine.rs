use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use selvedge::{BoxFuture, CancelToken, Context, Error, ErrorKind, experiments::Experiments, sqlite::SqliteStore};
use tokio::{runtime::Runtime, task::JoinHandle};
use tracing::instrument::WithSubscriber;

use crate::{
    alive::{Alive, ENGINES},
    call::{Call, CancelHandle},
    config::{EngineConfig, Opened},
    error::{Outcome, guarded, internal, panicked},
    hosts::{HostedClock, Hosts},
    log,
};

/// How long a closing engine waits for calls that run.
const CLOSE: Duration = Duration::from_secs(2);

/// An engine: one database, its models, and threads of its own.
///
/// All of its calls may be made from any thread, at once. After [`shutdown`](Engine::shutdown) each fails with `Closed`.
#[derive(Debug, uniffi::Object)]
pub struct Engine {
    state: RwLock<State>,
    _alive: Alive,
}

#[derive(Debug)]
enum State {
    Open(Arc<Running>),
    Suspended(Arc<Running>),
    Closed,
}

/// What calls work with.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) engine: selvedge::Engine,
    pub(crate) store: SqliteStore,
    pub(crate) experiments: Option<Experiments>,
    pub(crate) config: EngineConfig,
    pub(crate) hosts: Hosts,
    pub(crate) runtime: Threads,
    /// Cancelled when the engine is closed.
    closing: CancelToken,
    /// Cancelled, and made anew, at each suspension: what only costs power stops.
    suspending: RwLock<CancelToken>,
    log: tracing::Dispatch,
}

/// The engine's threads. They may be let go of from any thread, one of their own included.
#[derive(Debug)]
pub(crate) struct Threads(Option<Runtime>);

impl Threads {
    fn start() -> Outcome<Self> {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("selvedge")
            .enable_time()
            .build()
            .map(|runtime| Self(Some(runtime)))
            .map_err(|error| internal("engine.open", "the engine's threads do not start").caused_by(error).into())
    }

    /// Where work is started.
    pub(crate) fn handle(&self) -> Option<&tokio::runtime::Handle> {
        self.0.as_ref().map(Runtime::handle)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Waiting is forbidden on the runtime's own threads, where a callback may drop the last engine.
            runtime.shutdown_background();
        }
    }
}

#[uniffi::export]
impl Engine {
    /// Opens the database and the models. Large models take seconds; the caller's thread is not blocked.
    ///
    /// # Errors
    /// `Damaged`, `NewerVersion`, `PermissionDenied`, `StorageFull`, `Busy`, `Conflict` (another program's file),
    /// `InvalidInput`, `Unsupported`.
    #[uniffi::constructor]
    pub async fn open(config: EngineConfig, hosts: Hosts) -> Outcome<Arc<Self>> {
        let runtime = Threads::start()?;
        let log = log::dispatch(&hosts);
        let clock = HostedClock::start(&hosts, &runtime, config.callback_timeout()).await;
        let opening = config.clone();
        let task = runtime
            .handle()
            .ok_or_else(closed)?
            .spawn_blocking({
                let log = log.clone();
                move || tracing::dispatcher::with_default(&log, || opening.open(clock))
            })
            .await;
        let Opened { engine, store, experiments } = task.map_err(|error| joined("engine.open", error))??;
        let running = Running {
            engine,
            store,
            experiments,
            config,
            hosts,
            runtime,
            closing: CancelToken::new(),
            suspending: RwLock::default(),
            log,
        };
        Ok(Arc::new(Self { state: RwLock::new(State::Open(Arc::new(running))), _alive: Alive::of(&ENGINES) }))
    }

    /// Closes the engine: calls that run end with `Cancelled`, later ones with `Closed`. Nothing acknowledged is lost.
    /// Doing it twice changes nothing.
    ///
    /// # Errors
    /// None; it is a `Result` like every call.
    pub fn shutdown(&self) -> Outcome<()> {
        guarded("engine.shutdown", || {
            let was = std::mem::replace(&mut *self.write(), State::Closed);
            let (State::Open(running) | State::Suspended(running)) = was else { return Ok(()) };
            running.closing.cancel();
            if tokio::runtime::Handle::try_current().is_err() {
                // Not on a thread of the engine: there is time for what runs to end in order.
                if let Some(handle) = running.runtime.handle() {
                    let store = running.store.clone();
                    drop(handle.block_on(async { tokio::time::timeout(CLOSE, store.close()).await }));
                }
            }
            Ok(())
        })
    }

    /// Gets ready for the app to be frozen: flushes, chats and workers stop, running writes end, and no file lock is held
    /// when this returns. Until [`resume`](Engine::resume) calls fail with `Unavailable`.
    ///
    /// # Errors
    /// `Closed`, and those of the Store.
    pub async fn suspend(&self) -> Outcome<()> {
        let running = {
            let mut state = self.write();
            let running = match &*state {
                State::Closed => return Err(closed().into()),
                State::Open(running) | State::Suspended(running) => running.clone(),
            };
            *state = State::Suspended(running.clone());
            running
        };
        running.suspending.read().unwrap_or_else(PoisonError::into_inner).cancel();
        // An empty commit waits behind every write that was accepted before.
        running
            .run("engine.suspend", Call::default(), None, |running, cx| async move {
                selvedge::Store::commit(running.engine.store()?, &cx, selvedge::Commit::new()).await?;
                Ok(())
            })
            .await
    }

    /// Goes on after [`suspend`](Engine::suspend). On an engine that is not suspended it changes nothing.
    ///
    /// # Errors
    /// `Closed`.
    pub fn resume(&self) -> Outcome<()> {
        guarded("engine.resume", || {
            let mut state = self.write();
            let running = match &*state {
                State::Closed => return Err(closed().into()),
                State::Open(running) | State::Suspended(running) => running.clone(),
            };
            *running.suspending.write().unwrap_or_else(PoisonError::into_inner) = CancelToken::new();
            *state = State::Open(running);
            Ok(())
        })
    }

    /// Gives back the memory that can be had again: for the moment the system says it is short. Nothing is lost.
    ///
    /// # Errors
    /// `Closed`, `Unavailable` while suspended.
    #[uniffi::method(default(cancel = None))]
    pub async fn trim(&self, cancel: Option<Arc<CancelHandle>>) -> Outcome<()> {
        self.run("engine.trim", Call::default(), cancel, |running, cx| async move {
            let shrink =
                |tx: &selvedge::sqlite::rusqlite::Transaction<'_>| Ok(tx.execute_batch("PRAGMA shrink_memory")?);
            running.store.commit_with(&cx, selvedge::Commit::new(), shrink).await?;
            Ok(())
        })
        .await
    }

    /// One tick of housekeeping: rescues what crashed, fires schedules, drops what is past its retention. Call it at each
    /// start, and about once a second while jobs are worked on.
    ///
    /// # Errors
    /// Those of the Store.
    #[uniffi::method(default(cancel = None))]
    pub async fn maintain(&self, cancel: Option<Arc<CancelHandle>>) -> Outcome<()> {
        self.run("engine.maintain", Call::default(), cancel, |running, cx| async move {
            running.engine.maintain(&cx, selvedge::store::Maintain::default()).await?;
            Ok(())
        })
        .await
    }
}

impl Engine {
    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The running engine, or why there is none.
    pub(crate) fn running(&self) -> Result<Arc<Running>, Error> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(running) => Ok(running.clone()),
            State::Suspended(_) => Err(Error::new(ErrorKind::Unavailable, "engine", "the engine is suspended")
                .advise("call resume when the app is in the foreground again")),
            State::Closed => Err(closed()),
        }
    }

    /// Runs one call on the engine's threads.
    pub(crate) async fn run<T, F>(
        &self,
        operation: &'static str,
        call: Call,
        cancel: Option<Arc<CancelHandle>>,
        work: impl FnOnce(Arc<Running>, Context) -> F,
    ) -> Outcome<T>
    where
        T: Send + 'static,
        F: Future<Output = Outcome<T>> + Send + 'static,
    {
        self.running()?.run(operation, call, cancel.as_deref(), work).await
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let State::Open(running) | State::Suspended(running) = &*self.write() {
            running.closing.cancel();
        }
    }
}

impl Running {
    /// Cancelled when the engine is suspended or closed.
    pub(crate) fn suspended(&self) -> CancelToken {
        self.suspending.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs work on the engine's threads, until it ends or is cancelled. The work is dropped with the returned future.
    pub(crate) async fn run<T, F>(
        self: &Arc<Self>,
        operation: &'static str,
        call: Call,
        cancel: Option<&CancelHandle>,
        work: impl FnOnce(Arc<Self>, Context) -> F,
    ) -> Outcome<T>
    where
        T: Send + 'static,
        F: Future<Output = Outcome<T>> + Send + 'static,
    {
        self.start(operation, call, cancel, work)?.outcome(operation).await
    }

    /// Starts work on the engine's threads. It is dropped with the returned task, when `cancel` is used, and when the engine
    /// closes; a panic in it becomes an error.
    pub(crate) fn start<T, F>(
        self: &Arc<Self>,
        operation: &'static str,
        call: Call,
        cancel: Option<&CancelHandle>,
        work: impl FnOnce(Arc<Self>, Context) -> F,
    ) -> Outcome<Task<T>>
    where
        T: Send + 'static,
        F: Future<Output = Outcome<T>> + Send + 'static,
    {
        let token = cancel.map_or_else(CancelToken::new, |cancel| cancel.token().child());
        let cx = call.context(token.clone())?;
        let deadline = cx.remaining();
        let work = work(self.clone(), cx);
        let answer = Arc::new(Mutex::new(None));
        let kept = answer.clone();
        let work = async move {
            *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(work.await?);
            Ok(())
        };
        Ok(Task { handle: self.spawn(operation, token, deadline, Box::pin(work))?, answer })
    }

    /// What a task is made of does not depend on what it answers, so that it is in the library once, and not once a call.
    fn spawn(
        &self,
        operation: &'static str,
        token: CancelToken,
        deadline: Option<Duration>,
        work: BoxFuture<'static, Outcome<()>>,
    ) -> Outcome<JoinHandle<Outcome<()>>> {
        let closing = self.closing.clone();
        let bounded = async move {
            let limited = async {
                match deadline {
                    Some(left) => tokio::time::timeout(left, work)
                        .await
                        .unwrap_or_else(|_| Err(Error::deadline(operation).into())),
                    None => work.await,
                }
            };
            let stopped = async { token.until_cancelled(limited).await };
            match closing.until_cancelled(stopped).await {
                Some(Some(outcome)) => outcome,
                _ => Err(Error::cancelled(operation).into()),
            }
        };
        let handle = self.runtime.handle().ok_or_else(closed)?;
        Ok(handle.spawn(bounded.with_subscriber(self.log.clone())))
    }
}

/// A task that ends when nobody waits for it any more.
pub(crate) struct Task<T> {
    handle: JoinHandle<Outcome<()>>,
    answer: Arc<Mutex<Option<T>>>,
}

impl<T> Task<T> {
    /// Waits for what the task has to say. May be dropped and asked again, until it has answered.
    pub(crate) async fn outcome(&mut self, operation: &'static str) -> Outcome<T> {
        (&mut self.handle).await.map_err(|error| joined(operation, error))??;
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        answer.ok_or_else(|| internal(operation, "the task has answered before").into())
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

fn joined(operation: &'static str, error: tokio::task::JoinError) -> Error {
    match error.try_into_panic() {
        Ok(panic) => std::panic::catch_unwind(AssertUnwindSafe(|| panicked(operation, &*panic)))
            .unwrap_or_else(|_| internal(operation, "the engine panicked")),
        Err(_) => Error::cancelled(operation),
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "engine", "the engine is closed").advise("open a new one")
}
