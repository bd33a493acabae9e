//! The Store under test beside the plain one, and what is compared.

use std::{collections::BTreeMap, time::Duration};

use selvedge_core::{
    AnyStore, Commit, ErrorKind, Result, Store, Timestamp,
    idempotency::{Claim, ClaimRequest, Fingerprint, IdempotencyKey, Ticket},
    store::{
        Ask, IntentFilter, JobFilter, JobId, JobState, JobView, Lease, LeaseRequest, Maintain, Outcome, Query,
        QueueStats, Receipt, RelayRequest, Retention, Rows, StoreExt, Take, TokenBucket,
    },
};

use super::{
    step::{Act, Step},
    translate::{can, queue, topic},
};
use crate::{
    MemoryStore,
    store::Bed,
    suite::{Checked, same},
};

/// Both Stores, and which number of the one is which of the other: the tested one's comes first.
pub(super) struct Twins {
    bed: Bed,
    plain: AnyStore,
    pub(super) jobs: Vec<(JobId, JobId)>,
    pub(super) leases: Vec<(Lease, Lease)>,
    pub(super) tickets: Vec<(Ticket, Ticket)>,
    cursors: BTreeMap<(String, i64), i64>,
    /// Makes every payload another.
    pub(super) count: u64,
    /// Time passed since the last tick of housekeeping, so leases may have run out.
    moved: bool,
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn kinds<T>(result: Result<T>) -> Result<T, ErrorKind> {
    result.map_err(|error| error.kind())
}

/// The reason of a rescue is worded by the Store.
fn worded(reason: &mut Option<String>) {
    if let Some(text) = reason.as_mut().filter(|text| !text.starts_with("reason")) {
        *text = "the Store's own words".into();
    }
}

impl Twins {
    pub(super) fn new(bed: Bed) -> Self {
        let plain = AnyStore::new(MemoryStore::new(bed.clock.clone()));
        Self {
            bed,
            plain,
            jobs: Vec::new(),
            leases: Vec::new(),
            tickets: Vec::new(),
            cursors: BTreeMap::new(),
            count: 0,
            moved: false,
        }
    }

    pub(super) async fn step(&mut self, step: &Step) -> Checked {
        let has = self.bed.can.clone();
        match step.clone() {
            Step::Commit(acts) => self.commit(&acts).await?,
            Step::Lease { queues, limit, hold } if has.jobs => {
                let queues = queues.into_iter().map(queue).collect();
                self.lease(LeaseRequest { queues, ..LeaseRequest::new("", limit).hold(seconds(hold)).owner("me") })
                    .await?;
            }
            Step::Relay { topics, limit, hold, eager } if has.outbox => {
                let topics = topics.into_iter().map(topic).collect();
                self.relay(RelayRequest { topics, eager, ..RelayRequest::new(limit).hold(seconds(hold)) }).await?;
            }
            Step::Claim { key, payload, hold, retention } if has.idempotency => {
                let key = IdempotencyKey::new("scope", format!("key{key}"))?;
                let request = ClaimRequest::new(key, Fingerprint::of("op", &[payload]));
                self.claim(request.hold(seconds(hold)).retention(seconds(retention))).await?;
            }
            Step::Take { bucket, capacity, amount } if has.quotas => {
                self.take(bucket, capacity, Ask::Spend(amount)).await?;
            }
            Step::SettleTake { bucket, capacity, by } if has.quotas => {
                self.take(bucket, capacity, Ask::Settle(by)).await?;
            }
            Step::Pass(time) => {
                self.bed.pass(seconds(time))?;
                self.moved |= time > 0;
            }
            Step::Maintain { keep } => {
                let keep = seconds(keep);
                self.maintain(Retention { dead: keep, messages: keep, intents: keep }).await?;
            }
            Step::Crash if has.durable => self.bed.crash().await?,
            _ => (),
        }
        self.look().await
    }

