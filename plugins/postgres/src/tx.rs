//! Statements on one connection, and how values go in and out of rows.

use std::{borrow::Cow, ops::Deref, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join3;
use selvedge_core::{Error, Result, Timestamp, TraceContext, idempotency::Answer, store::Backoff};
use tokio_postgres::{
    Client, Row,
    types::{FromSql, ToSql, Type},
};
use uuid::Uuid;

use crate::{
    error::{from_sql, unanswered, unreadable},
    wake::News,
};

/// How much a transaction is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    /// It is on disk before the caller hears of it.
    Waits,
    /// A crash of the server may undo it: for what is done again then, such as a lease. A statement alone has to say so itself too.
    Later,
    /// It is on disk, and waits a second at most for rows that another transaction holds.
    Soon,
}

impl Flush {
    /// The isolation is named because a server may have another default, and the statements rely on this one.
    pub(crate) fn begin(self) -> &'static str {
        match self {
            Self::Waits => "BEGIN ISOLATION LEVEL READ COMMITTED",
            Self::Later => "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = off",
            Self::Soon => "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '1s'",
        }
    }
}

/// One connection as the operations see it.
///
/// Statements go out with their types and without a name: one round trip each, and nothing stays behind on the connection,
/// so that PgBouncer may give each transaction another one.
#[derive(Clone)]
pub(crate) struct Db<'c> {
    pub(crate) client: &'c Client,
    pub(crate) schema: &'c Schema,
    pub(crate) operation: &'static str,
    /// What a test's clock shows; the server's own goes otherwise.
    pub(crate) given: Option<i64>,
    /// Each statement is a transaction of its own, and one round trip; otherwise it belongs to the one that is open, or only
    /// reads.
    pub(crate) alone: Option<Flush>,
    /// Completed jobs go into the history.
    pub(crate) keep: bool,
    /// A statement alone has the isolation that it needs; otherwise it has to be named.
    pub(crate) plain: bool,
}

/// A write transaction: the moment it happens at, and whom to wake once it is committed.
pub(crate) struct Tx<'c> {
    pub(crate) db: Db<'c>,
    pub(crate) now: Timestamp,
    pub(crate) news: News,
}

impl<'c> Deref for Tx<'c> {
    type Target = Db<'c>;
    fn deref(&self) -> &Self::Target {
        &self.db
    }
}

/// The schema's name, as statements need it.
#[derive(Clone, Debug)]
pub(crate) struct Schema(Arc<str>);

impl Schema {
    pub(crate) const DEFAULT: &str = "selvedge";

    pub(crate) fn new(name: &str) -> Self {
        Self(name.into())
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// A statement with this schema in place of the default one.
    pub(crate) fn text<'a>(&self, sql: &'a str) -> Cow<'a, str> {
        if &*self.0 == Self::DEFAULT {
            sql.into()
        } else {
            sql.replace("selvedge.", &format!("\"{}\".", self.0)).into()
        }
    }
}

/// A value and the type it is sent as.
pub(crate) type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// What a type is in PostgreSQL, alone and in an array.
pub(crate) trait Typed {
    const TYPE: Type;
    const ARRAY: Type;
}

macro_rules! typed {
    ($($type:ty => $one:ident, $many:ident;)*) => {
        $(impl Typed for $type {
            const TYPE: Type = Type::$one;
            const ARRAY: Type = Type::$many;
        })*
    };
}

typed! {
    bool => BOOL, BOOL_ARRAY;
    i16 => INT2, INT2_ARRAY;
    i32 => INT4, INT4_ARRAY;
    i64 => INT8, INT8_ARRAY;
    str => TEXT, TEXT_ARRAY;
    String => TEXT, TEXT_ARRAY;
    [u8] => BYTEA, BYTEA_ARRAY;
    Uuid => UUID, UUID_ARRAY;
}

impl<T: Typed + ?Sized> Typed for &T {
    const TYPE: Type = T::TYPE;
    const ARRAY: Type = T::ARRAY;
}

impl<T: Typed> Typed for Option<T> {
    const TYPE: Type = T::TYPE;
    const ARRAY: Type = T::ARRAY;
}

impl<T: Typed> Typed for Vec<T> {
    const TYPE: Type = T::ARRAY;
    const ARRAY: Type = T::ARRAY;
}

pub(crate) fn param<T: Typed + ToSql + Sync>(value: &T) -> Param<'_> {
    (value, T::TYPE)
}

/// The parameters of a statement, each with its type.
macro_rules! params {
    ($($value:expr),* $(,)?) => { &[$($crate::tx::param(&$value)),*] };
}
pub(crate) use params;

