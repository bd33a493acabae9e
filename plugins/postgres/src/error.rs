//! PostgreSQL's codes as typed errors with advice.

use std::error::Error as _;

use selvedge_core::{Error, ErrorKind};
use tokio_postgres::{Error as Sql, error::SqlState};

/// Says in the Store's words what PostgreSQL refused.
pub(crate) fn from_sql(operation: &'static str, error: Sql) -> Error {
    let Some(code) = error.code().filter(|code| !is_disconnect(code)) else {
        return disconnected(operation).caused_by(error);
    };
    let (kind, message, advice) = match *code {
        SqlState::T_R_SERIALIZATION_FAILURE | SqlState::T_R_DEADLOCK_DETECTED | SqlState::LOCK_NOT_AVAILABLE => {
            (ErrorKind::Busy, "another transaction was in the way", "try again; the write did not happen")
        }
        SqlState::TOO_MANY_CONNECTIONS | SqlState::CONFIGURATION_LIMIT_EXCEEDED => (
            ErrorKind::Busy,
            "the server has no free connection",
            "lower the pool's size, raise `max_connections`, or put PgBouncer between",
        ),
        SqlState::DISK_FULL | SqlState::INSUFFICIENT_RESOURCES | SqlState::OUT_OF_MEMORY => (
            ErrorKind::StorageFull,
            "the server has no room for the write",
            "free space on the server's disk; what was acknowledged is safe",
        ),
        SqlState::READ_ONLY_SQL_TRANSACTION => (
            ErrorKind::PermissionDenied,
            "the server does not take writes",
            "connect to the primary: `target_session_attrs=read-write` finds it among several hosts",
        ),
        SqlState::INSUFFICIENT_PRIVILEGE => (
            ErrorKind::PermissionDenied,
            "this role may not do that",
            "grant the role the use of the schema, or let its owner migrate it first",
        ),
        SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            (ErrorKind::PermissionDenied, "the server refused the login", "check user, password and pg_hba.conf")
        }
        SqlState::INVALID_CATALOG_NAME => {
            (ErrorKind::NotFound, "there is no such database", "create it, or correct the name in the URL")
        }
        SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_FUNCTION | SqlState::INVALID_SCHEMA_NAME => (
            ErrorKind::Damaged,
            "the Store's schema is gone or incomplete",
            "open the Store again: it migrates the schema",
        ),
        SqlState::CHARACTER_NOT_IN_REPERTOIRE | SqlState::UNTRANSLATABLE_CHARACTER => {
            (ErrorKind::InvalidInput, "PostgreSQL keeps no NUL characters in text", "send the text as a payload")
        }
        SqlState::PROGRAM_LIMIT_EXCEEDED => {
            (ErrorKind::TooLarge, "a value is larger than PostgreSQL allows", "keep large data elsewhere")
        }
        SqlState::QUERY_CANCELED => {
            (ErrorKind::DeadlineExceeded, "the server stopped a statement that took too long", "look at its timeouts")
        }
        _ => (ErrorKind::Internal, "PostgreSQL refused a statement", "please report this with what the server said"),
    };
    let refused = Error::new(kind, operation, message).advise(advice);
    // What the server says is not in the text of the driver's error.
    let refused = match error.as_db_error() {
        Some(told) => refused.with("code", told.code().code()).with("server", told.message()),
        None => refused,
    };
    refused.caused_by(error)
}

/// Whether the server, or a pool before it, ends the connection with this. PgBouncer has the class 08 for a server it lost.
fn is_disconnect(code: &SqlState) -> bool {
    code.code().starts_with("08")
        || [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::DATABASE_DROPPED,
            SqlState::IDLE_SESSION_TIMEOUT,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        ]
        .contains(code)
}

fn disconnected(operation: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, operation, "the connection to PostgreSQL is lost")
        .retry(true)
        .advise("the Store connects again by itself; if it lasts, look whether the server runs")
}

/// The error of a COMMIT that got no answer: it may have happened.
pub(crate) fn unanswered(operation: &'static str, error: Sql) -> Error {
    if error.code().is_some_and(|code| !is_disconnect(code)) {
        return from_sql(operation, error);
    }
    Error::new(ErrorKind::Unavailable, operation, "the connection was lost before the commit was answered")
        .retry(false)
        .advise("whether it happened shows when it is read; with ids and keys of your own it is safe to repeat")
        .caused_by(error)
}

fn code(error: &Error) -> Option<&SqlState> {
    error.source().and_then(|source| source.downcast_ref::<Sql>()).and_then(Sql::code)
}

/// Whether the transaction met another one and may simply be run again.
pub(crate) fn is_conflict(error: &Error) -> bool {
    code(error)
        .is_some_and(|code| [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(code))
}

/// Whether another transaction held a row for longer than this one may wait.
pub(crate) fn is_locked(error: &Error) -> bool {
    code(error) == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

/// Whether the server refused the statement, so that nothing of its transaction happened.
pub(crate) fn is_refused(error: &Error) -> bool {
    error.kind() != ErrorKind::Unavailable && code(error).is_some()
}

/// The same error, for each of those whose work was done together.
pub(crate) fn copy(error: &Error) -> Error {
    let mut copy = Error::new(error.kind(), error.operation(), error.message()).retry(error.retryable());
    copy = error.context().iter().fold(copy, |copy, (name, value)| copy.with(name, value));
    if let Some(advice) = error.advice() {
        copy = copy.advise(advice);
    }
    match error.source() {
        Some(source) => copy.caused_by(source.to_string()),
        None => copy,
    }
}

/// Whether a unique index refused a row.
pub(crate) fn is_duplicate(error: &Error) -> bool {
    code(error) == Some(&SqlState::UNIQUE_VIOLATION)
}

/// A stored value that this version cannot read.
pub(crate) fn unreadable(what: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Damaged, "store.read", "a stored value cannot be read").with("value", what).caused_by(source)
}

/// The answer of a Store that has been closed.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "store", "the Store is closed").retry(false).advise("open it again")
}
