//! Stock OpenAI clients, unchanged, as the peers of `selvedge serve`.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Server, cache};

const SCRIPT: &str = r#"
import json, sys
from openai import OpenAI, NotFoundError, BadRequestError
client = OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
messages = [{"role": "user", "content": "Name one tea."}]
ask = dict(model="smol", messages=messages, max_tokens=8, temperature=0)
whole = client.chat.completions.create(**ask)
pieces = client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **ask)
pieces = list(pieces)
codes = []
for wrong, error in [(dict(ask, model="large"), NotFoundError),
                     (dict(ask, messages=[{"role": "user", "content": "word " * 5000}]), BadRequestError)]:
    try:
        client.chat.completions.create(**wrong)
    except error as caught:
        codes.append(caught.code)
import io, time
lines = [json.dumps({"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": {
    "model": "smol", "prompt": "Once upon a time", "max_tokens": 4, "temperature": 0}}) for i in range(3)]
file = client.files.create(file=("in.jsonl", io.BytesIO("\n".join(lines).encode())), purpose="batch")
batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h",
                              metadata={"for": "a test"})
while batch.status in ("validating", "in_progress", "finalizing"):
    time.sleep(0.1)
    batch = client.batches.retrieve(batch.id)
answers = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
bad = client.files.create(file=("bad.jsonl", b"{}"), purpose="batch")
failed = client.batches.create(input_file_id=bad.id, endpoint="/v1/completions", completion_window="24h")
deleted = client.files.delete(bad.id).deleted
try:
    client.files.retrieve(bad.id)
except NotFoundError:
    deleted = deleted and file.id in [one.id for one in client.files.list()]
print(json.dumps({
    "batch": [batch.status, batch.request_counts.completed, batch.metadata, len(list(client.batches.list(limit=1)))],
    "answers": sorted([one["custom_id"], one["response"]["body"]["usage"]["completion_tokens"]] for one in answers),
    "failed": [failed.status, failed.errors.data[0].code, failed.errors.data[0].line],
    "deleted": deleted,
    "models": [model.id for model in client.models.list()],
    "whole": whole.choices[0].message.content,
    "streamed": "".join(p.choices[0].delta.content or "" for p in pieces if p.choices),
    "usage": [whole.usage.total_tokens, pieces[-1].usage.total_tokens],
    "completion": client.completions.create(model="smol", prompt="Once upon a time", max_tokens=4).usage.completion_tokens,
    "dimensions": len(client.embeddings.create(model="smol", input="green tea").data[0].embedding),
    "codes": codes,
}))
"#;

