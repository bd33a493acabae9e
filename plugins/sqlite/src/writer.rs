//! The writer: one thread that owns the one writing connection and puts many requests into one flush.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use futures_channel::oneshot;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use selvedge_core::store::hub::Hub;
use selvedge_core::{
    Commit, Context, Error, ErrorKind, Result,
    store::{LeaseRequest, LeasedJob, Receipt},
};

use crate::{
    clock::StoreClock,
    combine::{self, CommitWork, LeaseWork},
    error::{closed, from_sql, repeat},
    maintain,
    room::Room,
    tx::Tx,
};

/// The most requests in one transaction.
const GROUP: usize = 1024;
/// How long a transaction takes further requests in, so that the first of them does not wait for too long.
const GROUP_TIME: Duration = Duration::from_millis(20);
/// How long it spins for the next request before it sleeps, while requests follow each other: somewhat longer than falling
/// asleep and being woken take, so that spinning in vain costs little more than that (Karlin, Li, Manasse and Owicki, 1991).
const SPIN: Duration = Duration::from_micros(50);
/// Requests follow each other when the next one comes so soon.
const SOON: Duration = Duration::from_micros(200);
/// Callers that were answered together ask again one after the other: a request that comes so soon is served together with
/// those before it, which costs less than another round of statements.
const BURST: Duration = Duration::from_micros(2);
/// How often the time is noted in the file while there are writes.
const MARK: Duration = Duration::from_secs(60);
/// How often the size of the log is looked at.
const LOG_CHECK: Duration = Duration::from_secs(1);

/// A request to the writer. It may run twice: once in a group that failed as a whole, and then alone.
pub(crate) trait Work: Send {
    fn run(&mut self, tx: &mut Tx<'_>, transaction: &Transaction<'_>) -> Result<()>;
    fn finish(self: Box<Self>, result: Result<()>);
    /// Does with less, when there is no room for all of it; false when it cannot.
    fn reduce(&mut self) -> bool {
        false
    }
    /// It must have a transaction of its own.
    fn is_alone(&self) -> bool {
        false
    }
    /// It does what cannot be seen from outside, and has to be undone whenever it fails.
    fn needs_savepoint(&self) -> bool {
        false
    }
}

/// Requests of one transaction, and how each went.
pub(crate) type Group = Vec<(Box<dyn Work>, Result<()>)>;

/// What a request shares with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// A transaction.
    Shared,
    /// A transaction, behind a savepoint of its own.
    Guarded,
    /// Nothing.
    Alone,
}

struct Request<F, T> {
    cx: Context,
    operation: &'static str,
    sharing: Sharing,
    work: F,
    done: Option<T>,
    reply: oneshot::Sender<Result<T>>,
}

impl<F, T: Send> Work for Request<F, T>
where
    F: FnMut(&mut Tx<'_>, &Transaction<'_>) -> Result<T> + Send,
{
    fn run(&mut self, tx: &mut Tx<'_>, transaction: &Transaction<'_>) -> Result<()> {
        // The caller may have gone, or its time may have run out, while the request waited in line.
        self.cx.check(self.operation)?;
        let done = catch_unwind(AssertUnwindSafe(|| (self.work)(tx, transaction))).unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Internal, self.operation, "the work given to the Store panicked"))
        });
        self.done = Some(done?);
        Ok(())
    }

    fn finish(self: Box<Self>, result: Result<()>) {
        let Self { operation, done, reply, .. } = *self;
        let missing = || Error::new(ErrorKind::Internal, operation, "the writer lost a result");
        // A send fails when nobody listens any more: the caller has dropped its future, and the write stands.
        drop(reply.send(result.and_then(|()| done.ok_or_else(missing))));
    }

    fn is_alone(&self) -> bool {
        self.sharing == Sharing::Alone
    }

    fn needs_savepoint(&self) -> bool {
        self.sharing == Sharing::Guarded
    }
}

enum Message {
    Work(Box<dyn Work>),
    Commit(Box<CommitWork>),
    Lease(Box<LeaseWork>),
    /// Everything before it is done first.
    Close(oneshot::Sender<()>),
}

impl Message {
    fn into_work(self) -> Option<Box<dyn Work>> {
        match self {
            Self::Work(work) => Some(work),
            Self::Commit(work) => Some(work),
            Self::Lease(work) => Some(work),
            Self::Close(_) => None,
        }
    }
}

/// What the writer needs besides its connection.
#[derive(Debug)]
pub(crate) struct WriterConfig {
    pub(crate) clock: Arc<StoreClock>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) poll: Duration,
    pub(crate) log: PathBuf,
    pub(crate) log_limit: u64,
    pub(crate) busy_timeout: Duration,
}

