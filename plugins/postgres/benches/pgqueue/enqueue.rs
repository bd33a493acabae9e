//! Jobs enqueued a second by 32 clients, one job a commit: what does waking others cost?

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use selvedge_core::{
    Context, Store,
    store::{NewJob, StoreExt, Watch},
};
use selvedge_postgres::PostgresStore;

use crate::{Options, QUEUE, report};

const CLIENTS: usize = 32;

/// `--wake-ups off` enqueues without them. Somebody else watches the queue either way.
pub(crate) async fn measure(options: &Options) {
    let watcher = options.open().await;
    let mut hints = watcher.watch(&Context::new(), Watch::Jobs(vec![QUEUE.into()])).await.expect("watches");
    let woken = tokio::spawn(async move { while hints.next().await.is_some() {} });
    let builder = PostgresStore::builder(options.text("--url").expect("--url")).connections(CLIENTS);
    let builder = if options.text("--wake-ups") == Some("off") { builder.without_notify() } else { builder };
    let store = builder.open().await.expect("opens");
    let done = Arc::new(AtomicUsize::new(0));
    let clients = (0..CLIENTS).map(|_| {
        let (store, done) = (store.clone(), done.clone());
        tokio::spawn(async move {
            let cx = Context::new();
            loop {
                store.enqueue(&cx, NewJob::new(QUEUE, "{}")).await.expect("enqueues");
                done.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    let started = Instant::now();
    tokio::time::sleep(options.seconds()).await;
    let rate = done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
    assert!(clients.iter().all(|client| !client.is_finished()), "a client ended");
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    woken.abort();
    report("enqueue", "jobs/s", rate);
}
