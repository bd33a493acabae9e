//! What Redis could not do, as typed errors with advice.

use redis::{ErrorKind as Kind, RedisError, ServerErrorKind as Server};
use selvedge_core::{Error, ErrorKind};

/// A call that was sent. Only what the server refused is known to have had no effect.
pub(crate) fn from_call(operation: &'static str, error: RedisError) -> Error {
    let (kind, message, advice, nothing_happened) = match (error.kind(), error.code()) {
        (Kind::Server(Server::BusyLoading), _) => {
            (ErrorKind::Unavailable, "Redis is loading its data", "try again in a moment", true)
        }
        (Kind::Server(Server::ReadOnly), _) => (
            ErrorKind::PermissionDenied,
            "this Redis takes no writes",
            "name the primary in the URL, not a replica",
            false,
        ),
        (Kind::Server(Server::NoPerm), _) => (
            ErrorKind::PermissionDenied,
            "this user may not do that",
            "allow it EVALSHA, SCRIPT, GET, SET, TIME and INFO on the keys of its prefix",
            false,
        ),
        (Kind::Server(Server::MasterDown | Server::ClusterDown | Server::TryAgain), _) => {
            (ErrorKind::Unavailable, "Redis has no primary at the moment", "it passes when one is elected", true)
        }
        (Kind::Server(Server::Moved | Server::Ask | Server::CrossSlot), _) => (
            ErrorKind::Unsupported,
            "this Redis is a node of a cluster and has not got the key",
            "name a server that has all keys: quotas need one",
            false,
        ),
        (_, Some("OOM")) => (
            ErrorKind::StorageFull,
            "Redis has reached its memory limit",
            "raise `maxmemory`; a bucket takes some hundred bytes while it is not full",
            false,
        ),
        (_, Some("BUSY")) => (ErrorKind::Busy, "Redis is busy with somebody's script", "look at what runs there", true),
        (_, Some("NOAUTH" | "WRONGPASS")) | (Kind::AuthenticationFailed, _) => (
            ErrorKind::PermissionDenied,
            "Redis refused the login",
            "check the user and the password in the URL",
            false,
        ),
        (_, Some("MISCONF")) => (
            ErrorKind::StorageFull,
            "Redis takes no writes because it cannot save them",
            "look at its log: mostly the disk is full",
            false,
        ),
        (_, Some("DAMAGED" | "WRONGTYPE")) => (
            ErrorKind::Damaged,
            "a key holds something else than a bucket",
            "give Selvedge a prefix or a database of its own",
            false,
        ),
        (Kind::Io, _) if error.is_timeout() => (
            ErrorKind::DeadlineExceeded,
            "Redis did not answer in time",
            "look at its load and the network; what was asked may have happened",
            false,
        ),
        (Kind::Io | Kind::Parse, _) => (
            ErrorKind::Unavailable,
            "the connection to Redis is lost",
            "the Store connects again by itself; what was asked may have happened",
            false,
        ),
        _ => (ErrorKind::Internal, "Redis refused a call", "please report this with the text of the error", false),
    };
    Error::new(kind, operation, message).retry(nothing_happened).advise(advice).caused_by(error)
}

/// A connection that does not come about: nothing was sent. The URL may hold a password and is not repeated.
pub(crate) fn from_connect(operation: &'static str, error: RedisError) -> Error {
    match error.kind() {
        Kind::AuthenticationFailed => Error::new(ErrorKind::PermissionDenied, operation, "Redis refused the login")
            .advise("check the user and the password in the URL")
            .caused_by(error),
        Kind::InvalidClientConfig => Error::new(ErrorKind::InvalidInput, operation, "not the address of a Redis")
            .advise(ADDRESS)
            .caused_by(error),
        _ => away(operation).caused_by(error),
    }
}

/// Nobody is there.
pub(crate) fn away(operation: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, operation, "Redis cannot be reached")
        .advise("check that it runs and the network is up; the Store connects again by itself")
}

pub(crate) const ADDRESS: &str = "write redis://user:password@host:6379/0, or rediss:// for TLS";
