//! The idempotency layer around an axum service of one's own, over a real socket and a real SQLite file.

#![allow(clippy::expect_used, clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Extension, Router,
    extract::State,
    http::StatusCode,
    response::IntoResponse,
    routing::{get, post},
};
use common::{Folder, Server, client, json, text, until};
use selvedge_core::{
    AnyStore, Commit, Context, Store,
    idempotency::Answer,
    store::{JobFilter, NewJob, StoreExt},
};
use selvedge_http::{IdempotencyLayer, Settled, Ticket};
use tokio::sync::Notify;

/// A shop whose handlers count what they do.
#[derive(Clone, Default)]
struct Shop {
    effects: Arc<AtomicUsize>,
    calls: Arc<AtomicUsize>,
    gate: Arc<Notify>,
}

impl Shop {
    fn charge(&self) -> usize {
        self.effects.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn effects(&self) -> usize {
        self.effects.load(Ordering::SeqCst)
    }

    fn call(&self) -> usize {
        self.calls.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn router(&self, layer: IdempotencyLayer) -> Router {
        Router::new()
            .route("/orders", post(create).put(create).get(async || "the orders"))
            .route("/other", post(create))
            .route("/orders/{number}", post(create))
            .route(&format!("/long/{}", "x".repeat(300)), post(create))
            .route("/slow", post(slow))
            .route("/gated", post(gated))
            .route("/shaky", post(shaky))
            .route("/panics", post(panics))
            .route("/blocks", post(blocks))
            .route("/large", post(large))
            .route("/refuses", post(refuses))
            .layer(layer)
            .route("/effects", get(async |State(shop): State<Shop>| shop.effects().to_string()))
            .with_state(self.clone())
    }
}

async fn create(State(shop): State<Shop>, body: String) -> impl IntoResponse {
    let number = shop.charge();
    (
        StatusCode::CREATED,
        [("location", format!("/orders/{number}")), ("x-secret", "not kept".into())],
        format!("order {number}: {body}"),
    )
}

async fn slow(State(shop): State<Shop>) -> String {
    tokio::time::sleep(Duration::from_millis(300)).await;
    format!("order {}", shop.charge())
}

async fn gated(State(shop): State<Shop>) -> String {
    shop.call();
    shop.gate.notified().await;
    format!("order {}", shop.charge())
}

async fn shaky(State(shop): State<Shop>) -> (StatusCode, String) {
    match shop.call() {
        1 => (StatusCode::SERVICE_UNAVAILABLE, "come back".into()),
        2 => (StatusCode::TOO_MANY_REQUESTS, "slower".into()),
        _ => (StatusCode::OK, format!("order {}", shop.charge())),
    }
}

async fn panics(State(shop): State<Shop>) -> String {
    assert!(shop.call() > 1, "the first call breaks");
    format!("order {}", shop.charge())
}

/// Holds its thread for longer than the claim holds, once.
async fn blocks(State(shop): State<Shop>) -> String {
    let call = shop.call();
    if call == 1 {
        std::thread::sleep(Duration::from_millis(1_500));
    }
    format!("call {call}")
}

async fn large(State(shop): State<Shop>) -> Vec<u8> {
    shop.charge();
    vec![b'x'; IdempotencyLayer::MAX_ANSWER + 1]
}

async fn refuses(State(shop): State<Shop>) -> (StatusCode, String) {
    (StatusCode::PAYMENT_REQUIRED, format!("refusal {}", shop.call()))
}

async fn start(change: impl FnOnce(IdempotencyLayer) -> IdempotencyLayer) -> (Folder, Shop, Server) {
    let (folder, shop) = (Folder::new(), Shop::default());
    let layer = change(IdempotencyLayer::new(AnyStore::new(folder.open())));
    let server = Server::start(shop.router(layer)).await;
    (folder, shop, server)
}

fn send(server: &Server, path: &str, key: &str, body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
    client().post(server.url(path)).header("idempotency-key", format!("\"{key}\"")).body(body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_needed_and_must_be_readable() {
    let (_folder, shop, server) = start(|layer| layer).await;
    let (status, problem) = json(client().post(server.url("/orders")).body("tea").send().await.unwrap()).await;
    assert_eq!(status, 400);
    assert_eq!(problem["kind"], "invalid_input");
    assert!(problem["message"].as_str().unwrap().contains("missing"), "{problem}");
    assert!(problem["advice"].as_str().unwrap().contains("each intent"), "{problem}");

    let two = client().post(server.url("/orders")).header("idempotency-key", "a").header("idempotency-key", "b");
    assert_eq!(two.send().await.unwrap().status(), 400);
    for bad in ["\"open", "\"\"", &"x".repeat(256)] {
        let response = client().post(server.url("/orders")).header("idempotency-key", bad).send().await.unwrap();
        assert_eq!(response.status(), 400, "{bad}");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }
    assert_eq!(shop.effects(), 0);
    assert_eq!(client().get(server.url("/orders")).send().await.unwrap().status(), 200, "reading needs no key");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_key_is_required_a_request_without_one_passes_unguarded() {
    let (_folder, shop, server) = start(|layer| layer.required(false)).await;
    for _ in 0..2 {
        assert_eq!(client().post(server.url("/orders")).send().await.unwrap().status(), 201);
    }
    assert_eq!(shop.effects(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_given_the_first_answer() {
    let (_folder, shop, server) = start(|layer| layer).await;
    let first = send(&server, "/orders", "k", r#"{"item":"tea","cents":500}"#).send().await.unwrap();
    assert_eq!(first.headers().get("idempotency-replayed"), None);
    assert!(first.headers().contains_key("x-secret"));
    let location = first.headers()["location"].clone();
    let first = text(first).await;
    // The same key without quotes, and the same JSON written in another way.
    let retry =
        client().post(server.url("/orders")).header("idempotency-key", "k").body("{ \"cents\":500, \"item\":\"tea\" }");
    let second = retry.send().await.unwrap();
    assert_eq!(second.headers()["idempotency-replayed"], "true");
    assert_eq!(second.headers()["location"], location);
    assert!(!second.headers().contains_key("x-secret"), "only headers that are named are kept");
    assert_eq!(text(second).await, first);
    assert_eq!(shop.effects(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_for_two_requests_is_refused() {
    let (_folder, shop, server) = start(|layer| layer).await;
    assert_eq!(send(&server, "/orders", "k", "tea").send().await.unwrap().status(), 201);
    let other_body = send(&server, "/orders", "k", "coffee").send().await.unwrap();
    assert_eq!(send(&server, "/orders/1", "n", "tea").send().await.unwrap().status(), 201);
    let other_path = send(&server, "/orders/2", "n", "tea").send().await.unwrap();
    let other_query = send(&server, "/orders?gift=yes", "k", "tea").send().await.unwrap();
    for response in [other_body, other_path, other_query] {
        let (status, problem) = json(response).await;
        assert_eq!((status, &problem["kind"]), (422, &"conflict".into()), "{problem}");
    }
    assert_eq!(shop.effects(), 2);
    // Two honest, equal purchases are two.
    assert_eq!(send(&server, "/orders", "k2", "tea").send().await.unwrap().status(), 201);
    assert_eq!(shop.effects(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_belongs_to_its_operation() {
    let (_folder, shop, server) = start(|layer| layer.methods([http::Method::POST, http::Method::PUT])).await;
    let long = format!("/long/{}", "x".repeat(300));
    for path in ["/orders", "/other", &long] {
        assert_eq!(send(&server, path, "k", "tea").send().await.unwrap().status(), 201, "{path}");
        let again = send(&server, path, "k", "tea").send().await.unwrap();
        assert_eq!(again.headers()["idempotency-replayed"], "true", "{path}");
    }
    let put = client().put(server.url("/orders")).header("idempotency-key", "k").body("tea").send().await.unwrap();
    assert_eq!(put.status(), 201);
    assert_eq!(shop.effects(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_duplicates_at_once_have_one_effect() {
    let (_folder, shop, server) = start(|layer| layer.wait(Duration::from_secs(20))).await;
    let requests = (0..100).map(|_| {
        let request = send(&server, "/slow", "k", "tea");
        tokio::spawn(async move { text(request.send().await.unwrap()).await })
    });
    let answers = futures_util::future::join_all(requests.collect::<Vec<_>>()).await;
    for answer in answers {
        assert_eq!(answer.unwrap(), (200, "order 1".to_owned()));
    }
    assert_eq!(shop.effects(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_in_flight_waits_and_is_then_told_when_to_come_back() {
    let (_folder, shop, server) = start(|layer| layer.wait(Duration::from_millis(200))).await;
    let first = tokio::spawn(send(&server, "/gated", "k", "tea").send());
    until("the first is in its handler", async || shop.calls() == 1).await;
    let asked = Instant::now();
    let second = send(&server, "/gated", "k", "tea").send().await.unwrap();
    assert!(asked.elapsed() >= Duration::from_millis(200));
    assert_eq!(second.status(), 409);
    let after: u64 = second.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=5).contains(&after), "{after}");
    shop.gate.notify_one();
    assert_eq!(text(first.await.unwrap().unwrap()).await, (200, "order 1".into()));
    let third = send(&server, "/gated", "k", "tea").send().await.unwrap();
    assert_eq!(text(third).await, (200, "order 1".into()));
    assert_eq!((shop.calls(), shop.effects()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_that_pass_are_forgotten_and_refusals_are_kept() {
    let (_folder, shop, server) = start(|layer| layer).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(send(&server, "/shaky", "k", "tea").send().await.unwrap().status().as_u16());
    }
    assert_eq!(seen, [503, 429, 200, 200]);
    assert_eq!((shop.calls(), shop.effects()), (3, 1));
    for _ in 0..2 {
        let refusal = send(&server, "/refuses", "r", "tea").send().await.unwrap();
        assert_eq!(text(refusal).await, (402, "refusal 4".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_gives_its_key_back() {
    let (_folder, shop, server) = start(|layer| layer.wait(Duration::from_millis(50))).await;
    assert!(send(&server, "/panics", "k", "tea").send().await.is_err(), "a bare axum service drops the connection");
    let retry = send(&server, "/panics", "k", "tea").send().await.unwrap();
    assert_eq!(text(retry).await, (200, "order 1".into()));
    assert_eq!(shop.calls(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_client_hangs_up_the_work_ends_and_its_answer_is_kept() {
    let (_folder, shop, server) = start(|layer| layer.wait(Duration::from_secs(10))).await;
    let request = tokio::spawn(send(&server, "/gated", "k", "tea").send());
    until("the handler runs", async || shop.calls() == 1).await;
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    shop.gate.notify_one();
    until("the effect", async || shop.effects() == 1).await;
    let retry = send(&server, "/gated", "k", "tea").send().await.unwrap();
    assert_eq!(retry.headers()["idempotency-replayed"], "true");
    assert_eq!(text(retry).await, (200, "order 1".into()));
    assert_eq!((shop.calls(), shop.effects()), (1, 1));
}

#[test]
fn after_a_crash_the_key_is_free_once_its_hold_ends() {
    let folder = Folder::new();
    let hold = Duration::from_secs(2);
    let claimed = Instant::now();
    {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let shop = Shop::default();
        runtime.block_on(async {
            let layer = IdempotencyLayer::new(AnyStore::new(folder.open())).hold(hold);
            let server = Server::start(shop.router(layer)).await;
            let _request = tokio::spawn(send(&server, "/gated", "k", "tea").send());
            until("the handler runs", async || shop.calls() == 1).await;
        });
        // All tasks are dropped where they stand, as in a crash: nobody settles and nobody abandons.
        runtime.shutdown_timeout(Duration::from_secs(5));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let shop = Shop::default();
        let layer = IdempotencyLayer::new(AnyStore::new(folder.open())).hold(hold).wait(Duration::ZERO);
        let server = Server::start(shop.router(layer)).await;
        let early = send(&server, "/orders", "other", "tea").send().await.unwrap();
        assert_eq!(early.status(), 201, "other keys are not held up");
        let mut conflicts = 0;
        loop {
            let response = send(&server, "/gated", "k", "tea").timeout(Duration::from_millis(400)).send().await;
            match response {
                Ok(response) if response.status() == 409 => conflicts += 1,
                // The claim was taken over and the handler waits for its gate.
                Err(error) if error.is_timeout() => break,
                other => panic!("{other:?}"),
            }
            assert!(claimed.elapsed() < hold * 5, "the key is never free");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(conflicts > 0, "the crashed request's claim held");
        assert!(claimed.elapsed() >= hold);
        shop.gate.notify_one();
        until("the effect", async || shop.effects() == 2).await;
        until("the answer is kept", async || {
            send(&server, "/gated", "k", "tea").send().await.is_ok_and(|response| response.status() == 200)
        })
        .await;
        assert_eq!(shop.calls(), 1);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_lost_the_claim_is_told_so_and_changes_nothing() {
    let (_folder, shop, server) =
        start(|layer| layer.hold(Duration::from_millis(500)).wait(Duration::from_secs(5))).await;
    let late = tokio::spawn(send(&server, "/blocks", "k", "tea").send());
    until("the first is in its handler", async || shop.calls() == 1).await;
    let second = send(&server, "/blocks", "k", "tea").send().await.unwrap();
    assert_eq!(text(second).await, (200, "call 2".into()), "it took the key over when the hold ended");
    let (status, problem) = json(late.await.unwrap().unwrap()).await;
    assert_eq!((status, &problem["kind"]), (409, &"lease_lost".into()), "{problem}");
    let third = send(&server, "/blocks", "k", "tea").send().await.unwrap();
    assert_eq!(text(third).await, (200, "call 2".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_may_not_outlast_its_claim() {
    let (_folder, shop, server) = start(|layer| layer.hold(Duration::from_millis(300))).await;
    let response = send(&server, "/gated", "k", "tea").send().await.unwrap();
    assert_eq!(response.status(), 504);
    shop.gate.notify_one();
    let retry = send(&server, "/gated", "k", "tea").send().await.unwrap();
    assert_eq!(text(retry).await, (200, "order 1".into()));
    assert_eq!((shop.calls(), shop.effects()), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waited_for_the_key_has_all_of_its_hold() {
    let hold = Duration::from_millis(1_500);
    let (_folder, shop, server) = start(|layer| layer.hold(hold).wait(Duration::from_secs(10))).await;
    let first = tokio::spawn(send(&server, "/gated", "k", "tea").send());
    until("the first is in its handler", async || shop.calls() == 1).await;
    let second = tokio::spawn(send(&server, "/gated", "k", "tea").send());
    assert_eq!(first.await.unwrap().unwrap().status(), 504, "it never comes back");
    until("the second has the key", async || shop.calls() == 2).await;
    tokio::time::sleep(hold / 3).await;
    shop.gate.notify_one();
    assert_eq!(text(second.await.unwrap().unwrap()).await, (200, "order 1".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn effect_and_settlement_can_be_one_commit() {
    let folder = Folder::new();
    let store = AnyStore::new(folder.open());
    let handler = async |State(store): State<AnyStore>, Extension(ticket): Extension<Ticket>, body: String| {
        let answer = Answer::json(202, r#"{"status":"queued"}"#);
        let commit = Commit::new().enqueue([NewJob::new("charge", body)]).settle(ticket, answer.clone());
        match store.commit(&Context::new(), commit).await {
            Ok(_) => Settled(answer).into_response(),
            Err(error) => selvedge_http::Problem::from(error).into_response(),
        }
    };
    let app = Router::new()
        .route("/orders", post(handler))
        .layer(IdempotencyLayer::new(store.clone()))
        .with_state(store.clone());
    let server = Server::start(app).await;
    let first = send(&server, "/orders", "k", "tea").send().await.unwrap();
    assert_eq!(first.headers().get("idempotency-replayed"), None);
    let first = text(first).await;
    let second = send(&server, "/orders", "k", "tea").send().await.unwrap();
    assert_eq!(second.headers()["idempotency-replayed"], "true");
    assert_eq!(text(second).await, first);
    let jobs = store.jobs(&Context::new(), JobFilter::default()).await.unwrap();
    assert_eq!(jobs.items.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_too_large_to_keep_is_not_a_licence_to_do_it_again() {
    let (_folder, shop, server) = start(|layer| layer).await;
    let first = json(send(&server, "/large", "k", "tea").send().await.unwrap()).await;
    assert_eq!((first.0, &first.1["kind"]), (500, &"too_large".into()));
    assert_eq!(json(send(&server, "/large", "k", "tea").send().await.unwrap()).await, first);
    assert_eq!(shop.effects(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_413_and_claims_nothing() {
    let (_folder, shop, server) = start(|layer| layer).await;
    let (status, problem) = json(send(&server, "/orders", "k", vec![b'x'; 10 << 20]).send().await.unwrap()).await;
    assert_eq!((status, &problem["kind"]), (413, &"too_large".into()));
    assert_eq!(send(&server, "/orders", "k", "tea").send().await.unwrap().status(), 201);
    assert_eq!(shop.effects(), 1);
}
