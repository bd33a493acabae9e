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

/// A producer keeps so many jobs waiting, as River's own benchmark does; what counts is what the worker completes, and no more
/// than was enqueued meanwhile: what waited before is not to be lived on.
pub(crate) async fn continuous(options: &Options) {
    let store = options.open().await;
    let backlog: usize = options.value("--backlog", 75_000);
    fill(&store, backlog, BATCH).await;
    let (done, added) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let producer = tokio::spawn({
        let (done, added, store) = (done.clone(), added.clone(), options.open().await);
        async move {
            loop {
                let waiting = backlog + added.load(Ordering::Relaxed) - done.load(Ordering::Relaxed);
                for batch in batches(backlog.saturating_sub(waiting)) {
                    fill(&store, batch, BATCH).await;
                    added.fetch_add(batch, Ordering::Relaxed);
                }
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
    let worked = done.load(Ordering::Relaxed).min(added.load(Ordering::Relaxed));
    let rate = worked as f64 / started.elapsed().as_secs_f64();
    assert!(!producer.is_finished(), "the producer ended");
    producer.abort();
    worker.stop().await;
    report("continuous load", "jobs/s", rate);
}

/// So many jobs in batches.
fn batches(jobs: usize) -> impl Iterator<Item = usize> {
    (0..jobs.div_ceil(BATCH)).map(move |batch| BATCH.min(jobs - batch * BATCH))
}
