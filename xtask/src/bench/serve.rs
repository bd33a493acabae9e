//! Serving people and batches at once, beside llama.cpp's own server on the same file.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{
    Entry, Plan, Report,
    llama_cpp::{self, PACKAGE, VERSION},
    measure::{self, Measurement, Peer, Row},
    program,
};
use crate::{place, setup, shell, workspace};

pub(super) const ENTRY: Entry = Entry {
    name: "serve",
    title: "Serving people and batches",
    method: "A person's question (a short chat, 16 new tokens, streamed) comes once a second as a Poisson process; 8 streams of batch \
             work (stories of 200 tokens, sampled) never end. One load program asks both servers the same, over HTTP; ours is \
             told which is which by `x-selvedge-priority`, llama-server knows no priorities. Same model file (Q4_0, made by `selvedge \
             model prepare`), same threads, same release of llama.cpp with the same compiler flags.\n\n\
             - *slots taken*: as many slots as streams of batch work (ours parks one of them for a question). \
             *slots to spare*: 16 slots.\n\
             - *first token, p99*: over the questions of all rounds together, from before the request is sent until the first text.\n\
             - *itself* as a peer's name: the same server without the other load. *itself, one by one*: a single stream.\n\
             - *beside 1,000 stalled clients*: and 20 that do not read the batch work they asked for, besides the 8 streams.\n\
             - *a streamed token*: what the server adds to each token, measured with a model that costs nothing; the peer is the bound.",
    measure,
};

/// Streams of batch work.
const STREAMS: usize = 8;
/// Clients that connect, or begin a request, and do no more.
const STALLED: usize = 1_000;
/// Clients that do not read the batch work they asked for.
const UNREAD: usize = 20;
/// Symbols of prompt and answer in each slot.
const CONTEXT: usize = 1024;
/// The most that the server may add to a token, in µs.
const BOUND: f64 = 50.0;

/// What is asked of a server at once.
#[derive(Clone, Copy)]
struct Traffic {
    /// Questions a second.
    questions: u8,
    streams: usize,
    stalled: usize,
    unread: usize,
}

/// Questions beside batch work.
const BOTH: Traffic = Traffic { questions: 1, streams: STREAMS, stalled: 0, unread: 0 };

/// What the load program printed.
#[derive(Deserialize)]
struct Load {
    first_token_ms: Vec<f64>,
    failed: u64,
    batch_tokens_per_second: f64,
}

/// What is measured of one server, over all rounds.
#[derive(Default)]
struct Found {
    idle: Vec<f64>,
    loaded: Vec<f64>,
    stalled: Vec<f64>,
    beside: Vec<f64>,
    alone: Vec<f64>,
    one: Vec<f64>,
}

struct Bench {
    model: PathBuf,
    selvedge: PathBuf,
    llama_server: PathBuf,
    load: PathBuf,
    folder: PathBuf,
    threads: String,
    seconds: String,
}

