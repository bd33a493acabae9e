//! From a step's small numbers to an operation, once with the tested Store's numbers and once with the plain one's.

use std::time::Duration;

use selvedge_core::{
    Intent, Result,
    idempotency::{Answer, RecoveryPoint},
    store::{
        Backoff, Cron, Event, Fact, JobId, Lease, LeaseTarget, Limits, NewJob, Op, StickyAssignment, StoreCapabilities,
        When,
    },
};
use uuid::Uuid;

use super::{step::Act, twins::Twins};

pub(super) fn queue(n: u8) -> String {
    format!("q{n}")
}

pub(super) fn topic(n: u8) -> String {
    format!("t{n}")
}

/// Whether the Store says that it can do this.
pub(super) fn can(act: &Act, can: &StoreCapabilities) -> bool {
    match act {
        Act::Emit { .. } | Act::ReviveEvent(_) | Act::DropEvent(_) | Act::Submit { .. } | Act::Answer { .. } => {
            can.outbox
        }
        Act::Publish { .. } => can.topics,
        Act::Settle { .. } | Act::Advance { .. } | Act::Abandon(_) => can.idempotency,
        Act::Assign { .. } | Act::Record { .. } => can.facts,
        Act::Complete(_) | Act::CompleteMany(_) | Act::Fail { .. } | Act::Release { .. } | Act::Extend { .. } => {
            can.jobs || can.outbox
        }
        _ => can.jobs,
    }
}

/// Never an intent's: whether that is known once the intent's own event went out is left open.
fn event_id(n: u8) -> Uuid {
    Uuid::from_u128(1000 + u128::from(n))
}

/// One of the last few.
fn pick<T: Clone>(all: &[T], number: usize) -> Option<T> {
    all.iter().rev().take(8).cycle().nth(number).cloned()
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Both sides wait the same time: the jitter of no delay is none.
fn at_once() -> Backoff {
    Backoff::new(Duration::ZERO, Duration::ZERO)
}

impl Twins {
    fn held(&self, number: usize) -> (Lease, Lease) {
        let none = Lease { target: LeaseTarget::Job, id: i64::MAX, token: 7 };
        pick(&self.leases, number).unwrap_or((none, none))
    }

    fn job(&self, number: usize) -> (JobId, JobId) {
        let none = JobId(i64::MAX);
        pick(&self.jobs, number).unwrap_or((none, none))
    }

    /// The operation for the tested Store and for the plain one; `None` when there is no ticket to pick.
    pub(super) fn ops(&mut self, act: &Act) -> Result<Option<(Op, Op)>> {
        self.count += 1;
        let text = format!("{}", self.count);
        let both = |op: Op| (op.clone(), op);
        let by_lease = |lease: usize, op: &dyn Fn(Lease) -> Op| {
            let (tested, plain) = self.held(lease);
            (op(tested), op(plain))
        };
        Ok(Some(match act.clone() {
            Act::Enqueue { queue: q, tenant, unique, priority, delay, max_attempts } => {
                let mut job = NewJob::new(queue(q), text).priority(priority).max_attempts(max_attempts);
                job = job.backoff(at_once()).when(if delay == 0 { When::Now } else { When::After(seconds(delay)) });
                job.tenant = tenant.map(|n| format!("tenant{n}"));
                job.unique = unique.map(|n| format!("unique{n}"));
                both(Op::Enqueue(vec![job]))
            }
            Act::Complete(lease) => by_lease(lease, &Op::Complete),
            Act::CompleteMany(leases) => {
                let (tested, plain) = leases.into_iter().map(|lease| self.held(lease)).unzip();
                (Op::CompleteMany(tested), Op::CompleteMany(plain))
            }
            Act::Fail { lease, retry } => {
                by_lease(lease, &|lease| Op::Fail { lease, reason: format!("reason {text}"), retry })
            }
            Act::Release { lease, delay } => by_lease(lease, &|lease| Op::Release { lease, delay: seconds(delay) }),
            Act::Extend { lease, hold } => by_lease(lease, &|lease| Op::Extend { lease, hold: seconds(hold) }),
            Act::Checkpoint { lease } => by_lease(lease, &|lease| Op::Checkpoint { lease, data: text.clone().into() }),
            Act::Cancel(job) => {
                let (tested, plain) = self.job(job);
                (Op::Cancel(tested), Op::Cancel(plain))
            }
            Act::Revive(job) => {
                let (tested, plain) = self.job(job);
                (Op::Revive(tested), Op::Revive(plain))
            }
            Act::Pause(q) => both(Op::Pause(queue(q))),
            Act::Resume(q) => both(Op::Resume(queue(q))),
            Act::Limit { queue: q, all, tenant } => {
                both(Op::Limit { queue: queue(q), limits: Limits { queue: all, tenant } })
            }
            Act::Schedule { name, every } => {
                // Jobs of two schedules that fire at once may be added in any order; their priorities keep them apart.
                let job = NewJob::new(queue(name), format!("cron {text}")).priority(-10 - i16::from(name));
                let job = job.max_attempts(2).backoff(at_once());
                both(Op::Schedule(Cron::new(format!("cron{name}"), format!("*/{every} * * * *"), job)?))
            }
            Act::Unschedule(name) => both(Op::Unschedule(format!("cron{name}"))),
            Act::Emit { id, aggregate, topic: t } => {
                let event = Event::new(format!("aggregate{aggregate}"), topic(t), text);
                both(Op::Emit(Event { id: event_id(id), backoff: at_once(), ..event }))
            }
            Act::ReviveEvent(id) => both(Op::ReviveEvent(event_id(id))),
            Act::DropEvent(id) => both(Op::DropEvent(event_id(id))),
            Act::Submit { id, payload } => {
                let intent = Intent::new("op", format!("{payload}"));
                both(Op::Submit(Intent { id: Uuid::from_u128(id.into()), ..intent }))
            }
            Act::Answer { id, status } => {
                both(Op::Answer { intent: Uuid::from_u128(id.into()), answer: Answer::json(status, text) })
            }
            Act::Publish { topic: t } => both(Op::Publish { topic: topic(t), payload: text.into() }),
            Act::Settle { ticket, status } => {
                let Some((tested, plain)) = pick(&self.tickets, ticket) else { return Ok(None) };
                let answer = Answer::json(status, text);
                (Op::Settle { ticket: tested, answer: answer.clone() }, Op::Settle { ticket: plain, answer })
            }
            Act::Advance { ticket } => {
                let Some((tested, plain)) = pick(&self.tickets, ticket) else { return Ok(None) };
                let point = RecoveryPoint { name: "step".into(), data: text.into() };
                (Op::Advance { ticket: tested, point: point.clone() }, Op::Advance { ticket: plain, point })
            }
            Act::Abandon(ticket) => {
                let Some((tested, plain)) = pick(&self.tickets, ticket) else { return Ok(None) };
                (Op::Abandon(tested), Op::Abandon(plain))
            }
            Act::Assign { subject, variation, version } => both(Op::Assign(StickyAssignment {
                subject: format!("subject{subject}"),
                experiment: "experiment".into(),
                variation: format!("variation{variation}"),
                version,
            })),
            Act::Record { id, name } => {
                let fact = Fact::new(format!("name{name}"), "subject", text);
                both(Op::Record(Fact { id: Uuid::from_u128(id.into()), ..fact }))
            }
        }))
    }
}
