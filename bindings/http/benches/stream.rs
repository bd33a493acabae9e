//! What the server adds to a streamed token: a model that costs nothing answers at length, over HTTP. Prints the time of a token,
//! from the model to the client's bytes, less what the model takes.
#![allow(missing_docs, clippy::expect_used)]

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use selvedge_core::{
    Context, Engine, Inference,
    inference::{Chunk, Generate},
};
use selvedge_http::{ServerOptions, router, serve};
use selvedge_priority::Priority;
use selvedge_testkit::ToyModel;

fn main() {
    let tokens = if std::env::args().any(|argument| argument == "--quick") { 5_000 } else { 50_000 };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let model = ToyModel::new(tokens + 100);
    let alone = runtime.block_on(async {
        let mut answer = model.generate(&Context::new(), story(tokens)).await.expect("an answer");
        let (started, mut count) = (Instant::now(), 0);
        while let Some(chunk) = answer.next().await {
            if let Chunk::Tokens { symbols, .. } = chunk.expect("a token") {
                count += symbols.len();
            }
        }
        assert_eq!(count, tokens);
        started.elapsed()
    });
    let address = runtime.block_on(async {
        let engine = Engine::builder().scheduler(Priority::new(4, 4)).model(model).build();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let never = std::future::pending();
        tokio::spawn(serve(listener, router(engine, ServerOptions::default()), never, Duration::ZERO));
        address
    });
    let mut stream = TcpStream::connect(address).expect("it listens");
    let body = format!(r#"{{"prompt":"once","max_tokens":{tokens},"temperature":0,"stream":true}}"#);
    let started = Instant::now();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json";
    write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).expect("it is sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let took = started.elapsed();
    let events = answer.windows(6).filter(|bytes| bytes == b"data: ").count();
    assert!(events >= tokens, "{events} events of {tokens} tokens");
    let each = took.saturating_sub(alone).as_secs_f64() / tokens as f64 * 1e6;
    println!(r#"{{"case":"a streamed token","unit":"µs","value":{each}}}"#);
}

fn story(tokens: usize) -> Generate {
    Generate::text("once").max_tokens(tokens)
}
