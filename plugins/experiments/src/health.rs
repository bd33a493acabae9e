//! How the configuration is doing, for a dashboard or a log line.

use std::time::Duration;

use selvedge_core::{ErrorKind, Timestamp};
use serde::Serialize;

use crate::ConfigSource;

/// How the configuration is doing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Health {
    /// Where the one that holds came from.
    pub source: ConfigSource,
    /// When it was signed or last changed, if it says so.
    pub issued_at: Option<Timestamp>,
    /// How long ago the server vouched for it; `None` when it never did.
    pub age: Option<Duration>,
    /// It is older than allowed, or nobody ever vouched for it.
    pub stale: bool,
    /// How many placements and other features it has.
    pub features: usize,
    /// The parts of it that could not be read and were left out: `feature main_paywall: …`.
    pub left_out: Vec<String>,
    /// Why the last refresh, or reading what was kept, came to nothing.
    pub last_error: Option<String>,
    /// Of which kind that was.
    pub last_error_kind: Option<ErrorKind>,
}
