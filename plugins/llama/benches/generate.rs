//! Decoding and prefill through the public API, measured as `llama-bench -p 256 -n 64` does. Prints a JSON line for each case.
#![allow(missing_docs, clippy::expect_used)]

use std::time::Instant;

use selvedge_core::{
    Context, Inference,
    inference::{Chunk, Generate, Prompt},
};
use selvedge_llama::Llama;

const PROMPT: usize = 256;
const ANSWER: usize = 64;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1)).cloned();
    let rounds = if arguments.iter().any(|a| a == "--quick") { 2 } else { 5 };
    let path = value("--model").or_else(|| std::env::var("SELVEDGE_MODEL").ok()).expect("--model FILE");
    let mut builder = Llama::builder(path);
    if let Some(threads) = value("--threads").and_then(|threads| threads.parse().ok()) {
        builder = builder.threads(threads);
    }
    let model = builder.open().expect("opens");
    let cx = Context::new();
    // Any symbols will do, as in llama-bench; a few different ones, none of them special.
    let symbols = |count: usize| Prompt::Symbols((0..count as u32).map(|n| 1_000 + n * 7 % 5_000).collect());
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let started = Instant::now();
        let answer = model.generate(&cx, Generate::new(symbols(PROMPT)).max_tokens(1)).await.expect("starts");
        answer.collect().await.expect("ends");
        let read = PROMPT as f64 / started.elapsed().as_secs_f64();
        let mut answer = model.generate(&cx, Generate::new(symbols(1)).max_tokens(ANSWER + 1)).await.expect("starts");
        let (mut first, mut steps, mut last) = (None, 0, Instant::now());
        while let Some(chunk) = answer.next().await {
            if let Chunk::Tokens { symbols, .. } = chunk.expect("goes on") {
                last = Instant::now();
                match first {
                    None => first = Some(last),
                    Some(_) => steps += symbols.len(),
                }
            }
        }
        let first = first.expect("the model says something");
        // The first round warms up.
        if round > 0 {
            prefill.push(read);
            decode.push(steps as f64 / (last - first).as_secs_f64());
        }
    }
    for (case, value) in
        [(format!("prefill {PROMPT} tokens"), median(prefill)), (format!("decode {ANSWER} tokens"), median(decode))]
    {
        println!(r#"{{"case":"{case}","unit":"tokens/s","value":{value:.2}}}"#);
    }
}
