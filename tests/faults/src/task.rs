//! What is in a job, and what shows that it was done.

use selvedge::{
    idempotency::Fingerprint,
    store::{Backoff, NewJob},
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The one queue.
pub(crate) const QUEUE: &str = "work";
/// Each job that ends by the engine's commit leaves a message here.
pub(crate) const TOPIC: &str = "done";

/// No column is unique: what is done twice stands here twice.
pub(crate) const EFFECT: &str = "CREATE TABLE effect (job bigint NOT NULL, key text NOT NULL, body text NOT NULL)";

/// How a job ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ends {
    /// In the handler's own transaction, with a row in `effect`.
    ByRow,
    /// In the engine's commit, with a message and a job that follows.
    ByCommit,
}

/// A job's payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) key: String,
    pub(crate) body: String,
    pub(crate) ends: Ends,
}

impl Task {
    pub(crate) fn new(key: String, ends: Ends) -> Self {
        Self { body: body_of(&key), key, ends }
    }

    /// The job that follows one that ends by the engine's commit.
    pub(crate) fn after(job: i64) -> Self {
        Self::new(format!("after {job}"), Ends::ByRow)
    }

    pub(crate) fn job(&self) -> serde_json::Result<NewJob> {
        // An attempt is spent whenever a worker is killed: that must not end a job.
        let backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(300));
        Ok(NewJob::new(QUEUE, serde_json::to_vec(self)?).max_attempts(100_000).backoff(backoff))
    }
}

/// What belongs to a key, so that a mix-up shows.
pub(crate) fn body_of(key: &str) -> String {
    Fingerprint::of("faults", key.as_bytes()).to_string()
}
