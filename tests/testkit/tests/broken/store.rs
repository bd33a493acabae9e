//! Stores that break one rule each.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::StreamExt;
use selvedge_core::{
    AnyStore, Commit, Context, Error, Result, Store, Timestamp,
    idempotency::{Claim, ClaimRequest, Fingerprint, Ticket},
    store::{
        Ask, LeaseRequest, LeasedEvent, LeasedJob, Limits, Maintain, Maintained, NewJob, Notice, Op, Outcome, Query,
        Receipt, RelayRequest, Retry, Rows, StoreCapabilities, Subscription, Take, Taken, Watch,
    },
};
use selvedge_testkit::{ManualClock, MemoryStore, StoreHome, store_suite};

use super::finds;

/// What is wrong with the Store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    DoubleLease,
    ForgottenToken,
    NotAtomic,
    LostOrder,
    KeyClaimedTwice,
    ForgottenRescue,
    UniqueIgnored,
    CheckpointLost,
    NeverIsRetried,
    DenialTakes,
    LostOnCrash,
    LagUntold,
    PageGap,
    PretendsNoQuotas,
    PayloadNotCompared,
    TenantLimitIgnored,
    PauseIgnored,
    EventIdChanges,
    LateContextAccepted,
    FactsDoubled,
    CronForgotten,
    DebtForgiven,
    ForgottenBatch,
    ForgottenRelease,
    ForgottenExtension,
    ForgottenCancel,
    ForgottenRevival,
    ForgottenResume,
    ForgottenUnschedule,
    ForgottenEventRevival,
    ForgottenDrop,
    ForgottenIntent,
    ForgottenAnswer,
    ForgottenSettling,
    ForgottenPoint,
    ForgottenAbandoning,
    ForgottenAssignment,
    MessageEmptied,
    TurnsIgnored,
}

const FLAWS: [Flaw; 39] = [
    Flaw::DoubleLease,
    Flaw::ForgottenToken,
    Flaw::NotAtomic,
    Flaw::LostOrder,
    Flaw::KeyClaimedTwice,
    Flaw::ForgottenRescue,
    Flaw::UniqueIgnored,
    Flaw::CheckpointLost,
    Flaw::NeverIsRetried,
    Flaw::DenialTakes,
    Flaw::LostOnCrash,
    Flaw::LagUntold,
    Flaw::PageGap,
    Flaw::PretendsNoQuotas,
    Flaw::PayloadNotCompared,
    Flaw::TenantLimitIgnored,
    Flaw::PauseIgnored,
    Flaw::EventIdChanges,
    Flaw::LateContextAccepted,
    Flaw::FactsDoubled,
    Flaw::CronForgotten,
    Flaw::DebtForgiven,
    Flaw::ForgottenBatch,
    Flaw::ForgottenRelease,
    Flaw::ForgottenExtension,
    Flaw::ForgottenCancel,
    Flaw::ForgottenRevival,
    Flaw::ForgottenResume,
    Flaw::ForgottenUnschedule,
    Flaw::ForgottenEventRevival,
    Flaw::ForgottenDrop,
    Flaw::ForgottenIntent,
    Flaw::ForgottenAnswer,
    Flaw::ForgottenSettling,
    Flaw::ForgottenPoint,
    Flaw::ForgottenAbandoning,
    Flaw::ForgottenAssignment,
    Flaw::MessageEmptied,
    Flaw::TurnsIgnored,
];

struct Home<const FLAW: usize> {
    inner: MemoryStore,
    clock: Arc<ManualClock>,
    leased: Arc<Mutex<Leased>>,
}

/// What was leased last: the tokens by number, and the jobs.
#[derive(Debug, Default)]
struct Leased {
    tokens: BTreeMap<i64, i64>,
    jobs: Vec<LeasedJob>,
}

impl<const FLAW: usize> StoreHome for Home<FLAW> {
    fn new(clock: Arc<ManualClock>) -> Result<Self> {
        Ok(Self { inner: MemoryStore::new(clock.clone()), clock, leased: Arc::default() })
    }

