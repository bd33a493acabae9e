//! Load for a server with OpenAI's API, ours or another: people's questions as they come (a Poisson process), beside
//! streams of batch work that never end. Prints one JSON object: the times to the first token, and the tokens of the batch work.
//!
//! `--url http://127.0.0.1:8080 --seconds 60 --p0 1.0 --p2 8 --stalled 0 --unread 0 --seed 1`
#![allow(missing_docs, clippy::expect_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Tokens of an answer to a person.
const SHORT: usize = 16;
/// Tokens of a piece of batch work.
const LONG: usize = 200;
/// What batch work has to be under way before questions are asked.
const SETTLE: Duration = Duration::from_secs(3);

struct Options {
    url: String,
    seconds: u64,
    /// Questions a second.
    p0: f64,
    /// Streams of batch work.
    p2: usize,
    /// Clients that connect, or begin a request, and do no more.
    stalled: usize,
    /// Clients that ask for a piece of batch work and read only how its answer begins.
    unread: usize,
    seed: u64,
}

impl Options {
    fn read() -> Self {
        let arguments: Vec<String> = std::env::args().collect();
        let value = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1)).cloned();
        let number = |name: &str, default: f64| value(name).map_or(default, |text| text.parse().expect("a number"));
        Self {
            url: value("--url").expect("--url URL"),
            seconds: number("--seconds", 60.0) as u64,
            p0: number("--p0", 1.0),
            p2: number("--p2", 8.0) as usize,
            stalled: number("--stalled", 0.0) as usize,
            unread: number("--unread", 0.0) as usize,
            seed: number("--seed", 1.0) as u64,
        }
    }
}

#[derive(Clone)]
struct Client {
    http: reqwest::Client,
    url: Arc<str>,
}

impl Client {
    /// Streams an answer; calls `token` at each piece of text. Gives the time to the first.
    async fn stream(&self, path: &str, class: &str, body: Value, mut token: impl FnMut()) -> Result<Duration, String> {
        let asked = Instant::now();
        let request = self.http.post(format!("{}{path}", self.url)).header("content-type", "application/json");
        let answer = request.header("x-selvedge-priority", class).body(body.to_string()).send().await;
        let mut answer = answer.map_err(|error| error.to_string())?;
        if !answer.status().is_success() {
            return Err(format!("status {}: {}", answer.status(), answer.text().await.unwrap_or_default()));
        }
        let (mut text, mut first) = (Vec::new(), None);
        while let Some(piece) = answer.chunk().await.map_err(|error| error.to_string())? {
            text.extend_from_slice(&piece);
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                let Some(data) = line.strip_prefix(b"data: ") else { continue };
                let Ok(event) = serde_json::from_slice::<Value>(data) else { continue };
                let choice = &event["choices"][0];
                let shown = choice["text"].as_str().or(choice["delta"]["content"].as_str()).unwrap_or_default();
                if !shown.is_empty() {
                    first.get_or_insert_with(|| asked.elapsed());
                    token();
                }
            }
        }
        first.ok_or_else(|| "an answer without text".to_owned())
    }
}

/// A question that nobody asked before.
fn question(random: &mut fastrand::Rng) -> String {
    const THINGS: [&str; 12] = [
        "green tea",
        "a violin",
        "the moon",
        "sour dough bread",
        "a lighthouse",
        "winter snow",
        "a bicycle",
        "an old map",
        "a honey bee",
        "the sea",
        "a good novel",
        "fresh paint",
    ];
    let thing = random.choice(THINGS).unwrap_or("tea");
    format!("What should I know about {thing} before I buy {} of it?", random.u32(2..10_000))
}

fn story(random: &mut fastrand::Rng) -> Value {
    let prompt = format!("Chapter {}. It was a quiet evening in the harbour, and", random.u32(1..1_000_000));
    json!({ "prompt": prompt, "max_tokens": LONG, "temperature": 0.8, "stream": true, "seed": random.u32(..) })
}

