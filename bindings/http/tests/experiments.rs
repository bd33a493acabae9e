//! Placements, events and configurations over a real socket: a phone with its own SQLite file, and the server.

#![allow(clippy::expect_used, clippy::unwrap_used, missing_docs)]

mod common;

use std::sync::Arc;

use common::{Folder, Server, client, json};
use selvedge_core::{
    AnyStore, Context, Engine, ErrorKind, Experiment, Timestamp,
    experiment::{Assign, EventRequest},
    intent::IntentState,
    store::{Fact, IntentFilter, StoreExt},
};
use selvedge_experiments::{Delivery, Experiments, Refreshed, public_key, sign};
use selvedge_http::{ApiKey, ReqwestTransport, ServedConfig, ServerOptions, router};
use serde_json::{Value, json};
use uuid::Uuid;

const SECRET: [u8; 32] = [7; 32];

struct Case {
    _folder: Folder,
    engine: Engine,
    server: Server,
}

fn payload() -> String {
    json!({ "features": {
        "main_paywall": { "defaultValue": { "offering": "annual" }, "rules": [{
            "key": "depth", "hashVersion": 2, "weights": [0.0, 1.0],
            "variations": [{ "offering": "annual" }, { "offering": "annual_half" }],
            "meta": [{ "key": "control" }, { "key": "half" }], "condition": { "country": { "$ne": "FR" } },
        }] },
        "upgrade_nudge": { "defaultValue": null },
    } })
    .to_string()
}

async fn start(options: ServerOptions) -> Case {
    let folder = Folder::new();
    let store = AnyStore::new(folder.open());
    let experiments = Experiments::builder().store(store.clone()).bundled(payload()).build().unwrap();
    let engine = Engine::builder().store(store).experiment(experiments).build();
    let server = Server::start(router(engine.clone(), options)).await;
    Case { _folder: folder, engine, server }
}

