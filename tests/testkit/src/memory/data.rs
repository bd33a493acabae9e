use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use selvedge_core::{
    Intent, Timestamp,
    idempotency::{Answer, Fingerprint, IdempotencyKey, RecoveryPoint},
    store::{
        Bucket, Cron, Event, FactView, JobState, JobView, Lease, Limits, LoadSample, Message, NewJob, StickyAssignment,
    },
};

/// Everything the Store keeps. A commit works on a copy, which replaces this only if every operation succeeds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Data {
    pub(crate) last_number: i64,
    pub(crate) jobs: BTreeMap<i64, Job>,
    pub(crate) queues: BTreeMap<String, Settings>,
    /// Which tenant was served last, by queue and priority, where tenants take turns.
    pub(crate) served: BTreeMap<(String, i16), Option<String>>,
    pub(crate) schedules: BTreeMap<String, (Cron, Timestamp)>,
    pub(crate) outbox: BTreeMap<i64, Outgoing>,
    pub(crate) intents: BTreeMap<i64, Submitted>,
    pub(crate) topics: BTreeMap<String, Topic>,
    pub(crate) keys: HashMap<IdempotencyKey, Key>,
    pub(crate) buckets: HashMap<String, Bucket>,
    pub(crate) assignments: BTreeMap<(String, String), StickyAssignment>,
    pub(crate) facts: BTreeMap<i64, FactView>,
    /// Jobs ever enqueued.
    pub(crate) enqueued: u64,
    pub(crate) load: Vec<LoadSample>,
}

impl Data {
    /// The next number of anything: larger than all before.
    pub(crate) fn number(&mut self) -> i64 {
        self.last_number += 1;
        self.last_number
    }
}

/// A lease or a claim.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) token: i64,
    pub(crate) granted: Timestamp,
    pub(crate) until: Timestamp,
}

impl Held {
    pub(crate) fn new(now: Timestamp, hold: std::time::Duration) -> Self {
        Self { token: fastrand::i64(..), granted: now, until: now + hold }
    }

    pub(crate) fn expired(&self, now: Timestamp) -> bool {
        Lease::expired(self.granted, self.until, now)
    }

    pub(crate) fn by(&self, token: i64, now: Timestamp) -> bool {
        self.token == token && !self.expired(now)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) id: i64,
    pub(crate) new: NewJob,
    pub(crate) state: JobState,
    pub(crate) attempt: u32,
    pub(crate) run_at: Timestamp,
    pub(crate) enqueued_at: Timestamp,
    pub(crate) held: Option<Held>,
    pub(crate) owner: Option<String>,
    /// Somebody asked for it to be cancelled while it ran.
    pub(crate) cancelled: bool,
    pub(crate) checkpoint: Option<Bytes>,
    pub(crate) last_error: Option<String>,
    /// Since when it is dead or cancelled.
    pub(crate) over_since: Option<Timestamp>,
}

impl Job {
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.state, JobState::Ready | JobState::Running)
    }

    /// Ends the lease: the job waits for `run_at`, or is cancelled if that was asked for.
    pub(crate) fn wait_until(&mut self, run_at: Timestamp, now: Timestamp) {
        self.held = None;
        self.owner = None;
        if self.cancelled {
            self.end(JobState::Cancelled, now);
        } else {
            self.state = JobState::Ready;
            self.run_at = run_at;
        }
    }

    pub(crate) fn end(&mut self, state: JobState, now: Timestamp) {
        (self.held, self.owner, self.cancelled) = (None, None, false);
        self.state = state;
        self.over_since = Some(now);
    }

    pub(crate) fn view(&self) -> JobView {
        JobView {
            id: selvedge_core::store::JobId(self.id),
            queue: self.new.queue.clone(),
            state: self.state,
            priority: self.new.priority,
            tenant: self.new.tenant.clone(),
            unique: self.new.unique.clone(),
            attempt: self.attempt,
            max_attempts: self.new.max_attempts,
            run_at: self.run_at,
            enqueued_at: self.enqueued_at,
            leased_until: self.held.map(|held| held.until),
            owner: self.owner.clone(),
            last_error: self.last_error.clone(),
            payload: self.new.payload.clone(),
            checkpoint: self.checkpoint.clone(),
            trace: self.new.trace,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) paused: bool,
    pub(crate) limits: Limits,
}

/// An outbox event that has not gone out.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) event: Event,
    pub(crate) attempts: u32,
    pub(crate) run_at: Timestamp,
    pub(crate) emitted_at: Timestamp,
    pub(crate) held: Option<Held>,
    pub(crate) dead: bool,
    pub(crate) last_error: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Submitted {
    pub(crate) intent: Intent,
    pub(crate) answer: Option<Answer>,
    pub(crate) attempts: u32,
    pub(crate) last_error: Option<String>,
    pub(crate) submitted_at: Timestamp,
    pub(crate) answered_at: Option<Timestamp>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Topic {
    pub(crate) last: i64,
    pub(crate) messages: Vec<Message>,
}

#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) attempt: u32,
    pub(crate) held: Option<Held>,
    pub(crate) point: Option<RecoveryPoint>,
    pub(crate) answer: Option<Answer>,
    pub(crate) retention: std::time::Duration,
    /// Unless it is held, it is forgotten then.
    pub(crate) keep_until: Timestamp,
}
