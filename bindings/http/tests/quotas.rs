//! What API keys and tenants may use of a model, as a client sees it.

#![allow(clippy::expect_used, clippy::unwrap_used, missing_docs)]

mod common;

use std::{collections::BTreeMap, sync::Arc};

use common::{Folder, Server, client, json, text, until};
use reqwest::Response;
use selvedge_core::{Engine, allowance::Allowance};
use selvedge_http::{ApiKey, ServerOptions, router};
use selvedge_priority::Priority;
use selvedge_testkit::{ManualClock, ToyModel};

struct Case {
    _folder: Folder,
    server: Server,
}

async fn start(keys: Vec<ApiKey>, tenants: &[(&str, Allowance)]) -> Case {
    let folder = Folder::new();
    let engine = Engine::builder().store(folder.open()).scheduler(Priority::new(8, 8)).model(ToyModel::new(200_000));
    let engine = engine.clock(Arc::new(ManualClock::new())).build();
    let tenants: BTreeMap<_, _> = tenants.iter().map(|(name, allowance)| ((*name).to_owned(), *allowance)).collect();
    let options = ServerOptions { keys, tenants, ..ServerOptions::default() };
    let server = Server::start(router(engine, options)).await;
    Case { _folder: folder, server }
}

impl Case {
    /// Ten tokens to read.
    async fn complete(&self, key: &str, max_tokens: u32) -> Response {
        let body = format!(r#"{{"prompt":"abcdefghij","max_tokens":{max_tokens}}}"#);
        client().post(self.server.url("/v1/completions")).bearer_auth(key).body(body).send().await.unwrap()
    }

    /// A stream that its client holds open and does not read.
    async fn stream(&self, key: &str, max_tokens: u32) -> Response {
        let body = format!(r#"{{"prompt":"abcdefghij","max_tokens":{max_tokens},"stream":true}}"#);
        client().post(self.server.url("/v1/completions")).bearer_auth(key).body(body).send().await.unwrap()
    }
}

fn header(response: &Response, name: &str) -> String {
    let value = response.headers().get(name).unwrap_or_else(|| panic!("no {name} in {:?}", response.headers()));
    value.to_str().unwrap().to_owned()
}

/// A refusal in OpenAI's shape, and when to come back.
async fn refused(response: Response, limit: &str) -> u64 {
    let after = header(&response, "retry-after").parse().unwrap();
    let (status, body) = json(response).await;
    assert_eq!(status, 429, "{body}");
    let error = &body["error"];
    assert_eq!((&error["type"], &error["code"]), (&"rate_limit_error".into(), &"rate_limit_exceeded".into()), "{body}");
    assert!(error["message"].as_str().unwrap().contains(limit), "{body}");
    after
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_say_how_a_key_stands_and_a_refusal_when_to_come_back() {
    let keys = vec![ApiKey::secret("k").tenant("acme").requests_per_minute(2).tokens_per_minute(1_000)];
    let case = start(keys, &[]).await;
    let answer = case.complete("k", 20).await;
    assert_eq!(header(&answer, "x-ratelimit-limit-requests"), "2");
    assert_eq!(header(&answer, "x-ratelimit-remaining-requests"), "1");
    assert_eq!(header(&answer, "x-ratelimit-reset-requests"), "30s");
    assert_eq!(header(&answer, "x-ratelimit-limit-tokens"), "1000");
    assert_eq!(header(&answer, "x-ratelimit-remaining-tokens"), "970");
    assert_eq!(header(&answer, "x-ratelimit-reset-tokens"), "1.8s");
    assert_eq!(json(answer).await.0, 200);
    assert_eq!(case.complete("k", 20).await.status(), 200);
    let third = case.complete("k", 20).await;
    assert_eq!(header(&third, "x-ratelimit-remaining-requests"), "0");
    let after = refused(third, "requests_per_minute").await;
    assert!((25..=30).contains(&after), "{after}");
    // What is no model call is not counted.
    let models = client().get(case.server.url("/v1/models")).bearer_auth("k").send().await.unwrap();
    assert_eq!((models.status().as_u16(), models.headers().get("x-ratelimit-limit-requests")), (200, None));
    let (_, metrics) = text(client().get(case.server.url("/metrics")).bearer_auth("k").send().await.unwrap()).await;
    let counted = r#"selvedge_quota_refusals_total{limit="requests_per_minute",tenant="acme"} 1"#;
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_tenant_share_its_tokens_and_keep_to_their_own() {
    let keys = ["a", "b"].map(|key| ApiKey::secret(key).tenant("acme").tokens_per_minute(600));
    let other = ApiKey::secret("z").tenant("zeta");
    let acme = Allowance::new().tokens_per_minute(1_000);
    let case = start(keys.into_iter().chain([other]).collect(), &[("acme", acme)]).await;
    assert_eq!(case.complete("a", 540).await.status(), 200);
    refused(case.complete("a", 540).await, "tokens_per_minute").await;
    // Of the tenant 450 are left.
    let answer = case.complete("b", 290).await;
    assert_eq!(header(&answer, "x-ratelimit-limit-tokens"), "1000");
    let after = refused(case.complete("b", 290).await, "tenant/acme").await;
    assert!((1..=15).contains(&after), "{after}");
    // A tenant without limits, and a prompt that never fits.
    assert_eq!(case.complete("z", 2_000).await.status(), 200);
    let long = format!(r#"{{"prompt":"{}"}}"#, "a".repeat(601));
    let long = client().post(case.server.url("/v1/completions")).bearer_auth("a").body(long).send().await.unwrap();
    let (status, body) = json(long).await;
    assert_eq!((status, &body["error"]["type"]), (400, &"invalid_request_error".into()), "{body}");
    // Embeddings count as well.
    let texts = format!(r#"{{"input":"{}"}}"#, "a".repeat(500));
    let vectors = client().post(case.server.url("/v1/embeddings")).bearer_auth("b").body(texts).send().await.unwrap();
    refused(vectors, "tokens_per_minute").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_frees_its_place_and_pays_for_what_was_made() {
    let keys = vec![ApiKey::secret("k").tenant("acme").concurrent(1).tokens_per_minute(200_000)];
    let case = start(keys, &[]).await;
    // More than fits between a server and a client that does not read.
    let first = case.stream("k", 150_000).await;
    assert_eq!(first.status(), 200);
    assert_eq!(header(&first, "x-ratelimit-remaining-tokens"), "49990", "the estimate is taken");
    assert_eq!(refused(case.complete("k", 1).await, "concurrent").await, 1);
    drop(first);
    until("the place is free", || async { case.complete("k", 1).await.status() == 200 }).await;
    let answer = case.complete("k", 1).await;
    let left: u64 = header(&answer, "x-ratelimit-remaining-tokens").parse().unwrap();
    assert!(left > 120_000, "{left} tokens are left: the estimate was not settled");
    let metrics = client().get(case.server.url("/metrics")).bearer_auth("k").send().await.unwrap();
    let (_, metrics) = text(metrics).await;
    assert!(metrics.contains(r#"selvedge_quota_refusals_total{limit="concurrent",tenant="acme"}"#), "{metrics}");
}
