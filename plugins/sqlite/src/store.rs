//! [`SqliteStore`]: the trait's verbs as requests to the writer and the readers.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::{Connection, Transaction};
use selvedge_core::store::hub::{Hub, Seat, Signal};
use selvedge_core::{
    Commit, Context, Error, ErrorKind, Result, Store,
    idempotency::{Claim, ClaimRequest},
    store::{
        LeaseRequest, LeasedEvent, LeasedJob, Maintain, Maintained, Notice, Query, Receipt, RelayRequest, Rows,
        StoreCapabilities, StoreInfo, Subscription, Take, Taken, Wakeups, Watch,
    },
};

use crate::{
    apply::apply_checked,
    clock::StoreClock,
    error::from_sql,
    key, maintain,
    open::{Builder, Durability},
    outbox, quota, read,
    reader::Readers,
    room::Room,
    schema::VERSION,
    topic,
    tx::Tx,
    writer::{Sharing, Writer, WriterConfig},
};

/// What an effect in the caller's own tables may fail with: `rusqlite::Error`, a
/// [`selvedge_core::Error`], or anything else, which refuses the commit.
pub type EffectError = Box<dyn std::error::Error + Send + Sync>;

/// A Store in one SQLite file. Clones share it; the last one to be dropped closes it.
#[derive(Clone, Debug)]
pub struct SqliteStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    durability: Durability,
    room: Option<Room>,
    clock: Arc<StoreClock>,
    hub: Arc<Hub>,
    readers: Arc<Readers>,
    writer: Writer,
}

impl SqliteStore {
    /// Opens or creates a file, durably. It blocks for some milliseconds.
    ///
    /// # Errors
    /// Those of [`Builder::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder(path).open()
    }

    /// Says how to open a file.
    pub fn builder(path: impl AsRef<Path>) -> Builder {
        Builder::new(path.as_ref().to_path_buf())
    }

    pub(crate) fn start(
        path: PathBuf,
        durability: Durability,
        conn: Connection,
        room: Option<Room>,
        readers: Vec<Connection>,
        here: Connection,
        config: WriterConfig,
    ) -> Result<Self> {
        let (clock, hub) = (config.clock.clone(), config.hub.clone());
        let readers = Arc::new(Readers::start(readers, here)?);
        let writer = Writer::start(conn, config)?;
        Ok(Self(Arc::new(Inner { path, durability, room, clock, hub, readers, writer })))
    }

    /// Makes an effect in your own tables and a commit true in one transaction: both, or neither.
    ///
    /// `effect` runs on the writer's thread after the commit's operations, so a lost lease or claim has no effect. It must not
    /// wait for anything but the database. It may run twice, when a transaction it shared with others had to be repeated;
    /// what it wrote the first time is then undone. Keep your tables' names clear of Selvedge's own.
    ///
    /// ```
    /// use selvedge_core::{Commit, Context, store::NewJob};
    /// use selvedge_sqlite::SqliteStore;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = SqliteStore::open(folder.path().join("app.db"))?;
    /// let commit = Commit::new().enqueue([NewJob::new("receipt", "{}")]);
    /// let (rows, _) = store
    ///     .commit_with(&Context::new(), commit, |tx| {
    ///         tx.execute_batch("CREATE TABLE IF NOT EXISTS cart (item TEXT)")?;
    ///         Ok(tx.execute("INSERT INTO cart VALUES (?1)", ["tea"])?)
    ///     })
    ///     .await?;
    /// assert_eq!(rows, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`Store::commit`], and what `effect` fails with.
    pub async fn commit_with<T: Send + 'static>(
        &self,
        cx: &Context,
        commit: Commit,
        mut effect: impl FnMut(&Transaction<'_>) -> Result<T, EffectError> + Send + 'static,
    ) -> Result<(T, Receipt)> {
        commit.check()?;
        let work = move |tx: &mut Tx<'_>, transaction: &Transaction<'_>| {
            let receipt = apply_checked(tx, &commit)?;
            let done = effect(transaction).map_err(refused)?;
            Ok((done, receipt))
        };
        self.0.writer.write(cx, "store.commit", Sharing::Guarded, work).await
    }

    /// Ends the Store once all that was asked for before is done. Later calls fail, and subscriptions end.
    pub async fn close(&self) {
        // An error means that the writer has ended already.
        let _ = self.0.writer.close().await;
        self.0.hub.close();
        self.0.readers.close();
    }

    async fn write<T: Send + 'static>(
        &self,
        cx: &Context,
        operation: &'static str,
        mut work: impl FnMut(&mut Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.0.writer.write(cx, operation, Sharing::Shared, move |tx, _| work(tx)).await
    }
}

