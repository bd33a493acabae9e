//! River's Rust crate: from the call that inserts a job to the start of its worker, at a steady rate. The client has the
//! settings of `riverqueue bench`; the schema is there already. One job a commit, evenly spaced, from a pool of their own.

use std::{
    convert::Infallible,
    future::ready,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use riverqueue::{Client, Job, JobArgs, QueueConfig, WorkContext, WorkOutcome, Worker, Workers};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, postgres::PgPoolOptions};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const WARM_UP: f64 = 1.0;

/// When it was inserted, in nanoseconds since 1970.
#[derive(Clone, Debug, Deserialize, JobArgs, Serialize)]
#[river(kind = "bench")]
struct Args {
    at: u64,
}

struct Seen(Arc<Mutex<Vec<(u64, u64)>>>);

impl Worker<Args> for Seen {
    type Error = Infallible;

    fn work(
        &self,
        _: WorkContext,
        job: Job<Args>,
    ) -> impl Future<Output = Result<WorkOutcome, Self::Error>> + Send {
        self.0.lock().expect("no panic").push((job.args.at, now()));
        ready(Ok(WorkOutcome::Complete))
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_nanos()).expect("before 2554")
}

fn option(name: &str) -> Option<String> {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1).cloned()
}

fn number(name: &str, otherwise: f64) -> f64 {
    option(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

async fn pool() -> Result<PgPool, sqlx::Error> {
    PgPoolOptions::new().max_connections(20).connect(&option("--url").expect("--url")).await
}

fn report(name: &str, unit: &str, value: f64) {
    println!(r#"{{"case":"{name}","unit":"{unit}","value":{value}}}"#);
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let (rate, producers) = (number("--rate", 100.0), number("--producers", 16.0) as usize);
    let window = WARM_UP + number("--seconds", 60.0);
    let total = (window * rate) as usize;
    let (starts, enqueued) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
    let mut workers = Workers::new();
    workers.add::<Args, _>(Seen(starts.clone()))?;
    let queue = QueueConfig::new(2_000)
        .with_fetch_cooldown(Duration::from_millis(2))
        .with_fetch_poll_interval(Duration::from_millis(20));
    let client = Client::builder(pool().await?).workers(workers).queue(riverqueue::QUEUE_DEFAULT, queue).build()?;
    let mut run = client.start()?;
    run.wait_ready().await?;
    let inserter = Client::builder(pool().await?).build()?;

    let (begun, counted) = (Instant::now(), now() + (WARM_UP * 1e9) as u64);
    let tasks = (0..producers).map(|first| {
        let (inserter, enqueued) = (inserter.clone(), enqueued.clone());
        tokio::spawn(async move {
            for job in (first..total).step_by(producers) {
                // Whoever cannot keep up ends in time, with less.
                if begun.elapsed().as_secs_f64() > window {
                    break;
                }
                let due = begun + Duration::from_secs_f64(job as f64 / rate);
                tokio::time::sleep_until(due.into()).await;
                inserter.insert(Args { at: now() }).await?;
                enqueued.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), Failure>(())
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await??;
    }
    let (seconds, total) = (begun.elapsed().as_secs_f64(), enqueued.load(Ordering::Relaxed));
    let patience = Instant::now();
    while starts.lock().expect("no panic").len() < total {
        if patience.elapsed() > Duration::from_secs(120) {
            return Err("not every job was started".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    run.stop().await?;
    let starts = starts.lock().expect("no panic");
    let mut waits: Vec<f64> =
        starts.iter().filter(|(at, _)| *at >= counted).map(|(at, start)| start.saturating_sub(*at) as f64 / 1e6).collect();
    waits.sort_by(f64::total_cmp);
    for (name, share) in [("p50", 0.50), ("p99", 0.99)] {
        report(name, "ms", waits[((waits.len() - 1) as f64 * share) as usize]);
    }
    report("rate", "jobs/s", total as f64 / seconds);
    Ok(())
}