/// The way to the writer thread.
#[derive(Debug)]
pub(crate) struct Writer {
    sender: Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start(conn: Connection, config: WriterConfig) -> Result<Self> {
        let (sender, receiver) = channel();
        // With one processor, whoever spins keeps the others from asking.
        let spins = std::thread::available_parallelism().is_ok_and(|processors| processors.get() > 1);
        let checked = Instant::now();
        let writer = WriterThread { conn, config, receiver, spins, eager: false, seen: 0, marked: None, checked };
        let thread = std::thread::Builder::new()
            .name("selvedge-sqlite-writer".into())
            .spawn(move || writer.run())
            .map_err(|error| {
                Error::new(ErrorKind::Unavailable, "sqlite.open", "the writer thread could not start").caused_by(error)
            })?;
        Ok(Self { sender, thread: Some(thread) })
    }

    /// Runs `work` in a transaction, which may be shared with other requests, and answers once it is committed.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        cx: &Context,
        operation: &'static str,
        sharing: Sharing,
        work: impl FnMut(&mut Tx<'_>, &Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        cx.check(operation)?;
        let (reply, answer) = oneshot::channel();
        let request = Request { cx: cx.clone(), operation, sharing, work, done: None, reply };
        self.sender.send(Message::Work(Box::new(request))).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Makes a commit that was checked, together with others that want the like.
    pub(crate) async fn commit(&self, cx: &Context, commit: Commit, room: Option<Room>) -> Result<Receipt> {
        cx.check("store.commit")?;
        let (reply, answer) = oneshot::channel();
        let work = CommitWork { cx: cx.clone(), commit, room, receipt: None, reply: Some(reply) };
        self.sender.send(Message::Commit(Box::new(work))).map_err(|_| closed())?;
        let missing = || Error::new(ErrorKind::Internal, "store.commit", "the writer lost a result");
        answer.await.map_err(|_| closed())??.receipt.ok_or_else(missing)
    }

    /// Leases jobs, together with others that want the same.
    pub(crate) async fn lease(&self, cx: &Context, request: LeaseRequest) -> Result<Vec<LeasedJob>> {
        cx.check("store.lease")?;
        let (reply, answer) = oneshot::channel();
        let work = LeaseWork { cx: cx.clone(), request, jobs: Vec::new(), reply: Some(reply) };
        self.sender.send(Message::Lease(Box::new(work))).map_err(|_| closed())?;
        Ok(answer.await.map_err(|_| closed())??.jobs)
    }

    /// Lets the writer end; completes once all that was asked for before is done.
    pub(crate) fn close(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        // A writer that has ended drops the message, and with it the sender: the receiver completes at once.
        drop(self.sender.send(Message::Close(sender)));
        receiver
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.close());
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // It cannot have panicked: work runs behind `catch_unwind`.
            drop(thread.join());
        }
    }
}

struct WriterThread {
    conn: Connection,
    config: WriterConfig,
    receiver: Receiver<Message>,
    /// It may spin while it waits.
    spins: bool,
    /// Requests follow each other, so it spins before it sleeps.
    eager: bool,
    /// `data_version` when it was looked at last: it changes with the commits of other connections only.
    seen: i64,
    marked: Option<Instant>,
    checked: Instant,
}

impl WriterThread {
    fn run(mut self) {
        self.seen = self.data_version().unwrap_or(0);
        let mut next = None;
        loop {
            let message = match next.take() {
                Some(message) => message,
                None => match self.wait() {
                    Some(message) => message,
                    None => return,
                },
            };
            match message {
                Message::Close(done) => return self.end(done),
                first => next = self.group(first),
            }
        }
    }

    /// The next message; meanwhile looks for other processes' commits, as long as somebody watches.
    fn wait(&mut self) -> Option<Message> {
        let began = Instant::now();
        let spin = if self.eager { SPIN } else { Duration::ZERO };
        let mut message = self.receive_within(spin);
        while message.is_none() {
            // Without watchers the data version is not followed; the first look after a pause may ring for nothing.
            let timeout = if self.config.hub.is_empty() { LOG_CHECK } else { self.config.poll };
            match self.receiver.recv_timeout(timeout) {
                Ok(received) => message = Some(received),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.look_outside(),
            }
        }
        self.eager = self.spins && began.elapsed() < SOON;
        message
    }

    /// A message that is there, or comes within this time, without going to sleep.
    fn receive_within(&self, time: Duration) -> Option<Message> {
        if let Ok(message) = self.receiver.try_recv() {
            return Some(message);
        }
        let began = Instant::now();
        while began.elapsed() < time {
            for _ in 0..8 {
                std::hint::spin_loop();
            }
            if let Ok(message) = self.receiver.try_recv() {
                return Some(message);
            }
        }
        None
    }