    fn tested(&self) -> anyhow::Result<AnyStore> {
        self.bed.store()
    }

    async fn take(&self, bucket: u8, capacity: u64, ask: Ask) -> Checked {
        let rule = TokenBucket { capacity, refill: 1, per: seconds(7) };
        let request = Take { bucket: format!("bucket{bucket}"), rule, ask };
        let tested = self.tested()?.take(&self.bed.cx, request.clone()).await;
        same!(kinds(tested), kinds(self.plain.take(&self.bed.cx, request).await));
        Ok(())
    }

    /// The plain Store's number of a job; one that nobody knows for one that is not known.
    fn plain_id(&self, tested: JobId) -> JobId {
        self.jobs.iter().find(|(known, _)| *known == tested).map_or(JobId(-1), |(_, plain)| *plain)
    }

    fn plain_lease(&self, tested: Lease) -> Option<Lease> {
        self.leases.iter().rev().find(|(known, _)| *known == tested).map(|(_, plain)| *plain)
    }

    async fn commit(&mut self, acts: &[Act]) -> Checked {
        let acts: Vec<_> = acts.iter().filter(|act| can(act, &self.bed.can)).collect();
        // What these do depends on whether a lease that ran out was noticed.
        let asks = |act: &&&Act| matches!(act, Act::Cancel(_) | Act::Revive(_) | Act::Enqueue { unique: Some(_), .. });
        if acts.iter().any(|act| asks(&act)) {
            self.notice().await?;
        }
        let (mut tested, mut plain) = (Commit::new(), Commit::new());
        for act in acts {
            if let Some((for_tested, for_plain)) = self.ops(act)? {
                (tested, plain) = (tested.op(for_tested), plain.op(for_plain));
            }
        }
        let topics: Vec<_> = tested.ops().iter().map(published_to).collect();
        let tested = self.tested()?.commit(&self.bed.cx, tested).await;
        let plain = self.plain.commit(&self.bed.cx, plain).await;
        match (tested, plain) {
            (Ok(tested), Ok(plain)) => self.receipts(tested, plain, &topics),
            (tested, plain) => {
                same!(kinds(tested.map(drop)), kinds(plain.map(drop)), "what the commit came to");
                Ok(())
            }
        }
    }

    fn receipts(&mut self, tested: Receipt, plain: Receipt, topics: &[Option<String>]) -> Checked {
        same!(tested.outcomes.len(), plain.outcomes.len(), "how many outcomes");
        for ((mut tested, mut plain), topic) in tested.outcomes.into_iter().zip(plain.outcomes).zip(topics) {
            match (&mut tested, &plain) {
                (Outcome::Enqueued(tested), Outcome::Enqueued(plain)) => {
                    for (tested, plain) in tested.iter_mut().zip(plain) {
                        if !tested.duplicate && !plain.duplicate {
                            self.jobs.push((tested.id, plain.id));
                        }
                        tested.id = self.plain_id(tested.id);
                    }
                }
                (Outcome::Completed { lost }, Outcome::Completed { .. }) => {
                    *lost = lost.iter().map(|lease| self.plain_lease(*lease).unwrap_or(*lease)).collect();
                    lost.sort_unstable_by_key(|lease| lease.id);
                }
                (Outcome::Published { cursor }, Outcome::Published { cursor: plain }) => {
                    let topic = topic.clone().unwrap_or_default();
                    let last = self.cursors.range((topic.clone(), i64::MIN)..=(topic.clone(), i64::MAX)).last();
                    anyhow::ensure!(last.is_none_or(|((_, last), _)| last < cursor), "cursor {cursor} is no larger");
                    self.cursors.insert((topic, *cursor), *plain);
                    *cursor = *plain;
                }
                _ => (),
            }
            // In which order lost leases are listed is left open.
            if let Outcome::Completed { lost } = &mut plain {
                lost.sort_unstable_by_key(|lease| lease.id);
            }
            same!(tested, plain, "an outcome");
        }
        Ok(())
    }