const NODE: &str = r#"
const { OpenAI, toFile } = require("openai");
(async () => {
  const client = new OpenAI({ baseURL: process.argv[1], apiKey: "none", maxRetries: 0 });
  const messages = [{ role: "user", content: "Name one tea." }];
  const ask = { model: "smol", messages, max_tokens: 8, temperature: 0 };
  const whole = await client.chat.completions.create(ask);
  const pieces = [];
  for await (const piece of await client.chat.completions.create({
    ...ask, stream: true, stream_options: { include_usage: true },
  })) pieces.push(piece);
  const codes = [];
  for (const [wrong, error] of [
    [{ ...ask, model: "large" }, OpenAI.NotFoundError],
    [{ ...ask, messages: [{ role: "user", content: "word ".repeat(5000) }] }, OpenAI.BadRequestError],
  ]) {
    try { await client.chat.completions.create(wrong); } catch (caught) {
      if (!(caught instanceof error)) throw caught;
      codes.push(caught.code);
    }
  }
  const lines = [0, 1, 2].map((i) => JSON.stringify({
    custom_id: String(i), method: "POST", url: "/v1/completions",
    body: { model: "smol", prompt: "Once upon a time", max_tokens: 4, temperature: 0 },
  }));
  const file = await client.files.create({
    file: await toFile(Buffer.from(lines.join("\n")), "in.jsonl"), purpose: "batch",
  });
  const start = { endpoint: "/v1/completions", completion_window: "24h" };
  let batch = await client.batches.create({ ...start, input_file_id: file.id, metadata: { for: "a test" } });
  while (["validating", "in_progress", "finalizing"].includes(batch.status)) {
    await new Promise((done) => setTimeout(done, 100));
    batch = await client.batches.retrieve(batch.id);
  }
  const output = await (await client.files.content(batch.output_file_id)).text();
  const answers = output.trim().split("\n").map((line) => JSON.parse(line));
  const bad = await client.files.create({ file: await toFile(Buffer.from("{}"), "bad.jsonl"), purpose: "batch" });
  const failed = await client.batches.create({ ...start, input_file_id: bad.id });
  let { deleted } = await client.files.delete(bad.id);
  try { await client.files.retrieve(bad.id); deleted = false; } catch (caught) {
    if (!(caught instanceof OpenAI.NotFoundError)) throw caught;
  }
  let listed = false;
  for await (const one of client.files.list()) listed ||= one.id === file.id;
  let count = 0;
  for await (const _ of client.batches.list({ limit: 1 })) count += 1;
  const models = [];
  for await (const model of client.models.list()) models.push(model.id);
  console.log(JSON.stringify({
    batch: [batch.status, batch.request_counts.completed, batch.metadata, count],
    answers: answers.map((one) => [one.custom_id, one.response.body.usage.completion_tokens]).sort(),
    failed: [failed.status, failed.errors.data[0].code, failed.errors.data[0].line],
    deleted: deleted && listed,
    models,
    whole: whole.choices[0].message.content,
    streamed: pieces.map((piece) => piece.choices[0]?.delta.content ?? "").join(""),
    usage: [whole.usage.total_tokens, pieces.at(-1).usage.total_tokens],
    completion: (await client.completions.create({
      model: "smol", prompt: "Once upon a time", max_tokens: 4,
    })).usage.completion_tokens,
    dimensions: (await client.embeddings.create({ model: "smol", input: "green tea" })).data[0].embedding.length,
    codes,
  }));
})().catch((error) => { console.error(error); process.exit(1); });
"#;

#[test]
fn a_stock_openai_client_works_unchanged() {
    let python = cache().join("python/openai/bin/python3");
    assert!(python.is_file(), "there is no OpenAI client at {}: run `cargo xtask setup`", python.display());
    let server = Server::shared();
    let mut command = Command::new(python);
    check(command.args(["-c", SCRIPT, &server.url("/v1")]));
}

#[test]
fn so_does_the_one_for_node() {
    let modules = cache().join("node/openai/node_modules");
    let node = modules.join(".bin/node");
    assert!(node.is_file(), "there is no OpenAI client for Node at {}: run `cargo xtask setup`", modules.display());
    let server = Server::shared();
    let mut command = Command::new(node);
    check(command.args(["-e", NODE, &server.url("/v1")]).env("NODE_PATH", &modules));
}

/// What both clients say of the same questions.
fn check(command: &mut Command) {
    let output = command.env("NO_PROXY", "127.0.0.1").output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(said["answers"], json!([["0", 4], ["1", 4], ["2", 4]]), "{said}");
    assert_eq!(
        said["batch"].as_array().unwrap()[..3],
        [json!("completed"), json!(3), json!({ "for": "a test" })],
        "{said}"
    );
    assert!(said["batch"][3].as_u64() >= Some(2), "pages of one: {said}");
    assert_eq!(said["failed"], json!(["failed", "missing_required_parameter", 1]));
    assert_eq!(said["deleted"], true);
    assert_eq!(said["models"], json!(["smol"]));
    assert!(!said["whole"].as_str().unwrap().is_empty() && said["whole"] == said["streamed"], "{said}");
    assert!(said["usage"][0].as_u64().unwrap() > 8 && said["usage"][0] == said["usage"][1], "{said}");
    assert_eq!((&said["completion"], &said["dimensions"]), (&json!(4), &json!(576)));
    assert_eq!(said["codes"], json!(["model_not_found", "context_length_exceeded"]));
}
