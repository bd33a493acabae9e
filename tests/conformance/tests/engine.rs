//! The engine's verbs on a real Store: intents, relays, workers, layers, and what is missing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use selvedge::{
    BoxFuture, CancelToken, Clock, Commit, Context, Engine, Error, ErrorKind, Intent, Result, Scheduler, Store,
    TokioClock,
    engine::{Delivery, EventSink, JobOutcome, WorkerOptions},
    intent::IntentState,
    layers::{Metrics, Retry, Timeout},
    priority::Priority,
    scheduler::Work,
    sqlite::SqliteStore,
    store::{Backoff, Event, JobFilter, JobState, LeasedEvent, LeasedJob, Limits, NewJob, StoreExt},
    transport::{HttpRequest, HttpResponse, HttpTransport},
};

fn engine() -> (Engine, SqliteStore, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("engine.db")).unwrap();
    (selvedge::builder().store(store.clone()).build(), store, folder)
}

async fn until<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !check().await {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A server that answers by a script and remembers what it was asked.
#[derive(Debug, Default)]
struct Scripted {
    answers: Mutex<VecDeque<Result<u16>>>,
    keys: Mutex<Vec<String>>,
}

impl Scripted {
    fn new(answers: impl IntoIterator<Item = Result<u16>>) -> Self {
        Self { answers: Mutex::new(answers.into_iter().collect()), keys: Mutex::default() }
    }
}

impl HttpTransport for Scripted {
    fn send<'a>(&'a self, _: &'a Context, request: HttpRequest) -> BoxFuture<'a, Result<HttpResponse>> {
        Box::pin(async move {
            let key =
                request.headers.iter().find(|(name, _)| name == "idempotency-key").expect("every intent has a key");
            self.keys.lock().unwrap().push(key.1.clone());
            let status = self.answers.lock().unwrap().pop_front().expect("no more was sent than the script has")?;
            Ok(HttpResponse { status, headers: Vec::new(), body: "{}".into() })
        })
    }
}

fn no_network() -> Result<u16> {
    Err(Error::new(ErrorKind::Unavailable, "test", "no network"))
}

#[tokio::test]
async fn an_intent_keeps_its_key_over_all_attempts_and_then_its_answer() {
    let (engine, store, _folder) = engine();
    let cx = Context::new();
    let order = Intent::new("orders.create", r#"{"cents":500}"#);
    let submitted = engine.submit(&cx, order.clone()).await.unwrap();
    assert!(engine.submit(&cx, order).await.unwrap().duplicate);

    let server = Scripted::new([no_network(), Ok(503), Ok(401), Ok(202)]);
    for _ in 0..3 {
        let flushed = engine.flush(&cx, &server).await.unwrap();
        assert_eq!((flushed.attempts, flushed.answered, flushed.failed), (1, 0, 1), "a failure ends an eager pass");
    }
    let flushed = engine.flush(&cx, &server).await.unwrap();
    assert_eq!((flushed.attempts, flushed.answered), (1, 1));
    assert_eq!(engine.flush(&cx, &server).await.unwrap().attempts, 0);

    let keys = server.keys.lock().unwrap().clone();
    assert_eq!(keys, vec![format!("\"{}\"", submitted.key); 4]);
    let view = store.intent(&cx, submitted.id).await.unwrap().unwrap();
    assert_eq!((view.state, view.attempts), (IntentState::Done, 4));
    assert_eq!(view.answer.unwrap().status, 202);
}

#[tokio::test]
async fn a_refusal_is_an_answer() {
    let (engine, store, _folder) = engine();
    let cx = Context::new();
    let submitted = engine.submit(&cx, Intent::new("orders.create", "{}")).await.unwrap();
    engine.flush(&cx, &Scripted::new([Ok(422)])).await.unwrap();
    let view = store.intent(&cx, submitted.id).await.unwrap().unwrap();
    assert_eq!(view.state, IntentState::Refused);
}

#[tokio::test]
async fn a_payload_that_is_not_json_is_refused_before_anything_is_written() {
    let (engine, _store, _folder) = engine();
    let cx = Context::new();
    let error = engine.submit(&cx, Intent::new("orders.create", b"\xff\xfe".as_slice())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(engine.intents(&cx, Default::default()).await.unwrap().items.is_empty());
}

#[derive(Debug, Default)]
struct Collect(Mutex<Vec<String>>);

/// A sink that never answers.
#[derive(Debug)]
struct Hangs;

impl EventSink for Hangs {
    fn topics(&self) -> Vec<String> {
        Vec::new()
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(50)
    }

    fn deliver<'a>(&'a self, _: &'a Context, _: &'a LeasedEvent) -> BoxFuture<'a, Result<Delivery>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn a_delivery_that_hangs_is_a_failed_attempt() {
    let (engine, store, _folder) = engine();
    let cx = Context::new();
    store.commit(&cx, Commit::new().emit(Event::new("a", "t", "{}"))).await.unwrap();
    let report = engine.relay_once(&cx, &Hangs, true).await.unwrap();
    assert_eq!((report.attempts, report.delivered, report.failed), (1, 0, 1));
    let view = &store.outbox(&cx, false, None, 10).await.unwrap().items[0];
    assert!(view.last_error.as_deref().is_some_and(|error| error.contains("deadline")), "{view:?}");
}

impl EventSink for Collect {
    fn topics(&self) -> Vec<String> {
        Vec::new()
    }
    fn deliver<'a>(&'a self, _: &'a Context, event: &'a LeasedEvent) -> BoxFuture<'a, Result<Delivery>> {
        Box::pin(async move {
            self.0.lock().unwrap().push(String::from_utf8_lossy(&event.event.payload).into());
            Ok(Delivery::Done(Commit::new()))
        })
    }
}

