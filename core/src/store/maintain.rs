use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long things are kept after they are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Dead and cancelled jobs.
    pub dead: Duration,
    /// Messages of topics.
    pub messages: Duration,
    /// Intents that were answered.
    pub intents: Duration,
}

impl Default for Retention {
    /// 30 days for dead jobs, 7 for messages and answered intents.
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self { dead: DAY * 30, messages: DAY * 7, intents: DAY * 7 }
    }
}

/// Asks for one tick of housekeeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maintain {
    /// How long things are kept.
    pub retention: Retention,
    /// The most rows to drop of each kind in this tick, so that a tick never holds the Store for long.
    pub batch: usize,
}

impl Default for Maintain {
    fn default() -> Self {
        Self { retention: Retention::default(), batch: 1_000 }
    }
}

/// What a tick did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Maintained {
    /// Jobs and events whose lease had run out, ready again.
    pub rescued: u64,
    /// Jobs whose lease had run out on their last attempt: dead letters now.
    pub dead: u64,
    /// Cron jobs enqueued.
    pub fired: u64,
    /// Idempotency keys past their retention, dropped.
    pub keys: u64,
    /// Messages past their retention, dropped.
    pub messages: u64,
    /// Dead and cancelled jobs past their retention, dropped.
    pub jobs: u64,
    /// Answered intents past their retention, dropped.
    pub intents: u64,
}
