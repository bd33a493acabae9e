//! A clock that steps back over a restart, and a log that stays bounded.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use rusqlite::Connection;
use selvedge_core::{
    BoxFuture, Clock, Commit, Context, ErrorKind, Store, Timestamp,
    store::{LeaseRequest, Maintain, NewJob, Retry, StoreExt, When},
};
use selvedge_sqlite::{Durability, SqliteStore};
use support::{PATIENCE, enqueue, payloads};

/// A wall clock that is off by a number of microseconds.
#[derive(Debug)]
struct Off(AtomicI64);

impl Off {
    fn by(micros: i64) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(micros)))
    }
}

impl Clock for Off {
    fn now(&self) -> Timestamp {
        Timestamp(Timestamp::now().0 + self.0.load(Ordering::Relaxed))
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

const DAY: i64 = 24 * 3600 * 1_000_000;

#[tokio::test]
async fn a_clock_that_steps_back_over_a_restart_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let cx = Context::new();
    // The device's clock is a day ahead ...
    let ahead = SqliteStore::builder(&path).clock(Off::by(DAY)).open().unwrap();
    for name in ["ready", "leased", "retried"] {
        enqueue(&ahead, name, name.into()).await.unwrap();
    }
    let appointment = Timestamp(Timestamp::now().0 + 10 * DAY);
    ahead.enqueue(&cx, NewJob::new("later", "later").when(When::At(appointment))).await.unwrap();
    let leased = ahead.lease(&cx, LeaseRequest::new("leased", 1)).await.unwrap();
    let retried = ahead.lease(&cx, LeaseRequest::new("retried", 1)).await.unwrap();
    let retry = Retry::After(Duration::from_secs(1));
    ahead.commit(&cx, Commit::new().fail(retried[0].lease, "try again", retry)).await.unwrap();
    ahead.close().await;
    drop(ahead);

    // ... and is put right while the app is closed.
    let store = SqliteStore::open(&path).unwrap();
    let take = async |queue: &str| store.lease(&cx, LeaseRequest::new(queue, 10)).await.unwrap().len();
    assert_eq!(take("ready").await, 1, "what was due is due");
    assert_eq!(take("leased").await, 1, "a lease from the wrong day does not last a day");
    let error = store.commit(&cx, Commit::new().complete(leased[0].lease)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost, "who had it before has it no more");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(take("retried").await, 1, "a retry in a second is not in a day and a second");
    assert_eq!(take("later").await, 0);
    let later = store.jobs(&cx, Default::default()).await.unwrap();
    let later = later.items.iter().find(|job| job.queue == "later").unwrap();
    assert_eq!(later.run_at, appointment, "an appointment keeps its moment");
}

#[tokio::test]
async fn a_clock_that_steps_back_while_open_is_followed_by_housekeeping() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Off::by(0);
    let store = SqliteStore::builder(folder.path().join("app.db")).clock(clock.clone()).open().unwrap();
    let cx = Context::new();
    enqueue(&store, "q", "before".into()).await.unwrap();
    let start = clock.now();
    clock.0.store(-DAY, Ordering::Relaxed);
    enqueue(&store, "q", "after".into()).await.unwrap();
    let info = store.info(&cx).await.unwrap();
    assert!(info.now >= start, "the Store's time never runs backwards by itself");
    store.maintain(&cx, Maintain::default()).await.unwrap();
    assert!(store.info(&cx).await.unwrap().now < start, "housekeeping follows the wall clock");
    assert_eq!(store.lease(&cx, LeaseRequest::new("q", 10)).await.unwrap().len(), 2, "both are still due");
}

/// The log's size is bounded by what a reader may hold up, and it shrinks once the reader has gone.
#[tokio::test]
async fn the_log_shrinks_once_a_reader_lets_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let log = path.with_extension("db-wal");
    let size = || std::fs::metadata(&log).unwrap().len();
    let store = SqliteStore::builder(&path).durability(Durability::Fast).open().unwrap();
    let reader = Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM job").unwrap();
    let mut stored = 0;
    while size() < 40 << 20 {
        enqueue(&store, "q", "x".repeat(500_000)).await.unwrap();
        stored += 1;
        assert!(stored < 1000, "the log does not grow, so nothing is tested");
    }
    reader.execute_batch("COMMIT").unwrap();
    let until = Instant::now() + PATIENCE;
    while size() > 17 << 20 {
        assert!(Instant::now() < until, "the log stays at {} bytes", size());
        tokio::time::sleep(Duration::from_millis(200)).await;
        enqueue(&store, "q", "x".into()).await.unwrap();
        stored += 1;
    }
    assert_eq!(payloads(&store, "q").await.len(), stored);
}