    async fn open(&self) -> Result<AnyStore> {
        let flaw = FLAWS[FLAW];
        let lost = flaw == Flaw::LostOnCrash;
        let inner = if lost { MemoryStore::new(self.clock.clone()) } else { self.inner.reopen() };
        Ok(AnyStore::new(Broken { inner, flaw, leased: self.leased.clone() }))
    }
}

#[derive(Debug)]
struct Broken {
    inner: MemoryStore,
    flaw: Flaw,
    leased: Arc<Mutex<Leased>>,
}

impl Broken {
    fn break_op(&self, op: Op) -> Op {
        let current = |mut lease: selvedge_core::store::Lease| {
            lease.token = self.leased.lock().unwrap().tokens.get(&lease.id).copied().unwrap_or(lease.token);
            lease
        };
        match (self.flaw, op) {
            (Flaw::ForgottenToken, Op::Complete(lease)) => Op::Complete(current(lease)),
            (Flaw::ForgottenToken, Op::Fail { lease, reason, retry }) => {
                Op::Fail { lease: current(lease), reason, retry }
            }
            (Flaw::UniqueIgnored, Op::Enqueue(jobs)) => {
                Op::Enqueue(jobs.into_iter().map(|job| NewJob { unique: None, ..job }).collect())
            }
            (Flaw::NeverIsRetried, Op::Fail { lease, reason, retry: Retry::Never }) => {
                Op::Fail { lease, reason, retry: Retry::After(Duration::ZERO) }
            }
            (Flaw::TenantLimitIgnored, Op::Limit { queue, limits }) => {
                Op::Limit { queue, limits: Limits { tenant: None, ..limits } }
            }
            (Flaw::PauseIgnored, Op::Pause(queue)) => Op::Resume(queue),
            (Flaw::FactsDoubled, Op::Record(mut fact)) => {
                fact.id = uuid::Uuid::new_v4();
                Op::Record(fact)
            }
            (Flaw::LostOrder, Op::Emit(mut event)) => {
                event.aggregate = format!("{}/{}", event.aggregate, event.id);
                Op::Emit(event)
            }
            (Flaw::MessageEmptied, Op::Publish { topic, .. }) => Op::Publish { topic, payload: Default::default() },
            (_, op) => op,
        }
    }

    /// What is said of an operation that is not done.
    fn forgotten(&self, op: &Op) -> Option<Outcome> {
        Some(match (self.flaw, op) {
            (Flaw::ForgottenBatch, Op::CompleteMany(_)) => Outcome::Completed { lost: Vec::new() },
            (Flaw::ForgottenExtension, Op::Extend { hold, .. }) => {
                Outcome::Extended { until: Timestamp::now() + *hold, cancelled: false }
            }
            (Flaw::ForgottenCancel, Op::Cancel(_)) => Outcome::Cancelled { at_once: true },
            (Flaw::ForgottenRevival, Op::Revive(_)) | (Flaw::ForgottenEventRevival, Op::ReviveEvent(_)) => {
                Outcome::Revived(true)
            }
            (Flaw::ForgottenDrop, Op::DropEvent(_)) => Outcome::Dropped(true),
            (Flaw::ForgottenIntent, Op::Submit(_)) => Outcome::Submitted { duplicate: false },
            (Flaw::ForgottenAssignment, Op::Assign(assignment)) => Outcome::Assigned(assignment.clone()),
            (Flaw::ForgottenRelease, Op::Release { .. })
            | (Flaw::ForgottenResume, Op::Resume(_))
            | (Flaw::ForgottenUnschedule, Op::Unschedule(_))
            | (Flaw::ForgottenAnswer, Op::Answer { .. })
            | (Flaw::ForgottenSettling, Op::Settle { .. })
            | (Flaw::ForgottenPoint, Op::Advance { .. })
            | (Flaw::ForgottenAbandoning, Op::Abandon(_)) => Outcome::Done,
            _ => return None,
        })
    }