/// Connects and sends so much of a request; what comes back is read as far as `answer` is long.
async fn leave(address: &str, request: &str, answer: &mut [u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(request.as_bytes()).await.expect("sends");
    stream.read_exact(answer).await.expect("answers");
    stream
}

/// The clients that stall and those that do not read, for as long as what is returned is kept.
async fn idlers(options: &Options) -> Vec<TcpStream> {
    let address = options.url.strip_prefix("http://").expect("an http URL");
    let head = |path: &str, length: usize| {
        format!("POST {path} HTTP/1.1\r\nhost: x\r\nx-selvedge-priority: p2\r\ncontent-length: {length}\r\n\r\n")
    };
    let chat = head("/v1/chat/completions", 4_096);
    let (half, cut) = (&chat[..chat.len() / 2], format!("{chat}{{\"messages\""));
    let mut kept = Vec::with_capacity(options.stalled + options.unread);
    for part in ["", half, &cut].into_iter().cycle().take(options.stalled) {
        kept.push(leave(address, part, &mut []).await);
    }
    let mut random = fastrand::Rng::with_seed(options.seed ^ 0xff);
    for _ in 0..options.unread {
        let body = story(&mut random).to_string();
        let request = head("/v1/completions", body.len()) + &body;
        let mut begun = [0; 12];
        kept.push(leave(address, &request, &mut begun).await);
        assert_eq!(&begun, b"HTTP/1.1 200", "batch work is taken");
    }
    kept
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let options = Options::read();
    let client = Client { http: reqwest::Client::new(), url: options.url.clone().into() };
    let idlers = idlers(&options).await;
    let (ended, counted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut batch = Vec::new();
    for stream in 0..options.p2 {
        let (client, ended, counted) = (client.clone(), ended.clone(), counted.clone());
        let mut random = fastrand::Rng::with_seed(options.seed * 1_000 + stream as u64);
        batch.push(tokio::spawn(async move {
            while !ended.load(Ordering::Relaxed) {
                let count = || {
                    counted.fetch_add(1, Ordering::Relaxed);
                };
                if let Err(error) = client.stream("/v1/completions", "p2", story(&mut random), count).await {
                    eprintln!("batch work failed: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }));
    }
    if options.p2 > 0 {
        tokio::time::sleep(SETTLE).await;
    }
    let (started, before) = (Instant::now(), counted.load(Ordering::Relaxed));
    let length = Duration::from_secs(options.seconds);
    let mut random = fastrand::Rng::with_seed(options.seed);
    let mut questions = Vec::new();
    let mut arrivals = fastrand::Rng::with_seed(!options.seed);
    let mut gap = || match options.p0 {
        rate if rate > 0.0 => Duration::from_secs_f64(-(1.0 - arrivals.f64()).ln() / rate),
        _ => length,
    };
    let mut next = gap();
    while next < length {
        tokio::time::sleep_until((started + next).into()).await;
        let body = json!({
            "messages": [{ "role": "user", "content": question(&mut random) }],
            "max_tokens": SHORT, "temperature": 0.0, "stream": true,
        });
        let client = client.clone();
        questions.push(tokio::spawn(async move { client.stream("/v1/chat/completions", "p0", body, || ()).await }));
        next += gap();
    }
    tokio::time::sleep_until((started + length).into()).await;
    let tokens = counted.load(Ordering::Relaxed) - before;
    let rate = tokens as f64 / started.elapsed().as_secs_f64();
    let (mut times, mut failed) = (Vec::new(), 0);
    for question in questions {
        match question.await.expect("no panic") {
            Ok(first) => times.push(first.as_secs_f64() * 1e3),
            Err(error) => {
                eprintln!("a question failed: {error}");
                failed += 1;
            }
        }
    }
    ended.store(true, Ordering::Relaxed);
    batch.iter().for_each(tokio::task::JoinHandle::abort);
    drop(idlers);
    println!("{}", json!({ "first_token_ms": times, "failed": failed, "batch_tokens_per_second": rate }));
}