    fn data_version(&self) -> rusqlite::Result<i64> {
        self.conn.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
    }

    fn look_outside(&mut self) {
        if self.config.hub.is_empty() {
            return;
        }
        if let Ok(version) = self.data_version()
            && version != self.seen
        {
            self.seen = version;
            self.config.hub.ring_all();
        }
    }

    fn end(self, done: oneshot::Sender<()>) {
        let now = self.config.clock.now();
        let mut signals = self.config.hub.signals();
        if let Err(error) = maintain::mark_time(&Tx { conn: &self.conn, now, signals: &mut signals }) {
            tracing::debug!(%error, "the time could not be noted at the end");
        }
        // Closing the last connection moves the log into the database file.
        drop(self.conn);
        // Whoever asked may have gone.
        let _ = done.send(());
    }

    /// Runs requests in one transaction until none waits. Returns the message that ended the group without being in it.
    fn group(&mut self, first: Message) -> Option<Message> {
        let began = Instant::now();
        let (mut next, mut first) = (None, Some(first));
        let (mut group, mut commits, mut leases) =
            (Group::with_capacity(64), Vec::<Box<CommitWork>>::with_capacity(64), Vec::with_capacity(64));
        let (clock, hub) = (self.config.clock.clone(), self.config.hub.clone());
        let mut signals = hub.signals();
        let committed = (|| {
            let transaction = begin(&self.conn)?;
            let mut tx = Tx { conn: &transaction, now: clock.now(), signals: &mut signals };
            let mut open = true;
            loop {
                // What only waits costs no time, so the clock is not asked for each.
                let waiting = commits.len() + leases.len();
                open &= group.len() + waiting < GROUP && (waiting % 16 > 0 || began.elapsed() < GROUP_TIME);
                let began_with = first.is_some();
                let burst = if self.spins && waiting > 1 { BURST } else { Duration::ZERO };
                let message = first.take().or_else(|| if open { self.receive_within(burst) } else { None });
                // Commits that are alike wait for each other; everything else comes after them, as it was asked for.
                let joins = match (&message, commits.first()) {
                    (_, None) | (Some(Message::Lease(_)), _) => true,
                    (Some(Message::Commit(work)), Some(first)) => work.alike() == first.alike(),
                    _ => false,
                };
                if !joins && let Err(error) = combine::commit(&mut tx, &mut commits, &mut group) {
                    next = message;
                    return Err(error);
                }
                let message = match message {
                    Some(Message::Commit(work)) if work.alike().is_none() => Some(Message::Work(work)),
                    message => message,
                };
                match message {
                    Some(Message::Lease(work)) => leases.push(work),
                    Some(Message::Commit(work)) => commits.push(work),
                    Some(Message::Work(mut work)) if began_with || !work.is_alone() => {
                        open &= !work.is_alone();
                        let (before, guarded) = (transaction.total_changes(), work.needs_savepoint());
                        let result = if guarded {
                            run_guarded(&mut *work, &mut tx, &transaction)
                        } else {
                            work.run(&mut tx, &transaction)
                        };
                        let partial = result.is_err() && !guarded && transaction.total_changes() != before;
                        group.push((work, result));
                        if partial || transaction.is_autocommit() {
                            return Err(interrupted());
                        }
                    }
                    Some(message) => (next, open) = (Some(message), false),
                    None if leases.is_empty() => break,
                    None => combine::lease(&mut tx, &mut leases, &mut group)?,
                }
            }
            if self.marked.is_none_or(|marked| marked.elapsed() > MARK) {
                maintain::mark_time(&tx)?;
                self.marked = Some(began);
            }
            commit(transaction)
        })();
        match committed {
            Ok(()) => {
                hub.ring(signals);
                self.answer(group);
            }
            Err(error) => {
                // `first` is still there when the transaction could not even begin.
                let waiting = commits.into_iter().map(Message::Commit).chain(leases.into_iter().map(Message::Lease));
                group
                    .extend(first.into_iter().chain(waiting).filter_map(Message::into_work).map(|work| (work, Ok(()))));
                self.repeat_guarded(group, &error);
            }
        }
        if self.checked.elapsed() > LOG_CHECK {
            self.checked = Instant::now();
            self.bound_log(self.config.log_limit.saturating_mul(2));
            self.look_outside();
        }
        next
    }

