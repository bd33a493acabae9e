use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::{
    Cron, Event, Fact, JobId, Lease, LeaseTarget, Limits, NewJob, Retry, StickyAssignment,
    job::{check_name, check_payload},
};
use crate::{
    Error, ErrorKind, Intent, Result, Timestamp,
    idempotency::{Answer, RecoveryPoint, Ticket},
};

/// One thing that a commit makes true.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Adds jobs. Outcome: [`Outcome::Enqueued`].
    Enqueue(Vec<NewJob>),
    /// Ends a job or event that was worked on. The commit fails if the lease is lost.
    Complete(Lease),
    /// Ends many; lost leases are reported instead. Outcome: [`Outcome::Completed`].
    CompleteMany(Vec<Lease>),
    /// Ends an attempt that failed. Outcome: [`Outcome::Failed`].
    Fail {
        /// Of what.
        lease: Lease,
        /// Why; kept for people who look.
        reason: String,
        /// What happens next.
        retry: Retry,
    },
    /// Gives it back as if it had not been leased: no attempt is spent.
    Release {
        /// What.
        lease: Lease,
        /// How long it rests first.
        delay: Duration,
    },
    /// Keeps a lease for longer. Outcome: [`Outcome::Extended`].
    Extend {
        /// Which.
        lease: Lease,
        /// How long from now.
        hold: Duration,
    },
    /// Keeps bytes with a job for its next attempt.
    Checkpoint {
        /// Of which job.
        lease: Lease,
        /// What to keep; it replaces what was kept.
        data: Bytes,
    },
    /// Cancels a job: at once if it is waiting; if it runs, its worker learns of it. Outcome: [`Outcome::Cancelled`].
    Cancel(JobId),
    /// Makes a dead or cancelled job ready again, with all its attempts. Outcome: [`Outcome::Revived`].
    Revive(JobId),
    /// Stops a queue from leasing.
    Pause(String),
    /// Lets a paused queue lease again.
    Resume(String),
    /// Limits how many jobs of a queue run at once.
    Limit {
        /// Which queue.
        queue: String,
        /// How many.
        limits: Limits,
    },
    /// Adds or replaces a cron schedule.
    Schedule(Cron),
    /// Removes a cron schedule.
    Unschedule(String),
    /// Adds an outbox event. One whose id is known already is not added again; the event of an intent that was answered has gone
    /// out and counts as known.
    Emit(Event),
    /// Lets the dead event with this id go out again, as if it had not been sent yet. Outcome: [`Outcome::Revived`].
    ReviveEvent(Uuid),
    /// Drops the dead event with this id, so that the next one of its aggregate may go; whoever emits its id later adds it again.
    /// Outcome: [`Outcome::Dropped`].
    DropEvent(Uuid),
    /// Adds an intent. Outcome: [`Outcome::Submitted`]; the commit fails if its id is known with another payload.
    Submit(Intent),
    /// Keeps the answer to an intent.
    Answer {
        /// The intent's id.
        intent: Uuid,
        /// The answer.
        answer: Answer,
    },
    /// Adds a message to a topic. Outcome: [`Outcome::Published`].
    Publish {
        /// Which topic.
        topic: String,
        /// What it says.
        payload: Bytes,
    },
    /// Completes an idempotency key. The commit fails if the claim is lost.
    Settle {
        /// The claim.
        ticket: Ticket,
        /// What later requests are answered.
        answer: Answer,
    },
    /// Keeps how far a handler of several steps came. The commit fails if the claim is lost.
    Advance {
        /// The claim.
        ticket: Ticket,
        /// How far.
        point: RecoveryPoint,
    },
    /// Gives an idempotency key back without an answer, so that a retry is a new try. Recovery points stay.
    Abandon(Ticket),
    /// Keeps an assignment. Outcome: [`Outcome::Assigned`] with the one that holds.
    Assign(StickyAssignment),
    /// Adds a fact. One whose id is known already is not added again. Outcome: [`Outcome::Recorded`].
    Record(Fact),
}

/// A list of operations that becomes true all together or not at all.
///
/// ```
/// use selvedge_core::{Commit, store::{Event, NewJob}};
///
/// let commit = Commit::new()
///     .enqueue([NewJob::new("charge", r#"{"order":42}"#)])
///     .emit(Event::new("order/42", "order.created", "{}"));
/// assert_eq!(commit.ops().len(), 2);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use = "a commit does nothing until a Store is given it"]
pub struct Commit {
    ops: Vec<Op>,
}