    fn mend(&self, mut event: LeasedEvent) -> LeasedEvent {
        if self.flaw == Flaw::LostOrder {
            event.event.aggregate = aggregate(&event.event);
        }
        if self.flaw == Flaw::EventIdChanges && event.attempt > 1 {
            event.event.id = uuid::Uuid::new_v4();
        }
        event
    }
}

fn aggregate(event: &selvedge_core::store::Event) -> String {
    let suffix = format!("/{}", event.id);
    event.aggregate.strip_suffix(&suffix).unwrap_or(&event.aggregate).to_owned()
}

impl Store for Broken {
    fn capabilities(&self) -> StoreCapabilities {
        let can = self.inner.capabilities();
        StoreCapabilities { quotas: self.flaw != Flaw::PretendsNoQuotas, ..can }
    }

    async fn commit(&self, cx: &Context, commit: Commit) -> Result<Receipt> {
        let late = Context::new();
        let cx = if self.flaw == Flaw::LateContextAccepted { &late } else { cx };
        commit.check()?;
        let forgotten: Vec<_> = commit.ops().iter().map(|op| self.forgotten(op)).collect();
        let done = commit.into_ops().into_iter().zip(&forgotten).filter(|(_, forgotten)| forgotten.is_none());
        let ops: Vec<_> = done.map(|(op, _)| self.break_op(op)).collect();
        if self.flaw != Flaw::NotAtomic {
            let receipt = self.inner.commit(cx, ops.into_iter().fold(Commit::new(), Commit::op)).await?;
            let mut done = receipt.outcomes.into_iter();
            let outcomes = forgotten.into_iter().filter_map(|forgotten| forgotten.or_else(|| done.next())).collect();
            return Ok(Receipt { outcomes });
        }
        let mut outcomes = Vec::<Outcome>::new();
        for op in ops {
            outcomes.extend(self.inner.commit(cx, Commit::new().op(op)).await?.outcomes);
        }
        Ok(Receipt { outcomes })
    }

    async fn lease(&self, cx: &Context, mut request: LeaseRequest) -> Result<Vec<LeasedJob>> {
        if self.flaw == Flaw::ForgottenRescue {
            request.hold = Duration::from_secs(1_000_000_000);
        }
        let (limit, queues) = (request.limit, request.queues.clone());
        let mut jobs = self.inner.lease(cx, request).await?;
        let mut leased = self.leased.lock().unwrap();
        if self.flaw == Flaw::DoubleLease && jobs.is_empty() {
            jobs = leased.jobs.iter().filter(|job| queues.contains(&job.queue)).take(limit).cloned().collect();
        }
        if self.flaw == Flaw::TurnsIgnored {
            jobs.sort_by_key(|job| (job.priority, job.enqueued_at, job.id));
        }
        for job in &mut jobs {
            leased.tokens.insert(job.lease.id, job.lease.token);
            if self.flaw == Flaw::CheckpointLost {
                job.checkpoint = None;
            }
        }
        // The same jobs are handed out twice, not for ever.
        leased.jobs = if leased.jobs == jobs { Vec::new() } else { jobs.clone() };
        Ok(jobs)
    }

    async fn relay(&self, cx: &Context, request: RelayRequest) -> Result<Vec<LeasedEvent>> {
        let events = self.inner.relay(cx, request).await?;
        Ok(events.into_iter().map(|event| self.mend(event)).collect())
    }

    async fn claim(&self, cx: &Context, mut request: ClaimRequest) -> Result<Claim> {
        if self.flaw == Flaw::PayloadNotCompared {
            request.fingerprint = Fingerprint([0; 32]);
        }
        let key = request.key.clone();
        Ok(match self.inner.claim(cx, request).await? {
            Claim::InFlight { .. } if self.flaw == Flaw::KeyClaimedTwice => {
                Claim::Fresh(Ticket { key, token: 1, attempt: 1, point: None })
            }
            claim => claim,
        })
    }