#[tokio::test]
async fn a_relay_keeps_the_order_of_an_aggregate_and_ends_when_cancelled() {
    let (engine, store, _folder) = engine();
    let expected: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    let sink = Collect::default();
    let stop = CancelToken::new();
    let cx = Context::new().with_cancel(stop.clone());
    let emit = async {
        for number in &expected {
            let event = Event::new("order/1", "order", number.clone());
            store.commit(&Context::new(), Commit::new().emit(event)).await.unwrap();
        }
        until("all events arrive", || async { sink.0.lock().unwrap().len() == expected.len() }).await;
        stop.cancel();
    };
    let (report, ()) = tokio::join!(engine.relay(&cx, &sink), emit);
    assert_eq!(report.unwrap().delivered, 50);
    assert_eq!(*sink.0.lock().unwrap(), expected);
}

/// A sink that never answers for one aggregate.
#[derive(Debug, Default)]
struct HangsOnce(Collect);

impl EventSink for HangsOnce {
    fn topics(&self) -> Vec<String> {
        Vec::new()
    }
    fn deliver<'a>(&'a self, cx: &'a Context, event: &'a LeasedEvent) -> BoxFuture<'a, Result<Delivery>> {
        if event.event.aggregate == "stuck" {
            return Box::pin(async {
                cx.cancel().cancelled().await;
                Err(Error::new(ErrorKind::Cancelled, "test.deliver", "it was cancelled"))
            });
        }
        self.0.deliver(cx, event)
    }
}

#[tokio::test]
async fn a_delivery_that_hangs_holds_up_no_other_aggregate() {
    let (engine, store, _folder) = engine();
    let (sink, stop) = (HangsOnce::default(), CancelToken::new());
    let cx = Context::new().with_cancel(stop.clone());
    let arrived = async |count| {
        until("the others arrive", || async { sink.0.0.lock().unwrap().len() == count }).await;
    };
    let emit = async |aggregate: String| {
        let commit = Commit::new().emit(Event::new(aggregate, "t", "{}"));
        store.commit(&Context::new(), commit).await.unwrap();
    };
    let story = async {
        emit("stuck".into()).await;
        for number in 0..100 {
            emit(format!("order/{number}")).await;
        }
        arrived(100).await;
        // Also what comes when nothing else is in flight.
        emit("late".into()).await;
        arrived(101).await;
        stop.cancel();
    };
    let (report, ()) = tokio::join!(engine.relay(&cx, &sink), story);
    assert_eq!(
        (report.unwrap().delivered, store.outbox(&Context::new(), false, None, 10).await.unwrap().items.len()),
        (101, 1)
    );
}