impl Commit {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The operations, in order.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// The operations, in order, owned.
    pub fn into_ops(self) -> Vec<Op> {
        self.ops
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Adds any operation.
    pub fn op(mut self, op: Op) -> Self {
        self.ops.push(op);
        self
    }

    /// Adds all operations of another commit.
    pub fn and(mut self, other: Self) -> Self {
        self.ops.extend(other.ops);
        self
    }

    /// Adds jobs.
    pub fn enqueue(self, jobs: impl IntoIterator<Item = NewJob>) -> Self {
        self.op(Op::Enqueue(jobs.into_iter().collect()))
    }

    /// Ends a job or event; the commit fails if the lease is lost.
    pub fn complete(self, lease: Lease) -> Self {
        self.op(Op::Complete(lease))
    }

    /// Ends many; lost leases are reported.
    pub fn complete_many(self, leases: impl IntoIterator<Item = Lease>) -> Self {
        self.op(Op::CompleteMany(leases.into_iter().collect()))
    }

    /// Ends an attempt that failed.
    pub fn fail(self, lease: Lease, reason: impl Into<String>, retry: Retry) -> Self {
        self.op(Op::Fail { lease, reason: reason.into(), retry })
    }

    /// Gives a lease back without spending an attempt.
    pub fn release(self, lease: Lease, delay: Duration) -> Self {
        self.op(Op::Release { lease, delay })
    }

    /// Keeps a lease for longer.
    pub fn extend(self, lease: Lease, hold: Duration) -> Self {
        self.op(Op::Extend { lease, hold })
    }

    /// Keeps bytes with a job for its next attempt.
    pub fn checkpoint(self, lease: Lease, data: impl Into<Bytes>) -> Self {
        self.op(Op::Checkpoint { lease, data: data.into() })
    }

    /// Cancels a job.
    pub fn cancel(self, job: JobId) -> Self {
        self.op(Op::Cancel(job))
    }

    /// Makes a dead or cancelled job ready again.
    pub fn revive(self, job: JobId) -> Self {
        self.op(Op::Revive(job))
    }

    /// Stops a queue from leasing.
    pub fn pause(self, queue: impl Into<String>) -> Self {
        self.op(Op::Pause(queue.into()))
    }

    /// Lets a paused queue lease again.
    pub fn resume(self, queue: impl Into<String>) -> Self {
        self.op(Op::Resume(queue.into()))
    }

    /// Limits how many jobs of a queue run at once.
    pub fn limit(self, queue: impl Into<String>, limits: Limits) -> Self {
        self.op(Op::Limit { queue: queue.into(), limits })
    }

    /// Adds or replaces a cron schedule.
    pub fn schedule(self, cron: Cron) -> Self {
        self.op(Op::Schedule(cron))
    }

    /// Removes a cron schedule.
    pub fn unschedule(self, name: impl Into<String>) -> Self {
        self.op(Op::Unschedule(name.into()))
    }

    /// Adds an outbox event.
    pub fn emit(self, event: Event) -> Self {
        self.op(Op::Emit(event))
    }

    /// Lets a dead event go out again.
    pub fn revive_event(self, event: Uuid) -> Self {
        self.op(Op::ReviveEvent(event))
    }

    /// Drops a dead event, so that the next one of its aggregate may go.
    pub fn drop_event(self, event: Uuid) -> Self {
        self.op(Op::DropEvent(event))
    }

    /// Adds an intent.
    pub fn submit(self, intent: Intent) -> Self {
        self.op(Op::Submit(intent))
    }

    /// Keeps the answer to an intent.
    pub fn answer(self, intent: Uuid, answer: Answer) -> Self {
        self.op(Op::Answer { intent, answer })
    }

    /// Adds a message to a topic.
    pub fn publish(self, topic: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        self.op(Op::Publish { topic: topic.into(), payload: payload.into() })
    }

    /// Completes an idempotency key.
    pub fn settle(self, ticket: Ticket, answer: Answer) -> Self {
        self.op(Op::Settle { ticket, answer })
    }

    /// Keeps how far a handler of several steps came.
    pub fn advance(self, ticket: Ticket, point: RecoveryPoint) -> Self {
        self.op(Op::Advance { ticket, point })
    }

    /// Gives an idempotency key back without an answer.
    pub fn abandon(self, ticket: Ticket) -> Self {
        self.op(Op::Abandon(ticket))
    }

    /// Keeps an assignment.
    pub fn assign(self, assignment: StickyAssignment) -> Self {
        self.op(Op::Assign(assignment))
    }

    /// Adds a fact.
    pub fn record(self, fact: Fact) -> Self {
        self.op(Op::Record(fact))
    }

    /// What every Store checks before it accepts the commit, so that bad input is the same error everywhere.
    ///
    /// # Errors
    /// `InvalidInput` or `TooLarge`, naming the field.
    pub fn check(&self) -> Result<()> {
        self.ops.iter().try_for_each(Op::check)
    }
}

impl Op {
    fn check(&self) -> Result<()> {
        match self {
            Self::Enqueue(jobs) => jobs.iter().try_for_each(NewJob::check),
            Self::Checkpoint { lease, data } => {
                if lease.target != LeaseTarget::Job {
                    return Err(Error::new(ErrorKind::InvalidInput, "store.commit", "only a job keeps a checkpoint"));
                }
                check_payload("checkpoint", data)
            }
            Self::Pause(queue) | Self::Resume(queue) | Self::Limit { queue, .. } => check_name("queue", queue),
            Self::Schedule(cron) => {
                check_name("schedule", &cron.name)?;
                cron.next_after(Timestamp(0))?;
                cron.job.check()
            }
            Self::Emit(event) => event.check(),
            Self::Submit(intent) => intent.check(),
            Self::Publish { topic, payload } => {
                check_name("topic", topic)?;
                check_payload("message", payload)
            }
            Self::Settle { answer, .. } | Self::Answer { answer, .. } => check_payload("answer", &answer.body),
            Self::Advance { point, .. } => {
                check_name("recovery point", &point.name)?;
                check_payload("recovery point", &point.data)
            }
            Self::Assign(assignment) => assignment.check(),
            Self::Record(fact) => fact.check(),
            Self::Complete(_)
            | Self::CompleteMany(_)
            | Self::Fail { .. }
            | Self::Release { .. }
            | Self::Extend { .. }
            | Self::Cancel(_)
            | Self::Revive(_)
            | Self::ReviveEvent(_)
            | Self::DropEvent(_)
            | Self::Unschedule(_)
            | Self::Abandon(_) => Ok(()),
        }
    }
}

/// A job that was enqueued, or the one that was there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobRef {
    /// Its number.
    pub id: JobId,
    /// A job with the same unique key was there already; this is its number, and nothing was added.
    pub duplicate: bool,
}