    async fn take(&self, cx: &Context, request: Take) -> Result<Taken> {
        // A debt is forgiven: what was used beyond the estimate is charged only as far as there is something left.
        if let (Flaw::DebtForgiven, Ask::Settle(beyond @ 1..)) = (self.flaw, request.ask) {
            let Taken::Granted { remaining } =
                self.inner.take(cx, Take { ask: Ask::Settle(0), ..request.clone() }).await?
            else {
                return Ok(Taken::Never);
            };
            let beyond = beyond.min(i64::try_from(remaining).unwrap_or(i64::MAX));
            return self.inner.take(cx, Take { ask: Ask::Settle(beyond), ..request }).await;
        }
        let taken = self.inner.take(cx, request.clone()).await?;
        if let (Flaw::DenialTakes, Taken::Denied { .. }) = (self.flaw, taken) {
            self.inner.take(cx, Take { ask: Ask::Spend(1), ..request }).await?;
        }
        Ok(taken)
    }

    async fn read(&self, cx: &Context, query: Query) -> Result<Rows> {
        let mut rows = self.inner.read(cx, query).await?;
        match &mut rows {
            Rows::Jobs(page) if self.flaw == Flaw::PageGap => page.next = page.next.map(|next| next + 1),
            Rows::Outbox(page) if self.flaw == Flaw::LostOrder => {
                page.items.iter_mut().for_each(|view| view.event.aggregate = aggregate(&view.event));
            }
            _ => (),
        }
        Ok(rows)
    }

    async fn watch(&self, cx: &Context, request: Watch) -> Result<Subscription> {
        let subscription = self.inner.watch(cx, request).await?;
        if self.flaw != Flaw::LagUntold {
            return Ok(subscription);
        }
        let told = |notice: &Result<Notice, Error>| !matches!(notice, Ok(Notice::Lagged(_)));
        Ok(Subscription::new(subscription.filter(move |notice| std::future::ready(told(notice)))))
    }

    async fn maintain(&self, cx: &Context, request: Maintain) -> Result<Maintained> {
        if self.flaw != Flaw::CronForgotten {
            return self.inner.maintain(cx, request).await;
        }
        let schedules = match self.inner.read(cx, Query::Schedules).await? {
            Rows::Schedules(all) => all,
            _ => Vec::new(),
        };
        let removed = schedules.iter().fold(Commit::new(), |commit, (cron, _)| commit.unschedule(cron.name.clone()));
        self.inner.commit(cx, removed).await?;
        let done = self.inner.maintain(cx, request).await?;
        let again = schedules.into_iter().fold(Commit::new(), |commit, (cron, _)| commit.schedule(cron));
        self.inner.commit(cx, again).await?;
        Ok(done)
    }
}

macro_rules! mutants {
    ($($name:ident: $flaw:ident, $case:literal, [$($reach:literal),*];)*) => {
        $(#[test]
        fn $name() {
            // Random programs have a test of their own.
            let report = store_suite::<Home<{ Flaw::$flaw as usize }>>().without("store::model").report();
            finds(&report, concat!("store::", $case), &[$(concat!("store::", $reach)),*]);
        })*
    };
}

