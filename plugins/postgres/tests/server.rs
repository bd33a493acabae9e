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
    idempotency::{Answer, Claim, ClaimRequest, Fingerprint, IdempotencyKey},
    store::{JobFilter, LeaseRequest, Maintain, NewJob, Notice, Start, StoreExt, Wakeups, Watch},
};
use selvedge_postgres::{
    PostgresStore,
    tokio_postgres::{self, NoTls},
};
use selvedge_testkit::{ManualClock, postgres::Cluster};

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

#[tokio::test]
async fn a_claim_changes_no_index() {
    let Some(cluster) = &*CLUSTER else { return };
    let (schema, cx) = (cluster.schema(), Context::new());
    let (store, own) = (open(cluster, &schema).await, client(cluster).await);
    let jobs = (0..1_000).map(|_| NewJob::new("work", vec![7; 100]));
    store.commit(&cx, Commit::new().enqueue(jobs)).await.unwrap();
    let mut leased = 0;
    while leased < 1_000 {
        leased += store.lease(&cx, LeaseRequest::new("work", 100)).await.unwrap().len();
    }
    let counts = format!(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE schemaname = '{schema}' AND relname = 'job'"
    );
    let begun = Instant::now();
    loop {
        // The server counts now and then.
        let row = own.query_one(&counts, &[]).await.unwrap();
        let (updated, heap_only): (i64, i64) = (row.get(0), row.get(1));
        if updated >= 1_000 {
            assert!(heap_only >= 950, "{heap_only} of {updated} were heap-only");
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "only {updated} updates were counted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_history_is_kept_by_the_day() {
    let Some(cluster) = &*CLUSTER else { return };
    let (schema, cx) = (cluster.schema(), Context::new());
    // 15 January 2027, 8:00.
    let clock = Arc::new(ManualClock::default());
    let builder = PostgresStore::builder(cluster.url()).schema(&schema).clock(clock.clone()).history(2);
    let store = builder.open().await.expect("opens");
    let own = client(cluster).await;
    for _ in 0..5 {
        store.enqueue(&cx, NewJob::new("work", "x").tenant("acme")).await.unwrap();
        let jobs = store.lease(&cx, LeaseRequest::new("work", 9)).await.unwrap();
        store.commit(&cx, Commit::new().complete(jobs[0].lease)).await.unwrap();
        clock.advance(Duration::from_secs(86_400));
        store.maintain(&cx, Maintain::default()).await.unwrap();
    }
    // Five days on, there are jobs of the last two days and room for today and tomorrow.
    let days = own
        .query(
            &format!("SELECT tableoid::regclass::text, count(*) FROM {schema}.job_history GROUP BY 1 ORDER BY 1"),
            &[],
        )
        .await
        .unwrap();
    let days: Vec<(String, i64)> = days.iter().map(|row| (row.get(0), row.get(1))).collect();
    let day = |date: &str| (format!("{schema}.job_history_{date}"), 1i64);
    assert_eq!(days, [day("20270118"), day("20270119")]);
    let parts = "SELECT count(*) FROM pg_inherits WHERE inhparent = $1::text::regclass";
    let parts = own.query_one(parts, &[&format!("{schema}.job_history")]).await.unwrap();
    assert_eq!(parts.get::<_, i64>(0), 5, "two days, today, tomorrow, and the rest");
}

/// Buffers that one claim of one job after `place` touches; nothing is kept of it.
async fn buffers(own: &tokio_postgres::Client, schema: &str, place: (i64, i64)) -> i64 {
    own.batch_execute("BEGIN").await.unwrap();
    let sql = format!(
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)
         SELECT * FROM {schema}.claim('{{work}}', '{{0}}', '{{{}}}', '{{{}}}', 1, 1000000, 1, 'test')",
        place.0, place.1
    );
    let told = own.simple_query(&sql).await.unwrap();
    own.batch_execute("ROLLBACK").await.unwrap();
    let text = told.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let plan: serde_json::Value = serde_json::from_str(text.unwrap()).unwrap();
    let of = |name: &str| plan[0]["Plan"][name].as_i64().unwrap();
    of("Shared Hit Blocks") + of("Shared Read Blocks")
}

#[tokio::test]
async fn a_long_transaction_does_not_make_claims_dear() {
    let Some(cluster) = &*CLUSTER else { return };
    let (schema, cx) = (cluster.schema(), Context::new());
    let (store, own, idle) = (open(cluster, &schema).await, client(cluster).await, client(cluster).await);
    idle.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.unwrap();
    for _ in 0..20 {
        let jobs = (0..1_000).map(|_| NewJob::new("work", "{}"));
        store.commit(&cx, Commit::new().enqueue(jobs)).await.unwrap();
        for _ in 0..10 {
            let jobs = store.lease(&cx, LeaseRequest::new("work", 100)).await.unwrap();
            assert_eq!(jobs.len(), 100);
            store.commit(&cx, Commit::new().complete_many(jobs.iter().map(|job| job.lease))).await.unwrap();
        }
    }
    let next = store.enqueue(&cx, NewJob::new("work", "{}")).await.unwrap().id;
    let view = store.job(&cx, next).await.unwrap().expect("it waits");
    // Plans are made anew for a while; the first claims of a connection pay for it.
    for _ in 0..3 {
        buffers(&own, &schema, (view.run_at.0, next.0 - 1)).await;
    }
    let from_the_head = buffers(&own, &schema, (0, 0)).await;
    let from_the_last = buffers(&own, &schema, (view.run_at.0, next.0 - 1)).await;
    assert!(from_the_head > 300, "the transaction held nothing up: {from_the_head} buffers");
    assert!(from_the_last <= 50, "{from_the_last} buffers");
    // And the job is found.
    assert_eq!(store.lease(&cx, LeaseRequest::new("work", 10)).await.unwrap().len(), 1);
    idle.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test]
async fn a_job_of_any_priority_is_found_from_anywhere() {
    let Some(cluster) = &*CLUSTER else { return };
    let (schema, cx) = (cluster.schema(), Context::new());
    let (here, there) = (open(cluster, &schema).await, open(cluster, &schema).await);
    for round in 0..20i16 {
        // Each Store has leased from the queue before, and has its own idea of where to begin.
        let jobs = (0..5).map(|n| NewJob::new("work", "").priority(n * 7 % 5 - round));
        there.commit(&cx, Commit::new().enqueue(jobs)).await.unwrap();
        // The notification may come in the middle: then a lease has what was told of so far.
        let mut jobs = Vec::new();
        while jobs.len() < 5 {
            let more = here.lease(&cx, LeaseRequest::new("work", 9)).await.unwrap();
            assert!(!more.is_empty(), "{} of 5 jobs were found", jobs.len());
            assert!(more.is_sorted_by_key(|job| job.priority));
            jobs.extend(more);
        }
        let mut found: Vec<i16> = jobs.iter().map(|job| job.priority + round).collect();
        found.sort_unstable();
        assert_eq!(found, [0, 1, 2, 3, 4]);
        let leases = jobs.iter().map(|job| job.lease);
        there.commit(&cx, Commit::new().complete_many(leases)).await.unwrap();
        assert_eq!(there.lease(&cx, LeaseRequest::new("work", 9)).await.unwrap(), []);
    }
}

/// Workers beside each other, by the server's own clock: nobody meets a conflict or loses a lease that just began.
async fn workers_side_by_side(url: String, schema: String) {
    const JOBS: usize = 400;
    let cx = Context::new();
    let store = PostgresStore::builder(url).schema(schema).open().await.unwrap();
    let workers = (0..8).map(|_| {
        let (store, cx) = (store.clone(), cx.clone());
        tokio::spawn(async move {
            let mut done = 0;
            for _ in 0..JOBS / 8 {
                store.enqueue(&cx, NewJob::new("work", "")).await.unwrap();
                for job in store.lease(&cx, LeaseRequest::new("work", 2)).await.unwrap() {
                    store.commit(&cx, Commit::new().complete(job.lease)).await.unwrap();
                    done += 1;
                }
            }
            done
        })
    });
    let mut done = 0;
    for worker in workers.collect::<Vec<_>>() {
        done += worker.await.unwrap();
    }
    done += store.lease(&cx, LeaseRequest::new("work", JOBS)).await.unwrap().len();
    assert_eq!(done, JOBS);
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_side_by_side_take_no_lease_from_each_other() {
    let Some(cluster) = &*CLUSTER else { return };
    for _ in 0..10 {
        workers_side_by_side(cluster.url(), cluster.schema()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_isolates_more_serves_as_well() {
    let Some(cluster) = &*CLUSTER else { return };
    let url = format!("{}&options=-c%20default_transaction_isolation%3Dserializable", cluster.url());
    workers_side_by_side(url, cluster.schema()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_claim_one_key_at_once_one_has_it() {
    let Some(cluster) = &*CLUSTER else { return };
    let schema = cluster.schema();
    // Their own connections, and the server's own clock: the later of two may have read the time first.
    let mut stores = Vec::new();
    for _ in 0..8 {
        stores.push(open(cluster, &schema).await);
    }
    for round in 0..100 {
        let together = Arc::new(tokio::sync::Barrier::new(stores.len()));
        let claims = stores.iter().map(|store| {
            let (store, together) = (store.clone(), together.clone());
            tokio::spawn(async move {
                let key = IdempotencyKey::new("orders", format!("key-{round}")).unwrap();
                together.wait().await;
                store.claim(&Context::new(), ClaimRequest::new(key, Fingerprint::of("pay", b"{}"))).await.unwrap()
            })
        });
        let mut fresh = 0;
        for claim in claims.collect::<Vec<_>>() {
            fresh += usize::from(matches!(claim.await.unwrap(), Claim::Fresh(_)));
        }
        assert_eq!(fresh, 1, "round {round}");
    }
}

#[tokio::test]
async fn a_paused_queue_is_in_nobodys_way() {
    let Some(cluster) = &*CLUSTER else { return };
    let (schema, cx) = (cluster.schema(), Context::new());
    let store = open(cluster, &schema).await;
    let both = LeaseRequest { queues: vec!["open".into(), "paused".into()], ..LeaseRequest::new("", 9) };
    assert_eq!(store.lease(&cx, both.clone()).await.unwrap(), []);
    let jobs = ["paused", "open"].map(|queue| NewJob::new(queue, ""));
    store.commit(&cx, Commit::new().enqueue(jobs)).await.unwrap();
    // With hints of both at hand, one of them is closed.
    store.commit(&cx, Commit::new().pause("paused")).await.unwrap();
    let leased = store.lease(&cx, both.clone()).await.unwrap();
    assert_eq!(leased.iter().map(|job| job.queue.as_str()).collect::<Vec<_>>(), ["open"]);
    store.commit(&cx, Commit::new().resume("paused")).await.unwrap();
    let leased = store.lease(&cx, both).await.unwrap();
    assert_eq!(leased.iter().map(|job| job.queue.as_str()).collect::<Vec<_>>(), ["paused"]);
}

#[tokio::test]
async fn plain_sql_takes_part_in_its_own_transaction() {
    let Some(cluster) = &*CLUSTER else { return };
    let (schema, cx) = (cluster.schema(), Context::new());
    let (store, mut own) = (open(cluster, &schema).await, client(cluster).await);
    let mut woken = store.watch(&cx, Watch::Jobs(vec!["mail".into()])).await.unwrap();
    let enqueue = format!("SELECT {schema}.enqueue('mail', 'hello', tenant => 'acme', unique_key => 'one')");
    let tx = own.transaction().await.unwrap();
    tx.query_one(&enqueue, &[]).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(store.lease(&cx, LeaseRequest::new("mail", 9)).await.unwrap(), []);
    let first: i64 = own.query_one(&enqueue, &[]).await.unwrap().get(0);
    let second: i64 = own.query_one(&enqueue, &[]).await.unwrap().get(0);
    assert_eq!(first, second, "the unique key holds");
    own.query_one(&format!("SELECT {schema}.wake('mail')"), &[]).await.unwrap();
    assert!(tokio::time::timeout(SOON, woken.next()).await.expect("in time").is_some());

    let job = store.lease(&cx, LeaseRequest::new("mail", 9)).await.unwrap().remove(0);
    assert_eq!((job.id.0, &job.payload[..], job.tenant.as_deref()), (first, &b"hello"[..], Some("acme")));
    let complete = format!("SELECT {schema}.complete({}, {})", job.id, job.lease.token);
    own.query_one(&complete, &[]).await.unwrap();
    let lost = own.query_one(&complete, &[]).await.unwrap_err();
    let lost = lost.as_db_error().expect("the server refuses it");
    assert_eq!(lost.code().code(), "40001");
    assert!(lost.message().contains("no longer held"), "{lost}");
}

#[tokio::test]
async fn a_key_that_is_being_settled_is_waited_for_a_second() {
    let Some(cluster) = &*CLUSTER else { return };
    let (schema, cx) = (cluster.schema(), Context::new());
    let (store, mut own) = (open(cluster, &schema).await, client(cluster).await);
    let key = IdempotencyKey::new("shop/pay", "k").unwrap();
    let request = ClaimRequest::new(key, Fingerprint::of("pay", b"{}")).hold(Duration::from_millis(200));
    let Claim::Fresh(ticket) = store.claim(&cx, request.clone()).await.unwrap() else { panic!("it is new") };
    let answer = Answer::json(201, "{}");
    let tx = own.transaction().await.unwrap();
    let applied = store.apply(&tx, &Commit::new().settle(ticket, answer.clone())).await.unwrap();
    tokio::time::sleep(Duration::from_millis(250)).await;
    // The claim has run out, and its row is locked by a transaction that may still commit.
    let begun = Instant::now();
    let waited = store.claim(&cx, request.clone()).await.unwrap();
    assert!(matches!(waited, Claim::InFlight { .. }), "{waited:?}");
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    tx.commit().await.unwrap();
    applied.committed();
    assert_eq!(store.claim(&cx, request).await.unwrap(), Claim::Done(answer));
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

#[tokio::test]
async fn a_closed_store_answers_that_it_is_closed() {
    let Some(cluster) = &*CLUSTER else { return };
    let (store, cx) = (open(cluster, &cluster.schema()).await, Context::new());
    store.close();
    let enqueued = store.enqueue(&cx, NewJob::new("q", "")).await.map(drop);
    let leased = store.lease(&cx, LeaseRequest::new("q", 1)).await.map(drop);
    for answer in [enqueued, leased, store.info(&cx).await.map(drop)] {
        let error = answer.unwrap_err();
        assert_eq!((error.kind(), error.retryable()), (ErrorKind::Closed, false), "{error:?}");
        assert!(error.advice().is_some());
    }
}