/// Its hints have ended then, and asking for more of them would be a panic.
#[tokio::test]
async fn a_relay_waits_for_a_delivery_though_its_store_was_closed() {
    let (engine, store, _folder) = engine();
    let (sink, stop) = (HangsOnce::default(), CancelToken::new());
    let cx = Context::new().with_cancel(stop.clone());
    let both = Commit::new().emit(Event::new("stuck", "t", "{}")).emit(Event::new("order/1", "t", "{}"));
    store.commit(&Context::new(), both).await.unwrap();
    let story = async {
        until("the other arrives", || async { sink.0.0.lock().unwrap().len() == 1 }).await;
        store.close().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        stop.cancel();
    };
    let (report, ()) = tokio::join!(engine.relay(&cx, &sink), story);
    assert!(report.is_ok(), "it was cancelled: {report:?}");
}

type Handled = BoxFuture<'static, Result<JobOutcome>>;

/// Runs a worker with `handler` until `done` says so, then drains it.
async fn work_until<F: Future<Output = bool>>(
    engine: &Engine,
    options: &WorkerOptions,
    handler: impl Fn(Context, LeasedJob) -> Handled + Send + Sync,
    done: impl FnMut() -> F,
) {
    let stop = CancelToken::new();
    let cx = Context::new().with_cancel(stop.clone());
    let wait = async {
        until("the worker is done", done).await;
        stop.cancel();
    };
    let (worked, ()) = tokio::join!(engine.work(&cx, options, &handler), wait);
    worked.unwrap();
}

fn quick(queue: &str) -> NewJob {
    NewJob::new(queue, "").backoff(Backoff::new(Duration::from_millis(1), Duration::from_millis(2)))
}

fn options() -> WorkerOptions {
    WorkerOptions { poll: Duration::from_millis(10), ..WorkerOptions::new("q", 4) }
}

async fn in_state(store: &SqliteStore, state: JobState) -> usize {
    let filter = JobFilter { state: Some(state), ..JobFilter::default() };
    store.jobs(&Context::new(), filter).await.unwrap().items.len()
}

async fn depth(store: &SqliteStore, queue: &str) -> usize {
    let filter = JobFilter { queue: Some(queue.into()), ..JobFilter::default() };
    store.jobs(&Context::new(), filter).await.unwrap().items.len()
}

#[tokio::test]
async fn what_a_handler_returns_becomes_true_with_the_end_of_its_job() {
    let (engine, store, _folder) = engine();
    let jobs = (0..20).map(|_| quick("q"));
    store.commit(&Context::new(), Commit::new().enqueue(jobs)).await.unwrap();
    let handler = |_: Context, _: LeasedJob| -> Handled {
        Box::pin(async { Ok(JobOutcome::Done(Commit::new().enqueue([NewJob::new("next", "")]))) })
    };
    work_until(&engine, &options(), handler, || async { depth(&store, "q").await == 0 }).await;
    assert_eq!(depth(&store, "next").await, 20);
}

