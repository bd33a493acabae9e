//! What each operation of a commit does.

use selvedge_core::{
    Error, ErrorKind, Intent, Result, Timestamp,
    idempotency::Ticket,
    store::{
        Event, Fact, FactView, JobId, JobRef, JobState, Lease, LeaseTarget, Message, NewJob, Op, Outcome, Retry,
        StickyAssignment,
    },
};

use super::data::{Data, Job, Key, Outgoing, Submitted};

impl Data {
    pub(super) fn apply(&mut self, op: Op, now: Timestamp) -> Result<Outcome> {
        match op {
            Op::Enqueue(jobs) => Ok(Outcome::Enqueued(jobs.into_iter().map(|job| self.enqueue(job, now)).collect())),
            Op::Complete(lease) => self.complete(lease, now).map(|()| Outcome::Done),
            Op::CompleteMany(leases) => {
                let lost = leases.into_iter().filter(|lease| self.complete(*lease, now).is_err()).collect();
                Ok(Outcome::Completed { lost })
            }
            Op::Fail { lease, reason, retry } => self.fail(lease, reason, retry, now),
            Op::Release { lease, delay } => self.release(lease, now + delay, now),
            Op::Extend { lease, hold } => self.extend(lease, now + hold, now),
            Op::Checkpoint { lease, data } => {
                self.leased_job(lease, now)?.checkpoint = Some(data);
                Ok(Outcome::Done)
            }
            Op::Cancel(id) => self.cancel(id, now),
            Op::Revive(id) => self.revive(id, now),
            Op::Pause(queue) => self.set(queue, |settings| settings.paused = true),
            Op::Resume(queue) => self.set(queue, |settings| settings.paused = false),
            Op::Limit { queue, limits } => self.set(queue, |settings| settings.limits = limits),
            Op::Schedule(cron) => {
                let next = cron.next_after(now)?;
                self.schedules.insert(cron.name.clone(), (cron, next));
                Ok(Outcome::Done)
            }
            Op::Unschedule(name) => {
                self.schedules.remove(&name);
                Ok(Outcome::Done)
            }
            Op::Emit(event) => self.emit(event, now),
            Op::ReviveEvent(id) => {
                let row = self.outbox.values_mut().find(|row| row.event.id == id && row.dead);
                let revived = row.map(|row| (row.dead, row.attempts, row.run_at) = (false, 0, now)).is_some();
                Ok(Outcome::Revived(revived))
            }
            Op::DropEvent(id) => {
                let number =
                    self.outbox.iter().find(|(_, row)| row.event.id == id && row.dead).map(|(number, _)| *number);
                Ok(Outcome::Dropped(number.and_then(|number| self.outbox.remove(&number)).is_some()))
            }
            Op::Submit(intent) => self.submit(intent, now),
            Op::Answer { intent, answer } => {
                let Some(row) = self.intents.values_mut().find(|row| row.intent.id == intent) else {
                    return Err(Error::new(ErrorKind::NotFound, "store.commit", "no such intent").with("id", intent));
                };
                if row.answer.is_none() {
                    (row.answer, row.answered_at) = (Some(answer), Some(now));
                }
                Ok(Outcome::Done)
            }
            Op::Publish { topic, payload } => {
                let topic = self.topics.entry(topic).or_default();
                topic.last += 1;
                topic.messages.push(Message { cursor: topic.last, payload, published_at: now });
                Ok(Outcome::Published { cursor: topic.last })
            }
            Op::Settle { ticket, answer } => {
                let key = self.claimed(&ticket, now)?;
                (key.answer, key.held, key.keep_until) = (Some(answer), None, now + key.retention);
                Ok(Outcome::Done)
            }
            Op::Advance { ticket, point } => {
                self.claimed(&ticket, now)?.point = Some(point);
                Ok(Outcome::Done)
            }
            Op::Abandon(ticket) => {
                self.claimed(&ticket, now)?.held = None;
                Ok(Outcome::Done)
            }
            Op::Assign(assignment) => Ok(self.assign(assignment)),
            Op::Record(fact) => Ok(self.record(fact, now)),
            _ => Err(Error::unsupported("memory", "store.commit")),
        }
    }

