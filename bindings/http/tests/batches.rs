//! Files and batches over a real socket and a real SQLite file: what is taken, what is refused, and whose it is.

#![allow(clippy::expect_used, clippy::unwrap_used, missing_docs)]

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{Folder, Server, client, json, text};
use selvedge_core::{
    Context, Engine, Store,
    allowance::Allowance,
    batch::{Endpoint, Status},
    store::{JobFilter, JobState, JobView, StoreExt},
};
use selvedge_http::{ApiKey, BatchObject, BatchOptions, Batches, NewBatch, ServerOptions, router};
use selvedge_postgres::PostgresStore;
use selvedge_priority::Priority;
use selvedge_testkit::{ToyModel, postgres::Cluster};
use serde_json::{Value, json};

struct Case {
    _folder: Folder,
    engine: Engine,
    server: Server,
    options: BatchOptions,
}

async fn start() -> Case {
    let folder = Folder::new();
    let engine = Engine::builder().store(folder.open()).scheduler(Priority::new(1, 4)).build();
    let options = BatchOptions { file_limit: 6 << 20, requests: 5_000, attempts: 1, ..BatchOptions::default() };
    let keys = vec![ApiKey::secret("acme").tenant("acme"), ApiKey::secret("zeta").tenant("zeta")];
    let server = ServerOptions { keys, batch: options.clone(), ..ServerOptions::default() };
    let server = Server::start(router(engine.clone(), server)).await;
    Case { _folder: folder, engine, server, options }
}

fn part(name: &str, content: &str) -> String {
    format!("--cut\r\nContent-Disposition: form-data; {name}\r\n\r\n{content}\r\n")
}

fn form(content: &str) -> String {
    let file = part("name=\"file\"; filename=\"in.jsonl\"", content);
    part("name=\"purpose\"", "batch") + &file + "--cut--\r\n"
}

fn line(id: usize) -> String {
    json!({ "custom_id": id.to_string(), "method": "POST", "url": "/v1/completions", "body": { "prompt": "Tea" } })
        .to_string()
}

impl Case {
    async fn post_form(&self, key: &str, form: String) -> (u16, Value) {
        let request = client().post(self.server.url("/v1/files")).bearer_auth(key);
        let request = request.header("content-type", "multipart/form-data; boundary=cut");
        json(request.body(form).send().await.unwrap()).await
    }

    async fn upload(&self, key: &str, content: &str) -> String {
        let (status, file) = self.post_form(key, form(content)).await;
        assert_eq!((status, &file["bytes"], &file["purpose"]), (200, &content.len().into(), &"batch".into()), "{file}");
        file["id"].as_str().unwrap().to_owned()
    }

    async fn get(&self, key: &str, path: &str) -> (u16, String) {
        text(client().get(self.server.url(path)).bearer_auth(key).send().await.unwrap()).await
    }

    async fn post(&self, key: &str, path: &str, body: &Value) -> (u16, Value) {
        json(client().post(self.server.url(path)).bearer_auth(key).body(body.to_string()).send().await.unwrap()).await
    }

    async fn create(&self, key: &str, file: &str) -> Value {
        let new = json!({ "input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h" });
        let (status, batch) = self.post(key, "/v1/batches", &new).await;
        assert_eq!(status, 200, "{batch}");
        batch
    }

