//! Orders over a Store whose calls fail before and after their effect: none is lost, none is charged twice.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use selvedge::{
    Commit, Context, Error, ErrorKind, Intent, Layer, Result, Store, TokioClock,
    idempotency::{Answer, Claim, ClaimRequest, IdempotencyKey},
    layers::Retry,
    sqlite::{Durability, SqliteStore},
    store::{Backoff, Fact, JobFilter, LeaseRequest, LeasedEvent, LeasedJob, NewJob, RelayRequest, StoreExt},
};
use selvedge_core::AnyStore;
use selvedge_testkit::Chaos;

const ORDERS: usize = 60;
/// What a worker took and did not hear of comes free after this time.
const HOLD: Duration = Duration::from_millis(60);

/// An answer that was lost is no reason to stop: the item comes again.
fn lost_or<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(error) if matches!(error.kind(), ErrorKind::LeaseLost | ErrorKind::Unavailable) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The server's gate: one key, one effect. `None` means that the event must come again.
async fn receive(store: &AnyStore, cx: &Context, order: &Intent) -> Result<Option<Answer>> {
    let key = IdempotencyKey::new("phone/orders.create", order.key())?;
    let claim = store.claim(cx, ClaimRequest::new(key, order.fingerprint()).hold(HOLD)).await;
    match lost_or(claim)? {
        Some(Claim::Fresh(ticket)) => {
            // Neither the fact nor the job has an id of its own: the ticket alone keeps them from being written twice.
            let accepted = Fact::new("accepted", order.key(), "{}");
            let answer = Answer::json(202, "{}");
            let commit = Commit::new().record(accepted).enqueue([NewJob::new("charges", order.key())]);
            Ok(lost_or(store.commit(cx, commit.settle(ticket, answer.clone())).await)?.map(|_| answer))
        }
        Some(Claim::Done(answer)) => Ok(Some(answer)),
        Some(Claim::InFlight { .. }) | None => Ok(None),
        Some(Claim::Mismatch) => Err(Error::new(ErrorKind::Conflict, "test.receive", "one key, two payloads")),
    }
}

async fn deliver(store: &AnyStore, cx: &Context, event: LeasedEvent) -> Result<()> {
    let intent = store.intent(cx, event.event.id).await;
    let Some(Some(view)) = lost_or(intent)? else { return Ok(()) };
    let commit = match receive(store, cx, &view.intent).await? {
        Some(answer) => Commit::new().answer(view.intent.id, answer).complete(event.lease),
        None => Commit::new().fail(event.lease, "no answer", selvedge::store::Retry::After(HOLD / 4)),
    };
    lost_or(store.commit(cx, commit).await).map(drop)
}

async fn charge(store: &AnyStore, cx: &Context, job: LeasedJob) -> Result<()> {
    let charged = Fact::new("charged", String::from_utf8_lossy(&job.payload), "{}");
    lost_or(store.commit(cx, Commit::new().record(charged).complete(job.lease)).await).map(drop)
}

async fn work(store: AnyStore, ends: Instant) -> Result<()> {
    let cx = Context::new();
    while Instant::now() < ends {
        let events = lost_or(store.relay(&cx, RelayRequest::new(4).hold(HOLD)).await)?.unwrap_or_default();
        let jobs = lost_or(store.lease(&cx, LeaseRequest::new("charges", 4).hold(HOLD)).await)?.unwrap_or_default();
        let idle = events.is_empty() && jobs.is_empty();
        for event in events {
            deliver(&store, &cx, event).await?;
        }
        for job in jobs {
            charge(&store, &cx, job).await?;
        }
        if idle && is_done(&store, &cx).await? {
            return Ok(());
        }
    }
    Err(Error::deadline("test.work"))
}

async fn is_done(store: &AnyStore, cx: &Context) -> Result<bool> {
    let outbox = lost_or(store.outbox(cx, false, None, 1).await)?;
    let jobs = lost_or(store.jobs(cx, JobFilter { limit: 1, ..JobFilter::default() }).await)?;
    Ok(outbox.is_some_and(|page| page.items.is_empty()) && jobs.is_some_and(|page| page.items.is_empty()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_are_charged_once_although_answers_are_lost() {
    let folder = tempfile::tempdir().unwrap();
    let file = SqliteStore::builder(folder.path().join("chaos.db")).durability(Durability::Fast).open().unwrap();
    let chaos = Chaos::new(11).before(0.15).after(0.1);
    let instant = Duration::from_micros(100);
    let retry = Retry::new(4, Backoff::new(instant, instant), Arc::new(TokioClock));
    let store = retry.store(chaos.store(AnyStore::new(file.clone())));
    let (cx, ends) = (Context::new(), Instant::now() + Duration::from_secs(60));

    let workers: Vec<_> = (0..3).map(|_| tokio::spawn(work(store.clone(), ends))).collect();
    let orders: Vec<_> = (0..ORDERS)
        .map(|n| Intent::new("orders.create", format!("{{\"n\":{n}}}")).aggregate(format!("cart/{}", n % 7)))
        .collect();
    for order in &orders {
        // The app says it again until it is heard: an intent has one id, however often it is submitted.
        while lost_or(store.commit(&cx, Commit::new().submit(order.clone()).emit(order.event())).await)
            .unwrap()
            .is_none()
        {
            assert!(Instant::now() < ends, "the order was never accepted");
        }
    }
    for worker in workers {
        worker.await.unwrap().expect("the worker comes to its end");
    }
    // A worker may have seen nothing to do before the last order was in.
    work(store.clone(), ends).await.expect("what was left is done");

    let (before, after) = chaos.faults();
    assert!(before > 20 && after > 20, "{before} faults before an effect and {after} after it prove little");
    for name in ["accepted", "charged"] {
        let facts = file.facts(&cx, Some(name), 0, 1000).await.unwrap().items;
        let mut times = BTreeMap::<_, usize>::new();
        facts.into_iter().for_each(|view| *times.entry(view.fact.subject).or_default() += 1);
        let expected: BTreeMap<_, _> = orders.iter().map(|order| (order.key(), 1)).collect();
        assert_eq!(times, expected, "how often each order was {name}");
    }
    for order in &orders {
        let view = file.intent(&cx, order.id).await.unwrap().expect("the intent is kept");
        assert_eq!(view.answer.map(|answer| answer.status), Some(202), "the answer to {}", order.key());
    }
}
