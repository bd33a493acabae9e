use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Backoff;
use crate::{Error, ErrorKind, Result, Timestamp, TraceContext};

/// A job's number, given by its Store. Later jobs have larger numbers; a number is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub i64);

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// When something should happen, told by the Store's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum When {
    /// At once.
    #[default]
    Now,
    /// This long after the Store accepts it.
    After(Duration),
    /// At this moment, or at once if it has passed.
    At(Timestamp),
}

impl When {
    /// The moment meant, if the Store's clock shows `now`.
    pub fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Now => now,
            Self::After(delay) => now + delay,
            Self::At(moment) => moment,
        }
    }
}

/// A job to enqueue.
///
/// ```
/// use std::time::Duration;
/// use selvedge_core::store::{NewJob, When};
///
/// let job = NewJob::new("mail", r#"{"to":"ada"}"#)
///     .tenant("acme")
///     .priority(-1)
///     .unique("welcome:ada")
///     .when(When::After(Duration::from_secs(60)))
///     .max_attempts(5);
/// assert_eq!(job.queue, "mail");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewJob {
    /// The queue it waits in.
    pub queue: String,
    /// What the handler is given. At most [`NewJob::MAX_PAYLOAD`] bytes.
    pub payload: Bytes,
    /// Smaller runs first; 0 unless set.
    pub priority: i16,
    /// Whom it is done for; limits and fairness go by tenant.
    pub tenant: Option<String>,
    /// While a job with this key is waiting, running or to be retried in the same queue, another is not added.
    pub unique: Option<String>,
    /// When it may first run.
    pub when: When,
    /// How often it may be started before it is a dead letter; at least 1.
    pub max_attempts: u32,
    /// How long it waits after a failure.
    pub backoff: Backoff,
    /// The trace it belongs to.
    pub trace: Option<TraceContext>,
}

impl NewJob {
    /// The most bytes a payload may have: 16 MiB. Larger things belong in a file or object store, with a reference here.
    pub const MAX_PAYLOAD: usize = 16 << 20;
    /// The most bytes a queue, tenant or unique key may have.
    pub const MAX_NAME: usize = 255;

    /// A job that may run at once, 25 times at most.
    pub fn new(queue: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self {
            queue: queue.into(),
            payload: payload.into(),
            priority: 0,
            tenant: None,
            unique: None,
            when: When::Now,
            max_attempts: 25,
            backoff: Backoff::default(),
            trace: None,
        }
    }

    /// Sets the priority: smaller runs first.
    #[must_use]
    pub fn priority(mut self, priority: i16) -> Self {
        self.priority = priority;
        self
    }

    /// Sets the tenant.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// Sets the unique key.
    #[must_use]
    pub fn unique(mut self, key: impl Into<String>) -> Self {
        self.unique = Some(key.into());
        self
    }

    /// Sets when it may first run.
    #[must_use]
    pub fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }

    /// Sets how often it may be started.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets how long it waits after a failure.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets the trace.
    #[must_use]
    pub fn trace(mut self, trace: Option<TraceContext>) -> Self {
        self.trace = trace;
        self
    }

    /// What every Store checks before it accepts the job.
    ///
    /// # Errors
    /// `InvalidInput` or `TooLarge`, naming the field.
    pub fn check(&self) -> Result<()> {
        check_name("queue", &self.queue)?;
        for (field, value) in [("tenant", &self.tenant), ("unique", &self.unique)] {
            if let Some(value) = value {
                check_name(field, value)?;
            }
        }
        if self.max_attempts == 0 {
            return Err(Error::new(ErrorKind::InvalidInput, "store.commit", "a job needs at least one attempt")
                .with("queue", &self.queue));
        }
        check_payload("job payload", &self.payload)
    }
}

pub(crate) fn check_name(field: &'static str, value: &str) -> Result<()> {
    if value.is_empty() || value.len() > NewJob::MAX_NAME || value.chars().any(char::is_control) {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "store.commit",
            "a name is empty, too long or has control characters",
        )
        .with("field", field)
        .with("bytes", value.len())
        .advise(format!("use 1 to {} bytes of printable text", NewJob::MAX_NAME)));
    }
    Ok(())
}

