//! The server of an engine, over a real socket and a real SQLite file.

#![allow(clippy::expect_used, clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use common::{Folder, Server, client, json, text, until};
use selvedge_core::{
    Context, Engine, Intent, Store, TraceContext,
    intent::{IntentState, ReceivedIntent},
    layers::Metrics,
    scheduler::Class,
    store::{IntentFilter, JobFilter, LeaseRequest, StoreExt},
};
use selvedge_http::{ApiKey, ReqwestTransport, ServerOptions, router};
use selvedge_priority::Priority;
use tokio::sync::Notify;

struct Case {
    folder: Folder,
    engine: Engine,
    server: Server,
}

async fn start(options: ServerOptions) -> Case {
    let folder = Folder::new();
    let mut engine = Engine::builder().store(folder.open()).scheduler(Priority::new(1, 4));
    if let Some(metrics) = &options.metrics {
        engine = engine.layer(metrics.clone());
    }
    let engine = engine.build();
    let server = Server::start(router(engine.clone(), options)).await;
    Case { folder, engine, server }
}

impl Case {
    fn intent(&self, key: &str, body: &str) -> reqwest::RequestBuilder {
        client().post(self.server.url("/v1/intents")).header("idempotency-key", key).body(body.to_owned())
    }

    async fn jobs(&self) -> usize {
        let filter = JobFilter { limit: 1_000, ..JobFilter::default() };
        self.engine.store().unwrap().jobs(&Context::new(), filter).await.unwrap().items.len()
    }
}