    async fn lease(&mut self, request: LeaseRequest) -> Checked {
        self.notice().await?;
        let tested = self.tested()?.lease(&self.bed.cx, request.clone()).await?;
        let plain = self.plain.lease(&self.bed.cx, request).await?;
        let mut mapped = tested.clone();
        for (number, job) in mapped.iter_mut().enumerate() {
            job.id = self.plain_id(job.id);
            if let Some(plain) = plain.get(number) {
                self.leases.push((job.lease, plain.lease));
                job.lease = plain.lease;
            }
        }
        same!(mapped, plain, "the jobs leased");
        Ok(())
    }

    async fn relay(&mut self, request: RelayRequest) -> Checked {
        self.notice().await?;
        let mut tested = self.tested()?.relay(&self.bed.cx, request.clone()).await?;
        let mut plain = self.plain.relay(&self.bed.cx, request).await?;
        // There is no order between aggregates, and each gives one event at the most.
        tested.sort_by_key(|event| event.event.id);
        plain.sort_by_key(|event| event.event.id);
        let mut mapped = tested.clone();
        for (event, plain) in mapped.iter_mut().zip(&plain) {
            self.leases.push((event.lease, plain.lease));
            event.lease = plain.lease;
        }
        same!(mapped, plain, "the events leased");
        Ok(())
    }

    async fn claim(&mut self, request: ClaimRequest) -> Checked {
        let mut tested = self.tested()?.claim(&self.bed.cx, request.clone()).await;
        let plain = self.plain.claim(&self.bed.cx, request).await;
        if let (Ok(Claim::Fresh(tested)), Ok(Claim::Fresh(plain))) = (&mut tested, &plain) {
            self.tickets.push((tested.clone(), plain.clone()));
            tested.token = plain.token;
        }
        same!(kinds(tested), kinds(plain), "the claim");
        Ok(())
    }

    /// Lets both Stores notice at one moment what ran out: which queues a lease looks at besides its own is left open.
    async fn notice(&mut self) -> Checked {
        if self.moved { self.maintain(Retention::default()).await } else { Ok(()) }
    }

    async fn maintain(&mut self, retention: Retention) -> Checked {
        let request = Maintain { retention, batch: 1000 };
        let mut tested = self.tested()?.maintain(&self.bed.cx, request).await?;
        let mut plain = self.plain.maintain(&self.bed.cx, request).await?;
        // `claim` may drop old keys too, so only what is left of them counts.
        (tested.keys, plain.keys) = (0, 0);
        same!(tested, plain, "what housekeeping did");
        self.moved = false;
        self.find_fired().await
    }

    /// Learns the numbers of jobs that schedules added.
    async fn find_fired(&mut self) -> Checked {
        if !self.bed.can.jobs {
            return Ok(());
        }
        let new = |after| JobFilter { after, limit: 1000, ..JobFilter::default() };
        let last_tested = self.jobs.iter().map(|(tested, _)| *tested).max();
        let last_plain = self.jobs.iter().map(|(_, plain)| *plain).max();
        let tested = self.tested()?.jobs(&self.bed.cx, new(last_tested)).await?.items;
        let plain = self.plain.jobs(&self.bed.cx, new(last_plain)).await?.items;
        let by_payload = |mut jobs: Vec<JobView>| {
            jobs.sort_by(|one, two| one.payload.cmp(&two.payload));
            jobs.into_iter().map(|job| (job.payload, job.id)).collect::<Vec<_>>()
        };
        let (tested, plain) = (by_payload(tested), by_payload(plain));
        let payloads = |jobs: &[(bytes::Bytes, JobId)]| jobs.iter().map(|(text, _)| text.clone()).collect::<Vec<_>>();
        same!(payloads(&tested), payloads(&plain), "the jobs that schedules added");
        self.jobs.extend(tested.into_iter().zip(plain).map(|((_, tested), (_, plain))| (tested, plain)));
        self.jobs.sort_unstable_by_key(|(tested, _)| *tested);
        Ok(())
    }

