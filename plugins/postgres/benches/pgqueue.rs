//! The queue as an application drives it: an engine's worker with an empty handler. Prints a JSON line for each case.
//!
//! `--url URL` names the database; `--case NAME` one case; `--jobs N`, `--seconds N`, `--rate N` how much.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use selvedge_core::{
    BoxFuture, CancelToken, Clock, Commit, Context, Engine, Result, Store, Timestamp,
    engine::{JobOutcome, WorkerOptions},
    store::{LeasedJob, NewJob},
};
use selvedge_postgres::PostgresStore;

const QUEUE: &str = "bench";

#[derive(Debug)]
struct TokioClock;

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(async move { tokio::time::sleep(duration).await })
    }
}

fn argument(name: &str) -> Option<String> {
    let arguments: Vec<String> = std::env::args().collect();
    arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1)).cloned()
}

fn number(name: &str, default: u64) -> u64 {
    argument(name).map_or(default, |text| text.parse().expect(name))
}

async fn open() -> PostgresStore {
    let url = argument("--url").expect("--url");
    PostgresStore::builder(url).connections(number("--connections", 8) as usize).open().await.expect("opens")
}

fn jobs(count: usize, payload: &'static [u8]) -> impl Iterator<Item = NewJob> {
    (0..count).map(move |_| NewJob::new(QUEUE, payload))
}

fn worker() -> WorkerOptions {
    let concurrency = number("--concurrency", 500) as usize;
    WorkerOptions {
        prefetch: number("--prefetch", concurrency as u64) as usize,
        ..WorkerOptions::new(QUEUE, concurrency)
    }
}

async fn work(store: PostgresStore, stop: CancelToken, started: impl Fn(&LeasedJob) + Send + Sync) {
    let engine = Engine::builder().store(store).clock(Arc::new(TokioClock)).build();
    let handler = |_: Context, job: LeasedJob| -> BoxFuture<'static, Result<JobOutcome>> {
        started(&job);
        Box::pin(std::future::ready(Ok(JobOutcome::Done(Commit::new()))))
    };
    let handler = Handler(handler);
    engine.work(&Context::new().with_cancel(stop), &worker(), &handler).await.expect("works");
}

struct Handler<F>(F);

impl<F> selvedge_core::engine::JobHandler for Handler<F>
where
    F: Fn(Context, LeasedJob) -> BoxFuture<'static, Result<JobOutcome>> + Send + Sync,
{
    fn handle(&self, cx: Context, job: LeasedJob) -> BoxFuture<'_, Result<JobOutcome>> {
        self.0(cx, job)
    }
}

async fn left(store: &PostgresStore) -> u64 {
    use selvedge_core::store::StoreExt;
    store.queues(&Context::new()).await.expect("reads").iter().map(|queue| queue.ready + queue.running).sum()
}

/// Jobs that wait already are worked off.
async fn burn_down() -> f64 {
    let (store, total) = (open().await, number("--jobs", 200_000));
    for _ in 0..total / 5_000 {
        store.commit(&Context::new(), Commit::new().enqueue(jobs(5_000, b"{}"))).await.expect("enqueues");
    }
    let (begun, stop) = (Arc::new(AtomicU64::new(0)), CancelToken::new());
    let started = Instant::now();
    let working = tokio::spawn({
        let (begun, stop, store) = (begun.clone(), stop.clone(), store.clone());
        async move {
            work(store, stop, move |_| {
                begun.fetch_add(1, Ordering::Relaxed);
            })
            .await;
        }
    });
    while begun.load(Ordering::Relaxed) < total || left(&store).await > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let rate = total as f64 / started.elapsed().as_secs_f64();
    stop.cancel();
    working.await.expect("ends");
    rate
}

/// Producers and a worker at once.
async fn continuous() -> f64 {
    let (store, seconds) = (open().await, number("--seconds", 60));
    let producers = number("--producers", 4);
    let (batch, most) = (number("--batch", 100) as usize, number("--backlog", 20_000));
    let (begun, enqueued, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), CancelToken::new());
    let mut tasks = Vec::new();
    for _ in 0..producers {
        let (store, stop, begun, enqueued) = (store.clone(), stop.clone(), begun.clone(), enqueued.clone());
        tasks.push(tokio::spawn(async move {
            while !stop.is_cancelled() {
                // A producer that is far ahead waits, as one in front of a full queue would.
                if enqueued.load(Ordering::Relaxed) > begun.load(Ordering::Relaxed) + most {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                }
                store.commit(&Context::new(), Commit::new().enqueue(jobs(batch, b"{}"))).await.expect("enqueues");
                enqueued.fetch_add(batch as u64, Ordering::Relaxed);
            }
        }));
    }
    tasks.push(tokio::spawn({
        let (begun, stop) = (begun.clone(), stop.clone());
        async move {
            work(store, stop, move |_| {
                begun.fetch_add(1, Ordering::Relaxed);
            })
            .await;
        }
    }));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (before, started) = (begun.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let rate = (begun.load(Ordering::Relaxed) - before) as f64 / started.elapsed().as_secs_f64();
    stop.cancel();
    for task in tasks {
        task.await.expect("ends");
    }
    rate
}

/// How long a job waits from its enqueue to its start, in ms: p50 and p99.
async fn latency() -> (f64, f64) {
    let (store, seconds, rate) = (open().await, number("--seconds", 30), number("--rate", 1_000));
    let (waits, stop) = (Arc::new(Mutex::new(Vec::new())), CancelToken::new());
    let working = tokio::spawn({
        let (store, stop, waits) = (store.clone(), stop.clone(), waits.clone());
        async move {
            work(store, stop, move |job| {
                let sent: i64 = std::str::from_utf8(&job.payload).expect("text").parse().expect("a time");
                waits.lock().unwrap().push((Timestamp::now().0 - sent) as f64 / 1_000.0);
            })
            .await;
        }
    });
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate as f64));
    let mut sending = tokio::task::JoinSet::new();
    for _ in 0..seconds * rate {
        ticks.tick().await;
        let store = store.clone();
        sending.spawn(async move {
            let job = NewJob::new(QUEUE, Timestamp::now().0.to_string());
            store.commit(&Context::new(), Commit::new().enqueue([job])).await.expect("enqueues");
        });
        while sending.try_join_next().is_some() {}
    }
    sending.join_all().await;
    while left(&store).await > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    working.await.expect("ends");
    let mut waits = std::mem::take(&mut *waits.lock().unwrap());
    // The first ones open connections and plan statements.
    waits.drain(..waits.len() / 10);
    waits.sort_by(f64::total_cmp);
    (waits[waits.len() / 2], waits[waits.len() * 99 / 100])
}

#[tokio::main]
async fn main() {
    let report = |case: &str, unit: &str, value: f64| {
        println!(r#"{{"case":"{case}","unit":"{unit}","value":{value:.3}}}"#);
    };
    match argument("--case").as_deref() {
        Some("burn-down") => report("burn-down", "jobs/s", burn_down().await),
        Some("continuous") => report("continuous", "jobs/s", continuous().await),
        Some("latency") => {
            let (p50, p99) = latency().await;
            report("latency p50", "ms", p50);
            report("latency p99", "ms", p99);
        }
        other => panic!("no case {other:?}"),
    }
}