mutants! {
    a_double_lease_is_found: DoubleLease, "lease::a_second_worker_gets_none_of_them",
        ["lease", "job", "atomic", "outbox", "read"];
    a_forgotten_token_is_found: ForgottenToken, "lease::a_lost_lease_can_do_nothing", ["lease", "job", "outbox"];
    a_commit_in_parts_is_found: NotAtomic, "atomic::a_bad_operation_undoes_all_before_it",
        ["atomic", "lease", "job", "outbox", "intent", "idempotency", "topic"];
    a_lost_order_is_found: LostOrder, "outbox::events_of_an_aggregate_go_out_in_order",
        ["outbox", "topic", "intent", "atomic::bad_names"];
    a_key_claimed_twice_is_found: KeyClaimedTwice, "idempotency::a_held_key_is_in_flight", ["idempotency"];
    a_forgotten_rescue_is_found: ForgottenRescue, "lease::maintain_rescues_expired_leases", ["lease", "job"];
    an_ignored_unique_key_is_found: UniqueIgnored, "job::a_unique_key_holds_in_one_batch_and_across", ["job", "atomic"];
    a_lost_checkpoint_is_found: CheckpointLost, "job::a_checkpoint_survives_a_failed_attempt", ["job"];
    a_retry_that_should_not_be_is_found: NeverIsRetried, "job::retry_never_is_dead_at_once",
        ["job", "outbox", "atomic", "read"];
    a_denial_that_takes_is_found: DenialTakes, "quota::a_denial_takes_nothing", ["quota"];
    a_debt_forgiven_is_found: DebtForgiven, "quota::what_was_used_beyond_the_estimate_is_a_debt", ["quota"];
    what_a_crash_loses_is_found: LostOnCrash, "job::jobs_survive_a_crash",
        ["job", "lease", "outbox", "intent", "idempotency", "quota", "topic", "fact"];
    a_lag_untold_is_found: LagUntold, "topic::a_slow_subscriber_is_told_what_it_missed", ["topic"];
    a_gap_between_pages_is_found: PageGap, "read::pages_of_jobs_have_no_gaps_and_no_doubles", ["read"];
    a_false_capability_is_found: PretendsNoQuotas, "read::what_it_cannot_do_is_unsupported", ["read"];
    a_payload_not_compared_is_found: PayloadNotCompared, "idempotency::another_payload_is_a_mismatch", ["idempotency"];
    an_ignored_tenant_limit_is_found: TenantLimitIgnored, "job::a_limited_tenant_does_not_starve_others", ["job"];
    an_ignored_pause_is_found: PauseIgnored, "job::a_paused_queue_leases_nothing", ["job"];
    an_event_under_another_id_is_found: EventIdChanges, "outbox::a_relay_that_crashed_after_sending_sends_again",
        ["outbox", "intent"];
    a_late_call_that_is_accepted_is_found: LateContextAccepted, "atomic::a_cancelled_or_late_call_is_refused", ["atomic"];
    a_fact_counted_twice_is_found: FactsDoubled, "fact::a_fact_counts_once", ["fact", "read", "atomic"];
    a_forgotten_schedule_is_found: CronForgotten, "job::a_cron_job_fires_once_after_downtime", ["job"];
    ignored_turns_are_found: TurnsIgnored, "job::tenants_take_turns", ["job"];
    a_batch_not_completed_is_found: ForgottenBatch, "lease::complete_many_reports_what_was_lost",
        ["lease", "job", "outbox", "atomic"];
    a_release_not_done_is_found: ForgottenRelease, "job::releasing_costs_no_attempt", ["job", "lease", "outbox", "topic", "atomic"];
    an_extension_not_done_is_found: ForgottenExtension, "lease::extending_keeps_a_lease", ["lease", "job", "outbox", "atomic"];
    a_cancel_not_done_is_found: ForgottenCancel, "job::a_waiting_job_is_cancelled_at_once",
        ["job", "topic", "read", "atomic"];
    a_revival_not_done_is_found: ForgottenRevival, "job::a_dead_letter_can_be_revived", ["job", "atomic"];
    a_queue_not_resumed_is_found: ForgottenResume, "job::a_paused_queue_leases_nothing", ["job", "atomic"];
    a_schedule_not_removed_is_found: ForgottenUnschedule, "job::a_schedule_can_be_replaced_and_removed", ["job", "atomic"];
    an_event_not_revived_is_found: ForgottenEventRevival,
        "outbox::a_dead_event_that_is_revived_goes_out_before_what_waited_behind_it", ["outbox", "atomic"];
    an_event_not_dropped_is_found: ForgottenDrop, "outbox::a_dead_event_that_is_dropped_lets_its_aggregate_go",
        ["outbox", "atomic"];
    an_intent_not_kept_is_found: ForgottenIntent, "intent::an_intent_is_kept_as_it_was_submitted",
        ["intent", "atomic", "read"];
    an_answer_not_kept_is_found: ForgottenAnswer, "intent::an_answer_is_kept", ["intent", "atomic", "read"];
    a_key_not_settled_is_found: ForgottenSettling, "idempotency::a_settled_key_answers", ["idempotency", "atomic"];
    a_point_not_kept_is_found: ForgottenPoint, "idempotency::an_expired_claim_can_be_taken_over",
        ["idempotency", "atomic"];
    a_key_not_given_back_is_found: ForgottenAbandoning, "idempotency::an_abandoned_key_is_a_new_try",
        ["idempotency", "atomic"];
    an_assignment_not_kept_is_found: ForgottenAssignment, "fact::the_first_assignment_wins", ["fact", "atomic"];
    an_emptied_message_is_found: MessageEmptied, "topic::messages_come_in_order", ["topic", "read", "atomic"];
}