pub(crate) fn check_payload(what: &'static str, payload: &[u8]) -> Result<()> {
    if payload.len() > NewJob::MAX_PAYLOAD {
        return Err(Error::new(ErrorKind::TooLarge, "store.commit", format!("the {what} is too large"))
            .with("bytes", payload.len())
            .with("limit", NewJob::MAX_PAYLOAD)
            .advise("keep the data in a file or object store and enqueue a reference"));
    }
    Ok(())
}

/// Where a job is in its life. A completed job is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// May run now, or when its time comes; also after a failure, until its retry.
    Ready,
    /// Leased to a worker.
    Running,
    /// Failed for good: a dead letter, kept until revived or past its retention.
    Dead,
    /// Cancelled before it ran.
    Cancelled,
}

impl JobState {
    /// The state in `snake_case`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What a lease holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LeaseTarget {
    /// A job.
    Job,
    /// An outbox event.
    Event,
}

/// The right to complete, fail or extend one job or event: a fencing token.
///
/// The token is random and new at every lease, so that a worker which lost its lease (it was slow, or the machine slept)
/// cannot complete or fail what another worker has by now. Pass it on to systems that can fence by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lease {
    /// What is held.
    pub target: LeaseTarget,
    /// The job's or event's number.
    pub id: i64,
    /// The fencing token.
    pub token: i64,
}

impl Lease {
    /// The error of an operation with a lease that is no longer held.
    pub fn lost(&self) -> Error {
        let what = match self.target {
            LeaseTarget::Job => "job",
            LeaseTarget::Event => "outbox event",
        };
        Error::new(ErrorKind::LeaseLost, "store.commit", format!("the lease on this {what} is no longer held"))
            .with("id", self.id)
            .advise(
                "drop the result: the item was rescued, cancelled or finished elsewhere; extend leases of long work",
            )
    }

    /// Whether a lease granted at `granted` until `until` has run out at `now`.
    ///
    /// A clock that stepped back to before the grant ends the lease too: otherwise it would last for as long as the step.
    pub fn expired(granted: Timestamp, until: Timestamp, now: Timestamp) -> bool {
        now >= until || now < granted
    }
}

/// Asks for jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRequest {
    /// The queues to take from, all alike.
    pub queues: Vec<String>,
    /// The most jobs to take.
    pub limit: usize,
    /// How long the lease lasts unless extended. [`LeaseRequest::MAX_HOLD`] at most.
    pub hold: Duration,
    /// Who takes them, for people who look: `host:pid`.
    pub owner: String,
}

impl LeaseRequest {
    /// The longest a lease may last without being extended: one hour.
    pub const MAX_HOLD: Duration = Duration::from_secs(3600);

    /// Up to `limit` jobs of one queue, for 30 seconds.
    pub fn new(queue: impl Into<String>, limit: usize) -> Self {
        Self { queues: vec![queue.into()], limit, hold: Duration::from_secs(30), owner: String::new() }
    }

    /// Sets how long the lease lasts.
    #[must_use]
    pub fn hold(mut self, hold: Duration) -> Self {
        self.hold = hold.min(Self::MAX_HOLD);
        self
    }

    /// Sets who takes them.
    #[must_use]
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = owner.into();
        self
    }
}

/// A job under lease.
#[derive(Clone, Debug, PartialEq)]
pub struct LeasedJob {
    /// The right to complete or fail it.
    pub lease: Lease,
    /// Its number.
    pub id: JobId,
    /// Its queue.
    pub queue: String,
    /// Its payload.
    pub payload: Bytes,
    /// Its priority.
    pub priority: i16,
    /// Its tenant.
    pub tenant: Option<String>,
    /// Which attempt this is, counted from 1.
    pub attempt: u32,
    /// How many attempts it has.
    pub max_attempts: u32,
    /// What the last attempt kept with [`Commit::checkpoint`](super::Commit::checkpoint).
    pub checkpoint: Option<Bytes>,
    /// The trace it belongs to.
    pub trace: Option<TraceContext>,
    /// When it was enqueued.
    pub enqueued_at: Timestamp,
    /// When the lease runs out, by the Store's clock.
    pub leased_until: Timestamp,
}

