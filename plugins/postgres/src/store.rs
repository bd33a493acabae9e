//! [`PostgresStore`]: the trait's verbs as transactions.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use selvedge_core::{
    BoxFuture, Commit, Context, Result, Store,
    idempotency::{Claim, ClaimRequest},
    store::{
        LeaseRequest, LeasedEvent, LeasedJob, Maintain, Maintained, Notice, Query, Receipt, RelayRequest, Rows,
        StoreCapabilities, StoreInfo, Subscription, Take, Taken, Wakeups, Watch,
        hub::{Seat, Signal},
    },
};

use crate::{
    apply,
    connections::Connections,
    group::Groups,
    key,
    lease::{self, Found},
    maintain,
    open::Builder,
    outbox, quota, read,
    schema::VERSION,
    topic,
    tx::{Db, Flush, Tx, get},
    wake::{Bell, News},
};

/// A Store in one schema of a PostgreSQL database. Clones share it; the last one to be dropped closes it.
#[derive(Clone, Debug)]
pub struct PostgresStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connections: Connections,
    bell: Bell,
    groups: Groups,
    /// It is meant to listen.
    listens: bool,
    listening: Arc<AtomicBool>,
    location: String,
    backend: String,
    /// They end with the Store.
    _tasks: Vec<Task>,
}

/// A task that ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Task(tokio::task::JoinHandle<()>);

impl Task {
    pub(crate) fn start(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A commit that was applied in the caller's transaction.
#[derive(Debug)]
#[must_use = "call `committed` after the commit, or watchers notice it up to a second later"]
pub struct Applied {
    receipt: Receipt,
    bell: Bell,
    news: News,
}

impl Applied {
    /// What each operation came to.
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// Wakes those who wait for what the transaction, which is now committed, made true.
    pub fn committed(self) -> Receipt {
        self.bell.ring(self.news);
        self.receipt
    }
}

impl PostgresStore {
    /// Connects to a database, and creates or migrates the schema `selvedge` in it.
    ///
    /// # Errors
    /// Those of [`Builder::open`].
    pub async fn open(url: impl Into<String>) -> Result<Self> {
        Self::builder(url).open().await
    }

    /// Says how to connect.
    pub fn builder(url: impl Into<String>) -> Builder {
        Builder::new(url.into())
    }

    pub(crate) fn start(
        connections: Connections,
        bell: Bell,
        listens: bool,
        listening: Arc<AtomicBool>,
        mut tasks: Vec<Task>,
        location: String,
        version: String,
    ) -> Self {
        let backend = format!("PostgreSQL {version}");
        let (groups, forming) = Groups::start(&connections, &bell);
        tasks.extend(forming);
        Self(Arc::new(Inner { connections, bell, groups, listens, listening, location, backend, _tasks: tasks }))
    }

    /// Applies a commit within a transaction of your own, on a connection of your own to the same database: its operations
    /// become true when you commit, together with what else you wrote. Call [`Applied::committed`] afterwards.
    ///
    /// ```no_run
    /// use selvedge_core::{Commit, store::NewJob};
    /// use selvedge_postgres::PostgresStore;
    ///
    /// # async fn example(store: PostgresStore, client: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let tx = client.transaction().await?;
    /// tx.execute("INSERT INTO cart (item) VALUES ('tea')", &[]).await?;
    /// let applied = store.apply(&tx, &Commit::new().enqueue([NewJob::new("charge", "{}")])).await?;
    /// tx.commit().await?;
    /// assert_eq!(applied.committed().jobs().count(), 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`Store::commit`]. Roll your transaction back: a part of the commit may be in it.
    pub async fn apply(&self, tx: &tokio_postgres::Transaction<'_>, commit: &Commit) -> Result<Applied> {
        commit.check()?;
        let connections = &self.0.connections;
        let db = connections.db(tx.client(), "store.commit");
        let now = db.clock().await?;
        let mut tx = Tx { db, now, news: News::default() };
        let receipt = apply::apply(&mut tx, commit).await?;
        Ok(Applied { receipt, bell: self.0.bell.clone(), news: tx.news })
    }

    /// Whether wake-ups of other processes arrive at once. Otherwise watchers poll: LISTEN was turned off, or its connection
    /// is lost for the moment.
    pub fn is_listening(&self) -> bool {
        self.0.listening.load(Ordering::Acquire)
    }

    /// Ends the Store: later calls fail, subscriptions end, and what runs is finished.
    pub fn close(&self) {
        self.0.connections.pool.close();
        self.0.bell.hub.close();
    }

    async fn write<T: Send + 'static>(
        &self,
        cx: &Context,
        operation: &'static str,
        flush: Flush,
        work: impl for<'a, 'c> Fn(&'a mut Tx<'c>) -> BoxFuture<'a, Result<T>> + Send + Sync + 'static,
    ) -> Result<T> {
        let (done, news) = self.0.connections.write(cx, operation, flush, work).await?;
        self.0.bell.ring(news);
        Ok(done)
    }

    fn hints(&self, signals: Vec<Signal>) -> Subscription {
        let seat = Seat::take(&self.0.bell.hub, signals);
        Subscription::new(futures_util::stream::unfold(seat, |seat| async move {
            seat.rung().await;
            (!seat.is_closed()).then_some((Ok(Notice::Work), seat))
        }))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.connections.pool.close();
        self.bell.hub.close();
    }
}

impl Store for PostgresStore {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities {
            plugin: "postgres",
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
        cx.check("store.commit")?;
        let connections = &self.0.connections;
        let commit = match self.0.groups.join(commit) {
            Ok(answer) => return connections.bounded(cx, "store.commit", Groups::answer(answer)).await,
            Err(commit) => Arc::new(commit),
        };
        self.write(cx, "store.commit", Flush::Waits, move |tx| {
            let commit = commit.clone();
            Box::pin(async move { apply::apply(tx, &commit).await })
        })
        .await
    }