/// What one operation did.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Nothing to tell.
    Done,
    /// The jobs, in the order given.
    Enqueued(Vec<JobRef>),
    /// The leases that were lost; all others are complete.
    Completed {
        /// Lost leases.
        lost: Vec<Lease>,
    },
    /// When it is tried again; `None` if it is dead.
    Failed {
        /// The moment of the next attempt.
        retry_at: Option<Timestamp>,
    },
    /// The lease holds.
    Extended {
        /// Until then.
        until: Timestamp,
        /// Somebody asked for the job to be cancelled: stop, and complete or fail it.
        cancelled: bool,
    },
    /// Whether the job was cancelled at once (`true`) or is running and will learn of it (`false`).
    Cancelled {
        /// It will not run.
        at_once: bool,
    },
    /// Whether there was a dead or cancelled job, or a dead event, to revive.
    Revived(bool),
    /// Whether there was a dead event to drop.
    Dropped(bool),
    /// The message's place in its topic.
    Published {
        /// Its cursor.
        cursor: i64,
    },
    /// Whether the intent was known already.
    Submitted {
        /// It was; nothing was added.
        duplicate: bool,
    },
    /// The assignment that holds: the given one, or an earlier one of the same or a higher version.
    Assigned(StickyAssignment),
    /// Whether the fact was known already.
    Recorded {
        /// It was; nothing was added.
        duplicate: bool,
    },
}

/// What a commit did: one outcome for each operation, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Receipt {
    /// One for each operation.
    pub outcomes: Vec<Outcome>,
}

impl Receipt {
    /// All jobs that were enqueued, in order.
    pub fn jobs(&self) -> impl Iterator<Item = JobRef> + '_ {
        self.outcomes
            .iter()
            .flat_map(|outcome| match outcome {
                Outcome::Enqueued(jobs) => jobs.as_slice(),
                _ => &[],
            })
            .copied()
    }

    /// All leases that were lost in `complete_many`.
    pub fn lost(&self) -> impl Iterator<Item = Lease> + '_ {
        self.outcomes
            .iter()
            .flat_map(|outcome| match outcome {
                Outcome::Completed { lost } => lost.as_slice(),
                _ => &[],
            })
            .copied()
    }
}
