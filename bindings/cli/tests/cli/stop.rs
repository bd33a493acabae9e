//! Clients that hang up, and servers that are told to end.

use std::time::Instant;

use serde_json::json;

use crate::support::{Events, Server, client, until};

/// A stream long enough that it does not end by itself while a test looks.
async fn story(server: &Server, max_tokens: usize) -> Events {
    let body = json!({ "prompt": "Once upon a time", "stream": true, "temperature": 0, "max_tokens": max_tokens });
    let mut events = Events::of(client().post(server.url("/v1/completions")).body(body.to_string())).await;
    events.next().await.expect("a first piece");
    events
}

#[tokio::test]
async fn a_client_that_hangs_up_frees_its_place() {
    let server = Server::with_model("[scheduler]\nconcurrency = 1\nqueue = 4\n");
    let running = async || server.metric(r#"selvedge_scheduler_running{class="p0"}"#).await;
    let generated = r#"selvedge_model_tokens_total{model="smol",kind="completion"}"#;
    let events = story(&server, 1_500).await;
    assert_eq!(running().await, 1.0);
    let hung_up = Instant::now();
    drop(events);
    until("the place is free", async || running().await == 0.0).await;
    assert!(hung_up.elapsed().as_secs() < 10, "that was the end of the answer, and not of the client");
    // An answer that had run to its end would have been counted.
    assert_eq!(server.metric(generated).await, 0.0);
    let body = json!({ "prompt": "The sea is", "max_tokens": 2 }).to_string();
    assert_eq!(server.post("/v1/completions", body).await.0, 200);
    assert_eq!(server.metric(generated).await, 2.0);
}

#[tokio::test]
async fn sigterm_lets_an_answer_end_and_takes_no_more() {
    let server = Server::with_model("");
    let events = story(&server, 48).await;
    server.terminate();
    let refused = async || tokio::net::TcpStream::connect(server.address()).await.is_err();
    until("new connections are refused", refused).await;
    let rest = events.rest().await;
    assert_eq!(rest.last().map(String::as_str), Some("[DONE]"));
    assert!(rest.iter().any(|data| data.contains(r#""finish_reason":"length""#)), "{rest:?}");
    let (status, err) = server.ended().await;
    assert_eq!(status.code(), Some(0), "{err}");
    assert!(err.contains("draining") && err.contains("stopped"), "{err}");
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_cut_off_and_said() {
    let server = Server::with_model("[server]\ndrain_seconds = 0.2\n");
    let events = story(&server, 1_500).await;
    server.terminate();
    let (status, err) = server.ended().await;
    assert_eq!(status.code(), Some(0), "{err}");
    assert!(err.contains("did not end in time: 1"), "{err}");
    drop(events);
}

#[tokio::test]
async fn what_was_confirmed_is_there_after_sigkill() {
    let server = Server::start("");
    let body = r#"{"operation":"orders.create","payload":{"item":"tea"}}"#;
    let request = client().post(server.url("/v1/intents")).header("idempotency-key", "order-7").body(body);
    assert_eq!(request.send().await.unwrap().status(), 202);
    server.kill();
    let jobs = crate::support::run(crate::support::selvedge(server.folder()).args(["jobs", "list", "--json"]));
    assert_eq!(jobs.json()["state"], "ready", "{jobs:?}");
}