    async fn lease(&self, cx: &Context, request: LeaseRequest) -> Result<Vec<LeasedJob>> {
        let request = Arc::new(request);
        let (connections, hints, wanted) = (self.0.connections.clone(), self.0.bell.hints.clone(), request.clone());
        let leasing = async move {
            let conn = connections.get("store.lease").await?;
            lease::lease(&connections.alone(&conn, "store.lease", Flush::Later), &hints, &wanted).await
        };
        match self.0.connections.finish(cx, "store.lease", leasing).await? {
            Found::Jobs(jobs) => Ok(jobs),
            Found::Limited => {
                self.write(cx, "store.lease", Flush::Later, move |tx| {
                    let request = request.clone();
                    Box::pin(async move { lease::lease_within_limits(tx, &request).await })
                })
                .await
            }
        }
    }

    async fn relay(&self, cx: &Context, request: RelayRequest) -> Result<Vec<LeasedEvent>> {
        let request = Arc::new(request);
        self.write(cx, "store.relay", Flush::Later, move |tx| {
            let request = request.clone();
            Box::pin(async move { outbox::relay(tx, &request).await })
        })
        .await
    }

    async fn claim(&self, cx: &Context, request: ClaimRequest) -> Result<Claim> {
        let connections = self.0.connections.clone();
        let claiming = async move {
            let conn = connections.get("store.claim").await?;
            key::claim(&connections.alone(&conn, "store.claim", Flush::Soon), &request).await
        };
        self.0.connections.finish(cx, "store.claim", claiming).await
    }

    async fn take(&self, cx: &Context, request: Take) -> Result<Taken> {
        let request = Arc::new(request);
        self.write(cx, "store.take", Flush::Waits, move |tx| {
            let request = request.clone();
            Box::pin(async move { quota::take(tx, &request).await })
        })
        .await
    }

    async fn read(&self, cx: &Context, query: Query) -> Result<Rows> {
        let inner = self.0.clone();
        self.0
            .connections
            .read(cx, "store.read", move |db| {
                Box::pin(async move {
                    match query {
                        Query::Info => inner.info(db).await.map(Rows::Info),
                        query => read::read(db, query).await,
                    }
                })
            })
            .await
    }

    async fn watch(&self, cx: &Context, request: Watch) -> Result<Subscription> {
        cx.check("store.watch")?;
        match request {
            Watch::Topic { topic, from, buffer } => {
                // The seat is taken first: what is published after the first look rings it.
                let seat = Seat::take(&self.0.bell.hub, vec![Signal::Topic(topic.clone())]);
                let connections = self.0.connections.clone();
                let name = topic.clone();
                let cursor = connections
                    .read(cx, "store.watch", move |db| Box::pin(async move { topic::start(db, &name, from).await }))
                    .await?;
                let follower = Follower { seat, connections, topic, buffer, cursor, ready: VecDeque::new() };
                Ok(Subscription::new(futures_util::stream::unfold(follower, Follower::next)))
            }
            Watch::Jobs(queues) => Ok(self.hints(queues.into_iter().map(Signal::Queue).collect())),
            Watch::Outbox => Ok(self.hints(vec![Signal::Outbox])),
        }
    }

    async fn maintain(&self, cx: &Context, request: Maintain) -> Result<Maintained> {
        let done = self.write(cx, "store.maintain", Flush::Waits, move |tx| {
            Box::pin(async move { maintain::maintain(tx, &request).await })
        });
        let done = done.await?;
        self.0.connections.turn_history().await?;
        Ok(done)
    }
}

impl Inner {
    fn wakeups(&self) -> Wakeups {
        match (self.listens, self.listening.load(Ordering::Acquire)) {
            (_, true) => Wakeups::Listen,
            (true, false) => Wakeups::Fallback,
            (false, false) => Wakeups::Poll,
        }
    }

    async fn info(&self, db: &Db<'_>) -> Result<StoreInfo> {
        let sql = "SELECT coalesce(sum(pg_total_relation_size(pg_class.oid)), 0)::bigint, current_setting('synchronous_commit')
                   FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1) AND relkind = 'r'";
        let read = |row: &tokio_postgres::Row| Ok((get::<i64>(row, 0)?, get::<String>(row, 1)?));
        let (bytes, commit) = db.one(sql, crate::tx::params![db.schema.name()], read).await?.unwrap_or_default();
        let durability = match commit.as_str() {
            "off" => "a crash of the server may undo the last moments: synchronous_commit is off",
            _ => "what is acknowledged survives a power cut",
        };
        Ok(StoreInfo {
            plugin: "postgres",
            backend: self.backend.clone(),
            schema: VERSION,
            location: self.location.clone(),
            bytes: u64::try_from(bytes).ok(),
            durability: durability.into(),
            wakeups: self.wakeups(),
            now: db.clock().await?,
        })
    }
}

/// Follows a topic. It does not keep the Store open.
struct Follower {
    seat: Seat,
    connections: Connections,
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
            let looked = self
                .connections
                .read(&Context::new(), "store.watch", move |db| {
                    Box::pin(async move { topic::next_notices(db, &topic, cursor, buffer).await })
                })
                .await;
            match looked {
                Ok(notices) if notices.is_empty() => self.seat.rung().await,
                Ok(notices) => self.ready = notices.into(),
                Err(_) if self.seat.is_closed() => return None,
                Err(error) => return Some((Err(error), self)),
            }
        }
    }
}
