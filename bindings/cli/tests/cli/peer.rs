//! A stock OpenAI client, unchanged, as the peer of `selvedge serve`.

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
print(json.dumps({
    "models": [model.id for model in client.models.list()],
    "whole": whole.choices[0].message.content,
    "streamed": "".join(p.choices[0].delta.content or "" for p in pieces if p.choices),
    "usage": [whole.usage.total_tokens, pieces[-1].usage.total_tokens],
    "completion": client.completions.create(model="smol", prompt="Once upon a time", max_tokens=4).usage.completion_tokens,
    "dimensions": len(client.embeddings.create(model="smol", input="green tea").data[0].embedding),
    "codes": codes,
}))
"#;

#[test]
fn a_stock_openai_client_works_unchanged() {
    let python = cache().join("python/openai/bin/python3");
    assert!(python.is_file(), "there is no OpenAI client at {}: run `cargo xtask setup`", python.display());
    let server = Server::shared();
    let mut command = Command::new(python);
    let output =
        command.args(["-c", SCRIPT, &server.url("/v1")]).env("NO_PROXY", "127.0.0.1").output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(said["models"], json!(["smol"]));
    assert!(!said["whole"].as_str().unwrap().is_empty() && said["whole"] == said["streamed"], "{said}");
    assert!(said["usage"][0].as_u64().unwrap() > 8 && said["usage"][0] == said["usage"][1], "{said}");
    assert_eq!((&said["completion"], &said["dimensions"]), (&json!(4), &json!(576)));
    assert_eq!(said["codes"], json!(["model_not_found", "context_length_exceeded"]));
}
