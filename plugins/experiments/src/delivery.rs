//! Where facts go once they are kept.

use selvedge_core::{Commit, Error, ErrorKind, Intent, Result, TraceContext, experiment::EventRequest, store::Fact};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Where facts go once they are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// They stay in the Store: on a server.
    #[default]
    Store,
    /// They also go to the server, by the Store's outbox: on a phone. [`Engine::flush`](selvedge_core::Engine::flush) sends
    /// them with everything else.
    Outbox,
}

impl Delivery {
    /// Adds to `commit` all that keeps `fact` and sends it on its way.
    pub(crate) fn keep(self, commit: Commit, fact: Fact, trace: Option<TraceContext>) -> Result<Commit> {
        let commit = match self {
            Self::Store => commit,
            Self::Outbox => {
                let mut intent = intent(&fact)?;
                intent.trace = trace;
                let event = intent.event();
                commit.submit(intent).emit(event)
            }
        };
        Ok(commit.record(fact))
    }
}

/// The intent that brings a fact to the server. One fact with one content is one intent, however often it is told; the server
/// counts a fact once by the fact's own id.
///
/// The facts of a subject go out in order: a purchase that arrives before its exposure would count for nothing.
fn intent(fact: &Fact) -> Result<Intent> {
    let request = EventRequest::of(fact)?;
    let payload = serde_json::to_vec(&request).map_err(|error| {
        Error::new(ErrorKind::InvalidInput, "experiments.track", "the event cannot be written as JSON").caused_by(error)
    })?;
    let id = digest(&payload);
    let intent =
        Intent::new(EventRequest::OPERATION, payload).aggregate(format!("events/{}", digest(fact.subject.as_bytes())));
    Ok(Intent { id, ..intent })
}

/// An id that follows from what it stands for: a UUID of version 8 (RFC 9562) from its SHA-256.
fn digest(bytes: &[u8]) -> Uuid {
    let mut id = [0; 16];
    id.copy_from_slice(&Sha256::digest(bytes)[..16]);
    uuid::Builder::from_custom_bytes(id).into_uuid()
}
