//! Connections, and the work that is done on them.

use std::{sync::Arc, time::Duration};

use deadpool_postgres::{Object, Pool, PoolError};
use selvedge_core::{BoxFuture, Clock, Context, Error, ErrorKind, Result, Timestamp};
use tokio::runtime::Handle;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::{
    error::{closed, from_sql, is_conflict, is_locked, unanswered},
    tx::{Db, Flush, Schema, Tx, get, params},
    wake::News,
};

/// How often a transaction that met another one is run again.
const TRIES: u32 = 8;

/// The way to the server. Clones share the pool.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    pub(crate) pool: Pool,
    pub(crate) schema: Schema,
    pub(crate) clock: Option<Arc<dyn Clock>>,
    pub(crate) runtime: Handle,
    /// For how many days completed jobs are kept.
    pub(crate) history: Option<u32>,
    /// The server's default isolation is the one that the statements rely on.
    pub(crate) plain: bool,
}

impl Connections {
    pub(crate) fn db<'c>(&'c self, client: &'c Client, operation: &'static str) -> Db<'c> {
        let (given, keep) = (self.given(), self.history.is_some());
        Db { client, schema: &self.schema, operation, given, alone: None, keep, plain: self.plain }
    }

    /// What a test's clock shows.
    pub(crate) fn given(&self) -> Option<i64> {
        self.clock.as_ref().map(|clock| clock.now().0)
    }

    /// Asks the server how it isolates a transaction that does not say.
    pub(crate) async fn learn(&mut self) -> Result<()> {
        let conn = self.get("postgres.open").await?;
        let sql = "SELECT current_setting('default_transaction_isolation')";
        let default = self.db(&conn, "postgres.open").one(sql, &[], |row| get::<String>(row, 0)).await?;
        self.plain = default.as_deref() == Some("read committed");
        Ok(())
    }

    pub(crate) async fn get(&self, operation: &'static str) -> Result<Object> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => from_sql(operation, error),
            PoolError::Closed => closed(),
            error => Error::new(ErrorKind::Busy, operation, "no connection to PostgreSQL is free")
                .retry(true)
                .advise("try again; if it lasts, raise the number of connections or look for slow statements")
                .caused_by(error),
        })
    }

    /// Runs work to its end even if the caller goes away: a connection is never given back in the middle of something.
    pub(crate) async fn finish<T: Send + 'static>(
        &self,
        cx: &Context,
        operation: &'static str,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        cx.check(operation)?;
        let task = self.runtime.spawn(work);
        let done = async move {
            task.await.unwrap_or_else(|error| {
                Err(Error::new(ErrorKind::Internal, operation, "the work panicked or its runtime ended")
                    .caused_by(error))
            })
        };
        self.bounded(cx, operation, done).await
    }

    /// Waits for what is done elsewhere, for as long as the caller wants to.
    pub(crate) async fn bounded<T>(
        &self,
        cx: &Context,
        operation: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        cx.check(operation)?;
        let timed = async {
            let Some(limit) = cx.remaining() else { return work.await };
            let timeout = {
                let _inside = self.runtime.enter();
                tokio::time::timeout(limit, work)
            };
            timeout.await.unwrap_or_else(|_| Err(Error::deadline(operation)))
        };
        cx.cancel().until_cancelled(timed).await.unwrap_or_else(|| Err(Error::cancelled(operation)))
    }

    /// Reads, each statement for itself.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        cx: &Context,
        operation: &'static str,
        work: impl for<'a> FnOnce(&'a Db<'a>) -> BoxFuture<'a, Result<T>> + Send + 'static,
    ) -> Result<T> {
        let this = self.clone();
        let reading = async move {
            let conn = this.get(operation).await?;
            let db = this.db(&conn, operation);
            work(&db).await
        };
        self.finish(cx, operation, reading).await
    }

    /// For statements of which each is a transaction of its own.
    pub(crate) fn alone<'c>(&'c self, conn: &'c Object, operation: &'static str, flush: Flush) -> Db<'c> {
        Db { alone: Some(flush), ..self.db(conn, operation) }
    }

    /// Makes room for today's completed jobs and drops the days that are over, where a history is kept. A transaction of its
    /// own: it changes tables, and waits for nobody who uses them.
    pub(crate) async fn turn_history(&self) -> Result<()> {
        let Some(days) = self.history else { return Ok(()) };
        let conn = self.get("store.maintain").await?;
        let db = self.alone(&conn, "store.maintain", Flush::Soon);
        let sql = "SELECT selvedge.turn_history($1, $2)";
        match db.all(sql, params![i64::from(days), db.given], |_| Ok(())).await {
            // At the next tick, then.
            Err(error) if is_locked(&error) || is_conflict(&error) => Ok(()),
            done => done.map(drop),
        }
    }

    /// Writes in one transaction, which is run again when it met another one; with whom to wake.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        cx: &Context,
        operation: &'static str,
        flush: Flush,
        work: impl for<'a, 'c> Fn(&'a mut Tx<'c>) -> BoxFuture<'a, Result<T>> + Send + Sync + 'static,
    ) -> Result<(T, News)> {
        let this = self.clone();
        self.finish(cx, operation, async move { this.transaction(operation, flush, work).await }).await
    }

    /// The same for a caller that stays to its end.
    pub(crate) async fn transaction<T>(
        &self,
        operation: &'static str,
        flush: Flush,
        work: impl for<'a, 'c> Fn(&'a mut Tx<'c>) -> BoxFuture<'a, Result<T>> + Sync,
    ) -> Result<(T, News)> {
        let mut tries = 1;
        loop {
            match self.attempt(operation, flush, &work).await {
                Err(error) if tries < TRIES && is_conflict(&error) => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(1..10))).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn attempt<T>(
        &self,
        operation: &'static str,
        flush: Flush,
        work: &(impl for<'a, 'c> Fn(&'a mut Tx<'c>) -> BoxFuture<'a, Result<T>> + Sync),
    ) -> Result<(T, News)> {
        let conn = self.get(operation).await?;
        let db = self.db(&conn, operation);
        let now = begin(&db, flush).await?;
        let mut tx = Tx { db, now, news: News::default() };
        match work(&mut tx).await {
            Ok(done) => {
                let news = tx.news;
                conn.batch_execute("COMMIT").await.map_err(|error| unanswered(operation, error))?;
                Ok((done, news))
            }
            Err(error) => {
                if conn.batch_execute("ROLLBACK").await.is_err() {
                    // Nobody knows what this connection is in the middle of.
                    drop(Object::take(conn));
                }
                Err(error)
            }
        }
    }
}

/// Begins a transaction and tells the moment it happens at, in one round trip.
async fn begin(db: &Db<'_>, flush: Flush) -> Result<Timestamp> {
    let failed = |error| from_sql(db.operation, error);
    if let Some(now) = db.given {
        db.client.batch_execute(flush.begin()).await.map_err(failed)?;
        return Ok(Timestamp(now));
    }
    let sql = format!("{}; SELECT selvedge.clock()", flush.begin());
    let messages = db.client.simple_query(&db.schema.text(&sql)).await.map_err(failed)?;
    let told = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    told.map(Timestamp).ok_or_else(|| Error::new(ErrorKind::Internal, db.operation, "the server did not tell the time"))
}
