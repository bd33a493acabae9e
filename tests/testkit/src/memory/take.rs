//! What only one caller may have: leases, claims, shares of a quota; and the tick of housekeeping.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_core::{
    Timestamp,
    idempotency::{Claim, ClaimRequest, Ticket},
    store::{
        JobId, JobState, Lease, LeaseRequest, LeaseTarget, LeasedEvent, LeasedJob, Limits, LoadHistory, LoadSample,
        Maintain, Maintained, RelayRequest, Take, Taken,
    },
};

use super::data::{Data, Held, Key};

/// A job's place in the order of its queue: priority, then due time, then number.
type Place = (i16, Timestamp, i64);

impl Data {
    pub(super) fn lease(&mut self, request: LeaseRequest, now: Timestamp) -> Vec<LeasedJob> {
        self.rescue(now);
        let mut ready: BTreeMap<String, BTreeSet<Place>> = BTreeMap::new();
        for job in self.jobs.values().filter(|job| job.state == JobState::Ready && job.run_at <= now) {
            if request.queues.contains(&job.new.queue) {
                let place = (job.new.priority, job.run_at, job.id);
                ready.entry(job.new.queue.clone()).or_default().insert(place);
            }
        }
        let mut running: BTreeMap<(String, Option<String>), u32> = BTreeMap::new();
        for job in self.jobs.values().filter(|job| job.state == JobState::Running) {
            self.count_running(job.id, &mut running);
        }
        let mut leased = Vec::new();
        while leased.len() < request.limit {
            // One after the other: of the jobs that stand first in their queues, the first.
            let first = ready.iter().filter_map(|(queue, ready)| self.next_of(queue, ready, &running)).min();
            let Some(place @ (priority, _, id)) = first else { break };
            let Some(job) = self.jobs.get_mut(&id) else { break };
            let (queue, tenant) = (job.new.queue.clone(), job.new.tenant.clone());
            let held = Held::new(now, request.hold);
            (job.state, job.held, job.owner) = (JobState::Running, Some(held), Some(request.owner.clone()));
            job.attempt += 1;
            leased.push(LeasedJob {
                lease: Lease { target: LeaseTarget::Job, id, token: held.token },
                id: JobId(id),
                queue: queue.clone(),
                payload: job.new.payload.clone(),
                priority,
                tenant: tenant.clone(),
                attempt: job.attempt,
                max_attempts: job.new.max_attempts,
                checkpoint: job.checkpoint.clone(),
                trace: job.new.trace,
                enqueued_at: job.enqueued_at,
                leased_until: held.until,
            });
            if self.limits(&queue).tenant.is_some() {
                self.served.insert((queue.clone(), priority), tenant);
            }
            self.count_running(id, &mut running);
            ready.entry(queue).or_default().remove(&place);
        }
        leased
    }

    fn limits(&self, queue: &str) -> Limits {
        self.queues.get(queue).map(|settings| settings.limits).unwrap_or_default()
    }

    fn count_running(&self, id: i64, running: &mut BTreeMap<(String, Option<String>), u32>) {
        let Some(job) = self.jobs.get(&id) else { return };
        *running.entry((job.new.queue.clone(), None)).or_default() += 1;
        if job.new.tenant.is_some() {
            *running.entry((job.new.queue.clone(), job.new.tenant.clone())).or_default() += 1;
        }
    }

    /// The job that a queue gives next: of the smallest priority, and there of the tenant whose turn it is, the oldest.
    fn next_of(
        &self,
        queue: &str,
        ready: &BTreeSet<Place>,
        running: &BTreeMap<(String, Option<String>), u32>,
    ) -> Option<Place> {
        let settings = self.queues.get(queue).copied().unwrap_or_default();
        let is_full = |tenant: &Option<String>, most: Option<u32>| {
            most.is_some_and(|most| running.get(&(queue.to_owned(), tenant.clone())).copied().unwrap_or(0) >= most)
        };
        if settings.paused || is_full(&None, settings.limits.queue) {
            return None;
        }
        let Some(most) = settings.limits.tenant else { return ready.first().copied() };
        let tenant_of = |place: &Place| self.jobs.get(&place.2).and_then(|job| job.new.tenant.clone());
        let mut open = ready.iter().map(|place| (tenant_of(place), *place));
        let has_room = |tenant: &Option<String>| tenant.is_none() || !is_full(tenant, Some(most));
        let first = open.find(|(tenant, _)| has_room(tenant))?;
        let same: Vec<_> = std::iter::once(first.clone())
            .chain(open.take_while(|(_, place)| place.0 == first.1.0).filter(|(tenant, _)| has_room(tenant)))
            .collect();
        let served = self.served.get(&(queue.to_owned(), first.1.0));
        let after = same.iter().filter(|(tenant, _)| served.is_some_and(|served| tenant > served));
        after.min().or_else(|| same.iter().min()).map(|(_, place)| *place)
    }

    pub(super) fn relay(&mut self, request: RelayRequest, now: Timestamp) -> Vec<LeasedEvent> {
        self.rescue(now);
        let mut seen = BTreeSet::new();
        let mut leased = Vec::new();
        for (number, row) in &mut self.outbox {
            let is_oldest = seen.insert(row.event.aggregate.clone());
            let asked_for = request.topics.is_empty() || request.topics.contains(&row.event.topic);
            let due = request.eager || row.run_at <= now;
            if leased.len() == request.limit || !is_oldest || !asked_for || !due || row.dead || row.held.is_some() {
                continue;
            }
            let held = Held::new(now, request.hold);
            (row.held, row.attempts) = (Some(held), row.attempts + 1);
            leased.push(LeasedEvent {
                lease: Lease { target: LeaseTarget::Event, id: *number, token: held.token },
                event: row.event.clone(),
                attempt: row.attempts,
                emitted_at: row.emitted_at,
                leased_until: held.until,
            });
        }
        for event in &leased {
            self.note_attempts(event.event.id, event.attempt);
        }
        leased
    }

