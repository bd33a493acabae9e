//! Batches on the real model: answered, refused, cancelled, and gone on with after SIGKILL.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{Server, client, run, selvedge, until};

/// One at a time, kept often, and free soon after a crash.
const QUICK: &str = "[scheduler]\nconcurrency = 1\n[batch]\nconcurrency = 1\ncheckpoint_tokens = 2\n\
    checkpoint_seconds = 0.2\nhold_seconds = 1\n[store]\nmaintain_seconds = 0.1\n[log]\nlevel = \"error\"\n";

fn line(id: &str, body: &Value) -> String {
    json!({ "custom_id": id, "method": "POST", "url": "/v1/completions", "body": body }).to_string()
}

fn story(max_tokens: usize) -> Value {
    json!({ "model": "smol", "prompt": "Once upon a time", "max_tokens": max_tokens, "temperature": 0 })
}

impl Server {
    /// Runs `selvedge batch` over the server's Store; what it printed, line by line.
    fn batch(&self, arguments: &[&str]) -> Vec<Value> {
        let said = run(selvedge(self.folder()).args(["batch", "--json"]).args(arguments));
        assert_eq!(said.code, Some(0), "{said:?}");
        said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Submits lines; the id of the batch.
    fn submit(&self, lines: &[String]) -> String {
        std::fs::write(self.folder().join("in.jsonl"), lines.join("\n")).unwrap();
        let batch = self.batch(&["submit", "in.jsonl", "--endpoint", "/v1/completions"]).remove(0);
        batch["id"].as_str().unwrap().to_owned()
    }

    async fn status(&self, id: &str) -> Value {
        serde_json::from_str(&self.get(&format!("/v1/batches/{id}")).await.1).unwrap()
    }

    async fn over(&self, id: &str) -> Value {
        let terminal = |batch: &Value| {
            ["completed", "failed", "expired", "cancelled"].contains(&batch["status"].as_str().unwrap())
        };
        until("the batch is over", async || terminal(&self.status(id).await)).await;
        self.status(id).await
    }

    /// What was answered, by name; every name once.
    fn answers(&self, id: &str) -> BTreeMap<String, Value> {
        let mut answers = BTreeMap::new();
        for one in self.batch(&["output", id]) {
            let body = &one["response"]["body"];
            let kept = json!([body["choices"], body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]]);
            let before = answers.insert(one["custom_id"].as_str().unwrap().to_owned(), kept);
            assert_eq!(before, None, "answered twice: {one}");
        }
        answers
    }
}

#[tokio::test]
async fn every_request_ends_in_one_of_the_two_files() {
    let server = Server::with_model(QUICK);
    let id = server.submit(&[
        line("good", &story(4)),
        line("hot", &json!({ "model": "smol", "prompt": "Tea", "temperature": 9 })),
        line("long", &json!({ "model": "smol", "prompt": "word ".repeat(5_000) })),
        line("none", &json!({ "model": "large", "prompt": "Tea" })),
        line("empty", &json!({ "model": "smol" })),
    ]);
    let batch = server.over(&id).await;
    assert_eq!(
        (&batch["status"], &batch["request_counts"]),
        (&json!("completed"), &json!({ "total": 5, "completed": 1, "failed": 4 }))
    );
    let direct = server.post("/v1/completions", story(4).to_string()).await.1;
    assert_eq!(server.answers(&id)["good"][0], direct["choices"]);
    let errors = server.batch(&["output", &id, "--errors"]);
    let mut why: Vec<_> = errors
        .iter()
        .map(|one| {
            (
                one["custom_id"].as_str().unwrap(),
                one["response"]["status_code"].as_u64().unwrap(),
                &one["response"]["body"]["error"]["code"],
            )
        })
        .collect();
    why.sort_by_key(|one| one.0);
    let (long, none) = (json!("context_length_exceeded"), json!("model_not_found"));
    assert_eq!(
        why,
        [("empty", 400, &Value::Null), ("hot", 400, &Value::Null), ("long", 400, &long), ("none", 404, &none)]
    );
    let (status, file) = server.get(&format!("/v1/files/{}/content", batch["error_file_id"].as_str().unwrap())).await;
    assert_eq!((status, file.lines().count()), (200, 4));
    let object = server.get(&format!("/v1/files/{}", batch["error_file_id"].as_str().unwrap())).await.1;
    assert_eq!(serde_json::from_str::<Value>(&object).unwrap()["bytes"], file.len());
    assert!(server.batch(&["list"]).iter().any(|one| one["id"] == id));
}

