//! SQLite's result codes as typed errors with advice.

use rusqlite::{Error as Sql, ErrorCode};
use selvedge_core::{Error, ErrorKind};

// Running out of room while the shared-memory index of the log grows has no primary code of its own.
const IOERR_SHMSIZE: i32 = rusqlite::ffi::SQLITE_IOERR_SHMSIZE;

/// Says in the Store's words what SQLite refused.
pub(crate) fn from_sql(operation: &'static str, error: Sql) -> Error {
    let code = error.sqlite_error_code();
    let extended = error.sqlite_error().map_or(0, |error| error.extended_code);
    let (kind, message, advice) = match code {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            ErrorKind::Busy,
            "another process or connection holds the database's write lock",
            "try again; if it lasts, find who keeps a transaction open, or raise the busy timeout",
        ),
        Some(ErrorCode::DiskFull) => (
            ErrorKind::StorageFull,
            "there is no room for the write",
            "free space on the disk or raise the size limit; what was acknowledged is safe and the Store goes on by itself",
        ),
        Some(ErrorCode::SystemIoFailure) if extended == IOERR_SHMSIZE => (
            ErrorKind::StorageFull,
            "there is no room for the log's index",
            "free space on the disk; what was acknowledged is safe and the Store goes on by itself",
        ),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => (
            ErrorKind::PermissionDenied,
            "the database may not be written",
            "let this user write the file and its folder: SQLite keeps its log beside the file",
        ),
        Some(ErrorCode::CannotOpen) => (
            ErrorKind::PermissionDenied,
            "the database file, or the log beside it, cannot be opened",
            "check that the folder exists and that this user may create files in it",
        ),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => (
            ErrorKind::Damaged,
            "the database file is damaged",
            "keep a copy of the file and restore a backup, or try SQLite's `.recover` on the copy",
        ),
        Some(ErrorCode::SystemIoFailure) => (
            ErrorKind::Unavailable,
            "the disk did not read or write",
            "look at the system's log for disk errors; whether the write is there shows when it is read",
        ),
        Some(ErrorCode::TooBig) => {
            (ErrorKind::TooLarge, "a value is larger than SQLite allows", "keep large data in a file")
        }
        _ => (ErrorKind::Internal, "SQLite refused a statement", "please report this with the text of the error"),
    };
    let mapped = Error::new(kind, operation, message).advise(advice);
    // Whether a write that met a disk error took effect is unknown, and `retryable` is a promise that it did not.
    let mapped = if kind == ErrorKind::Unavailable { mapped.retry(false) } else { mapped };
    mapped.caused_by(error)
}

/// A stored value that this version cannot read.
pub(crate) fn unreadable(what: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Damaged, "store.read", "a stored value cannot be read").with("value", what).caused_by(source)
}

/// The same error for another caller of a group: errors are not `Clone`, because their sources are not.
pub(crate) fn repeat(error: &Error) -> Error {
    let mut copy = Error::new(error.kind(), error.operation(), error.message()).retry(error.retryable());
    for (name, value) in error.context() {
        copy = copy.with(name, value);
    }
    match error.advice() {
        Some(advice) => copy.advise(advice),
        None => copy,
    }
}

/// The answer of a Store that has been closed.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "store", "the Store is closed").retry(false).advise("open it again")
}