fn measure(plan: &Plan) -> Result<Report> {
    let model = setup::all(false)?;
    let folder = tempfile::tempdir().context("no room for the servers' files")?;
    let selvedge = workspace::program("selvedge")?;
    let bench = Bench {
        model: prepared(&selvedge, &model)?,
        selvedge,
        llama_server: llama_cpp::program("llama-server")?,
        load: program("load")?,
        folder: folder.path().to_owned(),
        threads: thread::available_parallelism().map_or(1, usize::from).to_string(),
        seconds: if plan.quick { "15" } else { "20" }.to_owned(),
    };
    let stream = program("stream")?;
    let (mut ours, mut taken, mut theirs, mut their_taken) =
        (Found::default(), Found::default(), Found::default(), Found::default());
    let mut tokens = Vec::new();
    for round in 1..=plan.rounds {
        bench.ours(2 * STREAMS, |url| {
            bench.whole("selvedge, slots to spare", url, round, &mut ours)?;
            let traffic = Traffic { stalled: STALLED, unread: UNREAD, ..BOTH };
            let beside = bench.load("selvedge, slots to spare, loaded, stalled clients", url, traffic, round)?;
            ours.stalled.extend(beside.first_token_ms);
            Ok(())
        })?;
        bench.theirs(2 * STREAMS, |url| bench.whole("llama-server, slots to spare", url, round, &mut theirs))?;
        bench.ours(STREAMS, |url| bench.crowded("selvedge, slots taken", url, round, &mut taken))?;
        bench.theirs(STREAMS, |url| bench.crowded("llama-server, slots taken", url, round, &mut their_taken))?;
        let mut command = Command::new(&stream);
        tokens.extend(measure::lines("a streamed token", command.args(plan.quick.then_some("--quick")))?);
    }
    let llama = Peer { name: "llama-server", version: format!("{PACKAGE} {VERSION}") };
    let itself = |name| Peer { name, version: env!("CARGO_PKG_VERSION").to_owned() };
    let row = |case: &str, unit: &str, ours: f64, other: f64, peer: &Peer, target: Option<f64>| {
        Row::new(plan.name, case, unit, ours, other, peer, target)
    };
    let median = |values: &[f64]| measure::median(values);
    let rows = vec![
        row(
            "first token p99, loaded, slots taken",
            "ms",
            p99(&taken.loaded),
            p99(&their_taken.loaded),
            &llama,
            Some(20.0),
        ),
        row(
            "first token p99, loaded, slots to spare",
            "ms",
            p99(&ours.loaded),
            p99(&theirs.loaded),
            &llama,
            Some(1.0 / 0.6),
        ),
        row("first token p99, loaded", "ms", p99(&ours.loaded), p99(&ours.idle), &itself("itself"), Some(1.0 / 1.5)),
        row(
            "first token p99, loaded, beside 1,000 stalled clients",
            "ms",
            p99(&ours.stalled),
            p99(&ours.idle),
            &itself("itself"),
            Some(1.0 / 1.5),
        ),
        row("first token p99, idle", "ms", p99(&ours.idle), p99(&theirs.idle), &llama, None),
        row("first token p50, loaded", "ms", median(&ours.loaded), median(&theirs.loaded), &llama, None),
        row(
            "batch beside questions",
            "tokens/s",
            median(&ours.beside),
            median(&ours.alone),
            &itself("itself"),
            Some(0.9),
        ),
        row("batch beside questions", "tokens/s", median(&ours.beside), median(&theirs.beside), &llama, None),
        row("batch alone", "tokens/s", median(&ours.alone), median(&theirs.alone), &llama, None),
        row(
            "8 answers together",
            "tokens/s",
            median(&ours.alone),
            median(&ours.one),
            &itself("itself, one by one"),
            Some(2.0),
        ),
        row("a streamed token", "µs", median(&values(&tokens)), BOUND, &itself("bound"), Some(1.0)),
    ];
    let kept = median(&theirs.beside) / median(&theirs.alone);
    let alone = vec![
        ("llama-server: batch beside questions, of alone".to_owned(), kept * 100.0, "%".to_owned()),
        (
            "llama-server: first token p99, loaded, of idle".to_owned(),
            p99(&theirs.loaded) / p99(&theirs.idle),
            "×".to_owned(),
        ),
        (
            "llama-server, slots taken: first token p99, of idle".to_owned(),
            p99(&their_taken.loaded) / p99(&theirs.idle),
            "×".to_owned(),
        ),
        ("questions asked of each server under load".to_owned(), ours.loaded.len() as f64, "questions".to_owned()),
    ];
    let facts = [
        ("model", bench.model.file_name().unwrap_or_default().to_string_lossy().into_owned()),
        ("threads", bench.threads.clone()),
        ("context", format!("{CONTEXT} tokens a slot")),
        ("seconds a measurement", bench.seconds.clone()),
        ("peer's source", format!("{PACKAGE} {VERSION}")),
    ];
    Ok(Report { rows, alone, facts: facts.map(|(name, value)| (name.to_owned(), value)).into() })
}

fn values(measurements: &[Measurement]) -> Vec<f64> {
    measurements.iter().map(|one| one.value).collect()
}

/// The value that 99 % do not exceed (nearest rank).
fn p99(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() as f64 * 0.99).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// The model in the format that llama.cpp has fast kernels for.
fn prepared(selvedge: &Path, model: &Path) -> Result<PathBuf> {
    let to = place::cache()?.join("models/SmolLM2-135M-Instruct.Q4_0.gguf");
    if !to.is_file() {
        let mut command = Command::new(selvedge);
        command.args(["model", "prepare"]).arg(model).arg("--output").arg(&to);
        shell::quiet("selvedge model prepare", &mut command)?;
    }
    Ok(to)
}