#[tokio::test]
async fn vectors_come_in_batches_too() {
    let server = Server::shared();
    let body = json!({ "custom_id": "v", "method": "POST", "url": "/v1/embeddings", "body": { "model": "smol", "input": "green tea" } });
    let part = |name: &str, text: &str| format!("--cut\r\nContent-Disposition: form-data; {name}\r\n\r\n{text}\r\n");
    let form = part("name=\"file\"; filename=\"in.jsonl\"", &body.to_string()) + &part("name=\"purpose\"", "batch");
    let upload = client().post(server.url("/v1/files")).header("content-type", "multipart/form-data; boundary=cut");
    let file = upload.body(form + "--cut--\r\n").send().await.unwrap();
    let file: Value = serde_json::from_str(&file.text().await.unwrap()).unwrap();
    let new = json!({ "input_file_id": file["id"], "endpoint": "/v1/embeddings", "completion_window": "24h" });
    let (status, batch) = server.post("/v1/batches", new.to_string()).await;
    assert_eq!(status, 200, "{batch}");
    let batch = server.over(batch["id"].as_str().unwrap()).await;
    let (_, output) = server.get(&format!("/v1/files/{}/content", batch["output_file_id"].as_str().unwrap())).await;
    let output: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(output["response"]["body"]["data"][0]["embedding"].as_array().unwrap().len(), 576);
}

#[tokio::test]
async fn a_cancelled_batch_keeps_what_was_answered() {
    let server = Server::with_model(QUICK);
    let id = server.submit(&[line("short", &story(2)), line("long", &story(1_500)), line("later", &story(2))]);
    until("the first is answered", async || server.status(&id).await["request_counts"]["completed"] == 1).await;
    let cancelled = server.post(&format!("/v1/batches/{id}/cancel"), "").await;
    assert_eq!((cancelled.0, &cancelled.1["status"]), (200, &json!("cancelling")));
    let batch = server.over(&id).await;
    assert_eq!((&batch["status"], server.answers(&id).len()), (&json!("cancelled"), 1), "{batch}");
    assert!(server.batch(&["output", &id, "--errors"]).iter().all(|one| one["error"]["code"] == "batch_cancelled"));
    assert_eq!(server.post(&format!("/v1/batches/{id}/cancel"), "").await.0, 409);
}

#[tokio::test]
async fn a_server_that_is_told_to_end_keeps_what_it_has_and_spends_no_attempt() {
    let mut server = Server::with_model(QUICK);
    let id = server.submit(&[line("long", &story(120))]);
    until("it is kept", async || kept(&server) > 0).await;
    server.terminate();
    assert_eq!(server.ended().await.0.code(), Some(0));
    let job = run(selvedge(server.folder()).args(["jobs", "list", "--json"])).json();
    assert_eq!((&job["state"], &job["attempt"]), (&json!("ready"), &json!(0)), "{job}");
    server.restart();
    let batch = server.over(&id).await;
    assert_eq!((&batch["status"], &batch["resumed"]["requests"]), (&json!("completed"), &json!(1)), "{batch}");
    let direct = server.post("/v1/completions", story(120).to_string()).await.1;
    assert_eq!(server.answers(&id)["long"][0], direct["choices"]);
}

/// The bytes kept of the one job there is.
fn kept(server: &Server) -> u64 {
    let jobs = run(selvedge(server.folder()).args(["jobs", "list", "--json"]));
    let Some(first) = jobs.out.lines().next() else { return 0 };
    let id = serde_json::from_str::<Value>(first).unwrap()["id"].to_string();
    run(selvedge(server.folder()).args(["jobs", "show", "--json", &id])).json()["checkpoint_bytes"]
        .as_u64()
        .unwrap_or(0)
}

/// Half greedy, half drawn: the seed is the line's own.
fn requests() -> Vec<String> {
    let prompts = ["Once upon a time", "The sea is", "Green tea", "In the morning"];
    (0..12u32)
        .map(|at| {
            let temperature = if at % 2 == 0 { 0.0 } else { 0.9 };
            let prompt = prompts[at as usize % prompts.len()];
            let body =
                json!({ "model": "smol", "prompt": prompt, "max_tokens": 48, "temperature": temperature, "seed": at });
            line(&format!("r{at}"), &body)
        })
        .collect()
}

#[tokio::test]
async fn killed_at_any_moment_each_answer_is_there_once_and_as_if_nothing_had_happened() {
    let whole = Server::with_model(QUICK);
    let id = whole.submit(&requests());
    assert_eq!(whole.over(&id).await["resumed"]["requests"], 0);
    let expected = whole.answers(&id);
    assert_eq!(expected.len(), 12);
    drop(whole);

    let mut server = Server::with_model(QUICK);
    let id = server.submit(&requests());
    // Once surely in the middle of an answer, then at any moment.
    until("something is kept", async || kept(&server) > 0).await;
    server.restart();
    let mut kills = 1;
    while server.status(&id).await["status"] == "in_progress" && kills < 20 {
        tokio::time::sleep(std::time::Duration::from_millis(fastrand::u64(300..2_000))).await;
        server.restart();
        kills += 1;
    }
    let batch = server.over(&id).await;
    assert_eq!((&batch["status"], &batch["request_counts"]["completed"]), (&json!("completed"), &json!(12)), "{batch}");
    println!("{kills} kills, resumed: {}", batch["resumed"]);
    assert!(kills > 0 && batch["resumed"]["requests"].as_u64() > Some(0), "no answer was cut short: {batch}");
    assert_eq!(server.answers(&id), expected);
}

