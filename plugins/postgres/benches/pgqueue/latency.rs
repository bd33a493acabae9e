//! From the call that enqueues a job to the start of its handler, at a steady rate.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use selvedge_core::{
    Context, Timestamp,
    store::{NewJob, StoreExt},
};

use crate::{Options, QUEUE, report, worker::Worker};

/// What comes in the beginning, while connections are opened, is not counted.
const WARM_UP: Duration = Duration::from_secs(1);

/// One job a commit, evenly spaced, from producers with a Store of their own: what wakes the worker crosses the server.
pub(crate) async fn measure(options: &Options) {
    let (rate, producers): (f64, usize) = (options.value("--rate", 100.0), options.value("--producers", 16));
    let window = WARM_UP + options.seconds();
    let jobs = (window.as_secs_f64() * rate) as usize;
    let (waits, enqueued) = (Arc::new(Mutex::new(Vec::with_capacity(jobs))), Arc::new(AtomicUsize::new(0)));
    let counted = Timestamp::now() + WARM_UP;
    let worker = {
        let waits = waits.clone();
        Worker::start(options.open().await, options.value("--concurrency", 500), move |job| {
            let now = Timestamp::now();
            let text = std::str::from_utf8(&job.payload).expect("text");
            waits.lock().expect("no panic").push((Timestamp(text.parse().expect("a time")), now));
        })
    };
    let store = options.open().await;
    let begun = Instant::now();
    let tasks = (0..producers).map(|number| {
        let (store, enqueued) = (store.clone(), enqueued.clone());
        tokio::spawn(async move {
            for job in (number..jobs).step_by(producers) {
                // Whoever cannot keep up ends in time, with less.
                if begun.elapsed() > window {
                    break;
                }
                let due = begun + Duration::from_secs_f64(job as f64 / rate);
                tokio::time::sleep_until(due.into()).await;
                let job = NewJob::new(QUEUE, Timestamp::now().0.to_string());
                store.enqueue(&Context::new(), job).await.expect("enqueues");
                enqueued.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("a producer ends");
    }
    let (seconds, jobs) = (begun.elapsed().as_secs_f64(), enqueued.load(Ordering::Relaxed));
    let patience = Instant::now();
    while waits.lock().expect("no panic").len() < jobs {
        assert!(patience.elapsed() < Duration::from_secs(30), "not every job was started");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    worker.stop().await;
    let all = waits.lock().expect("no panic");
    let mut waits: Vec<f64> = all
        .iter()
        .filter(|(enqueued, _)| *enqueued >= counted)
        .map(|(enqueued, started)| started.since(*enqueued).as_secs_f64() * 1e3)
        .collect();
    waits.sort_by(f64::total_cmp);
    for (name, share) in [("p50", 0.50), ("p99", 0.99)] {
        report(name, "ms", waits[((waits.len() - 1) as f64 * share) as usize]);
    }
    report("rate", "jobs/s", jobs as f64 / seconds);
}
