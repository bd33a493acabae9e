//! Those who enqueue, and the ledger of what the Store promised them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use selvedge::{Commit, Context, ErrorKind, Store, postgres::PostgresStore};
use tokio::time::sleep;

use crate::{
    counts::{Tally, lock},
    task::{Ends, Task},
};

/// What one key was promised.
#[derive(Clone, Debug)]
pub(crate) struct Promise {
    pub(crate) ends: Ends,
    /// How often nobody knows whether it was enqueued. Each may have been a job.
    pub(crate) unsure: u64,
    /// The jobs that the Store acknowledged.
    pub(crate) jobs: Vec<i64>,
}

/// What the Store promised: kept outside of it, in a process that no fault touches.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) promises: Mutex<HashMap<String, Promise>>,
    acknowledged: AtomicU64,
    /// How many effects there are, as somebody counted them last.
    pub(crate) done: AtomicU64,
    pub(crate) over: AtomicBool,
}

impl Ledger {
    fn backlog(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed).saturating_sub(self.done.load(Ordering::Relaxed))
    }
}

/// Enqueues until it is told to stop.
///
/// Half of the jobs have a unique key and are asked for again until they are acknowledged. The others have none: they are
/// asked for again only if the error is `retryable`, which promises that nothing happened. A broken promise is then a job
/// that is done twice.
pub(crate) async fn run(name: &'static str, store: PostgresStore, ledger: Arc<Ledger>, seed: u64, seen: Tally) {
    let (mut dice, cx) = (Rng::with_seed(seed), Context::new());
    for number in 0u64.. {
        while ledger.backlog() > 400 && !ledger.over.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(10)).await;
        }
        if ledger.over.load(Ordering::Relaxed) {
            return;
        }
        let keyed = dice.bool();
        let tasks: Vec<Task> = (0..dice.u64(1..=4))
            .map(|place| {
                let ends = if dice.u8(..3) == 0 { Ends::ByCommit } else { Ends::ByRow };
                Task::new(format!("{name}-{number}-{place}"), ends)
            })
            .collect();
        for task in &tasks {
            let promise = Promise { ends: task.ends, unsure: 0, jobs: Vec::new() };
            lock(&ledger.promises).insert(task.key.clone(), promise);
        }
        let jobs: Vec<_> = tasks
            .iter()
            .filter_map(|task| {
                let job = task.job().ok()?;
                Some(if keyed { job.unique(&task.key) } else { job })
            })
            .collect();
        loop {
            match store.commit(&cx, Commit::new().enqueue(jobs.clone())).await {
                Ok(receipt) => {
                    let mut promises = lock(&ledger.promises);
                    for (task, job) in tasks.iter().zip(receipt.jobs()) {
                        if let Some(promise) = promises.get_mut(&task.key) {
                            promise.jobs.push(job.id.0);
                        }
                    }
                    ledger.acknowledged.fetch_add(tasks.len() as u64, Ordering::Relaxed);
                    break;
                }
                Err(error) if error.retryable() => seen.one("enqueue_refused"),
                Err(error) => {
                    let expected = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::StorageFull);
                    seen.one(if expected { "enqueue_unsure" } else { "enqueue_unexpected" });
                    if !expected {
                        tracing::warn!(?error, "enqueue");
                    }
                    let mut promises = lock(&ledger.promises);
                    tasks.iter().for_each(|task| {
                        if let Some(promise) = promises.get_mut(&task.key) {
                            promise.unsure += 1;
                        }
                    });
                    if !keyed {
                        break;
                    }
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}