    pub(super) fn enqueue(&mut self, new: NewJob, now: Timestamp) -> JobRef {
        if let Some(id) = self.holder_of_unique(&new, None) {
            return JobRef { id, duplicate: true };
        }
        let id = self.number();
        let job = Job {
            id,
            run_at: new.when.resolve(now),
            new,
            state: JobState::Ready,
            attempt: 0,
            enqueued_at: now,
            held: None,
            owner: None,
            cancelled: false,
            checkpoint: None,
            last_error: None,
            over_since: None,
        };
        self.jobs.insert(id, job);
        self.enqueued += 1;
        JobRef { id: JobId(id), duplicate: false }
    }

    fn holder_of_unique(&self, new: &NewJob, besides: Option<i64>) -> Option<JobId> {
        new.unique.as_ref()?;
        let same = |job: &&Job| job.is_live() && job.new.queue == new.queue && job.new.unique == new.unique;
        self.jobs.values().filter(|job| Some(job.id) != besides).find(same).map(|job| JobId(job.id))
    }

    fn leased_job(&mut self, lease: Lease, now: Timestamp) -> Result<&mut Job> {
        let job = self.jobs.get_mut(&lease.id).filter(|_| lease.target == LeaseTarget::Job);
        job.filter(|job| job.held.is_some_and(|held| held.by(lease.token, now))).ok_or_else(|| lease.lost())
    }

    fn leased_event(&mut self, lease: Lease, now: Timestamp) -> Result<&mut Outgoing> {
        let row = self.outbox.get_mut(&lease.id).filter(|_| lease.target == LeaseTarget::Event);
        row.filter(|row| row.held.is_some_and(|held| held.by(lease.token, now))).ok_or_else(|| lease.lost())
    }

    fn complete(&mut self, lease: Lease, now: Timestamp) -> Result<()> {
        match lease.target {
            LeaseTarget::Job => {
                self.leased_job(lease, now)?;
                self.jobs.remove(&lease.id);
            }
            LeaseTarget::Event => {
                self.leased_event(lease, now)?;
                self.outbox.remove(&lease.id);
            }
        }
        Ok(())
    }

    fn fail(&mut self, lease: Lease, reason: String, retry: Retry, now: Timestamp) -> Result<Outcome> {
        let jitter = fastrand::f64();
        match lease.target {
            LeaseTarget::Job => {
                let job = self.leased_job(lease, now)?;
                let delay = retry.next(job.attempt, job.new.max_attempts, job.new.backoff, jitter);
                job.last_error = Some(reason);
                match delay {
                    Some(delay) => job.wait_until(now + delay, now),
                    None => job.end(if job.cancelled { JobState::Cancelled } else { JobState::Dead }, now),
                }
                Ok(Outcome::Failed { retry_at: job.is_live().then_some(job.run_at) })
            }
            LeaseTarget::Event => {
                let row = self.leased_event(lease, now)?;
                let delay = retry.next(row.attempts, u32::MAX, row.event.backoff, jitter);
                (row.held, row.last_error, row.dead) = (None, Some(reason.clone()), delay.is_none());
                if let Some(delay) = delay {
                    row.run_at = now + delay;
                }
                let retry_at = delay.map(|_| row.run_at);
                let id = row.event.id;
                if let Some(row) = self.intents.values_mut().find(|row| row.intent.id == id) {
                    row.last_error = Some(reason);
                }
                Ok(Outcome::Failed { retry_at })
            }
        }
    }

    fn release(&mut self, lease: Lease, run_at: Timestamp, now: Timestamp) -> Result<Outcome> {
        match lease.target {
            LeaseTarget::Job => {
                let job = self.leased_job(lease, now)?;
                job.attempt -= 1;
                job.wait_until(run_at, now);
            }
            LeaseTarget::Event => {
                let row = self.leased_event(lease, now)?;
                (row.held, row.run_at, row.attempts) = (None, run_at, row.attempts - 1);
                let (id, attempts) = (row.event.id, row.attempts);
                self.note_attempts(id, attempts);
            }
        }
        Ok(Outcome::Done)
    }

    /// An intent shows how often its event was sent, also once the event is gone.
    pub(super) fn note_attempts(&mut self, id: uuid::Uuid, attempts: u32) {
        if let Some(row) = self.intents.values_mut().find(|row| row.intent.id == id) {
            row.attempts = attempts;
        }
    }