impl Bench {
    fn load(&self, label: &str, url: &str, traffic: Traffic, round: usize) -> Result<Load> {
        let Traffic { questions, streams, stalled, unread } = traffic;
        let mut command = Command::new(&self.load);
        command.args(["--url", url, "--seconds", &self.seconds, "--seed", &round.to_string()]);
        command.args(["--p0", &questions.to_string(), "--p2", &streams.to_string()]);
        command.args(["--stalled", &stalled.to_string(), "--unread", &unread.to_string()]);
        let mut found: Vec<Load> = measure::records(&format!("{label}, round {round}"), &mut command)?;
        let load = found.pop().context("the load program printed nothing")?;
        if load.failed > 0 {
            bail!("{label}: {} questions failed", load.failed);
        }
        Ok(load)
    }

    fn whole(&self, name: &str, url: &str, round: usize, found: &mut Found) -> Result<()> {
        let load = |what: &str, traffic| self.load(&format!("{name}, {what}"), url, traffic, round);
        found.idle.extend(load("idle", Traffic { streams: 0, ..BOTH })?.first_token_ms);
        found.alone.push(load("batch alone", Traffic { questions: 0, ..BOTH })?.batch_tokens_per_second);
        found.one.push(load("one stream", Traffic { questions: 0, streams: 1, ..BOTH })?.batch_tokens_per_second);
        let both = load("loaded", BOTH)?;
        found.loaded.extend(both.first_token_ms);
        found.beside.push(both.batch_tokens_per_second);
        Ok(())
    }

    fn crowded(&self, name: &str, url: &str, round: usize, found: &mut Found) -> Result<()> {
        found.loaded.extend(self.load(&format!("{name}, loaded"), url, BOTH, round)?.first_token_ms);
        Ok(())
    }

    fn ours(&self, slots: usize, work: impl FnOnce(&str) -> Result<()>) -> Result<()> {
        let config = self.folder.join("selvedge.toml");
        let text = format!(
            "[store]\npath = {store:?}\n[log]\nlevel = \"warn\"\n[scheduler]\nconcurrency = {concurrency}\n[[models]]\npath = {model:?}\n\
             threads = {threads}\nsequences = {slots}\ncontext_length = {CONTEXT}\n",
            store = self.folder.join("selvedge.db"),
            concurrency = 2 * STREAMS,
            model = self.model,
            threads = self.threads,
        );
        fs::write(&config, text)?;
        let mut command = Command::new(&self.selvedge);
        command.arg("--config").arg(&config).args(["serve", "--address", "127.0.0.1:0"]);
        let mut server = Server::start(command.stdout(Stdio::piped()))?;
        let mut lines = BufReader::new(server.0.stdout.take().context("the server has no stdout")?).lines();
        let line = lines.next().context("the server ended before it listened")??;
        let url = line.strip_prefix("listening on ").with_context(|| format!("the server says {line:?}"))?;
        work(url)
    }

    fn theirs(&self, slots: usize, work: impl FnOnce(&str) -> Result<()>) -> Result<()> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
        let mut command = Command::new(&self.llama_server);
        command.arg("--model").arg(&self.model).args(["--host", "127.0.0.1", "--port", &port]);
        command.args(["--threads", &self.threads, "--threads-batch", &self.threads, "--parallel", &slots.to_string()]);
        command.args(["--ctx-size", &(slots * CONTEXT).to_string()]);
        let _server = Server::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
        let started = Instant::now();
        while !healthy(&port) {
            if started.elapsed() > Duration::from_secs(60) {
                bail!("llama-server does not listen: {}", shell::line_of(&command));
            }
            thread::sleep(Duration::from_millis(100));
        }
        work(&format!("http://127.0.0.1:{port}"))
    }
}

fn healthy(port: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(format!("127.0.0.1:{port}")) else { return false };
    let mut answer = String::new();
    let asked = stream.write_all(b"GET /health HTTP/1.0\r\n\r\n");
    asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains(" 200 ")
}

/// A server that ends with this value.
struct Server(Child);

impl Server {
    fn start(command: &mut Command) -> Result<Self> {
        let line = shell::line_of(command);
        command.spawn().map(Self).with_context(|| format!("cannot start {line}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::p99;

    #[test]
    fn the_99th_percentile_is_the_nearest_rank() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(p99(&values), 198.0);
        assert_eq!(p99(&[3.0]), 3.0);
        assert!(p99(&[]).is_nan());
    }
}