    async fn jobs(&self) -> usize {
        let filter = JobFilter { limit: 10_000, ..JobFilter::default() };
        self.engine.store().unwrap().jobs(&Context::new(), filter).await.unwrap().items.len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_comes_back_as_it_went_in_and_to_its_tenant_only() {
    let case = start().await;
    let content: String = (0..450_000).map(|at| format!("{at} é\n")).collect();
    assert!(content.len() > 3 << 20, "several pieces");
    let id = case.upload("acme", &content).await;
    let path = format!("/v1/files/{id}");
    assert!(case.get("acme", &format!("{path}/content")).await == (200, content));
    let empty = case.upload("acme", "").await;
    assert_eq!(case.get("acme", &format!("/v1/files/{empty}/content")).await, (200, String::new()));
    for suffix in ["", "/content"] {
        assert_eq!(case.get("zeta", &format!("{path}{suffix}")).await.0, 404);
    }
    let listed =
        async |key| serde_json::from_str::<Value>(&case.get(key, "/v1/files").await.1).unwrap()["data"].clone();
    assert_eq!(
        listed("acme").await.as_array().unwrap().iter().map(|one| &one["id"]).collect::<Vec<_>>(),
        [&empty, &id]
    );
    assert_eq!(listed("zeta").await, json!([]));
    let delete = async |key: &str| {
        client().delete(case.server.url(&path)).bearer_auth(key).send().await.unwrap().status().as_u16()
    };
    assert_eq!([delete("zeta").await, delete("acme").await, delete("acme").await], [404, 200, 404]);
    assert_eq!(case.get("acme", &format!("{path}/content")).await.0, 404);
    assert_eq!(listed("acme").await.as_array().unwrap().len(), 1);
    for odd in ["file-", "file-..%2F..", "nonsense", "file-00000000000000000000000000000000-output"] {
        assert_eq!(case.get("acme", &format!("/v1/files/{odd}")).await.0, 404, "{odd}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_that_are_not_what_they_should_be_are_refused() {
    let case = start().await;
    let file = part("name=\"file\"; filename=\"f\"", "x");
    for (what, form, status, param) in [
        ("nothing", String::new(), 400, Value::Null),
        ("no file", part("name=\"purpose\"", "batch") + "--cut--\r\n", 400, json!("file")),
        ("no purpose", file.clone() + "--cut--\r\n", 400, json!("purpose")),
        (
            "another purpose",
            file.clone() + &part("name=\"purpose\"", "fine-tune") + "--cut--\r\n",
            400,
            json!("purpose"),
        ),
        ("a long purpose", part("name=\"purpose\"", &"x".repeat(10_000)) + "--cut--\r\n", 400, json!("purpose")),
        ("half of it", file.clone(), 400, Value::Null),
        ("too much", form(&"x".repeat(7 << 20)), 413, json!("file")),
    ] {
        let (got, answer) = case.post_form("acme", form).await;
        assert_eq!((got, &answer["error"]["param"]), (status, &param), "{what}: {answer}");
    }
    let plain = client().post(case.server.url("/v1/files")).bearer_auth("acme").body("{}").send().await.unwrap();
    assert_eq!(json(plain).await.0, 400);
    assert_eq!(case.get("acme", "/v1/files").await.1.matches("file-").count(), 0, "nothing of all that is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flawed_file_makes_a_failed_batch_and_no_job() {
    let case = start().await;
    let id = case.upload("acme", &format!("{}\n{{\n{}", line(1), line(1))).await;
    let batch = case.create("acme", &id).await;
    assert_eq!((&batch["status"], &batch["request_counts"]["total"]), (&json!("failed"), &json!(0)));
    let flaws: Vec<_> =
        batch["errors"]["data"].as_array().unwrap().iter().map(|one| (&one["line"], &one["code"])).collect();
    assert_eq!(flaws, [(&json!(2), &json!("invalid_json_line")), (&json!(3), &json!("duplicate_custom_id"))]);
    assert!(batch["failed_at"].is_i64() && batch["in_progress_at"].is_null());
    let many: Vec<_> = (0..5_001).map(line).collect();
    let id = case.upload("acme", &many.join("\n")).await;
    assert_eq!(case.create("acme", &id).await["errors"]["data"][0]["code"], "too_many_tasks");

    let new = json!({ "input_file_id": id, "endpoint": "/v1/completions", "completion_window": "24h" });
    for (field, wrong, status, param) in [
        ("input_file_id", json!("file-0"), 404, Value::Null),
        ("endpoint", json!("/v1/responses"), 400, json!("endpoint")),
        ("completion_window", json!("soon"), 400, json!("completion_window")),
        ("completion_window", json!("30d"), 400, Value::Null),
        ("metadata", json!({ "a": "x".repeat(600) }), 400, Value::Null),
        ("metadata", json!([1]), 400, json!("metadata")),
    ] {
        let mut body = new.clone();
        body[field] = wrong;
        let (got, answer) = case.post("acme", "/v1/batches", &body).await;
        assert_eq!((got, &answer["error"]["param"]), (status, &param), "{field}: {answer}");
    }
    assert_eq!(case.post("zeta", "/v1/batches", &new).await.0, 404, "another's file");
    assert_eq!(case.jobs().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_requests_are_queued_at_once_and_end_once_each() {
    let case = start().await;
    let lines: Vec<_> = (0..1_000).map(line).collect();
    let id = case.upload("acme", &lines.join("\n")).await;
    let (first, second) = (case.create("acme", &id).await, case.create("acme", &id).await);
    assert_eq!(
        (&first["status"], &first["request_counts"]["total"], case.jobs().await),
        (&json!("in_progress"), &json!(1_000), 2_000)
    );
    let path = format!("/v1/batches/{}", first["id"].as_str().unwrap());
    assert_eq!(case.get("zeta", &path).await.0, 404);
    assert_eq!(case.post("zeta", &format!("{path}/cancel"), &json!({})).await.0, 404);
    let (_, cancelled) = case.post("acme", &format!("{path}/cancel"), &json!({})).await;
    assert_eq!(cancelled["status"], "cancelling");
    let page: Value = serde_json::from_str(&case.get("acme", "/v1/batches?limit=1").await.1).unwrap();
    assert_eq!((&page["first_id"], &page["has_more"]), (&second["id"], &json!(true)));
    let rest = format!("/v1/batches?after={}", second["id"].as_str().unwrap());
    let rest: Value = serde_json::from_str(&case.get("acme", &rest).await.1).unwrap();
    assert_eq!((&rest["first_id"], &rest["has_more"]), (&first["id"], &json!(false)));

    // This engine has no model: what is not cancelled fails, and says why.
    let stop = Context::new();
    let batches = Batches::new(case.engine.clone(), BatchOptions { concurrency: 32, ..case.options.clone() });
    let work = tokio::spawn({
        let stop = stop.clone();
        async move { batches.work(&stop).await }
    });
    let status = async |id: &Value| {
        let path = format!("/v1/batches/{}", id.as_str().unwrap());
        serde_json::from_str::<Value>(&case.get("acme", &path).await.1).unwrap()
    };
    let started = std::time::Instant::now();
    while case.jobs().await > 0 {
        assert!(started.elapsed() < Duration::from_secs(120), "it does not end");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.cancel().cancel();
    work.await.unwrap().unwrap();
    let (first, second) = (status(&first["id"]).await, status(&second["id"]).await);
    assert_eq!((&first["status"], &second["status"]), (&json!("cancelled"), &json!("completed")));
    assert_eq!(second["request_counts"], json!({ "total": 1_000, "completed": 0, "failed": 1_000 }));
    for (batch, code) in [(&first, "batch_cancelled"), (&second, "")] {
        assert_eq!(batch["output_file_id"], Value::Null);
        let file = format!("/v1/files/{}", batch["error_file_id"].as_str().unwrap());
        let (_, errors) = case.get("acme", &format!("{file}/content")).await;
        let bytes = serde_json::from_str::<Value>(&case.get("acme", &file).await.1).unwrap()["bytes"].clone();
        assert_eq!(bytes, errors.len());
        let mut ids: Vec<usize> = errors
            .lines()
            .map(|line| {
                let one: Value = serde_json::from_str(line).unwrap();
                let said = one["error"]["code"].as_str().unwrap_or("");
                assert!(said == code && (code.is_empty() == (one["response"]["status_code"] == 501)), "{one}");
                one["custom_id"].as_str().unwrap().parse().unwrap()
            })
            .collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..1_000).collect::<Vec<_>>());
        assert_eq!(case.get("zeta", &file).await.0, 404);
    }
}

/// Works for as long as `done` says that more is awaited, then tells the worker to end.
async fn work(batches: &Batches, mut done: impl AsyncFnMut() -> bool) {
    let stop = Context::new();
    let worker = tokio::spawn({
        let (batches, stop) = (batches.clone(), stop.clone());
        async move { batches.work(&stop).await }
    });
    let started = std::time::Instant::now();
    while !done().await {
        assert!(started.elapsed() < Duration::from_secs(60), "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.cancel().cancel();
    worker.await.unwrap().unwrap();
}

async fn submit(batches: &Batches, cx: &Context, requests: usize, max_tokens: usize) -> String {
    let lines: Vec<_> = (0..requests)
        .map(|id| {
            let body = json!({ "prompt": "Tea", "max_tokens": max_tokens, "seed": id });
            json!({ "custom_id": id.to_string(), "method": "POST", "url": "/v1/completions", "body": body }).to_string()
        })
        .collect();
    let mut upload = batches.upload();
    upload.push(cx, lines.join("\n").as_bytes()).await.unwrap();
    let file = upload.finish(cx, "in.jsonl", "batch").await.unwrap();
    batches.create(cx, NewBatch::new(file.id, Endpoint::Completions)).await.unwrap().id
}

async fn answers(batches: &Batches, cx: &Context, batch: &BatchObject) -> BTreeMap<String, Value> {
    use futures_util::TryStreamExt;
    let file = batch.output_file_id.as_deref().expect("an output file");
    let content: Vec<_> = batches.content(cx, file).await.unwrap().try_collect().await.unwrap();
    let mut all = BTreeMap::new();
    for line in String::from_utf8(content.concat()).unwrap().lines() {
        let one: Value = serde_json::from_str(line).unwrap();
        let said = one["response"]["body"]["choices"].clone();
        assert_eq!(all.insert(one["custom_id"].as_str().unwrap().to_owned(), said), None, "answered twice: {one}");
    }
    all
}

/// The same requests answered in one go and by a worker that is told to end again and again.
async fn interrupted(store: impl Store + 'static) {
    const REQUESTS: usize = 20;
    let engine = Engine::builder().store(store).scheduler(Priority::new(4, 8)).model(ToyModel::new(4_096)).build();
    let options = BatchOptions { checkpoint_tokens: 8, ..BatchOptions::default() };
    let batches = Batches::new(engine, options);
    let cx = Context::new().with_tenant("acme");
    let whole = submit(&batches, &cx, REQUESTS, 200).await;
    let over = async |id: &str| batches.batch(&cx, id).await.unwrap().status.is_final();
    work(&batches, async || over(&whole).await).await;
    let whole = batches.batch(&cx, &whole).await.unwrap();
    let expected = answers(&batches, &cx, &whole).await;
    assert_eq!((whole.status, expected.len(), whole.resumed.requests), (Status::Completed, REQUESTS, 0));

    let cut = submit(&batches, &cx, REQUESTS, 200).await;
    let mut interruptions = 0;
    while !over(&cut).await {
        let mut looks = 0;
        work(&batches, async || {
            looks += 1;
            looks > 2
        })
        .await;
        interruptions += 1;
    }
    let cut = batches.batch(&cx, &cut).await.unwrap();
    assert_eq!((cut.status, cut.request_counts.failed), (Status::Completed, 0));
    assert!(
        interruptions > 1 && cut.resumed.requests > 0,
        "nothing was interrupted: {interruptions} {:?}",
        cut.resumed
    );
    assert_eq!(answers(&batches, &cx, &cut).await, expected);

    let cancelled = submit(&batches, &cx, REQUESTS, 200).await;
    batches.cancel(&cx, &cancelled).await.unwrap();
    work(&batches, async || over(&cancelled).await).await;
    assert_eq!(batches.batch(&cx, &cancelled).await.unwrap().status, Status::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_batches_end_as_whole_ones_on_sqlite() {
    interrupted(Folder::new().open()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_batches_end_as_whole_ones_on_postgresql() {
    let cluster = match Cluster::start() {
        Ok(cluster) => cluster,
        Err(error) if std::env::var_os("CI").is_none() => return println!("skipped: {error:#}"),
        Err(error) => panic!("{error:#}"),
    };
    interrupted(PostgresStore::builder(cluster.url()).open().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_keep_to_limits_of_their_own() {
    let folder = Folder::new();
    let engine =
        Engine::builder().store(folder.open()).scheduler(Priority::new(4, 8)).model(ToyModel::new(4_096)).build();
    let most = |requests| Allowance::new().requests_per_minute(requests);
    let options = BatchOptions { tenants: BTreeMap::from([("acme".to_owned(), most(2))]), ..BatchOptions::default() };
    let keys = vec![ApiKey::secret("acme").tenant("acme")];
    let tenants = BTreeMap::from([("acme".to_owned(), most(1))]);
    let server = ServerOptions { keys, tenants, batch: options.clone(), ..ServerOptions::default() };
    let server = Server::start(router(engine.clone(), server)).await;
    let batches = Batches::new(engine.clone(), options);
    let [acme, zeta] = ["acme", "zeta"].map(|tenant| Context::new().with_tenant(tenant));
    let limited = submit(&batches, &acme, 5, 4).await;
    let free = submit(&batches, &zeta, 5, 4).await;
    let completed = async |cx: &Context, id: &str| batches.batch(cx, id).await.unwrap().request_counts.completed;
    let waiting = async || {
        let filter = JobFilter { limit: 100, ..JobFilter::default() };
        let jobs = engine.store().unwrap().jobs(&Context::new(), filter).await.unwrap().items;
        let later = |job: &&JobView| job.run_at.since(job.enqueued_at) > Duration::from_secs(5);
        jobs.iter().filter(|job| job.state == JobState::Ready && job.attempt == 0).filter(later).count()
    };
    work(&batches, async || completed(&zeta, &free).await == 5 && waiting().await == 3).await;
    assert_eq!(completed(&acme, &limited).await, 2, "the rest waits for the next minute, and no attempt is spent");

    // What people may use is counted apart.
    let ask = async || {
        let body = r#"{"prompt":"abc","max_tokens":2}"#;
        let request = client().post(server.url("/v1/completions")).bearer_auth("acme").body(body);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!((ask().await, ask().await), (200, 429));
}