#[tokio::test]
async fn whatever_a_field_holds_the_answer_is_an_answer_or_a_typed_error() {
    let server = Server::shared();
    let chat = json!({
        "model": "smol", "messages": [{ "role": "user", "content": "Tea" }], "max_tokens": 1, "temperature": 0, "top_p": 1,
        "seed": 1, "stop": ["x"], "stream": false, "stream_options": {}, "n": 1, "tools": [], "logprobs": false,
        "response_format": { "type": "text" }, "max_completion_tokens": 1,
    });
    let completion = json!({ "model": "smol", "prompt": "Tea", "max_tokens": 1, "best_of": 1, "echo": false });
    let embedding = json!({ "model": "smol", "input": ["Tea"], "encoding_format": "float", "dimensions": 576 });
    let batch = json!({
        "input_file_id": "file-0", "endpoint": "/v1/completions", "completion_window": "24h", "metadata": { "a": "b" },
    });
    let deep = (0..5_000).fold(String::new(), |text, _| text + "[");
    let wrong = [
        "null",
        "[]",
        "{}",
        "\"\"",
        "-1",
        "1e999",
        "true",
        "[null]",
        "{\"type\":7}",
        "18446744073709551616",
        &deep,
        "\"\\ud800\"",
    ];
    let mut refused = 0;
    for (path, body) in [
        ("/v1/chat/completions", chat),
        ("/v1/completions", completion),
        ("/v1/embeddings", embedding),
        ("/v1/batches", batch),
    ] {
        for field in body.as_object().unwrap().keys() {
            for wrong in wrong {
                let mut body = body.clone();
                body[field] = "<wrong>".into();
                let body = body.to_string().replace("\"<wrong>\"", wrong);
                let response = client().post(server.url(path)).body(body).send().await.unwrap();
                let (status, text) = crate::support::text(response).await;
                if status != 200 {
                    let error: Value = serde_json::from_str(&text).unwrap();
                    assert!((400..500).contains(&status), "{path} {field} {wrong}: {status} {text}");
                    assert!(error["error"]["message"].is_string() && error["error"]["type"].is_string(), "{text}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 200, "{refused}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn clients_that_stall_or_read_slowly_cost_little_and_keep_nobody_waiting() {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };
    const FILE: usize = 32 << 20;
    let server = Server::start("[log]\nlevel = \"error\"\n");
    let head = "host: x\r\ncontent-type: multipart/form-data; boundary=cut\r\ncontent-length: 9000000\r\n\r\n";
    let part = "--cut\r\ncontent-disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n";
    let before = server.memory();
    let mut stalled = Vec::new();
    for at in 0..1_000 {
        let mut one = TcpStream::connect(server.address()).await.unwrap();
        let sent = match at % 3 {
            0 => String::new(),
            1 => "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-le".into(),
            _ => format!("POST /v1/files HTTP/1.1\r\n{head}{part}{}", "x".repeat(20_000)),
        };
        one.write_all(sent.as_bytes()).await.unwrap();
        stalled.push(one);
    }
    assert_eq!(server.get("/health").await.0, 200);

    let form = format!(
        "{part}{}\r\n--cut\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--cut--\r\n",
        "y".repeat(FILE)
    );
    let upload = client().post(server.url("/v1/files")).header("content-type", "multipart/form-data; boundary=cut");
    let (status, file) = crate::support::text(upload.body(form).send().await.unwrap()).await;
    assert_eq!(status, 200, "{file}");
    let file: Value = serde_json::from_str(&file).unwrap();
    assert_eq!(file["bytes"], FILE);
    let path = format!("/v1/files/{}/content", file["id"].as_str().unwrap());
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut one = TcpStream::connect(server.address()).await.unwrap();
        one.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut first = [0; 1_024];
        one.read_exact(&mut first).await.unwrap();
        assert!(first.starts_with(b"HTTP/1.1 200"));
        slow.push(one);
    }
    assert_eq!(server.get(&path).await.1.len(), FILE);
    let grown = server.memory().saturating_sub(before);
    println!("{} MiB more for 1,000 stalled clients and 20 slow readers of {} MiB", grown >> 20, FILE >> 20);
    assert!(grown < 320 << 20, "{} MiB more", grown >> 20);
}