#[tokio::test]
async fn panics_and_errors_are_failed_attempts_and_end_as_dead_letters() {
    let (engine, store, _folder) = engine();
    let jobs = [quick("q").max_attempts(3).priority(1), quick("q").priority(2), quick("q").max_attempts(2).priority(3)];
    store.commit(&Context::new(), Commit::new().enqueue(jobs)).await.unwrap();
    let handler = |_: Context, job: LeasedJob| -> Handled {
        Box::pin(async move {
            match job.priority {
                1 => panic!("a bug in the handler"),
                2 => Err(Error::new(ErrorKind::InvalidInput, "test", "never any good")),
                _ => Err(Error::new(ErrorKind::Unavailable, "test", "the provider is away")),
            }
        })
    };
    work_until(&engine, &options(), handler, || async { in_state(&store, JobState::Dead).await == 3 }).await;
    let dead = store.jobs(&Context::new(), JobFilter::default()).await.unwrap().items;
    let attempts: Vec<_> = dead.iter().map(|job| (job.priority, job.attempt)).collect();
    assert_eq!(attempts, [(1, 3), (2, 1), (3, 2)]);
    assert!(dead[0].last_error.as_ref().unwrap().contains("a bug in the handler"));
}

#[tokio::test]
async fn a_snooze_and_a_drain_spend_no_attempt() {
    let (engine, store, _folder) = engine();
    store.commit(&Context::new(), Commit::new().enqueue([quick("q").max_attempts(1)])).await.unwrap();
    let calls = Arc::new(Mutex::new(0));
    let counted = calls.clone();
    let handler = move |_: Context, _: LeasedJob| -> Handled {
        let mut calls = counted.lock().unwrap();
        *calls += 1;
        match *calls {
            1 => Box::pin(async { Ok(JobOutcome::Snooze(Duration::from_millis(1))) }),
            _ => Box::pin(std::future::pending()),
        }
    };
    let drain = WorkerOptions { drain: Duration::from_millis(20), ..options() };
    work_until(&engine, &drain, handler, || async { *calls.lock().unwrap() == 2 }).await;
    let job = store.jobs(&Context::new(), JobFilter::default()).await.unwrap().items.remove(0);
    assert_eq!((job.state, job.attempt), (JobState::Ready, 0));
}

#[tokio::test]
async fn what_was_leased_ahead_and_not_begun_is_given_back() {
    let (engine, store, _folder) = engine();
    store.commit(&Context::new(), Commit::new().enqueue((0..10).map(|_| quick("q").max_attempts(1)))).await.unwrap();
    let ahead = WorkerOptions {
        concurrency: 2,
        prefetch: 5,
        hold: Duration::from_millis(600),
        drain: Duration::from_millis(20),
        ..options()
    };
    let begun = Arc::new(Mutex::new(0));
    let counted = begun.clone();
    let handler = move |_: Context, _: LeasedJob| -> Handled {
        *counted.lock().unwrap() += 1;
        Box::pin(std::future::pending())
    };
    // Seven are leased, two begin; after a third of the hold the five are there for others, at no cost.
    let spare = std::sync::atomic::AtomicUsize::new(0);
    work_until(&engine, &ahead, handler, || async {
        let running = in_state(&store, JobState::Running).await;
        spare.fetch_max(running, std::sync::atomic::Ordering::Relaxed);
        spare.load(std::sync::atomic::Ordering::Relaxed) == 7 && running < 7
    })
    .await;
    assert_eq!(*begun.lock().unwrap(), 2);
    let jobs = store.jobs(&Context::new(), JobFilter::default()).await.unwrap().items;
    assert!(jobs.iter().all(|job| (job.state, job.attempt) == (JobState::Ready, 0)), "{jobs:?}");
}

#[tokio::test]
async fn a_place_within_a_limit_is_taken_as_soon_as_it_is_free() {
    let (engine, store, _folder) = engine();
    let limits = Limits { queue: Some(1), tenant: None };
    let commit = Commit::new().limit("q", limits).enqueue((0..50).map(|_| quick("q")));
    store.commit(&Context::new(), commit).await.unwrap();
    let patient = WorkerOptions { poll: Duration::from_secs(600), ..options() };
    let handler = |_: Context, _: LeasedJob| -> Handled { Box::pin(async { Ok(JobOutcome::Done(Commit::new())) }) };
    work_until(&engine, &patient, handler, || async { depth(&store, "q").await == 0 }).await;
}