/// What happens to a job or event after a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Retry {
    /// By its own backoff, until its attempts are used up; then it is dead.
    #[default]
    Backoff,
    /// After this long, if it has attempts left.
    After(Duration),
    /// Never: it is dead at once.
    Never,
}

impl Retry {
    /// How long to wait before the next attempt; `None` when it is dead. Pure: every Store uses this rule.
    pub fn next(self, attempt: u32, max_attempts: u32, backoff: Backoff, jitter: f64) -> Option<Duration> {
        if attempt >= max_attempts {
            return None;
        }
        match self {
            Self::Backoff => Some(backoff.delay(attempt, jitter)),
            Self::After(delay) => Some(delay),
            Self::Never => None,
        }
    }
}

/// How many jobs of a queue may run at once. `None` is no limit.
///
/// In a queue with a limit for each tenant the tenants take turns: of the jobs of one priority each tenant with room gets one in
/// turn, over successive leases too ([`in_turns`](super::in_turns)). A tenant at its limit is passed over. In other queues a job is
/// leased by priority, `run_at` and number alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// In the whole queue.
    pub queue: Option<u32>,
    /// For each tenant. Jobs without a tenant have no such limit, and take turns with the tenants.
    pub tenant: Option<u32>,
}

/// A job as people look at it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobView {
    /// Its number.
    pub id: JobId,
    /// Its queue.
    pub queue: String,
    /// Where it is in its life.
    pub state: JobState,
    /// Its priority.
    pub priority: i16,
    /// Its tenant.
    pub tenant: Option<String>,
    /// Its unique key.
    pub unique: Option<String>,
    /// How often it was started.
    pub attempt: u32,
    /// How often it may be started.
    pub max_attempts: u32,
    /// When it may run next.
    pub run_at: Timestamp,
    /// When it was enqueued.
    pub enqueued_at: Timestamp,
    /// When its lease runs out.
    pub leased_until: Option<Timestamp>,
    /// Who leases it.
    pub owner: Option<String>,
    /// Why it failed last.
    pub last_error: Option<String>,
    /// Its payload.
    #[serde(skip)]
    pub payload: Bytes,
    /// Bytes it keeps between attempts.
    #[serde(skip)]
    pub checkpoint: Option<Bytes>,
    /// The trace it belongs to.
    pub trace: Option<TraceContext>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_job_is_never_started_more_often_than_it_may_be(
            max in 1u32..50, attempt in 1u32..100, never in any::<bool>(), jitter in 0.0f64..=1.0,
        ) {
            let retry = if never { Retry::Never } else { Retry::Backoff };
            let next = retry.next(attempt, max, Backoff::default(), jitter);
            prop_assert_eq!(next.is_some(), !never && attempt < max);
        }

        #[test]
        fn a_lease_is_live_exactly_from_its_grant_to_its_end(granted in 0i64..1000, hold in 1i64..1000, now in -2000i64..4000) {
            let expired = Lease::expired(Timestamp(granted), Timestamp(granted + hold), Timestamp(now));
            prop_assert_eq!(expired, !(granted..granted + hold).contains(&now));
        }
    }

    #[test]
    fn names_and_payloads_are_checked() {
        assert!(NewJob::new("mail", "x").check().is_ok());
        assert_eq!(NewJob::new("", "x").check().map_err(|e| e.kind()), Err(ErrorKind::InvalidInput));
        assert_eq!(NewJob::new("a\u{7}b", "x").check().map_err(|e| e.kind()), Err(ErrorKind::InvalidInput));
        assert_eq!(NewJob::new("q", "x").max_attempts(0).check().map_err(|e| e.kind()), Err(ErrorKind::InvalidInput));
        let large = NewJob::new("q", vec![0; NewJob::MAX_PAYLOAD + 1]);
        assert_eq!(large.check().map_err(|e| e.kind()), Err(ErrorKind::TooLarge));
    }
}
