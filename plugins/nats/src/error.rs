//! What NATS could not do, as typed errors with advice.

use async_nats::{
    ConnectError, ConnectErrorKind,
    jetstream::context::{PublishError, PublishErrorKind},
};
use selvedge_core::{Error, ErrorKind};

/// An event that was not acknowledged. Only what never left this process, or found nobody, is known to have had no effect.
pub(crate) fn from_publish(operation: &'static str, error: PublishError) -> Error {
    let (kind, message, advice, nothing_happened) = match error.kind() {
        PublishErrorKind::StreamNotFound => (
            ErrorKind::Unavailable,
            "no stream takes this subject",
            "make a stream whose subjects include it, with JetStream enabled; the outbox tries again",
            true,
        ),
        PublishErrorKind::MaxAckPending => {
            (ErrorKind::Busy, "too many events wait for their acknowledgement", "the outbox tries again", true)
        }
        PublishErrorKind::TimedOut => (
            ErrorKind::DeadlineExceeded,
            "the stream did not acknowledge the event in time",
            "the outbox tries again under the same id; if it goes on, look at the stream's load and its leader",
            false,
        ),
        PublishErrorKind::BrokenPipe => (
            ErrorKind::Unavailable,
            "the connection broke before the event was acknowledged",
            "the outbox tries again under the same id",
            false,
        ),
        _ => (
            ErrorKind::Unavailable,
            "the stream did not take the event",
            "look at the stream's limits and the server's log; the outbox tries again under the same id",
            false,
        ),
    };
    Error::new(kind, operation, message).retry(nothing_happened).advise(advice).caused_by(error)
}

/// A connection that does not stand. `url` may hold a password and is not repeated.
pub(crate) fn from_connect(operation: &'static str, error: ConnectError) -> Error {
    let (kind, message, advice) = match error.kind() {
        ConnectErrorKind::ServerParse => {
            (ErrorKind::InvalidInput, "not an address of a NATS server", "use an address such as nats://127.0.0.1:4222")
        }
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            (ErrorKind::PermissionDenied, "the server refused the login", "check the user, password, token or seed")
        }
        ConnectErrorKind::Tls => {
            (ErrorKind::Unavailable, "no secure connection could be made", "check the server's certificate")
        }
        _ => (
            ErrorKind::Unavailable,
            "the server cannot be reached",
            "check that nats-server runs and the network is up",
        ),
    };
    Error::new(kind, operation, message).advise(advice).caused_by(error)
}
