//! `selvedge serve` with the real model: OpenAI's API, and what it refuses.

use serde_json::{Value, json};

use crate::support::{Events, Server, client, cluster, run, selvedge, until};

const STORY: &str = "Once upon a time";

fn completion(more: Value) -> String {
    let mut body = json!({ "model": "smol", "prompt": STORY, "max_tokens": 8, "temperature": 0 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

fn chat(more: Value) -> String {
    let messages = json!([{ "role": "user", "content": "Name one tea." }]);
    let mut body = json!({ "model": "smol", "messages": messages, "max_tokens": 8, "temperature": 0 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

/// The documents of a stream that must end with `[DONE]`.
async fn stream(server: &Server, path: &str, body: String) -> Vec<Value> {
    let mut events = Events::of(client().post(server.url(path)).body(body)).await.rest().await;
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    events.iter().map(|data| serde_json::from_str(data).unwrap()).collect()
}

#[tokio::test]
async fn it_is_alive_ready_and_counted() {
    let server = Server::shared();
    assert_eq!(server.get("/health").await.0, 200);
    let (status, ready) = server.get("/ready").await;
    let ready: Value = serde_json::from_str(&ready).unwrap();
    assert_eq!((status, &ready["models"]), (200, &json!(["smol"])));
    let before = server.metric(r#"selvedge_model_tokens_total{model="smol",kind="completion"}"#).await;
    assert_eq!(server.post("/v1/completions", completion(json!({}))).await.0, 200);
    assert!(server.metric(r#"selvedge_model_tokens_total{model="smol",kind="completion"}"#).await >= before + 8.0);
    assert!(
        server.metric(r#"selvedge_http_requests_total{method="POST",route="/v1/completions",status="200"}"#).await
            >= 1.0
    );
}

#[tokio::test]
async fn models_are_listed_and_found_by_name() {
    let server = Server::shared();
    let list: Value = serde_json::from_str(&server.get("/v1/models").await.1).unwrap();
    assert_eq!(
        (&list["object"], &list["data"][0]["id"], &list["data"][0]["object"]),
        (&json!("list"), &json!("smol"), &json!("model"))
    );
    assert_eq!(server.get("/v1/models/smol").await.0, 200);
    let (status, missing) = server.get("/v1/models/large").await;
    let missing: Value = serde_json::from_str(&missing).unwrap();
    assert_eq!((status, &missing["error"]["code"]), (404, &json!("model_not_found")));
}

#[tokio::test]
async fn a_completion_is_what_the_command_generates() {
    let server = Server::shared();
    let (status, answer) = server.post("/v1/completions", completion(json!({}))).await;
    assert_eq!((status, &answer["object"]), (200, &json!("text_completion")), "{answer}");
    let usage = ["prompt_tokens", "completion_tokens", "total_tokens"].map(|name| &answer["usage"][name]);
    assert_eq!(usage, [4, 8, 12], "{answer}");
    assert!(answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64() < Some(4), "{answer}");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    let mut command = selvedge(server.folder());
    command
        .args(["generate", "--raw", "--json", "--threads", "1", "--max-tokens", "8", "--prompt", STORY, "--model"])
        .arg(crate::support::model());
    assert_eq!(answer["choices"][0]["text"], run(&mut command).json()["text"]);
}

#[tokio::test]
async fn a_seed_repeats_an_answer() {
    let server = Server::shared();
    let ask = async |seed: u32| {
        let body = completion(json!({ "temperature": 1.2, "seed": seed }));
        server.post("/v1/completions", body).await.1["choices"][0]["text"].clone()
    };
    assert_eq!(ask(7).await, ask(7).await);
}

#[tokio::test]
async fn a_streamed_chat_is_the_whole_one_in_pieces() {
    let server = Server::shared();
    let (status, whole) = server.post("/v1/chat/completions", chat(json!({}))).await;
    assert_eq!((status, &whole["object"]), (200, &json!("chat.completion")), "{whole}");
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["role"], "assistant");
    let options = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let chunks = stream(&server, "/v1/chat/completions", chat(options)).await;
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["id"] == chunks[0]["id"]));
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let pieces: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(message["content"], pieces);
    let [.., end, usage] = chunks.as_slice() else { panic!("{chunks:?}") };
    assert_eq!(end["choices"][0]["finish_reason"], whole["choices"][0]["finish_reason"]);
    assert_eq!(usage["choices"], json!([]));
    // How much of the prompt was read already depends on who asked before.
    for name in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(usage["usage"][name], whole["usage"][name], "{usage}");
    }
}

#[tokio::test]
async fn a_streamed_completion_stops_at_its_stop_text() {
    let server = Server::shared();
    let whole = server.post("/v1/completions", completion(json!({}))).await.1["choices"][0]["text"]
        .as_str()
        .unwrap()
        .to_owned();
    let stop = whole.split_whitespace().nth(2).unwrap();
    let chunks = stream(&server, "/v1/completions", completion(json!({ "stream": true, "stop": stop }))).await;
    let pieces: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    assert_eq!(pieces, whole[..whole.find(stop).unwrap()]);
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()), "nobody asked for it");
}

#[tokio::test]
async fn an_answer_is_held_to_a_format() {
    let server = Server::shared();
    let ask = async |format: Value| {
        let more = json!({ "response_format": format, "max_tokens": 60 });
        server.post("/v1/chat/completions", chat(more)).await
    };
    let schema = json!({
        "type": "object", "required": ["tea", "hot"], "additionalProperties": false,
        "properties": { "tea": { "type": "string", "maxLength": 12 }, "hot": { "type": "boolean" } },
    });
    let (status, answer) =
        ask(json!({ "type": "json_schema", "json_schema": { "name": "t", "schema": schema } })).await;
    assert_eq!(status, 200, "{answer}");
    let said: Value = serde_json::from_str(answer["choices"][0]["message"]["content"].as_str().unwrap()).unwrap();
    assert!(said["tea"].is_string() && said["hot"].is_boolean(), "{said}");
    let (status, answer) = ask(json!({ "type": "json_object" })).await;
    assert!(status == 200 && answer["choices"][0]["message"]["content"].as_str().unwrap().trim().starts_with('{'));
    assert_eq!(ask(json!({ "type": "text" })).await.0, 200);
    for (wrong, param) in [
        (json!({ "type": "xml" }), "response_format.type"),
        (json!({ "type": "json_schema" }), "response_format.json_schema.schema"),
        (json!({ "type": "json_schema", "json_schema": { "schema": 3 } }), "response_format.json_schema.schema"),
    ] {
        let (status, answer) = ask(wrong).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{answer}");
    }
}

#[tokio::test]
async fn texts_become_vectors() {
    let server = Server::shared();
    let body = json!({ "model": "smol", "input": ["green tea", "green tea", "a stormy sea"] }).to_string();
    let (status, answer) = server.post("/v1/embeddings", body).await;
    assert_eq!(status, 200, "{answer}");
    let vector = |at: usize| serde_json::from_value::<Vec<f32>>(answer["data"][at]["embedding"].clone()).unwrap();
    let [one, same, other] = [0, 1, 2].map(vector);
    assert_eq!(one.len(), 576);
    assert_eq!(one, same);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    assert!((dot(&one, &one) - 1.0).abs() < 1e-3, "unit length");
    assert!(dot(&one, &other) < 0.9999, "texts differ");
    assert!(answer["usage"]["prompt_tokens"].as_u64().unwrap() >= 6, "{answer}");
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_in_openais_form() {
    let server = Server::shared();
    let long = "word ".repeat(5_000);
    let completions = "/v1/completions";
    for (what, path, body, status, code, word) in [
        (
            "an unknown model",
            completions,
            completion(json!({ "model": "large" })).into_bytes(),
            404,
            json!("model_not_found"),
            "large",
        ),
        (
            "a long prompt",
            completions,
            completion(json!({ "prompt": long })).into_bytes(),
            400,
            json!("context_length_exceeded"),
            "context",
        ),
        ("a large body", completions, vec![b' '; 10 << 20], 413, json!("request_too_large"), "too large"),
        ("bytes that are no text", completions, b"{\"prompt\":\"tea\xff\"}".to_vec(), 400, Value::Null, "UTF-8"),
        ("bad JSON", completions, b"{\"prompt\": }".to_vec(), 400, Value::Null, "line 1"),
        ("a missing field", completions, b"{}".to_vec(), 400, Value::Null, "prompt"),
        (
            "no messages",
            "/v1/chat/completions",
            chat(json!({ "messages": [] })).into_bytes(),
            400,
            Value::Null,
            "messages",
        ),
        (
            "a temperature",
            completions,
            completion(json!({ "temperature": 3 })).into_bytes(),
            400,
            Value::Null,
            "temperature",
        ),
        ("an empty text", "/v1/embeddings", br#"{"input":""}"#.to_vec(), 400, Value::Null, "empty"),
    ] {
        let (got, answer) = server.post(path, body).await;
        let error = &answer["error"];
        assert_eq!(
            (got, &error["code"], error["type"].as_str()),
            (status, &code, Some("invalid_request_error")),
            "{what}: {answer}"
        );
        assert!(error["message"].as_str().unwrap().contains(word), "{what}: {answer}");
    }
    assert_eq!(server.post(completions, completion(json!({}))).await.0, 200, "it goes on after all that");
}

#[tokio::test]
async fn an_intent_posted_twice_is_one_job_that_the_command_shows() {
    let server = Server::shared();
    let send = async || {
        let request = client().post(server.url("/v1/intents")).header("idempotency-key", "order-7");
        let body = r#"{"operation":"orders.create","payload":{"item":"tea"}}"#;
        crate::support::text(request.body(body).send().await.unwrap()).await
    };
    let first = send().await;
    assert_eq!((first.0, &first), (202, &send().await));
    let jobs = run(selvedge(server.folder()).args(["jobs", "list", "--json"]));
    assert_eq!(jobs.out.lines().count(), 1, "{jobs:?}");
    assert_eq!(jobs.json()["queue"], "intents");
}

#[tokio::test]
async fn keys_let_in_whom_they_belong_to() {
    let server = Server::start("[server]\nkeys = [{ key = \"open sesame\", max_class = \"p1\" }]\n");
    let ask = async |key: Option<&str>, class: &str| {
        let request = client().get(server.url("/v1/models")).header("x-selvedge-priority", class);
        let request = if let Some(key) = key { request.bearer_auth(key) } else { request };
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(ask(None, "p1").await, 401);
    assert_eq!(ask(Some("guess"), "p1").await, 401);
    assert_eq!(ask(Some("open sesame"), "p1").await, 200);
    assert_eq!(ask(Some("open sesame"), "p0").await, 403);
    assert_eq!(server.get("/health").await.0, 200);
}

#[tokio::test]
async fn a_full_server_says_when_to_come_back() {
    let server = Server::with_model("[scheduler]\nconcurrency = 1\nqueue = 0\n");
    let body = completion(json!({ "stream": true, "max_tokens": 1500 }));
    let mut running = Events::of(client().post(server.url("/v1/completions")).body(body)).await;
    running.next().await.expect("a first piece");
    let refused = client().post(server.url("/v1/completions")).body(completion(json!({}))).send().await.unwrap();
    assert_eq!(refused.status(), 503);
    assert!(refused.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    let error: Value = serde_json::from_str(&refused.text().await.unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "server_overloaded");
}

#[tokio::test]
async fn it_serves_with_its_store_on_postgres() {
    let Some(cluster) = cluster() else { return };
    let schema = cluster.schema();
    let server = Server::start(&format!("[store]\nurl = {:?}\nschema = {schema:?}\n", cluster.url()));
    let intent = client().post(server.url("/v1/intents")).header("idempotency-key", "k-1");
    let body = r#"{"operation":"orders.create","payload":{"cents":500}}"#;
    let send = async || intent.try_clone().unwrap().body(body).send().await.unwrap();
    assert_eq!(send().await.status(), 202);
    let again = send().await;
    assert_eq!((again.status().as_u16(), &again.headers()["idempotency-replayed"]), (202, &"true".parse().unwrap()));
    let jobs = run(selvedge(server.folder()).args(["jobs", "list", "--json"])).json();
    assert_eq!((&jobs["queue"], &jobs["state"]), (&"intents".into(), &"ready".into()));

    assert_eq!(server.metric(r#"selvedge_queue_jobs{queue="intents",tenant="",state="ready"}"#).await, 1.0);
    assert_eq!(server.metric("selvedge_queue_ceiling").await, 1000.0);
    until("it listens", async || server.metric(r#"selvedge_store_wakeups{mode="listen"}"#).await == 1.0).await;
    let ready: Value = serde_json::from_str(&server.get("/ready").await.1).unwrap();
    assert_eq!((&ready["ready"], &ready["wakeups"]), (&true.into(), &"listen".into()), "{ready}");

    // Its own session is cut: it says that it polls, stays ready, and listens again.
    let (admin, connection) =
        selvedge::postgres::tokio_postgres::connect(&cluster.url(), selvedge::postgres::tokio_postgres::NoTls)
            .await
            .unwrap();
    tokio::spawn(connection);
    let cut = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query = 'LISTEN \"{schema}\"' AND pid <> pg_backend_pid()"
    );
    until("it is seen to poll", async || {
        admin.query(&cut, &[]).await.unwrap();
        let polls = server.metric(r#"selvedge_store_wakeups{mode="fallback"}"#).await == 1.0;
        let (status, _) = server.get("/ready").await;
        assert_eq!(status, 200);
        polls
    })
    .await;
    until("it listens again", async || server.metric(r#"selvedge_store_wakeups{mode="listen"}"#).await == 1.0).await;
}

#[tokio::test]
async fn keys_and_tenants_keep_to_their_quotas_and_redis_counts_them() {
    let redis = match selvedge_testkit::redis::RedisServer::start() {
        Ok(redis) => redis,
        Err(error) if std::env::var_os("CI").is_some() => panic!("{error:#}"),
        Err(error) => return println!("skipped: {error:#}"),
    };
    let config = format!(
        r#"
        [[server.keys]]
        key = "a"
        tenant = "acme"
        requests_per_minute = 2
        [[server.keys]]
        key = "b"
        tenant = "acme"
        concurrent = 1
        [tenants.acme]
        tokens_per_minute = 36
        [quotas]
        store = {:?}
        "#,
        redis.url()
    );
    let server = Server::with_model(&config);
    let ask = async |key: &str| {
        let body = completion(json!({}));
        client().post(server.url("/v1/completions")).bearer_auth(key).body(body).send().await.unwrap()
    };
    // Four to read and eight to answer: twelve of the tenant's tokens each.
    let first = ask("a").await;
    assert_eq!(first.headers()["x-ratelimit-remaining-requests"], "1");
    assert_eq!(first.headers()["x-ratelimit-remaining-tokens"], "24");
    assert_eq!((first.status().as_u16(), ask("a").await.status().as_u16()), (200, 200));
    let third = ask("a").await;
    assert!(third.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() <= 30);
    let third: Value = third.json().await.unwrap();
    assert_eq!(third["error"]["code"], "rate_limit_exceeded", "{third}");
    assert!(third["error"]["message"].as_str().unwrap().contains("requests_per_minute"), "{third}");
    // The other key is let in until the tenant has no tokens left.
    until("the tenant's tokens are used up", async || {
        let answer = ask("b").await;
        let status = answer.status();
        let body: Value = answer.json().await.unwrap();
        status == 429 && body["error"]["message"].as_str().unwrap().contains("tenant/acme")
    })
    .await;
    let redis = redis.url();
    let store = selvedge::redis::RedisStore::open(&redis).await.unwrap();
    let rule = selvedge::store::TokenBucket::per_minute(36);
    let look = selvedge::store::Take::settle("allowance/tenant/acme/tokens", rule, 0, 0);
    let left = selvedge::Store::take(&store, &selvedge::Context::new(), look).await.unwrap();
    assert!(matches!(left, selvedge::store::Taken::Granted { remaining } if remaining < 24), "{left:?} is in Redis");
}

#[test]
fn what_it_cannot_serve_it_says_before_it_starts() {
    let folder = tempfile::tempdir().unwrap();
    let serve = |arguments: &[&str]| run(selvedge(folder.path()).arg("serve").args(arguments));
    serve(&["--address", "0.0.0.0:0"]).failed(1, &["no API keys", "0.0.0.0:0", "add keys"]);
    serve(&["--address", "127.0.0.1:0", "--model", "gone.gguf"]).failed(1, &["gone.gguf"]);
    serve(&["--address", "127.0.0.1:0", "--db", "no/such/folder/a.db"]).failed(1, &["no/such/folder/a.db"]);
    serve(&["--address", "127.0.0.1:0", "--store", "postgres://a:secret@127.0.0.1:1/b?sslmode=disable"])
        .failed(1, &["127.0.0.1:1/b"]);
    for (url, words) in [
        ("redis://app:secret@127.0.0.1:1", &["Redis cannot be reached"][..]),
        ("memcached://app:secret@host", &["quotas.store", "memcached", "redis://"]),
    ] {
        std::fs::write(folder.path().join("selvedge.toml"), format!("[quotas]\nstore = {url:?}\n")).unwrap();
        let said = run(selvedge(folder.path()).args(["serve", "--address", "127.0.0.1:0"]));
        said.failed(1, words);
        assert!(!said.err.contains("secret"), "{said:?}");
    }
    std::fs::remove_file(folder.path().join("selvedge.toml")).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    serve(&["--address", &address]).failed(1, &["cannot be listened on", &address, "--address"]);
}
