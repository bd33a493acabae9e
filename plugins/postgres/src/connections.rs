//! Connections, and the work that is done on them.

use std::{sync::Arc, time::Duration};

use deadpool_postgres::{Object, Pool, PoolError};
use selvedge_core::{BoxFuture, Clock, Context, Error, ErrorKind, Result, Timestamp, store::hub::Signals};
use tokio::runtime::Handle;
use tokio_postgres::SimpleQueryMessage;

use crate::{
    error::{closed, from_sql, is_conflict, unanswered},
    tx::{Db, Schema, Tx},
};

/// How often a transaction that met another one is run again.
const TRIES: u32 = 8;

/// How much a transaction is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    /// It is on disk before the caller hears of it.
    Waits,
    /// A crash of the server may undo it: for what is done again then, such as a lease.
    Later,
}

/// The way to the server. Clones share the pool.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    pub(crate) pool: Pool,
    pub(crate) schema: Schema,
    pub(crate) clock: Option<Arc<dyn Clock>>,
    pub(crate) runtime: Handle,
}

impl Connections {
    pub(crate) fn db<'c>(&'c self, conn: &'c Object, operation: &'static str) -> Db<'c> {
        Db { client: conn, schema: &self.schema, operation, given: self.given() }
    }

    /// What a test's clock shows.
    pub(crate) fn given(&self) -> Option<i64> {
        self.clock.as_ref().map(|clock| clock.now().0)
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
    async fn finish<T: Send + 'static>(
        &self,
        cx: &Context,
        operation: &'static str,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        cx.check(operation)?;
        let limit = cx.remaining();
        let task = self.runtime.spawn(work);
        let bounded = async move {
            match task.await {
                Ok(done) => done,
                Err(error) => Err(Error::new(ErrorKind::Internal, operation, "the work panicked or its runtime ended")
                    .caused_by(error)),
            }
        };
        let timed = async {
            let Some(limit) = limit else { return bounded.await };
            let _inside = self.runtime.enter();
            let timeout = tokio::time::timeout(limit, bounded);
            drop(_inside);
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

    /// Writes in one transaction, which is run again when it met another one; with whom to wake.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        cx: &Context,
        operation: &'static str,
        flush: Flush,
        work: impl for<'a, 'c> Fn(&'a mut Tx<'c>) -> BoxFuture<'a, Result<T>> + Send + Sync + 'static,
    ) -> Result<(T, Signals)> {
        let this = self.clone();
        let writing = async move {
            let mut tries = 1;
            loop {
                let outcome = this.attempt(operation, flush, &work).await;
                match outcome {
                    Err(error) if tries < TRIES && is_conflict(&error) => {
                        tries += 1;
                        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..10))).await;
                    }
                    outcome => return outcome,
                }
            }
        };
        self.finish(cx, operation, writing).await
    }

    async fn attempt<T>(
        &self,
        operation: &'static str,
        flush: Flush,
        work: &(impl for<'a, 'c> Fn(&'a mut Tx<'c>) -> BoxFuture<'a, Result<T>> + Sync),
    ) -> Result<(T, Signals)> {
        let conn = self.get(operation).await?;
        let db = self.db(&conn, operation);
        let now = begin(&db, flush).await?;
        let mut tx = Tx { db, now, signals: Signals::default() };
        match work(&mut tx).await {
            Ok(done) => {
                let signals = tx.signals;
                conn.batch_execute("COMMIT").await.map_err(|error| unanswered(operation, error))?;
                Ok((done, signals))
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
    let flush = match flush {
        Flush::Waits => "",
        Flush::Later => "SET LOCAL synchronous_commit = off; ",
    };
    let failed = |error| from_sql(db.operation, error);
    // The isolation is named because a server may have another default, and the statements rely on this one.
    let begin = format!("BEGIN ISOLATION LEVEL READ COMMITTED; {flush}");
    if let Some(now) = db.given {
        db.client.batch_execute(&begin).await.map_err(failed)?;
        return Ok(Timestamp(now));
    }
    let sql = format!("{begin}SELECT selvedge.clock(NULL)");
    let messages = db.client.simple_query(&db.schema.text(&sql)).await.map_err(failed)?;
    let told = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    told.map(Timestamp).ok_or_else(|| Error::new(ErrorKind::Internal, db.operation, "the server did not tell the time"))
}