    pub(super) fn claim(&mut self, request: ClaimRequest, now: Timestamp) -> Claim {
        self.forget_keys(now, usize::MAX);
        let held = Held::new(now, request.hold);
        let keep_until = now + request.retention;
        let Some(key) = self.keys.get_mut(&request.key) else {
            let key = Key {
                fingerprint: request.fingerprint,
                attempt: 1,
                held: Some(held),
                point: None,
                answer: None,
                retention: request.retention,
                keep_until,
            };
            self.keys.insert(request.key.clone(), key);
            return Claim::Fresh(Ticket { key: request.key, token: held.token, attempt: 1, point: None });
        };
        if key.fingerprint != request.fingerprint {
            return Claim::Mismatch;
        }
        if let Some(answer) = &key.answer {
            return Claim::Done(answer.clone());
        }
        if let Some(held) = key.held.filter(|held| !held.expired(now)) {
            return Claim::InFlight { retry_after: held.until.since(now) };
        }
        (key.held, key.attempt, key.retention, key.keep_until) =
            (Some(held), key.attempt + 1, request.retention, keep_until);
        Claim::Fresh(Ticket { key: request.key, token: held.token, attempt: key.attempt, point: key.point.clone() })
    }

    pub(super) fn take(&mut self, request: Take, now: Timestamp) -> Taken {
        let (bucket, taken) = request.rule.apply(self.buckets.get(&request.bucket).copied(), now, request.ask);
        self.buckets.insert(request.bucket, bucket);
        taken
    }

    pub(super) fn maintain(&mut self, request: Maintain, now: Timestamp) -> Maintained {
        let (rescued, dead) = self.rescue(now);
        let mut done = Maintained { rescued, dead, ..Maintained::default() };
        let mut due: Vec<_> = self.schedules.values().filter(|(_, next)| *next <= now).cloned().collect();
        due.sort_by(|(one, first), (other, second)| (first, &one.name).cmp(&(second, &other.name)));
        for (cron, _) in due {
            self.enqueue(cron.job.clone(), now);
            done.fired += 1;
            match cron.next_after(now) {
                Ok(next) => self.schedules.insert(cron.name.clone(), (cron, next)),
                Err(_) => self.schedules.remove(&cron.name),
            };
        }
        self.sample_load(now);
        let Maintain { retention, batch } = request;
        done.keys = self.forget_keys(now, batch);
        let over = self.jobs.values().filter(|job| job.over_since.is_some_and(|since| since + retention.dead <= now));
        let over: Vec<_> = over.map(|job| job.id).take(batch).collect();
        over.iter().for_each(|id| drop(self.jobs.remove(id)));
        done.jobs = over.len() as u64;
        let old = |at: Option<Timestamp>| at.is_some_and(|at| at + retention.intents <= now);
        let answered: Vec<_> =
            self.intents.iter().filter(|(_, row)| old(row.answered_at)).map(|(id, _)| *id).take(batch).collect();
        answered.iter().for_each(|id| drop(self.intents.remove(id)));
        done.intents = answered.len() as u64;
        for topic in self.topics.values_mut() {
            let room = batch - done.messages as usize;
            let old =
                topic.messages.iter().take_while(|m| m.published_at + retention.messages <= now).count().min(room);
            topic.messages.drain(..old);
            done.messages += old as u64;
        }
        done
    }

    fn sample_load(&mut self, now: Timestamp) {
        if LoadHistory::is_due(self.load.last().map(|sample| sample.at), now) {
            self.load.retain(|sample| sample.at > now - LoadHistory::KEEP && sample.at <= now);
            self.load.push(LoadSample { at: now, enqueued: self.enqueued });
        }
    }

    /// Gives back what leases that ran out held: how many are ready again, and how many jobs are dead.
    fn rescue(&mut self, now: Timestamp) -> (u64, u64) {
        let (mut rescued, mut dead) = (0, 0);
        for job in self.jobs.values_mut().filter(|job| job.held.is_some_and(|held| held.expired(now))) {
            job.last_error = Some("the lease ran out".into());
            if job.attempt >= job.new.max_attempts && !job.cancelled {
                job.end(JobState::Dead, now);
                dead += 1;
            } else {
                job.wait_until(job.run_at, now);
                rescued += 1;
            }
        }
        for row in self.outbox.values_mut().filter(|row| row.held.is_some_and(|held| held.expired(now))) {
            row.held = None;
            rescued += 1;
        }
        (rescued, dead)
    }

    fn forget_keys(&mut self, now: Timestamp, most: usize) -> u64 {
        let over = |key: &Key| key.keep_until <= now && key.held.is_none_or(|held| held.expired(now));
        let over: Vec<_> =
            self.keys.iter().filter(|(_, key)| over(key)).map(|(key, _)| key.clone()).take(most).collect();
        over.iter().for_each(|key| drop(self.keys.remove(key)));
        over.len() as u64
    }
}