impl Db<'_> {
    /// Runs a statement; how many rows it changed.
    pub(crate) async fn run(&self, sql: &str, params: &[Param<'_>]) -> Result<u64> {
        let changed = self.client.execute_typed(&self.schema.text(sql), params).await;
        changed.map_err(|error| from_sql(self.operation, error))
    }

    /// All rows.
    pub(crate) async fn all<T>(
        &self,
        sql: &str,
        params: &[Param<'_>],
        read: impl FnMut(&Row) -> Result<T>,
    ) -> Result<Vec<T>> {
        let sql = self.schema.text(sql);
        let rows = match self.alone {
            None => self.client.query_typed(&sql, params).await.map_err(|error| from_sql(self.operation, error))?,
            Some(flush) => self.rows_alone(flush, &sql, params).await?,
        };
        rows.iter().map(read).collect()
    }

    /// One message where that will do. The server answers each by itself, and whoever waits for it is woken for each answer.
    async fn rows_alone(&self, flush: Flush, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>> {
        let unanswered = |error| unanswered(self.operation, error);
        match flush {
            Flush::Waits | Flush::Later if self.plain => self.client.query_typed(sql, params).await.map_err(unanswered),
            flush => {
                // All three go out before the first is answered. A statement that fails turns COMMIT into ROLLBACK.
                let begin = self.client.batch_execute(flush.begin());
                let end = self.client.batch_execute("COMMIT");
                let (begun, rows, ended) = join3(begin, self.client.query_typed(sql, params), end).await;
                begun.map_err(unanswered)?;
                let rows = rows.map_err(unanswered)?;
                ended.map_err(unanswered)?;
                Ok(rows)
            }
        }
    }

    /// The first row, if there is one.
    pub(crate) async fn one<T>(
        &self,
        sql: &str,
        params: &[Param<'_>],
        read: impl FnMut(&Row) -> Result<T>,
    ) -> Result<Option<T>> {
        Ok(self.all(sql, params, read).await?.into_iter().next())
    }

    /// The Store's clock.
    pub(crate) async fn clock(&self) -> Result<Timestamp> {
        let now = self.one("SELECT selvedge.clock($1)", params![self.given], |row| get(row, 0)).await?;
        Ok(Timestamp(now.unwrap_or_default()))
    }
}

/// One column of a row.
pub(crate) fn get<'a, T: FromSql<'a>>(
    row: &'a Row,
    column: impl tokio_postgres::row::RowIndex + std::fmt::Display,
) -> Result<T> {
    row.try_get(column).map_err(|error| unreadable("column", error))
}

/// A count, which PostgreSQL keeps with a sign.
pub(crate) fn count(row: &Row, column: &str) -> Result<u32> {
    Ok(u32::try_from(get::<i64>(row, column)?).unwrap_or(u32::MAX))
}

/// Whole microseconds; as many as fit.
pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A number of rows for LIMIT.
pub(crate) fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

pub(crate) fn duration(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

pub(crate) fn backoff(row: &Row) -> Result<Backoff> {
    Ok(Backoff::new(duration(get(row, "backoff_base")?), duration(get(row, "backoff_cap")?)))
}

pub(crate) fn bytes(row: &Row, column: &str) -> Result<Bytes> {
    Ok(Bytes::copy_from_slice(get(row, column)?))
}

pub(crate) fn optional_bytes(row: &Row, column: &str) -> Result<Option<Bytes>> {
    Ok(get::<Option<&[u8]>>(row, column)?.map(Bytes::copy_from_slice))
}

pub(crate) fn trace(row: &Row) -> Result<Option<TraceContext>> {
    // A trace that cannot be read is not worth losing the job for.
    Ok(get::<Option<&str>>(row, "trace")?.and_then(|text| text.parse().ok()))
}

pub(crate) fn time(row: &Row, column: &str) -> Result<Timestamp> {
    get(row, column).map(Timestamp)
}

pub(crate) fn optional_time(row: &Row, column: &str) -> Result<Option<Timestamp>> {
    Ok(get::<Option<i64>>(row, column)?.map(Timestamp))
}

/// The columns `status`, `headers` and `body` of an answer.
pub(crate) fn answer(row: &Row) -> Result<Option<Answer>> {
    let Some(status) = get::<Option<i32>>(row, "status")? else { return Ok(None) };
    let headers = get::<Option<&str>>(row, "headers")?.unwrap_or("[]");
    let headers = serde_json::from_str(headers).map_err(|error| unreadable("headers", error))?;
    let status = u16::try_from(status).map_err(|error| unreadable("status", error))?;
    Ok(Some(Answer { status, headers, body: optional_bytes(row, "body")?.unwrap_or_default() }))
}

pub(crate) fn headers(answer: &Answer) -> Result<String> {
    serde_json::to_string(&answer.headers).map_err(|error| unreadable("headers", error))
}

/// Text for people, without the one character that PostgreSQL cannot keep.
pub(crate) fn words(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

/// The error of a row that must be there and is not.
pub(crate) fn gone(what: &'static str) -> Error {
    Error::new(selvedge_core::ErrorKind::Internal, "store.commit", what)
}