#[test]
fn the_flaws_are_in_the_order_of_their_numbers() {
    for (number, flaw) in FLAWS.into_iter().enumerate() {
        assert_eq!(flaw as usize, number);
    }
}

#[test]
fn random_programs_find_flaws_by_themselves_and_say_how_to_see_them_again() {
    let report = store_suite::<Home<{ Flaw::UniqueIgnored as usize }>>().only("store::model").report();
    let [finding] = &report.failed[..] else { panic!("found {report:?}") };
    for part in ["the shortest program found", "Enqueue", "SELVEDGE_SEED="] {
        assert!(finding.why.contains(part), "{part:?} is missing in: {}", finding.why);
    }
}

/// A Store that says it can do almost nothing, and does as it says.
#[derive(Debug)]
struct Little(MemoryStore);

struct LittleHome(MemoryStore);

impl StoreHome for LittleHome {
    fn new(clock: Arc<ManualClock>) -> Result<Self> {
        Ok(Self(MemoryStore::new(clock)))
    }
    async fn open(&self) -> Result<AnyStore> {
        Ok(AnyStore::new(Little(self.0.reopen())))
    }
}

fn denied<T>(operation: &'static str) -> Result<T> {
    Err(Error::unsupported("little", operation))
}

impl Store for Little {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities {
            plugin: "memory",
            jobs: false,
            outbox: false,
            topics: false,
            idempotency: false,
            quotas: true,
            facts: false,
            cross_process: false,
            durable: false,
        }
    }
    async fn commit(&self, cx: &Context, commit: Commit) -> Result<Receipt> {
        cx.check("store.commit")?;
        commit.check()?;
        if commit.is_empty() { Ok(Receipt::default()) } else { denied("store.commit") }
    }
    async fn lease(&self, _: &Context, _: LeaseRequest) -> Result<Vec<LeasedJob>> {
        denied("store.lease")
    }
    async fn relay(&self, _: &Context, _: RelayRequest) -> Result<Vec<LeasedEvent>> {
        denied("store.relay")
    }
    async fn claim(&self, _: &Context, _: ClaimRequest) -> Result<Claim> {
        denied("store.claim")
    }
    async fn take(&self, cx: &Context, request: Take) -> Result<Taken> {
        self.0.take(cx, request).await
    }
    async fn read(&self, cx: &Context, query: Query) -> Result<Rows> {
        if query == Query::Info { self.0.read(cx, query).await } else { denied("store.read") }
    }
    async fn watch(&self, _: &Context, _: Watch) -> Result<Subscription> {
        denied("store.watch")
    }
    async fn maintain(&self, cx: &Context, request: Maintain) -> Result<Maintained> {
        self.0.maintain(cx, request).await
    }
}

#[test]
fn what_a_plugin_lacks_is_skipped_with_the_reason() {
    let report = store_suite::<LittleHome>().report();
    assert_eq!(report.failed, [], "{:#?}", report.failed);
    let why =
        |case: &str| report.skipped.iter().find(|finding| finding.name == case).map(|finding| finding.why.as_str());
    assert_eq!(why("store::lease::a_second_worker_gets_none_of_them"), Some("needs `jobs`"));
    assert_eq!(why("store::topic::messages_come_in_order"), Some("needs `topics`"));
    let passed = |case: &str| report.passed.iter().any(|name| name == case);
    assert!(passed("store::read::what_it_cannot_do_is_unsupported"), "{report:#?}");
    assert!(passed("store::quota::a_denial_takes_nothing"), "{report:#?}");
}
