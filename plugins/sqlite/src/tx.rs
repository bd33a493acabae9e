//! One write transaction as the operations see it, and how values go in and out of rows.

use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Params, Row, RowIndex};
use selvedge_core::store::hub::Signals;
use selvedge_core::{Error, Result, Timestamp, TraceContext, idempotency::Answer, store::Backoff};
use uuid::Uuid;

use crate::error::{from_sql, unreadable};

/// A write transaction: its connection, the moment it happens at, and whom to wake once it is committed.
pub(crate) struct Tx<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) now: Timestamp,
    pub(crate) signals: &'a mut Signals,
}

impl Tx<'_> {
    /// Runs a statement; how many rows it changed.
    pub(crate) fn run(&self, sql: &str, params: impl Params) -> Result<usize> {
        self.conn.prepare_cached(sql).and_then(|mut statement| statement.execute(params)).map_err(write_error)
    }

    /// The first row, if there is one.
    pub(crate) fn one<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>> {
        self.conn
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row(params, read).optional())
            .map_err(write_error)
    }

    /// Looks at all rows, one after the other.
    pub(crate) fn each(
        &self,
        sql: &str,
        params: impl Params,
        mut look: impl FnMut(&Row<'_>) -> rusqlite::Result<()>,
    ) -> Result<()> {
        let mut statement = self.conn.prepare_cached(sql).map_err(write_error)?;
        let mut rows = statement.query(params).map_err(write_error)?;
        while let Some(row) = rows.next().map_err(write_error)? {
            look(row).map_err(write_error)?;
        }
        Ok(())
    }

    /// All rows.
    pub(crate) fn all<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        self.conn
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_map(params, read)?.collect())
            .map_err(write_error)
    }
}

fn write_error(error: rusqlite::Error) -> Error {
    from_sql("store.commit", error)
}

/// Whole microseconds; as many as fit.
pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

pub(crate) fn duration(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

pub(crate) fn backoff(base: i64, cap: i64) -> Backoff {
    Backoff::new(duration(base), duration(cap))
}

pub(crate) fn bytes(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<Bytes> {
    Ok(Bytes::from(row.get::<_, Vec<u8>>(column)?))
}

pub(crate) fn optional_bytes(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<Option<Bytes>> {
    Ok(row.get::<_, Option<Vec<u8>>>(column)?.map(Bytes::from))
}

pub(crate) fn uuid(row: &Row<'_>, column: &str) -> rusqlite::Result<Uuid> {
    row.get::<_, [u8; 16]>(column).map(Uuid::from_bytes)
}

pub(crate) fn trace(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<Option<TraceContext>> {
    // A trace that cannot be read is not worth losing the job for.
    Ok(row.get_ref(column)?.as_str_or_null().ok().flatten().and_then(|text| text.parse().ok()))
}

pub(crate) fn time(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<Timestamp> {
    row.get(column).map(Timestamp)
}

pub(crate) fn optional_time(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp))
}

/// The columns `status`, `headers` and `body` of an answer.
pub(crate) fn answer(row: &Row<'_>) -> rusqlite::Result<Option<Answer>> {
    let Some(status) = row.get("status")? else { return Ok(None) };
    let headers = row.get_ref("headers")?.as_str_or_null()?.unwrap_or("[]");
    let headers = serde_json::from_str(headers)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error)))?;
    Ok(Some(Answer { status, headers, body: optional_bytes(row, "body")?.unwrap_or_default() }))
}

pub(crate) fn headers(answer: &Answer) -> Result<String> {
    serde_json::to_string(&answer.headers).map_err(|error| unreadable("headers", error))
}
