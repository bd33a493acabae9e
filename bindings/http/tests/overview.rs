//! The page that an operator opens first, over a real socket and a real SQLite file.

#![allow(clippy::expect_used, clippy::unwrap_used, missing_docs)]

mod common;

use common::{Folder, Server, client, json, text};
use selvedge_core::{AnyStore, Commit, Context, Engine, Store, Timestamp, layers::Metrics, store::Fact};
use selvedge_experiments::{Experiments, public_key, sign};
use selvedge_http::{ApiKey, ServedConfig, ServerOptions, router};
use serde_json::{Value, json};

const SECRET: [u8; 32] = [7; 32];

struct Case {
    _folder: Folder,
    store: AnyStore,
    experiments: Experiments,
    config: ServedConfig,
    metrics: Metrics,
    server: Server,
}

fn payload() -> Value {
    json!({ "features": {
        "main_paywall": { "defaultValue": { "offering": "annual" }, "rules": [
            { "force": { "offering": "lifetime" }, "condition": { "country": "FR" } },
            {
                "key": "depth/1", "hashVersion": 2, "weights": [0.75, 0.25], "coverage": 0.4, "bucketVersion": 3,
                "variations": [{ "offering": "annual" }, { "offering": "annual_half" }],
                "meta": [{ "key": "control" }, { "key": "half" }], "condition": { "country": { "$ne": "FR" } },
            },
        ] },
        "upgrade_nudge": { "defaultValue": null },
    } })
}

fn signed(payload: &Value, at: i64) -> Vec<u8> {
    sign(payload.to_string().as_bytes(), "2027-a", &SECRET, Timestamp(at)).unwrap().into_bytes()
}

async fn start(body: Vec<u8>, options: ServerOptions) -> Case {
    let folder = Folder::new();
    let store = AnyStore::new(folder.open());
    let experiments =
        Experiments::builder().store(store.clone()).trusted_key("2027-a", &public_key(&SECRET)).build().unwrap();
    // What cannot be believed is handed out in some of the tests.
    let _ = experiments.load(&body);
    let (config, metrics) = (ServedConfig::new(body), Metrics::new());
    let engine = Engine::builder().store(store.clone()).experiment(experiments.clone()).layer(metrics.clone()).build();
    let options = ServerOptions { config: Some(config.clone()), experiments: Some(experiments.clone()), ..options };
    let server = Server::start(router(engine, options)).await;
    Case { _folder: folder, store, experiments, config, metrics, server }
}

