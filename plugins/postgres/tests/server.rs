//! Beside the suite: two Stores on one server, the caller's own transaction, and a server that crashes.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use selvedge_core::{
    Commit, Context, ErrorKind, Store,
    store::{JobFilter, LeaseRequest, NewJob, Notice, Start, StoreExt, Wakeups, Watch},
};
use selvedge_postgres::{
    PostgresStore,
    tokio_postgres::{self, NoTls},
};
use selvedge_testkit::postgres::Cluster;

const SOON: Duration = Duration::from_secs(20);

/// One server for the tests that leave it standing.
static CLUSTER: LazyLock<Option<Cluster>> = LazyLock::new(|| started(Cluster::start()));

/// A machine without PostgreSQL skips these tests, unless it is meant to run them all.
fn started(cluster: anyhow::Result<Cluster>) -> Option<Cluster> {
    match cluster {
        Ok(cluster) => Some(cluster),
        Err(error) if std::env::var_os("CI").is_some() => panic!("{error:#}"),
        Err(error) => {
            println!("skipped: {error:#}");
            None
        }
    }
}

async fn open(cluster: &Cluster, schema: &str) -> PostgresStore {
    PostgresStore::builder(cluster.url()).schema(schema).connections(4).open().await.expect("opens")
}

async fn client(cluster: &Cluster) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(&cluster.url(), NoTls).await.expect("connects");
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn another_process_is_woken_at_once() {
    let Some(cluster) = &*CLUSTER else { return };
    let (schema, cx) = (cluster.schema(), Context::new());
    let (one, two) = (open(cluster, &schema).await, open(cluster, &schema).await);
    let ready = Instant::now();
    while !(one.is_listening() && two.is_listening()) {
        assert!(ready.elapsed() < SOON, "the listeners do not stand");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let watch = Watch::Topic { topic: "news".into(), from: Start::Now, buffer: None };
    let mut news = two.watch(&cx, watch).await.unwrap();
    let mut waits = Vec::new();
    for number in 0..20u8 {
        let begun = Instant::now();
        one.publish(&cx, "news", vec![number]).await.unwrap();
        let notice = tokio::time::timeout(SOON, news.next()).await.expect("in time").unwrap().unwrap();
        assert!(matches!(notice, Notice::Message(message) if message.payload[..] == [number]));
        waits.push(begun.elapsed());
    }
    waits.sort_unstable();
    // Polling alone would take half a second.
    assert!(waits[waits.len() / 2] < Duration::from_millis(250), "{waits:?}");
}

#[tokio::test]
async fn a_listener_that_hears_nothing_is_known_to_poll() {
    let Some(cluster) = &*CLUSTER else { return };
    let (schema, cx) = (cluster.schema(), Context::new());
    client(cluster).await.batch_execute(&format!("CREATE DATABASE {schema}")).await.unwrap();
    // LISTEN is taken there, and nothing arrives: notifications stay in their database, as they do behind PgBouncer.
    let elsewhere = cluster.url().replace("/postgres?", &format!("/{schema}?"));
    let deaf = PostgresStore::builder(cluster.url()).schema(&schema).connections(2).listener(elsewhere).open().await;
    let (deaf, polls) = (deaf.unwrap(), PostgresStore::builder(cluster.url()).schema(&schema).without_listener());
    let polls = polls.connections(2).open().await.unwrap();
    let hears = open(cluster, &schema).await;
    let begun = Instant::now();
    while hears.info(&cx).await.unwrap().wakeups != Wakeups::Listen {
        assert!(begun.elapsed() < SOON, "the listener does not stand");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(deaf.info(&cx).await.unwrap().wakeups, Wakeups::Fallback);
    assert_eq!(polls.info(&cx).await.unwrap().wakeups, Wakeups::Poll);
    // It is told all the same, only later.
    let mut woken = deaf.watch(&cx, Watch::Jobs(vec!["q".into()])).await.unwrap();
    hears.enqueue(&cx, NewJob::new("q", "")).await.unwrap();
    assert!(tokio::time::timeout(SOON, woken.next()).await.expect("in time").is_some());
}

#[tokio::test]
async fn a_store_is_only_looked_for_when_it_must_be_there() {
    let Some(cluster) = &*CLUSTER else { return };
    let (schema, client) = (cluster.schema(), client(cluster).await);
    let existing = || PostgresStore::builder(cluster.url()).schema(&schema).connections(1).existing().open();
    assert_eq!(existing().await.map(drop).map_err(|error| error.kind()), Err(ErrorKind::NotFound));
    let made = client.query_one("SELECT count(*) FROM pg_namespace WHERE nspname = $1", &[&schema]).await.unwrap();
    assert_eq!(made.get::<_, i64>(0), 0, "looking made a schema");
    drop(open(cluster, &schema).await);
    assert!(existing().await.is_ok());
}

#[tokio::test]
async fn a_commit_in_the_callers_transaction_shares_its_fate() {
    let Some(cluster) = &*CLUSTER else { return };
    let (schema, cx) = (cluster.schema(), Context::new());
    let (store, mut own) = (open(cluster, &schema).await, client(cluster).await);
    own.batch_execute(&format!("CREATE TABLE {schema}.cart (item text)")).await.unwrap();
    let insert = format!("INSERT INTO {schema}.cart VALUES ('tea')");
    let commit = Commit::new().enqueue([NewJob::new("charge", "{}")]).publish("carts", "tea");

    let tx = own.transaction().await.unwrap();
    tx.execute(&insert, &[]).await.unwrap();
    let applied = store.apply(&tx, &commit).await.unwrap();
    assert_eq!(applied.receipt().jobs().count(), 1);
    tx.rollback().await.unwrap();
    assert_eq!(store.lease(&cx, LeaseRequest::new("charge", 9)).await.unwrap(), []);

    let mut woken = store.watch(&cx, Watch::Jobs(vec!["charge".into()])).await.unwrap();
    let tx = own.transaction().await.unwrap();
    tx.execute(&insert, &[]).await.unwrap();
    let applied = store.apply(&tx, &commit).await.unwrap();
    tx.commit().await.unwrap();
    applied.committed();
    assert!(tokio::time::timeout(SOON, woken.next()).await.expect("in time").is_some());
    let jobs = store.lease(&cx, LeaseRequest::new("charge", 9)).await.unwrap();
    assert_eq!(jobs.len(), 1);

    // The effect of the job and its end: once, even if the worker dies between any two statements.
    let tx = own.transaction().await.unwrap();
    tx.execute(&insert, &[]).await.unwrap();
    store.apply(&tx, &Commit::new().complete(jobs[0].lease)).await.unwrap().committed();
    tx.commit().await.unwrap();
    let tx = own.transaction().await.unwrap();
    let again = store.apply(&tx, &Commit::new().complete(jobs[0].lease)).await;
    assert_eq!(again.map(drop).map_err(|error| error.kind()), Err(ErrorKind::LeaseLost));
    drop(tx);
    let count = own.query_one(&format!("SELECT count(*) FROM {schema}.cart"), &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 2);
}

#[tokio::test]
async fn what_cannot_be_opened_says_why() {
    let Some(cluster) = &*CLUSTER else { return };
    let kind = |opened: selvedge_core::Result<PostgresStore>| {
        let error = opened.map(drop).expect_err("it opened");
        assert!(error.advice().is_some(), "{error}");
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        error.kind()
    };
    let open = |url: &str| PostgresStore::builder(url).open();
    assert_eq!(kind(open("nonsense://secret").await), ErrorKind::InvalidInput);
    let missing = cluster.url().replace("/postgres?", "/no_such?");
    assert_eq!(kind(open(&missing).await), ErrorKind::NotFound);
    let nobody = "postgres://x:secret@127.0.0.1:1/x?sslmode=disable";
    assert_eq!(kind(open(nobody).await), ErrorKind::Unavailable);
    let odd = PostgresStore::builder(cluster.url()).schema("a\"b").open().await;
    assert_eq!(kind(odd), ErrorKind::InvalidInput);

    let schema = cluster.schema();
    drop(self::open(cluster, &schema).await);
    let sql = format!("UPDATE {schema}.meta SET value = 99 WHERE name = 'schema'");
    client(cluster).await.batch_execute(&sql).await.unwrap();
    assert_eq!(kind(PostgresStore::builder(cluster.url()).schema(schema).open().await), ErrorKind::NewerVersion);
}

#[tokio::test]
async fn many_that_open_at_once_migrate_once() {
    let Some(cluster) = &*CLUSTER else { return };
    let schema = cluster.schema();
    let opened = (0..8).map(|_| {
        let store = PostgresStore::builder(cluster.url()).schema(&schema).connections(1).open();
        tokio::spawn(store)
    });
    for store in opened.collect::<Vec<_>>() {
        store.await.unwrap().expect("opens");
    }
}

/// Works jobs off and counts what became of them while the server crashes again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashing_server_loses_and_doubles_nothing() {
    const JOBS: usize = 2_000;
    const CRASHES: usize = 4;
    // A real one, that flushes what it acknowledges.
    let Some(mut cluster) = started(Cluster::start_with(&[])) else { return };
    let store = open(&cluster, "selvedge").await;
    let cx = Context::new();
    let lost_connections = Arc::new(AtomicUsize::new(0));
    let acknowledged: Arc<Mutex<BTreeSet<i64>>> = Arc::default();
    let completed: Arc<Mutex<BTreeMap<i64, usize>>> = Arc::default();
    let unsure: Arc<Mutex<BTreeSet<i64>>> = Arc::default();
    let done = Arc::new(AtomicBool::new(false));

    let mut tasks = Vec::new();
    for producer in 0..4 {
        let (store, cx, lost, acknowledged) =
            (store.clone(), cx.clone(), lost_connections.clone(), acknowledged.clone());
        tasks.push(tokio::spawn(async move {
            for number in 0..JOBS / 4 {
                // With a key of its own it is safe to ask again when nobody knows whether it happened.
                let job = NewJob::new("work", "{}").unique(format!("{producer}-{number}"));
                let added = loop {
                    match store.enqueue(&cx, job.clone()).await {
                        Ok(added) => break added,
                        Err(error) => {
                            assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Busy), "{error:?}");
                            lost.fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    }
                };
                acknowledged.lock().unwrap().insert(added.id.0);
            }
        }));
    }
    let producers = tasks.len();
    for _ in 0..3 {
        let (store, cx, lost) = (store.clone(), cx.clone(), lost_connections.clone());
        let (completed, unsure, done) = (completed.clone(), unsure.clone(), done.clone());
        tasks.push(tokio::spawn(async move {
            while !done.load(Ordering::Acquire) {
                let request = LeaseRequest::new("work", 20).hold(Duration::from_secs(2));
                let jobs = match store.lease(&cx, request).await {
                    Ok(jobs) => jobs,
                    Err(_) => {
                        lost.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                };
                if jobs.is_empty() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                for job in jobs {
                    // A lost answer leaves it open whether the job is done; a lost lease does not.
                    match store.commit(&cx, Commit::new().complete(job.lease)).await {
                        Ok(_) => *completed.lock().unwrap().entry(job.id.0).or_default() += 1,
                        Err(error) if error.kind() == ErrorKind::LeaseLost => (),
                        Err(_) => drop(unsure.lock().unwrap().insert(job.id.0)),
                    }
                }
            }
        }));
    }
    for _ in 0..CRASHES {
        tokio::time::sleep(Duration::from_millis(700)).await;
        tokio::task::block_in_place(|| cluster.crash()).expect("recovers");
    }
    let consumers = tasks.split_off(producers);
    for task in tasks {
        task.await.unwrap();
    }
    let begun = Instant::now();
    loop {
        let left = store.jobs(&cx, JobFilter::default()).await.map(|page| page.items.len());
        match left {
            Ok(0) => break,
            left => assert!(begun.elapsed() < Duration::from_secs(60), "jobs are left: {left:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    done.store(true, Ordering::Release);
    for task in consumers {
        task.await.unwrap();
    }
    let (acknowledged, completed, unsure) =
        (acknowledged.lock().unwrap(), completed.lock().unwrap(), unsure.lock().unwrap());
    assert_eq!(acknowledged.len(), JOBS);
    assert!(lost_connections.load(Ordering::Relaxed) > 0, "the crashes were not noticed");
    assert_eq!(completed.values().filter(|ends| **ends > 1).count(), 0, "a job ended twice");
    let gone: Vec<_> = acknowledged.iter().filter(|id| !completed.contains_key(id) && !unsure.contains(id)).collect();
    assert!(gone.is_empty(), "acknowledged jobs are lost: {gone:?}");
}
