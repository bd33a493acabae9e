//! The service as a process of its own, on a real PostgreSQL, with duplicates, kills and a provider that counts.
#![allow(clippy::expect_used, clippy::unwrap_used, missing_docs)]

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, Instant},
};

use axum::{Json, Router, extract::State, http::HeaderMap, routing::post};
use selvedge::postgres::tokio_postgres::{self, NoTls};
use selvedge_testkit::postgres::Cluster;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

const SOON: Duration = Duration::from_secs(30);

/// A machine without PostgreSQL skips these tests, unless it is meant to run them all.
fn cluster() -> Option<&'static Cluster> {
    static CLUSTER: LazyLock<Option<Cluster>> = LazyLock::new(|| match Cluster::start() {
        Ok(cluster) => Some(cluster),
        Err(error) if std::env::var_os("CI").is_some() => panic!("{error:#}"),
        Err(error) => {
            println!("skipped: {error:#}");
            None
        }
    });
    CLUSTER.as_ref()
}

/// A database of one's own, and a session in it.
struct Database {
    url: String,
    client: tokio_postgres::Client,
}

impl Database {
    async fn new(name: &str) -> Option<Self> {
        let cluster = cluster()?;
        connect(&cluster.url()).await.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let url = cluster.url().replace("/postgres?", &format!("/{name}?"));
        Some(Self { client: connect(&url).await, url })
    }

    async fn count(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }
}

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The service's process; it ends with this.
struct Service {
    process: Child,
    address: String,
}

