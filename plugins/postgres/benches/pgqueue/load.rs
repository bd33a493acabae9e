//! Jobs a second: a full queue worked off, and a queue that is filled while it is worked off.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use selvedge_core::{
    Context,
    store::{JobFilter, StoreExt},
};
use tokio::sync::Notify;

use crate::{BATCH, Options, QUEUE, fill, report, worker::Worker};

/// All jobs are there before the clock starts, and it stops when the end of the last one is committed.
pub(crate) async fn burn_down(options: &Options) {
    let store = options.open().await;
    let jobs = options.value("--jobs", 200_000);
    fill(&store, jobs, BATCH).await;
    let (done, last) = (AtomicUsize::new(0), Arc::new(Notify::new()));
    let started = Instant::now();
    let worker = {
        let (done, last) = (Arc::new(done), last.clone());
        Worker::start(store.clone(), options.value("--concurrency", 500), move |_| {
            if done.fetch_add(1, Ordering::Relaxed) + 1 == jobs {
                last.notify_one();
            }
        })
    };
    last.notified().await;
    worker.stop().await;
    report("burn-down", "jobs/s", jobs as f64 / started.elapsed().as_secs_f64());
    let filter = JobFilter { queue: Some(QUEUE.into()), ..JobFilter::default() };
    let left = store.jobs(&Context::new(), filter).await.expect("reads");
    assert!(left.items.is_empty(), "a job is left");
}

/// A producer keeps so many jobs waiting, as River's own benchmark does; what counts is what the worker completes.
pub(crate) async fn continuous(options: &Options) {
    let store = options.open().await;
    let backlog: usize = options.value("--backlog", 75_000);
    fill(&store, backlog, BATCH).await;
    let done = Arc::new(AtomicUsize::new(0));
    let producer = tokio::spawn({
        let (done, store) = (done.clone(), options.open().await);
        async move {
            let mut enqueued = backlog;
            loop {
                let missing = backlog.saturating_sub(enqueued - done.load(Ordering::Relaxed));
                fill(&store, missing, BATCH).await;
                enqueued += missing;
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        }
    });
    let worker = {
        let done = done.clone();
        Worker::start(store, options.value("--concurrency", 500), move |_| {
            done.fetch_add(1, Ordering::Relaxed);
        })
    };
    let started = Instant::now();
    tokio::time::sleep(options.seconds()).await;
    let rate = done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
    assert!(!producer.is_finished(), "the producer ended");
    producer.abort();
    worker.stop().await;
    report("continuous load", "jobs/s", rate);
}