impl Case {
    async fn json(&self, query: &str) -> Value {
        let (status, body) =
            json(client().get(self.server.url(&format!("/v1/placements{query}"))).send().await.unwrap()).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    async fn page(&self) -> String {
        let request = client().get(self.server.url("/v1/placements")).header("accept", "text/html,*/*;q=0.8");
        let response = request.send().await.unwrap();
        let policy = response.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'"), "{policy}");
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
        let (status, page) = text(response).await;
        assert_eq!(status, 200, "{page}");
        page
    }

    async fn record(&self, facts: impl IntoIterator<Item = Fact>) {
        let commit = facts.into_iter().fold(Commit::new(), Commit::record);
        self.store.commit(&Context::new(), commit).await.unwrap();
    }

    fn reads(&self) -> u64 {
        self.metrics.snapshot().get("store.read").map_or(0, |stats| stats.calls)
    }
}

fn event(name: &str, number: usize) -> Fact {
    Fact::new(name, format!("user-{number}"), json!({ "number": number }).to_string())
}

/// Every other person is in the control.
fn impression((number, who): (usize, &str)) -> Fact {
    let variant = ["control", "half"][number % 2];
    let shown = json!({
        "placement_id": "main_paywall", "variant": variant, "experiment": "depth/1",
        "cohort": "depth/1:half", "is_exit_offer": false, "shows_nothing": false, "device": null,
    });
    Fact::new("paywall_impression", who, shown.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn placements_are_listed_with_their_rules_and_the_reports_of_their_experiments() {
    let case = start(signed(&payload(), 5_000_000), ServerOptions::default()).await;
    let overview = case.json("").await;
    let [paywall, nudge] = &overview["placements"].as_array().unwrap()[..] else { panic!("{overview}") };
    assert_eq!((&paywall["name"], &paywall["shows_nothing"]), (&json!("main_paywall"), &json!(false)));
    let first = json!({
        "kind": "value", "shows": { "offering": "lifetime" }, "coverage": 1.0,
        "targeting": { "condition": { "country": "FR" } },
    });
    assert_eq!(paywall["rules"][0], first);
    let trial = &paywall["rules"][1];
    assert_eq!((&trial["kind"], &trial["experiment"]), (&json!("experiment"), &json!("depth/1")));
    assert_eq!((&trial["version"], &trial["coverage"]), (&json!(3), &json!(0.4)));
    let arms: Vec<_> =
        trial["variations"].as_array().unwrap().iter().map(|arm| (&arm["variation"], &arm["weight"])).collect();
    assert_eq!(arms, [(&json!("control"), &json!(0.75)), (&json!("half"), &json!(0.25))]);
    assert_eq!(
        (&nudge["name"], &nudge["shows_nothing"], &nudge["rules"]),
        (&json!("upgrade_nudge"), &json!(true), &json!([]))
    );

    // The link leads to the report: with a person in it, there is one.
    case.record(["ada", "bob", "eve", "joe"].into_iter().enumerate().map(impression)).await;
    let report = client().get(case.server.url(trial["report"].as_str().unwrap())).send().await.unwrap();
    let (status, report) = json(report).await;
    assert_eq!((status, &report["users"]), (200, &json!(4)), "{report}");
    let page = case.page().await;
    let (_, link) = page.split_once("href=\"experiments/").unwrap();
    let link = format!("/v1/experiments/{}", link.split_once('"').unwrap().0);
    let (status, html) = text(client().get(case.server.url(&link)).send().await.unwrap()).await;
    assert!(status == 200 && html.contains("<h1>Decision"), "{link}: {html}");
    assert!(page.contains("Shows nothing by default") && page.contains("40 %"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_of_the_configuration_is_told() {
    let case = start(signed(&payload(), 5_000_000), ServerOptions::default()).await;
    let config = &case.json("").await["config"];
    assert_eq!((&config["signed_by"], &config["issued_at"]), (&json!("2027-a"), &json!(5_000_000)));
    let tag = client().get(case.server.url("/v1/config")).send().await.unwrap().headers()["etag"].clone();
    assert_eq!(format!("\"{}\"", config["version"].as_str().unwrap()), tag.to_str().unwrap());
    assert_eq!((&config["health"]["source"], &config["health"]["features"]), (&json!("host"), &json!(2)));
    assert_eq!((&config["health"]["stale"], &config["health"]["last_error"]), (&json!(false), &Value::Null));
    assert!(config["health"]["age_seconds"].as_u64().unwrap() < 60, "{config}");
    let page = case.page().await;
    assert!(page.contains("<strong>2027-a</strong>") && page.contains("1970-01-01T00:00:05.000Z"), "{page}");

    // An older one is refused, and the one that holds is still listed.
    case.experiments.load(&signed(&payload(), 4_000_000)).unwrap_err();
    let overview = case.json("").await;
    assert_eq!(overview["config"]["health"]["last_error_kind"], json!("conflict"), "{overview}");
    assert_eq!(overview["placements"].as_array().unwrap().len(), 2);
    assert!(case.page().await.contains("came to nothing (conflict)"));

    // What is handed out changes while the server runs.
    case.config.replace(signed(&json!({ "features": { "other": { "defaultValue": 1 } } }), 6_000_000));
    assert_eq!(case.json("").await["placements"][0]["name"], json!("other"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_listed_is_said() {
    for body in ["half a config", "{\"features\": {", "{\"encryptedFeatures\": \"x\", \"features\": []}"] {
        let case = start(body.into(), ServerOptions::default()).await;
        let overview = case.json("").await;
        assert_eq!(overview["placements"], json!([]), "{body}");
        assert!(overview["config"]["problem"].is_string(), "{body}: {overview}");
        assert!(case.page().await.contains("cannot be listed"), "{body}");
    }
    let mut bad = payload();
    bad["features"]["broken"] = json!({ "rules": 7 });
    let case = start(bad.to_string().into(), ServerOptions::default()).await;
    let overview = case.json("").await;
    assert_eq!(overview["placements"].as_array().unwrap().len(), 2, "{overview}");
    assert!(overview["config"]["left_out"][0].as_str().unwrap().contains("broken"), "{overview}");

    // Nothing is configured: the events are there all the same.
    let folder = Folder::new();
    let store = AnyStore::new(folder.open());
    let server = Server::start(router(Engine::builder().store(store).build(), ServerOptions::default())).await;
    let (status, bare) = json(client().get(server.url("/v1/placements")).send().await.unwrap()).await;
    assert_eq!((status, &bare["config"], &bare["events"]["seen"]), (200, &Value::Null, &json!(0)));
    let server = Server::start(router(Engine::builder().build(), ServerOptions::default())).await;
    let (status, bare) = json(client().get(server.url("/v1/placements")).send().await.unwrap()).await;
    assert_eq!((status, &bare["events"]), (200, &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_events_are_found_without_reading_the_others() {
    let case = start(signed(&payload(), 5), ServerOptions::default()).await;
    let mut recorded = 0;
    // Around each step of the search, around what is shown, and around how far back it looks.
    for count in [1, 2, 3, 19, 20, 21, 64, 499, 500, 501, 2_000] {
        case.record((recorded..count).map(|number| event(if number % 4 == 0 { "rare" } else { "common" }, number)))
            .await;
        recorded = count;
        let before = case.reads();
        let events = &case.json("").await["events"];
        let reads = case.reads() - before;
        let seen = count.min(500);
        assert_eq!(events["seen"], json!(seen), "of {count}");
        let rare = (count - seen..count).filter(|number| number % 4 == 0).count();
        assert_eq!(events["names"]["rare"], json!(rare), "of {count}");
        let newest: Vec<_> =
            events["newest"].as_array().unwrap().iter().map(|event| event["properties"]["number"].clone()).collect();
        let expected: Vec<_> = (count.saturating_sub(20)..count).rev().map(|number| json!(number)).collect();
        assert_eq!(newest, expected, "of {count}");
        // 25 reads of 20 rows, and 2 log₂ 2,000 of one.
        assert!((1..=48).contains(&reads), "{reads} reads for {count} events");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_names_and_values_are_they_are_text_on_the_page() {
    let evil = "<script>alert('x')</script>\"&";
    let payload = json!({ "features": { evil: { "defaultValue": evil, "rules": [{
        "key": evil, "variations": [evil, 2], "meta": [{ "key": evil }], "condition": { evil: evil }, "status": evil,
    }] } }, "experiments": [{ "key": evil, "variations": [evil, evil] }] });
    let case = start(payload.to_string().into(), ServerOptions::default()).await;
    // The engine itself has believed none: this one is not signed. Its error goes into the page too.
    let long = Fact::new("long", evil, json!({ evil: "ä".repeat(2_000) }).to_string());
    case.record([Fact::new(evil, evil, json!({ evil: evil }).to_string()), long]).await;
    let page = case.page().await;
    assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"), "{page}");
    assert!(!page.contains("<script") && !page.contains("http"), "{page}");
    assert!(page.len() < 20_000, "what is long is cut: {page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_placements_come_in_pages() {
    let features: serde_json::Map<_, _> =
        (0..250).map(|n| (format!("p {n:03}"), json!({ "defaultValue": n }))).collect();
    let case = start(signed(&json!({ "features": features }), 5), ServerOptions::default()).await;
    let (mut names, mut query) = (Vec::new(), "?limit=100".to_owned());
    loop {
        let page = case.json(&query).await;
        names.extend(page["placements"].as_array().unwrap().iter().map(|placement| placement["name"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        query = format!("?limit=100&after={}", next.replace(' ', "%20"));
    }
    assert_eq!(names, (0..250).map(|n| json!(format!("p {n:03}"))).collect::<Vec<_>>());
    assert!(case.page().await.contains("after=p%20199"), "a browser gets a link to the rest");
    for query in ["?limit=0", "?limit=1001", "?limit=x", "?who=me", "?format=xml"] {
        let answer = client().get(case.server.url(&format!("/v1/placements{query}"))).send().await.unwrap();
        let (status, problem) = json(answer).await;
        assert_eq!((status, &problem["kind"]), (400, &json!("invalid_input")), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_asks_for_a_key_like_its_neighbours() {
    let keys = vec![ApiKey::secret("operator"), ApiKey::secret("app").tenant("acme")];
    let case = start(signed(&payload(), 5), ServerOptions { keys, ..ServerOptions::default() }).await;
    case.record(["ada", "bob", "eve", "joe"].into_iter().enumerate().map(impression)).await;
    // What everybody did is not for a tenant; what it is shown is.
    for (path, tenants) in [
        ("/v1/placements", 403),
        ("/v1/experiments/depth%2F1/report", 403),
        ("/v1/placements/upgrade_nudge?subject=ada", 200),
    ] {
        let ask = || client().get(case.server.url(path));
        assert_eq!(ask().send().await.unwrap().status(), 401, "{path}");
        assert_eq!(ask().bearer_auth("operator").send().await.unwrap().status(), 200, "{path}");
        assert_eq!(ask().bearer_auth("app").send().await.unwrap().status(), tenants, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_takes_past_revenue_and_guardrails() {
    let case = start(signed(&payload(), 5_000_000), ServerOptions::default()).await;
    case.record(["ada", "bob", "eve", "joe"].into_iter().enumerate().map(impression)).await;
    case.record(["ada", "joe"].map(|who| Fact::new("crash", who, "{}"))).await;
    let report = |query: &'static str| {
        let url = case.server.url(&format!("/v1/experiments/depth%2F1/report{query}"));
        async move { json(client().get(url).send().await.unwrap()).await }
    };
    let (status, plain) = report("").await;
    assert_eq!((status, &plain["variations"][1]["guardrails"]), (200, &json!([])), "{plain}");
    let (status, guarded) =
        report("?past_revenue=true&guardrails=crash:0.05:lower,paywall_impression:0.5:higher").await;
    let guardrails = &guarded["variations"][1]["guardrails"];
    assert_eq!((status, guardrails.as_array().map(Vec::len)), (200, Some(2)), "{guarded}");
    assert_eq!((&guardrails[0]["column"], &guardrails[0]["better"]), (&json!("crash"), &json!("lower")));
    for wrong in ["?guardrails=crash", "?guardrails=crash:2:lower", "?past_revenue=maybe"] {
        let (status, problem) = report(wrong).await;
        assert_eq!((status, &problem["kind"]), (400, &json!("invalid_input")), "{wrong}");
    }
}