    /// Compares everything that can be read.
    async fn look(&self) -> Checked {
        let has = &self.bed.can;
        let mut queries = Vec::new();
        if has.jobs {
            queries.push(Query::Schedules);
            if !self.moved {
                queries.push(Query::Queues);
                queries.push(Query::Jobs(JobFilter { limit: 1000, ..JobFilter::default() }));
            }
        }
        if has.outbox {
            queries.push(Query::Intents(IntentFilter { limit: 1000, ..IntentFilter::default() }));
            queries.push(Query::Outbox { dead: false, after: None, limit: 1000 });
            queries.push(Query::Outbox { dead: true, after: None, limit: 1000 });
        }
        if has.topics {
            queries.extend([0, 1].map(|n| Query::Messages { topic: topic(n), after: 0, limit: 1000 }));
        }
        if has.facts {
            queries.push(Query::Facts { name: None, after: 0, limit: 1000 });
            let of = |n| Query::Assignment { subject: format!("subject{n}"), experiment: "experiment".into() };
            queries.extend([0, 1].map(of));
            queries.push(Query::Assignments { subjects: [1, 0].map(|n| format!("subject{n}")).to_vec() });
        }
        for query in queries {
            let tested = self.tested()?.read(&self.bed.cx, query.clone()).await.map(|rows| self.mapped(&query, rows));
            let plain = self.plain.read(&self.bed.cx, query.clone()).await.map(|rows| ordered(numbered(rows)));
            same!(kinds(tested), kinds(plain), "{query:?}");
        }
        Ok(())
    }

    /// The tested Store's rows with the plain one's numbers.
    fn mapped(&self, query: &Query, rows: Rows) -> Rows {
        let mut rows = numbered(rows);
        match (&mut rows, query) {
            (Rows::Jobs(page), _) => page.items.iter_mut().for_each(|job| job.id = self.plain_id(job.id)),
            (Rows::Messages(page), Query::Messages { topic, .. }) => {
                for message in &mut page.items {
                    message.cursor = self.cursors.get(&(topic.clone(), message.cursor)).copied().unwrap_or(-1);
                }
            }
            _ => (),
        }
        ordered(rows)
    }
}

fn published_to(op: &selvedge_core::store::Op) -> Option<String> {
    match op {
        selvedge_core::store::Op::Publish { topic, .. } => Some(topic.clone()),
        _ => None,
    }
}

/// Rows with places in the list instead of numbers, and without what each Store words itself.
fn numbered(mut rows: Rows) -> Rows {
    match &mut rows {
        Rows::Jobs(page) => {
            for job in &mut page.items {
                worded(&mut job.last_error);
                // When a job that is over would have run says nothing.
                if matches!(job.state, JobState::Dead | JobState::Cancelled) {
                    job.run_at = Timestamp::default();
                }
            }
        }
        Rows::Outbox(page) => {
            for (place, view) in (0..).zip(&mut page.items) {
                view.number = place;
                worded(&mut view.last_error);
            }
        }
        Rows::Intents(page) => {
            page.items.iter_mut().for_each(|view| worded(&mut view.last_error));
        }
        // A queue without live or dead jobs may be listed or not.
        Rows::Queues(all) => all.retain(|stats| stats.ready + stats.scheduled + stats.running + stats.dead > 0),
        _ => (),
    }
    rows
}

fn ordered(mut rows: Rows) -> Rows {
    match &mut rows {
        Rows::Jobs(page) => page.items.sort_by_key(|job| job.id),
        Rows::Queues(all) => {
            all.sort_by(|one: &QueueStats, two| (&one.queue, &one.tenant).cmp(&(&two.queue, &two.tenant)));
        }
        _ => (),
    }
    rows
}