fn refused(error: EffectError) -> Error {
    let error = match error.downcast::<rusqlite::Error>() {
        Ok(error) => return from_sql("store.commit", *error),
        Err(error) => error,
    };
    match error.downcast::<Error>() {
        Ok(error) => *error,
        Err(error) => {
            Error::new(ErrorKind::InvalidInput, "store.commit", "the effect was refused, and the commit with it")
                .caused_by(error)
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.hub.close();
        // Readers end first: the last connection to be closed, the writer's, moves the log into the file.
        self.readers.close();
    }
}

impl Store for SqliteStore {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities {
            plugin: "sqlite",
            jobs: true,
            outbox: true,
            topics: true,
            idempotency: true,
            quotas: true,
            facts: true,
            cross_process: true,
            durable: true,
        }
    }

    async fn commit(&self, cx: &Context, commit: Commit) -> Result<Receipt> {
        commit.check()?;
        self.0.writer.commit(cx, commit, self.0.room).await
    }

    async fn lease(&self, cx: &Context, request: LeaseRequest) -> Result<Vec<LeasedJob>> {
        self.0.writer.lease(cx, request).await
    }

    async fn relay(&self, cx: &Context, request: RelayRequest) -> Result<Vec<LeasedEvent>> {
        self.write(cx, "store.relay", move |tx| outbox::relay(tx, &request)).await
    }

    async fn claim(&self, cx: &Context, request: ClaimRequest) -> Result<Claim> {
        self.write(cx, "store.claim", move |tx| key::claim(tx, &request)).await
    }

    async fn take(&self, cx: &Context, request: Take) -> Result<Taken> {
        self.write(cx, "store.take", move |tx| quota::take(tx, &request)).await
    }

    async fn read(&self, cx: &Context, query: Query) -> Result<Rows> {
        let inner = self.0.clone();
        let by_key = is_by_key(&query);
        let read = move |conn: &Connection| match &query {
            Query::Info => inner.info(conn).map(Rows::Info),
            query => read::read(conn, query, inner.clock.now()),
        };
        let readers = &self.0.readers;
        if by_key {
            readers.read_here(cx, "store.read", read).await
        } else {
            readers.read(cx, "store.read", read).await
        }
    }

    async fn watch(&self, cx: &Context, request: Watch) -> Result<Subscription> {
        cx.check("store.watch")?;
        match request {
            Watch::Topic { topic, from, buffer } => {
                // The seat is taken first: what is published after the first look rings it.
                let seat = Seat::take(&self.0.hub, vec![Signal::Topic(topic.clone())]);
                let readers = self.0.readers.clone();
                let name = topic.clone();
                let first = move |conn: &Connection| topic::start(conn, &name, from);
                let cursor = readers.read(cx, "store.watch", first).await?;
                let follower = Follower { seat, readers, topic, buffer, cursor, ready: VecDeque::new() };
                Ok(Subscription::new(futures_util::stream::unfold(follower, Follower::next)))
            }
            Watch::Jobs(queues) => Ok(self.hints(queues.into_iter().map(Signal::Queue).collect())),
            Watch::Outbox => Ok(self.hints(vec![Signal::Outbox])),
        }
    }

    async fn maintain(&self, cx: &Context, request: Maintain) -> Result<Maintained> {
        let clock = self.0.clock.clone();
        let work = move |tx: &mut Tx<'_>, _: &Transaction<'_>| {
            if tx.now > clock.wall() + maintain::STEP {
                let ahead = tx.now;
                clock.rebase();
                tx.now = clock.now();
                maintain::shift_back(tx, ahead)?;
            }
            maintain::maintain(tx, &request)
        };
        // Alone, because moving the time in the middle of others' requests would confuse them.
        self.0.writer.write(cx, "store.maintain", Sharing::Alone, work).await
    }
}

/// Whether a query reads a handful of rows by their key, however large the tables are.
fn is_by_key(query: &Query) -> bool {
    match query {
        Query::Job(_) | Query::Intent(_) | Query::Assignment { .. } => true,
        Query::Assignments { subjects } => subjects.len() <= 8,
        _ => false,
    }
}

impl SqliteStore {
    fn hints(&self, signals: Vec<Signal>) -> Subscription {
        let seat = Seat::take(&self.0.hub, signals);
        Subscription::new(futures_util::stream::unfold(seat, |seat| async move {
            seat.rung().await;
            (!seat.is_closed()).then_some((Ok(Notice::Work), seat))
        }))
    }
}

impl Inner {
    fn info(&self, conn: &Connection) -> Result<StoreInfo> {
        let number = |pragma: &str| -> Result<u64> {
            conn.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))
                .map_err(|error| from_sql("store.read", error))
        };
        Ok(StoreInfo {
            plugin: "sqlite",
            backend: format!("SQLite {}", rusqlite::version()),
            schema: VERSION,
            location: self.path.display().to_string(),
            bytes: Some(number("page_count")? * number("page_size")?),
            durability: self.durability.describe().into(),
            // SQLite tells nobody: while somebody waits, the writer looks at the file every few milliseconds.
            wakeups: Wakeups::Poll,
            now: self.clock.now(),
        })
    }
}

/// Follows a topic. It does not keep the Store open.
struct Follower {
    seat: Seat,
    readers: Arc<Readers>,
    topic: String,
    buffer: Option<usize>,
    cursor: i64,
    ready: VecDeque<Notice>,
}

impl Follower {
    async fn next(mut self) -> Option<(Result<Notice>, Self)> {
        loop {
            if let Some(notice) = self.ready.pop_front() {
                if let Notice::Message(message) = &notice {
                    self.cursor = message.cursor;
                }
                return Some((Ok(notice), self));
            }
            if self.seat.is_closed() {
                return None;
            }
            self.seat.hush();
            let (topic, cursor, buffer) = (self.topic.clone(), self.cursor, self.buffer);
            let look = move |conn: &Connection| topic::next_notices(conn, &topic, cursor, buffer);
            match self.readers.read(&Context::new(), "store.watch", look).await {
                Ok(notices) if notices.is_empty() => self.seat.rung().await,
                Ok(notices) => self.ready = notices.into(),
                Err(_) if self.seat.is_closed() => return None,
                Err(error) => return Some((Err(error), self)),
            }
        }
    }
}