    /// Runs a failed group again, now with a savepoint before each request: behind one, SQLite copies every page that is
    /// touched. So the first try goes without, and a request that fails halfway brings its group here.
    fn repeat_guarded(&mut self, mut group: Group, error: &Error) {
        if error.kind() != ErrorKind::Internal {
            return self.one_by_one(group, error);
        }
        let hub = self.config.hub.clone();
        let mut signals = hub.signals();
        let committed = (|| {
            let transaction = begin(&self.conn)?;
            let mut tx = Tx { conn: &transaction, now: self.config.clock.now(), signals: &mut signals };
            for (work, result) in &mut group {
                *result = run_guarded(&mut **work, &mut tx, &transaction);
                // Some errors (a full disk among them) end the whole transaction on SQLite's side.
                if transaction.is_autocommit() {
                    return Err(interrupted());
                }
            }
            commit(transaction)
        })();
        match committed {
            Ok(()) => {
                hub.ring(signals);
                self.answer(group);
            }
            Err(error) => self.one_by_one(group, &error),
        }
    }

    /// Answers the requests of a transaction that was committed.
    fn answer(&mut self, group: Group) {
        for (mut work, result) in group {
            let result = match result {
                // The log may hold the room that is missing.
                Err(full) if full.kind() == ErrorKind::StorageFull && self.bound_log(0) => self.alone(&mut *work),
                result => result,
            };
            work.finish(result);
        }
    }

    /// What a group's failure means for each of its requests: those that failed by themselves keep their error, the others
    /// are tried in a transaction of their own, so that a neighbour too large for the disk harms nobody else.
    fn one_by_one(&mut self, group: Group, error: &Error) {
        let full = error.kind() == ErrorKind::StorageFull;
        if full {
            self.bound_log(0);
        }
        let retry = error.kind() != ErrorKind::Busy && (group.len() > 1 || full);
        for (mut work, result) in group {
            let result = match result {
                Err(own) if own.kind() != ErrorKind::Internal => Err(own),
                _ if retry && !work.is_alone() => self.alone(&mut *work),
                Err(own) => Err(own),
                Ok(()) => Err(repeat(error)),
            };
            work.finish(result);
        }
    }

    fn alone(&mut self, work: &mut dyn Work) -> Result<()> {
        loop {
            match self.once(work) {
                Err(full) if full.kind() == ErrorKind::StorageFull && work.reduce() => {}
                result => return result,
            }
        }
    }

    fn once(&mut self, work: &mut dyn Work) -> Result<()> {
        let mut signals = self.config.hub.signals();
        let transaction = begin(&self.conn)?;
        let mut tx = Tx { conn: &transaction, now: self.config.clock.now(), signals: &mut signals };
        work.run(&mut tx, &transaction)?;
        commit(transaction)?;
        self.config.hub.ring(signals);
        Ok(())
    }

    /// Shrinks the log to nothing when it is larger than `limit`, as readers that overlap keep SQLite from starting it anew.
    /// Whether it did.
    fn bound_log(&self, limit: u64) -> bool {
        let size = std::fs::metadata(&self.config.log).map_or(0, |log| log.len());
        if size <= limit {
            return false;
        }
        let shrink = || -> rusqlite::Result<bool> {
            // Readers are waited for, but not for long: nobody writes meanwhile.
            self.conn.busy_timeout(Duration::from_millis(50))?;
            let outcome = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
            self.conn.busy_timeout(self.config.busy_timeout)?;
            let blocked = outcome? != 0;
            tracing::debug!(size, blocked, "shrank the log");
            Ok(!blocked)
        };
        shrink().unwrap_or_else(|error| {
            tracing::debug!(%error, "the log could not be shrunk yet");
            false
        })
    }
}

fn begin(conn: &Connection) -> Result<Transaction<'_>> {
    Transaction::new_unchecked(conn, TransactionBehavior::Immediate).map_err(|error| from_sql("store.commit", error))
}

fn commit(transaction: Transaction<'_>) -> Result<()> {
    // A failed COMMIT may leave the transaction open; dropping it rolls it back.
    transaction.commit().map_err(|error| from_sql("store.commit", error))
}

/// Runs one request so that its failure takes nothing of its neighbours with it.
fn run_guarded(work: &mut dyn Work, tx: &mut Tx<'_>, transaction: &Transaction<'_>) -> Result<()> {
    tx.run("SAVEPOINT request", [])?;
    let result = work.run(tx, transaction);
    if !transaction.is_autocommit() {
        if result.is_err() {
            tx.run("ROLLBACK TO request", [])?;
        }
        tx.run("RELEASE request", [])?;
    }
    result
}

fn interrupted() -> Error {
    Error::new(ErrorKind::Internal, "store.commit", "the transaction ended before it was committed")
        .advise("do not commit or roll back inside the function given to the Store")
}