    fn extend(&mut self, lease: Lease, until: Timestamp, now: Timestamp) -> Result<Outcome> {
        let (held, cancelled) = match lease.target {
            LeaseTarget::Job => {
                let job = self.leased_job(lease, now)?;
                (&mut job.held, job.cancelled)
            }
            LeaseTarget::Event => (&mut self.leased_event(lease, now)?.held, false),
        };
        if let Some(held) = held {
            held.until = until;
        }
        Ok(Outcome::Extended { until, cancelled })
    }

    fn cancel(&mut self, id: JobId, now: Timestamp) -> Result<Outcome> {
        let Some(job) = self.jobs.get_mut(&id.0) else {
            return Err(Error::new(ErrorKind::NotFound, "store.commit", "no such job").with("id", id));
        };
        match job.state {
            JobState::Ready => job.end(JobState::Cancelled, now),
            JobState::Running => job.cancelled = true,
            JobState::Dead | JobState::Cancelled => (),
        }
        Ok(Outcome::Cancelled { at_once: job.state != JobState::Running })
    }

    fn revive(&mut self, id: JobId, now: Timestamp) -> Result<Outcome> {
        let Some(job) = self.jobs.get(&id.0).filter(|job| !job.is_live()) else { return Ok(Outcome::Revived(false)) };
        if let Some(holder) = self.holder_of_unique(&job.new, Some(id.0)) {
            let message = "another job holds the unique key by now";
            return Err(Error::new(ErrorKind::Conflict, "store.commit", message).with("id", id).with("holder", holder));
        }
        if let Some(job) = self.jobs.get_mut(&id.0) {
            (job.state, job.attempt, job.run_at, job.over_since) = (JobState::Ready, 0, now, None);
        }
        Ok(Outcome::Revived(true))
    }

    fn set(&mut self, queue: String, change: impl FnOnce(&mut super::data::Settings)) -> Result<Outcome> {
        change(self.queues.entry(queue).or_default());
        Ok(Outcome::Done)
    }

    fn emit(&mut self, event: Event, now: Timestamp) -> Result<Outcome> {
        let answered = self.intents.values().any(|row| row.intent.id == event.id && row.answered_at.is_some());
        if !answered && !self.outbox.values().any(|row| row.event.id == event.id) {
            let row = Outgoing {
                event,
                attempts: 0,
                run_at: now,
                emitted_at: now,
                held: None,
                dead: false,
                last_error: None,
            };
            let number = self.number();
            self.outbox.insert(number, row);
        }
        Ok(Outcome::Done)
    }

    fn submit(&mut self, intent: Intent, now: Timestamp) -> Result<Outcome> {
        if let Some(known) = self.intents.values().find(|row| row.intent.id == intent.id) {
            if known.intent.fingerprint() != intent.fingerprint() {
                let message = "this intent is known with another payload";
                return Err(Error::new(ErrorKind::Conflict, "store.commit", message).with("id", intent.id));
            }
            return Ok(Outcome::Submitted { duplicate: true });
        }
        let row =
            Submitted { intent, answer: None, attempts: 0, last_error: None, submitted_at: now, answered_at: None };
        let number = self.number();
        self.intents.insert(number, row);
        Ok(Outcome::Submitted { duplicate: false })
    }

    fn claimed(&mut self, ticket: &Ticket, now: Timestamp) -> Result<&mut Key> {
        let key = self.keys.get_mut(&ticket.key);
        key.filter(|key| key.held.is_some_and(|held| held.by(ticket.token, now))).ok_or_else(|| ticket.lost())
    }

    fn assign(&mut self, assignment: StickyAssignment) -> Outcome {
        let kept = self.assignments.entry((assignment.subject.clone(), assignment.experiment.clone()));
        let kept = kept.or_insert_with(|| assignment.clone());
        if assignment.version > kept.version {
            *kept = assignment;
        }
        Outcome::Assigned(kept.clone())
    }

    fn record(&mut self, fact: Fact, now: Timestamp) -> Outcome {
        let duplicate = self.facts.values().any(|view| view.fact.id == fact.id);
        if !duplicate {
            let number = self.number();
            self.facts.insert(number, FactView { fact, recorded_at: now });
        }
        Outcome::Recorded { duplicate }
    }
}
