//! Outbox events to a real server.

#![allow(clippy::expect_used, clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
    routing::post,
};
use common::{Folder, Server};
use selvedge_core::{
    Commit, Context, Engine, Store, TraceContext,
    engine::RelayReport,
    store::{Event, EventView, StoreExt},
};
use selvedge_http::{HttpSink, ReqwestTransport};
use selvedge_sqlite::SqliteStore;

/// What the server was sent, and the statuses it answers with; 200 once they are used up.
#[derive(Clone, Default)]
struct Hooks {
    answers: Arc<Mutex<Vec<u16>>>,
    seen: Arc<Mutex<Vec<(HeaderMap, String)>>>,
}

async fn orders(State(hooks): State<Hooks>, headers: HeaderMap, body: String) -> impl IntoResponse {
    hooks.seen.lock().unwrap().push((headers, body));
    let mut answers = hooks.answers.lock().unwrap();
    let status = if answers.is_empty() { 200 } else { answers.remove(0) };
    let headers = [("retry-after", "3600")];
    let headers = (status == 429).then_some(headers).into_iter().flatten().collect::<Vec<_>>();
    let headers: HeaderMap = headers.into_iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect();
    (StatusCode::from_u16(status).unwrap(), headers, "what the server said")
}

struct Bed {
    _folder: Folder,
    store: SqliteStore,
    engine: Engine,
    hooks: Hooks,
    server: Server,
}

impl Bed {
    async fn new(answers: &[u16]) -> Self {
        let folder = Folder::new();
        let store = folder.open();
        let engine = Engine::builder().store(store.clone()).build();
        let hooks = Hooks { answers: Arc::new(Mutex::new(answers.into())), ..Hooks::default() };
        let server = Server::start(Router::new().route("/hooks/orders", post(orders)).with_state(hooks.clone())).await;
        Self { _folder: folder, store, engine, hooks, server }
    }

    async fn emit(&self, aggregate: &str, payload: &str) -> Event {
        let mut event = Event::new(aggregate, "order.created", payload.to_owned());
        event.trace = Some(TraceContext::start());
        self.store.commit(&Context::new(), Commit::new().emit(event.clone())).await.unwrap();
        event
    }

    async fn relay(&self) -> RelayReport {
        let transport = ReqwestTransport::new(&self.server.url("")).unwrap();
        let sink = HttpSink::new(Arc::new(transport), "order.created", "/hooks/orders");
        self.engine.relay_once(&Context::new(), &sink, false).await.unwrap()
    }

    async fn outbox(&self) -> Vec<EventView> {
        self.store.outbox(&Context::new(), false, None, 100).await.unwrap().items
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_arrives_with_its_id_as_key_and_its_trace() {
    let bed = Bed::new(&[]).await;
    let event = bed.emit("order/1", r#"{"item":"tea"}"#).await;
    let other = Event::new("order/2", "order.deleted", "{}");
    bed.store.commit(&Context::new(), Commit::new().emit(other)).await.unwrap();
    assert_eq!(bed.relay().await, RelayReport { attempts: 1, delivered: 1, ..RelayReport::default() });
    let seen = bed.hooks.seen.lock().unwrap().clone();
    let [(headers, body)] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!(body, r#"{"item":"tea"}"#);
    assert_eq!(headers["idempotency-key"], format!("\"{}\"", event.id));
    assert_eq!(headers["content-type"], "application/json");
    let trace: TraceContext = headers["traceparent"].to_str().unwrap().parse().unwrap();
    assert_eq!(trace.trace_id(), event.trace.unwrap().trace_id());
    assert_eq!(bed.outbox().await.len(), 1, "a topic without a path stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_pass_is_tried_again_under_the_same_key_and_not_before_it_is_time() {
    let bed = Bed::new(&[503, 429]).await;
    bed.emit("order/1", "{}").await;
    assert_eq!(bed.relay().await.failed, 1);
    let failed = &bed.outbox().await[0];
    assert!(!failed.dead && failed.last_error.as_deref().is_some_and(|error| error.contains("503")), "{failed:?}");
    tokio::time::timeout(Duration::from_secs(20), async {
        while bed.relay().await.failed == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("it is tried again by its backoff");
    let view = &bed.outbox().await[0];
    let wait = view.run_at.since(selvedge_core::Timestamp::now());
    assert!(wait > Duration::from_secs(3_000), "Retry-After counts: {wait:?}");
    let seen = bed.hooks.seen.lock().unwrap();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].0["idempotency-key"], seen[1].0["idempotency-key"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_a_dead_letter_that_says_why_and_holds_up_its_aggregate_only() {
    let bed = Bed::new(&[422]).await;
    bed.emit("order/1", "1").await;
    assert_eq!(bed.relay().await.refused, 1);
    bed.emit("order/1", "2").await;
    bed.emit("order/2", "3").await;
    assert_eq!(bed.relay().await.delivered, 1);
    let outbox = bed.outbox().await;
    assert_eq!(outbox.len(), 2);
    assert!(outbox[0].dead);
    let reason = outbox[0].last_error.as_deref().unwrap();
    assert!(reason.contains("422") && reason.contains("what the server said"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_a_failed_attempt() {
    let bed = Bed::new(&[]).await;
    bed.emit("order/1", "{}").await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = ReqwestTransport::new(&format!("http://{free}")).unwrap();
    let sink = HttpSink::new(Arc::new(nobody), "order.created", "/hooks/orders");
    let report = bed.engine.relay_once(&Context::new(), &sink, false).await.unwrap();
    assert_eq!((report.attempts, report.failed), (1, 1));
    assert!(!bed.outbox().await[0].dead);
}