impl Case {
    async fn facts(&self) -> Vec<Fact> {
        let page = self.engine.store().unwrap().facts(&Context::new(), None, 0, 100).await.unwrap();
        page.items.into_iter().map(|view| view.fact).collect()
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        json(client().post(self.server.url(path)).body(body.to_string()).send().await.unwrap()).await
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> (u16, Value) {
        let url = reqwest::Url::parse_with_params(&self.server.url(path), query).unwrap();
        json(client().get(url).send().await.unwrap()).await
    }
}

fn purchase(id: Uuid, discount: i64) -> Value {
    let properties = json!({
        "product_id": "pro", "revenue": 500, "currency": "USD", "is_trial": false, "discount_pct": discount,
    });
    json!({ "id": id, "name": "purchase_completed", "subject": "ada", "properties": properties })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_looks_and_a_post_assigns() {
    let case = start(ServerOptions::default()).await;
    let (status, looked) = case.get("/v1/placements/main_paywall", &[("subject", "ada")]).await;
    assert_eq!((status, &looked["variation"], &looked["enrolled"]), (200, &json!("half"), &json!(false)));
    assert_eq!(case.facts().await, []);
    let body = json!({ "subject": "ada", "device": "phone", "attributes": { "country": "DE" }, "exit_offer": true });
    let assigned = json!({
        "placement": "main_paywall", "experiment": "depth", "variation": "half",
        "show": { "offering": "annual_half" }, "enrolled": true,
    });
    for _ in 0..2 {
        assert_eq!(case.post("/v1/placements/main_paywall", &body).await, (200, assigned.clone()));
    }
    let [exposure] = &case.facts().await[..] else { panic!("one exposure") };
    let properties: Value = serde_json::from_slice(&exposure.properties).unwrap();
    assert_eq!((&properties["device"], &properties["is_exit_offer"]), (&json!("phone"), &json!(true)));

    let french = [("subject", "bob"), ("attributes", r#"{"country":"FR"}"#)];
    let (_, french) = case.get("/v1/placements/main_paywall", &french).await;
    assert_eq!((&french["experiment"], &french["show"]["offering"]), (&Value::Null, &json!("annual")));
    let (status, nothing) = case.get("/v1/placements/upgrade_nudge", &[("subject", "ada")]).await;
    assert_eq!((status, &nothing["show"]), (200, &Value::Null), "nothing to show is an answer");
    let (status, unknown) = case.get("/v1/placements/nowhere", &[("subject", "ada")]).await;
    assert_eq!((status, &unknown["kind"]), (404, &json!("not_found")), "not configured is none");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_a_problem() {
    let case = start(ServerOptions { body_limit: 10_000, ..ServerOptions::default() }).await;
    let placement = "/v1/placements/main_paywall";
    for query in
        [&[][..], &[("subject", "")], &[("subject", "a"), ("attributes", "[1]")], &[("subject", "a"), ("who", "b")]]
    {
        let (status, problem) = case.get(placement, query).await;
        assert_eq!((status, &problem["kind"]), (400, &json!("invalid_input")), "{query:?}");
    }
    for body in [json!({}), json!({ "subject": 7 }), json!({ "subject": "ada", "placement": "other" }), json!([])] {
        assert_eq!(case.post(placement, &body).await.0, 400, "{body}");
    }
    let large = json!({ "subject": "ada", "attributes": { "text": "x".repeat(20_000) } });
    assert_eq!(case.post(placement, &large).await.0, 413);
    assert_eq!(case.post("/v1/events", &json!({})).await.0, 400);
    assert_eq!(case.post("/v1/events", &json!("text")).await.0, 400);
    assert_eq!(case.facts().await, []);
    // A server without the plugin says so.
    let folder = Folder::new();
    let server = Server::start(router(Engine::builder().store(folder.open()).build(), ServerOptions::default())).await;
    let bare = client().get(server.url("/v1/placements/x?subject=ada")).send().await.unwrap();
    let (status, problem) = json(bare).await;
    assert!(status >= 400 && problem["message"].as_str().unwrap().contains("Experiment"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_routes_ask_for_a_key() {
    let keys = vec![ApiKey::secret("phone")];
    let config = Some(ServedConfig::new(payload()));
    let case = start(ServerOptions { keys, config, ..ServerOptions::default() }).await;
    for path in ["/v1/placements/main_paywall?subject=ada", "/v1/config"] {
        assert_eq!(client().get(case.server.url(path)).send().await.unwrap().status(), 401, "{path}");
        let with = client().get(case.server.url(path)).bearer_auth("phone").send().await.unwrap();
        assert_eq!(with.status(), 200, "{path}");
    }
    assert_eq!(case.post("/v1/events", &purchase(Uuid::now_v7(), 0)).await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_counts_once_by_its_id() {
    let case = start(ServerOptions::default()).await;
    let id = Uuid::now_v7();
    assert_eq!(case.post("/v1/events", &purchase(id, 0)).await, (200, json!({ "id": id, "status": "recorded" })));
    assert_eq!(case.post("/v1/events", &purchase(id, 0)).await, (200, json!({ "id": id, "status": "duplicate" })));
    let (status, problem) = case.post("/v1/events", &purchase(Uuid::now_v7(), 101)).await;
    assert_eq!(status, 400);
    let message = problem["message"].as_str().unwrap();
    assert!(message.contains("purchase_completed") && message.contains("discount_pct"), "{problem}");
    assert_eq!(case.facts().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_events_each_is_answered() {
    let case = start(ServerOptions::default()).await;
    let (one, two) = (Uuid::now_v7(), Uuid::now_v7());
    let mut custom = purchase(two, 0);
    (custom["name"], custom["properties"]) = (json!("workout_finished"), json!({ "minutes": 20 }));
    let body = json!([purchase(one, 0), purchase(Uuid::now_v7(), -1), custom, { "id": "no id" }, purchase(one, 0)]);
    let (status, answer) = case.post("/v1/events", &body).await;
    assert_eq!(status, 200);
    assert_eq!((&answer["recorded"], &answer["duplicates"], &answer["refused"]), (&json!(2), &json!(1), &json!(2)));
    let states: Vec<_> = answer["events"].as_array().unwrap().iter().map(|event| event["status"].clone()).collect();
    assert_eq!(states, ["recorded", "refused", "recorded", "refused", "duplicate"]);
    assert!(answer["events"][1]["message"].as_str().unwrap().contains("discount_pct"), "{answer}");
    assert_eq!(answer["events"][2]["id"], json!(two));
    assert_eq!(case.facts().await.len(), 2);
    let many: Vec<_> = (0..1001).map(|_| purchase(one, 0)).collect();
    assert_eq!(case.post("/v1/events", &json!(many)).await.0, 400);
    assert_eq!(case.post("/v1/events", &json!([])).await.1["recorded"], json!(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_is_sent_when_it_is_new() {
    let config = ServedConfig::new(sign(payload().as_bytes(), "a", &SECRET, Timestamp(5)).unwrap());
    let case = start(ServerOptions { config: Some(config.clone()), ..ServerOptions::default() }).await;
    let ask = |tag: Option<String>| {
        let request = client().get(case.server.url("/v1/config"));
        tag.into_iter().fold(request, |request, tag| request.header("if-none-match", tag)).send()
    };
    let first = ask(None).await.unwrap();
    assert_eq!((first.status().as_u16(), first.headers()["content-type"].to_str().unwrap()), (200, "application/jose"));
    let tag = first.headers()["etag"].to_str().unwrap().to_owned();
    for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".into()] {
        let known = ask(Some(known)).await.unwrap();
        assert_eq!((known.status().as_u16(), known.headers()["etag"].to_str().unwrap()), (304, tag.as_str()));
        assert_eq!(known.text().await.unwrap(), "");
    }
    config.replace(sign(payload().as_bytes(), "a", &SECRET, Timestamp(6)).unwrap());
    let newer = ask(Some(tag.clone())).await.unwrap();
    assert!(newer.status() == 200 && newer.headers()["etag"] != tag.as_str());
    let none = start(ServerOptions::default()).await;
    assert_eq!(none.get("/v1/config", &[]).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_fetches_assigns_and_tells_the_server_once() {
    let config = ServedConfig::new(sign(payload().as_bytes(), "a", &SECRET, Timestamp(5)).unwrap());
    let case = start(ServerOptions { config: Some(config), ..ServerOptions::default() }).await;
    let (cx, folder) = (Context::new(), Folder::new());
    let transport = ReqwestTransport::new(&case.server.url("")).unwrap();
    let store = AnyStore::new(folder.open());
    let experiments = Experiments::builder()
        .store(store.clone())
        .delivery(Delivery::Outbox)
        .config(Arc::new(transport.clone()), "/v1/config")
        .trusted_key("a", &public_key(&SECRET))
        .build()
        .unwrap();
    let phone = Engine::builder().store(store).experiment(experiments.clone()).build();
    let assign = || phone.assign(&cx, Assign::new("ada", "main_paywall").on_device("phone"));
    assert_eq!(assign().await.unwrap_err().kind(), ErrorKind::NotFound, "nothing is configured yet");
    assert_eq!(experiments.refresh(&cx).await.unwrap(), Refreshed::New);
    assert_eq!(experiments.refresh(&cx).await.unwrap(), Refreshed::Unchanged);
    assert_eq!(assign().await.unwrap().variation, "half");
    let bought = Fact {
        id: Uuid::now_v7(),
        ..Fact::new("purchase_completed", "ada", purchase(Uuid::nil(), 50)["properties"].to_string())
    };
    experiments.track(&cx, bought.clone()).await.unwrap();
    // The server learns of an event both ways, and counts it once.
    let event = serde_json::to_value(EventRequest::of(&bought).unwrap()).unwrap();
    assert_eq!(case.post("/v1/events", &event).await.1["status"], json!("recorded"));

    assert_eq!(phone.flush(&cx, &transport).await.unwrap().answered, 2);
    assert_eq!(phone.flush(&cx, &transport).await.unwrap().attempts, 0);
    let intents = phone.intents(&cx, IntentFilter::default()).await.unwrap().items;
    assert!(intents.iter().all(|intent| intent.state == IntentState::Done), "{intents:?}");
    let mut names: Vec<_> = case.facts().await.into_iter().map(|fact| fact.name).collect();
    names.sort();
    assert_eq!(names, ["paywall_impression", "purchase_completed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_wrong_is_refused_for_good_by_the_intents_route() {
    let case = start(ServerOptions::default()).await;
    let send = async |key: &str, payload: Value| {
        let body = json!({ "operation": EventRequest::OPERATION, "payload": payload }).to_string();
        let request = client().post(case.server.url("/v1/intents")).header("idempotency-key", key).body(body);
        json(request.send().await.unwrap()).await
    };
    let id = Uuid::now_v7();
    assert_eq!(send("one", purchase(id, 0)).await, (200, json!({ "id": id, "status": "recorded" })));
    assert_eq!(send("one", purchase(id, 0)).await.0, 200);
    let (status, problem) = send("two", purchase(Uuid::now_v7(), 101)).await;
    assert_eq!((status, &problem["kind"]), (400, &json!("invalid_input")), "{problem}");
    assert_eq!(case.facts().await.len(), 1);
    let jobs = case.engine.store().unwrap().jobs(&Context::new(), Default::default()).await.unwrap();
    assert!(jobs.items.is_empty(), "an event is no job");
}
