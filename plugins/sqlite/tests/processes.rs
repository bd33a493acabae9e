//! Several processes on one file: one is killed, one holds the lock, one wakes another.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use rusqlite::Connection;
use selvedge_core::{
    Commit, Context, ErrorKind, Store,
    store::{LeaseRequest, NewJob, Notice, Start, StoreExt, Watch},
};
use selvedge_sqlite::{Durability, SqliteStore};
use support::{Other, PATIENCE, enqueue, path_of_parent, payloads};

/// Enqueues as fast as it can, from eight tasks, and prints each job once it is acknowledged.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run in another process by the test below"]
async fn enqueues_until_it_is_killed() {
    let store = SqliteStore::open(path_of_parent()).unwrap();
    let round = std::process::id();
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                for number in 0.. {
                    let name = format!("{round}/{task}/{number}");
                    // Two jobs in one commit: both or neither.
                    let commit =
                        Commit::new().enqueue(["a", "b"].map(|half| NewJob::new("q", format!("{name}/{half}"))));
                    store.commit(&Context::new(), commit).await.unwrap();
                    println!("stored {name}");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn what_was_acknowledged_outlives_a_kill_and_no_commit_is_half_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let mut acknowledged = Vec::new();
    for round in 0..12_usize {
        let mut other = Other::start("enqueues_until_it_is_killed", &path);
        // A different moment each time: after the first few commits, or in the middle of many.
        for _ in 0..=round * 37 {
            acknowledged.push(other.line("stored ").expect("it goes on until it is killed"));
        }
        other.kill();
        // What it still had printed counts as well.
        while let Some(name) = other.line("stored ") {
            acknowledged.push(name);
        }
    }
    let store = SqliteStore::open(&path).unwrap();
    let found = payloads(&store, "q").await;
    let found: std::collections::BTreeSet<_> = found.iter().map(String::as_str).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|name| !found.contains(format!("{name}/a").as_str())).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged jobs are lost: {lost:?}", lost.len(), acknowledged.len());
    let half = found.iter().filter(|name| {
        let (stem, end) = name.rsplit_once('/').unwrap();
        !found.contains(format!("{stem}/{}", if end == "a" { "b" } else { "a" }).as_str())
    });
    assert_eq!(half.count(), 0, "a commit is half there");
    store.close().await;
    let conn = Connection::open(&path).unwrap();
    let said: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(said, "ok");
}

/// Takes the write lock and keeps it until it is told to end.
#[test]
#[ignore = "run in another process by the test below"]
fn holds_the_lock() {
    let conn = Connection::open(path_of_parent()).unwrap();
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    println!("holds");
    std::thread::sleep(PATIENCE);
}

#[tokio::test]
async fn a_lock_held_elsewhere_is_busy_and_passes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = SqliteStore::builder(&path).busy_timeout(Duration::from_millis(200)).open().unwrap();
    enqueue(&store, "q", "before".into()).await.unwrap();
    let mut other = Other::start("holds_the_lock", &path);
    other.line("holds").expect("it holds the lock");

    let began = Instant::now();
    let error = enqueue(&store, "q", "refused".into()).await.unwrap_err();
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::Busy, true), "{error}");
    assert!(error.advice().is_some());
    assert!(began.elapsed() >= Duration::from_millis(150), "it did not wait for the lock");
    assert_eq!(payloads(&store, "q").await, ["before"], "reading goes on");
    let fresh = SqliteStore::builder(&path).busy_timeout(Duration::from_millis(50)).open();
    assert_eq!(fresh.map(drop).unwrap_err().kind(), ErrorKind::Busy, "opening needs the lock, too");

    other.kill();
    enqueue(&store, "q", "after".into()).await.unwrap();
    assert_eq!(payloads(&store, "q").await, ["before", "after"]);
}

/// Enqueues a job and publishes a message.
#[tokio::test]
#[ignore = "run in another process by the test below"]
async fn writes_once() {
    let store = SqliteStore::open(path_of_parent()).unwrap();
    let cx = Context::new();
    enqueue(&store, "q", "from elsewhere".into()).await.unwrap();
    store.publish(&cx, "news", "hello").await.unwrap();
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = SqliteStore::builder(&path).durability(Durability::Fast).open().unwrap();
    let cx = Context::new();
    let mut hints = store.watch(&cx, Watch::Jobs(vec!["q".into()])).await.unwrap();
    let topic = Watch::Topic { topic: "news".into(), from: Start::Now, buffer: None };
    let mut news = store.watch(&cx, topic).await.unwrap();
    // The first look after nobody watched may ring for nothing.
    while tokio::time::timeout(Duration::from_millis(100), hints.next()).await.is_ok() {}

    let mut other = Other::start("writes_once", &path);
    let woken = tokio::time::timeout(PATIENCE, hints.next()).await.expect("it is noticed");
    assert!(matches!(woken, Some(Ok(Notice::Work))));
    let message = tokio::time::timeout(PATIENCE, news.next()).await.expect("it is noticed");
    let Some(Ok(Notice::Message(message))) = message else { panic!("no message but {message:?}") };
    assert_eq!(&message.payload[..], b"hello");
    assert!(other.wait().success());
    let jobs = store.lease(&cx, LeaseRequest::new("q", 10)).await.unwrap();
    assert_eq!(jobs.len(), 1);
    assert_eq!(&jobs[0].payload[..], b"from elsewhere");
}