impl Service {
    fn start(database: &Database, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_payments"));
        command.args(["--store", &database.url, "--listen", "127.0.0.1:0", "--hold-seconds", "2"]).args(more);
        let mut process = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("it said {line:?}"));
        Self { address: address.to_owned(), process }
    }

    fn send(&self, path: &str, key: &str, cents: i64) -> reqwest::RequestBuilder {
        let client = reqwest::Client::builder().no_proxy().timeout(SOON).build().unwrap();
        let request = client.post(format!("{}{path}", self.address)).header("idempotency-key", key);
        request.json(&json!({ "account": "ada", "cents": cents }))
    }

    /// Repeats a request, as a client does, until it is answered.
    async fn answered(&self, path: &str, key: &str, cents: i64) -> (u16, Value) {
        let began = Instant::now();
        loop {
            let response = self.send(path, key, cents).send().await.unwrap();
            let status = response.status().as_u16();
            if status != 409 && status < 500 {
                return (status, response.json().await.unwrap());
            }
            assert!(response.headers().contains_key("retry-after") || status != 409, "409 says when to come back");
            assert!(began.elapsed() < SOON, "it is never answered: {status}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ends it as a crash does: no handler, no destructor.
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !check().await {
        assert!(began.elapsed() < SOON, "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_duplicates_at_once_are_one_payment() {
    let Some(database) = Database::new("duplicates").await else { return };
    let service = Service::start(&database, &[]);
    let sent: Vec<_> = (0..50).map(|_| tokio::spawn(service.send("/payments", "cart-17", 500).send())).collect();
    let (mut fresh, mut replayed, mut told_to_wait) = (0, 0, 0);
    for response in sent {
        let response = response.await.unwrap().unwrap();
        match (response.status().as_u16(), response.headers().contains_key("idempotency-replayed")) {
            (201, false) => fresh += 1,
            (201, true) => replayed += 1,
            (409, _) => told_to_wait += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((fresh, replayed + told_to_wait), (1, 49));
    assert!(replayed > 0, "none was given the first answer");
    assert_eq!(database.count("SELECT count(*) FROM payment").await, 1);
    // The same key for another payment, and another key for the same.
    assert_eq!(service.send("/payments", "cart-17", 501).send().await.unwrap().status(), 422);
    assert_eq!(service.send("/payments", "cart-18", 500).send().await.unwrap().status(), 201);
    assert_eq!(database.count("SELECT count(*) FROM payment").await, 2);
    let missing = reqwest::Client::builder().no_proxy().build().unwrap().post(format!("{}/payments", service.address));
    assert_eq!(missing.json(&json!({})).send().await.unwrap().status(), 400);
    // A refusal is an answer as well.
    for _ in 0..2 {
        assert_eq!(service.send("/payments", "cart-19", -5).send().await.unwrap().status(), 400);
    }
    assert_eq!(database.count("SELECT count(*) FROM payment").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_claim_and_commit_leaves_nothing_and_the_retry_pays_once() {
    let Some(mut database) = Database::new("crash").await else { return };
    let mut service = Service::start(&database, &[]);
    // The handler has its claim and waits here for the table.
    let own = connect(&database.url).await;
    let tx = database.client.transaction().await.unwrap();
    tx.batch_execute("LOCK TABLE payment IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let request = tokio::spawn(service.send("/payments", "cart-17", 500).send());
    until("the handler waits for the table", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO payment%'";
        own.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    service.kill();
    assert!(request.await.unwrap().is_err(), "nobody answers any more");
    tx.rollback().await.unwrap();

    let service = Service::start(&database, &[]);
    let (status, answer) = service.answered("/payments", "cart-17", 500).await;
    assert_eq!(status, 201, "{answer}");
    assert_eq!(database.count("SELECT count(*) FROM payment").await, 1);
    let again = service.answered("/payments", "cart-17", 500).await;
    assert_eq!((again.0, again.1), (201, answer));
    assert_eq!(database.count("SELECT count(*) FROM payment").await, 1);
}

/// A provider that charges once for each key, and can keep its answers to itself.
#[derive(Clone)]
struct Provider {
    charges: Arc<Mutex<HashMap<String, String>>>,
    keys: Arc<Mutex<Vec<String>>>,
    answers: Arc<Semaphore>,
}

impl Provider {
    async fn start() -> (Self, String) {
        let provider = Self { charges: Arc::default(), keys: Arc::default(), answers: Arc::new(Semaphore::new(0)) };
        let charge = async |State(provider): State<Provider>, headers: HeaderMap| {
            let key = headers["idempotency-key"].to_str().unwrap().to_owned();
            let reference = {
                let mut charges = provider.charges.lock().unwrap();
                let number = charges.len() + 1;
                charges.entry(key.clone()).or_insert_with(|| format!("charge-{number}")).clone()
            };
            provider.keys.lock().unwrap().push(key);
            provider.answers.acquire().await.unwrap().forget();
            Json(json!({ "reference": reference }))
        };
        let router = Router::new().route("/charges", post(charge)).with_state(provider.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (provider, url)
    }

    fn keys(&self) -> Vec<String> {
        self.keys.lock().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_the_providers_charge_goes_on_from_the_recovery_point() {
    let Some(database) = Database::new("recovery").await else { return };
    let (provider, url) = Provider::start().await;
    let mut service = Service::start(&database, &["--provider", &url]);
    let request = tokio::spawn(service.send("/payouts", "invoice-9", 700).send());
    until("the provider has charged", async || provider.keys().len() == 1).await;
    // It has charged, and the service will never hear of it.
    service.kill();
    assert!(request.await.unwrap().is_err());
    let point = "SELECT count(*) FROM selvedge.idempotency WHERE point_name = 'recorded' AND status IS NULL";
    assert_eq!(database.count(point).await, 1);

    provider.answers.add_permits(10);
    let service = Service::start(&database, &["--provider", &url]);
    let (status, answer) = service.answered("/payouts", "invoice-9", 700).await;
    assert_eq!((status, &answer["reference"]), (201, &"charge-1".into()), "{answer}");
    let keys = provider.keys();
    assert_eq!(keys.len(), 2, "it asked again");
    assert_eq!(keys[0], keys[1], "with the same key");
    assert_ne!(keys[0], "invoice-9", "which is not the client's");
    assert_eq!(provider.charges.lock().unwrap().len(), 1);
    assert_eq!(database.count("SELECT count(*) FROM payout WHERE reference = 'charge-1'").await, 1);
    assert_eq!(database.count("SELECT count(*) FROM payout").await, 1, "the first step was not done again");

    let again = service.answered("/payouts", "invoice-9", 700).await;
    assert_eq!((again.0, again.1, provider.keys().len()), (201, answer, 2), "a replay asks nobody");
    assert_eq!(service.send("/payouts", "invoice-9", 701).send().await.unwrap().status(), 422);
}