#[tokio::test]
async fn cancelling_a_running_job_reaches_its_handler() {
    let (engine, store, _folder) = engine();
    let job = store.enqueue(&Context::new(), quick("q")).await.unwrap();
    let handler = |cx: Context, _: LeasedJob| -> Handled {
        Box::pin(async move {
            cx.cancel().cancelled().await;
            Ok(JobOutcome::Done(Commit::new()))
        })
    };
    let short = WorkerOptions { hold: Duration::from_millis(60), ..options() };
    let (asked, cx) = (std::sync::Once::new(), Context::new());
    work_until(&engine, &short, handler, || async {
        if in_state(&store, JobState::Running).await == 1 && !asked.is_completed() {
            store.commit(&cx, Commit::new().cancel(job.id)).await.unwrap();
            asked.call_once(|| ());
        }
        asked.is_completed() && depth(&store, "q").await == 0
    })
    .await;
}

#[tokio::test]
async fn a_long_handler_keeps_its_lease_by_heartbeats() {
    let (engine, store, _folder) = engine();
    store.enqueue(&Context::new(), quick("q").max_attempts(1)).await.unwrap();
    let handler = |_: Context, _: LeasedJob| -> Handled {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(1_350)).await;
            Ok(JobOutcome::Done(Commit::new().enqueue([NewJob::new("next", "")])))
        })
    };
    let short = WorkerOptions { hold: Duration::from_millis(300), ..options() };
    work_until(&engine, &short, handler, || async {
        store.maintain(&Context::new(), Default::default()).await.unwrap();
        depth(&store, "q").await == 0
    })
    .await;
    assert_eq!(depth(&store, "next").await, 1);
    assert_eq!(in_state(&store, JobState::Dead).await, 0);
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let bare = selvedge::builder().build();
    assert_eq!(bare.store().unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(bare.store().unwrap_err().to_string().contains("EngineBuilder::store"));
    assert_eq!(bare.model(None).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(bare.model(Some("x")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(bare.scheduler().unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(bare.experiment().unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_timeout_layer_ends_a_wait_and_gives_the_place_up() {
    let scheduler = Priority::new(1, 4);
    let clock: Arc<dyn Clock> = Arc::new(TokioClock);
    let engine =
        selvedge::builder().scheduler(scheduler.clone()).layer(Timeout::new(Duration::from_millis(20), clock)).build();
    let held = scheduler.admit(&Context::new(), Work::default()).await.unwrap();
    let error = engine.scheduler().unwrap().admit(&Context::new(), Work::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert_eq!(scheduler.load().total().waiting, 0);
    drop(held);
    assert!(engine.scheduler().unwrap().admit(&Context::new(), Work::default()).await.is_ok());
}

#[tokio::test]
async fn a_retry_layer_repeats_only_what_had_no_effect() {
    let scheduler = Priority::new(1, 0);
    let metrics = Metrics::new();
    let clock: Arc<dyn Clock> = Arc::new(TokioClock);
    let retry = Retry::new(3, Backoff::new(Duration::from_millis(1), Duration::from_millis(1)), clock);
    let engine = selvedge::builder().scheduler(scheduler.clone()).layer(metrics.clone()).layer(retry).build();
    let held = scheduler.admit(&Context::new(), Work::default()).await.unwrap();
    let release = async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        drop(held);
    };
    let admit = async { engine.scheduler().unwrap().admit(&Context::new(), Work::default()).await };
    let (permit, ()) = tokio::join!(admit, release);
    drop(permit.expect("a later attempt finds the place free"));
    let admits = metrics.snapshot()["scheduler.admit"].clone();
    assert_eq!(admits.calls, 1 + admits.errors["busy"]);

    let cancelled = Context::new();
    cancelled.cancel().cancel();
    let error = engine.scheduler().unwrap().admit(&cancelled, Work::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(metrics.snapshot()["scheduler.admit"].calls, admits.calls + 1, "a cancelled call is not repeated");
}