const ORDER: &str = r#"{"operation":"orders.create","payload":{"item":"tea","cents":500}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_is_queued_once_with_its_tenant_and_trace() {
    let keys = vec![ApiKey::secret("acme-key").tenant("acme"), ApiKey::secret("zeta-key").tenant("zeta")];
    let case = start(ServerOptions { keys, ..ServerOptions::default() }).await;
    let trace = TraceContext::start();
    let send = |key: &str| case.intent("order-1", ORDER).bearer_auth(key).header("traceparent", trace.to_string());
    let first = send("acme-key").send().await.unwrap();
    assert_eq!(first.headers()["x-trace-id"], trace.trace_id().as_str());
    assert!(first.headers().get("idempotency-replayed").is_none());
    let (status, answer) = json(first).await;
    assert_eq!(status, 202);
    assert_eq!(answer, serde_json::json!({ "id": "order-1", "status": "queued", "queue": "intents" }));
    let again = send("acme-key").send().await.unwrap();
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!(json(again).await, (202, answer));
    // Another tenant's equal key is another key.
    assert_eq!(send("zeta-key").send().await.unwrap().headers().get("idempotency-replayed"), None);

    let jobs = case.engine.store().unwrap().lease(&Context::new(), LeaseRequest::new("intents", 10)).await.unwrap();
    let tenants: Vec<_> = jobs.iter().map(|job| job.tenant.as_deref().unwrap()).collect();
    assert_eq!(tenants, ["acme", "zeta"]);
    assert!(jobs.iter().all(|job| job.trace.unwrap().trace_id() == trace.trace_id()));
    let received = ReceivedIntent::from_json(&jobs[0].payload).unwrap();
    assert_eq!((received.key.as_str(), received.operation.as_str()), ("order-1", "orders.create"));
    assert_eq!(received.payload.get(), r#"{"item":"tea","cents":500}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_duplicates_at_once_are_one_job() {
    let case = start(ServerOptions { wait: Duration::from_secs(20), ..ServerOptions::default() }).await;
    let requests: Vec<_> = (0..100).map(|_| tokio::spawn(case.intent("k", ORDER).send())).collect();
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap().status(), 202);
    }
    assert_eq!(case.jobs().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_submitted_on_one_side_is_queued_on_the_other() {
    let case = start(ServerOptions::default()).await;
    let phone_folder = Folder::new();
    let phone = Engine::builder().store(phone_folder.open()).build();
    let cx = Context::new().with_trace(TraceContext::start());
    for order in 0..3 {
        let intent =
            Intent::new("orders.create", format!(r#"{{"order":{order}}}"#)).business_key(format!("cart \"{order}\""));
        phone.submit(&cx, intent).await.unwrap();
    }
    let transport = ReqwestTransport::new(&case.server.url("")).unwrap();
    let flushed = phone.flush(&cx, &transport).await.unwrap();
    assert_eq!((flushed.answered, flushed.failed), (3, 0));
    let done = IntentFilter { state: Some(IntentState::Done), ..IntentFilter::default() };
    assert_eq!(phone.intents(&cx, done).await.unwrap().items.len(), 3);
    assert_eq!(case.jobs().await, 3);
    assert_eq!(phone.flush(&cx, &transport).await.unwrap().attempts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_have_queues_of_their_own_and_others_are_refused() {
    let intents = BTreeMap::from([("orders.create".to_owned(), "orders".to_owned())]);
    let case = start(ServerOptions { intents, ..ServerOptions::default() }).await;
    let (status, answer) = json(case.intent("a", ORDER).send().await.unwrap()).await;
    assert_eq!((status, &answer["queue"]), (202, &"orders".into()));
    let other = case.intent("b", r#"{"operation":"orders.burn","payload":{}}"#).send().await.unwrap();
    let (status, problem) = json(other).await;
    assert_eq!((status, &problem["kind"]), (404, &"not_found".into()), "{problem}");
    assert_eq!(case.jobs().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_bodies_are_refused_with_the_place_named() {
    let case = start(ServerOptions::default()).await;
    let post = |key: &str, body: Vec<u8>| {
        client().post(case.server.url("/v1/intents")).header("idempotency-key", key.to_owned()).body(body).send()
    };
    for (number, body, status, place) in [
        (1, b"{\"operation\":\"a\",\n\"payload\":{]}".to_vec(), 400, "line 2 column"),
        (2, b"{\"operation\":\"a\xff\"}".to_vec(), 400, "byte 15"),
        (3, br#"{"operation":7,"payload":{}}"#.to_vec(), 400, "operation"),
        (4, br#"{"operation":"a"}"#.to_vec(), 400, "payload"),
        (5, br#"{"operation":"a","payload":{}} tail"#.to_vec(), 400, "goes on after"),
        (6, Vec::new(), 400, "line 1"),
        (7, vec![b' '; 10 << 20], 413, "too large"),
    ] {
        let response = post(&format!("k{number}"), body).await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let (got, problem) = json(response).await;
        assert_eq!(got, status, "{number}: {problem}");
        assert!(problem["message"].as_str().unwrap().contains(place), "{number}: {problem}");
        assert_eq!(problem["status"], status);
    }
    assert_eq!(case.jobs().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_known_keys_get_in_and_none_above_its_class() {
    let keys = vec![
        ApiKey::secret("fast"),
        ApiKey::sha256("2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae")
            .unwrap()
            .max_class(Class::P2),
    ];
    let case = start(ServerOptions { keys, ..ServerOptions::default() }).await;
    let models = |key: Option<&str>, class: Option<&str>| {
        let mut request = client().get(case.server.url("/v1/models"));
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        if let Some(class) = class {
            request = request.header("x-selvedge-priority", class);
        }
        request.send()
    };
    for (key, class, status) in [
        (None, None, 401),
        (Some("slow"), None, 401),
        (Some(""), None, 401),
        (Some("fast"), None, 200),
        (Some("fast"), Some("p2"), 200),
        (Some("fast"), Some("p9"), 400),
        (Some("foo"), None, 200),
        (Some("foo"), Some("p2"), 200),
        (Some("foo"), Some("P0"), 403),
    ] {
        let (got, body) = json(models(key, class).await.unwrap()).await;
        assert_eq!(got, status, "{key:?} {class:?}: {body}");
        if status != 200 {
            assert!(
                body["error"]["message"].is_string() && body["error"]["type"].is_string(),
                "OpenAI's shape: {body}"
            );
        }
    }
    let denied = models(None, None).await.unwrap();
    assert_eq!(json(denied).await.1["error"]["code"], "invalid_api_key");
    let header = client().get(case.server.url("/v1/models")).header("x-api-key", "fast");
    assert_eq!(header.send().await.unwrap().status(), 200);
    assert_eq!(client().get(case.server.url("/metrics")).send().await.unwrap().status(), 401);
    assert_eq!(client().get(case.server.url("/health")).send().await.unwrap().status(), 200);
    assert_eq!(case.intent("k", ORDER).send().await.unwrap().status(), 401);
    assert_eq!(case.jobs().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_does_not_have_it_says() {
    let case = start(ServerOptions::default()).await;
    let (status, problem) = json(client().get(case.server.url("/nowhere")).send().await.unwrap()).await;
    assert_eq!((status, &problem["kind"]), (404, &"not_found".into()));
    let (status, problem) = json(client().get(case.server.url("/v1/intents")).send().await.unwrap()).await;
    assert_eq!((status, &problem["kind"]), (405, &"unsupported".into()));
    let chat =
        client().post(case.server.url("/v1/chat/completions")).body(r#"{"messages":[{"role":"user","content":"hi"}]}"#);
    let (status, error) = json(chat.send().await.unwrap()).await;
    assert_eq!((status, &error["error"]["type"]), (501, &"server_error".into()), "{error}");
    let bare = Server::start(router(Engine::builder().build(), ServerOptions::default())).await;
    let intent = client().post(bare.url("/v1/intents")).body(ORDER).send().await.unwrap();
    assert_eq!(json(intent).await.0, 501);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_go_in_and_out() {
    let case = start(ServerOptions::default()).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let given = client().get(case.server.url("/health")).header("x-request-id", "req-7").header("traceparent", trace);
    let response = given.send().await.unwrap();
    assert_eq!(response.headers()["x-request-id"], "req-7");
    assert_eq!(response.headers()["x-trace-id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert!(response.headers().contains_key("content-length"));
    let bad = client().get(case.server.url("/health")).header("traceparent", "nonsense").send().await.unwrap();
    assert_eq!(bad.headers()["x-trace-id"].len(), 32);
    assert_eq!(bad.headers()["x-request-id"].len(), 36);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_counts_what_it_does() {
    let case = start(ServerOptions { metrics: Some(Metrics::new()), ..ServerOptions::default() }).await;
    assert_eq!(case.intent("k", ORDER).send().await.unwrap().status(), 202);
    client().get(case.server.url("/health")).send().await.unwrap();
    let (status, metrics) = text(client().get(case.server.url("/metrics")).send().await.unwrap()).await;
    assert_eq!(status, 200);
    for line in [
        r#"selvedge_http_requests_total{method="POST",route="/v1/intents",status="202"} 1"#,
        r#"selvedge_http_requests_total{method="GET",route="/health",status="200"} 1"#,
        r#"selvedge_http_request_duration_seconds_count{method="POST",route="/v1/intents"} 1"#,
        r#"selvedge_queue_jobs{queue="intents",tenant="",state="ready"} 1"#,
        r#"selvedge_call_duration_seconds_count{operation="store.claim"} 1"#,
        r#"selvedge_scheduler_running{class="p0"} 0"#,
        "selvedge_queue_ceiling 1000.0",
        r#"selvedge_store_wakeups{mode="poll"} 1"#,
        r#"selvedge_store_wakeups{mode="fallback"} 0"#,
        "# EOF",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_while_its_store_answers() {
    let case = start(ServerOptions::default()).await;
    let (status, ready) = json(client().get(case.server.url("/ready")).send().await.unwrap()).await;
    assert_eq!((status, &ready["ready"], &ready["store"]), (200, &true.into(), &"ok".into()));
    assert!(case.folder.path().exists());
}

/// The engine's routes and a slow one beside them.
fn with_slow(gate: Arc<Notify>, entered: Arc<AtomicUsize>) -> Router {
    let slow = async move || {
        entered.fetch_add(1, Ordering::SeqCst);
        gate.notified().await;
        "done"
    };
    router(Engine::builder().build(), ServerOptions::default()).merge(Router::new().route("/slow", get(slow)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_lets_its_requests_end_and_takes_no_more() {
    let (gate, entered) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let server = Server::start(with_slow(gate.clone(), entered.clone())).await;
    let running = tokio::spawn(client().get(server.url("/slow")).send());
    until("it runs", async || entered.load(Ordering::SeqCst) == 1).await;
    server.stop();
    until("new connections are refused", async || {
        client().get(server.url("/health")).send().await.is_err_and(|error| error.is_connect())
    })
    .await;
    gate.notify_one();
    assert_eq!(text(running.await.unwrap().unwrap()).await, (200, "done".into()));
    assert_eq!(server.ended().await.unfinished, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_in_time_is_cut_off_and_counted() {
    let (gate, entered) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let server = Server::with_drain(with_slow(gate, entered.clone()), Duration::from_millis(200)).await;
    let _running = tokio::spawn(client().get(server.url("/slow")).send());
    until("it runs", async || entered.load(Ordering::SeqCst) == 1).await;
    server.stop();
    assert_eq!(server.ended().await.unfinished, 1);
}
