//! Batches, under killed and frozen workers and models that are replaced: every answer once, and as if nothing had happened.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use futures_util::TryStreamExt;
use selvedge::{
    AnyScheduler, Context, Engine,
    batch::Endpoint,
    layers::Metrics,
    llama::{self, Format, Llama},
    priority::Priority,
    sqlite::SqliteStore,
    store::Maintain,
};
use selvedge_http::{BatchObject, BatchOptions, Batches, NewBatch};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    child::{Child, end_with_parent},
    counts::{self, Report, Tally, Verdict},
};

/// What a killed worker held is soon worked on again, and a freeze soon outlasts it.
const HOLD: Duration = Duration::from_secs(1);
/// Requests of a batch, half of them drawn and half greedy.
const REQUESTS: u32 = 12;
/// What is awaited has to come in this time, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: counts::Options,
    /// The model file (GGUF).
    #[arg(long, value_name = "FILE", env = "SELVEDGE_MODEL")]
    model: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct WorkerOptions {
    #[arg(long)]
    store: PathBuf,
    #[arg(long)]
    model: PathBuf,
}

fn options() -> BatchOptions {
    BatchOptions {
        concurrency: 1,
        checkpoint_tokens: 2,
        checkpoint_every: Duration::from_millis(200),
        hold: HOLD,
        ..BatchOptions::default()
    }
}

/// Works until it is killed. It prints `ready`, and `stale` for each commit that was refused because its lease was lost.
pub(crate) async fn worker(options: WorkerOptions) -> Result<()> {
    end_with_parent();
    let scheduler = Priority::new(1, 8);
    let model = Llama::builder(&options.model).name("model").identified().threads(1).context_length(256);
    let model = model.scheduler(AnyScheduler::new(scheduler.clone())).open()?;
    let metrics = Metrics::new();
    let store = SqliteStore::open(&options.store)?;
    let engine = selvedge::builder().store(store).scheduler(scheduler).model(model).layer(metrics.clone()).build();
    println!("ready");
    let mut told = 0;
    let watch = async {
        loop {
            sleep(Duration::from_millis(50)).await;
            let stats = metrics.snapshot();
            let stale =
                stats.get("store.commit").and_then(|stats| stats.errors.get("lease_lost").copied()).unwrap_or(0);
            for _ in told..stale {
                println!("stale");
            }
            told = stale;
            // What fails is tried again at the next tick.
            let _ = engine.maintain(&Context::new(), Maintain::default()).await;
        }
    };
    let batches = Batches::new(engine.clone(), self::options());
    let work = async {
        loop {
            if let Err(error) = batches.work(&Context::new()).await {
                println!("ended {}", error.kind());
            }
        }
    };
    tokio::join!(watch, work);
    Ok(())
}

/// The parent's view of the Store.
struct Bench {
    batches: Batches,
    path: PathBuf,
    model: PathBuf,
    seen: Tally,
}

impl Bench {
    fn open(folder: &Path, name: &str, model: &Path, seen: Tally) -> Result<Self> {
        let path = folder.join(name);
        let engine: Engine = selvedge::builder().store(SqliteStore::open(&path)?).build();
        Ok(Self { batches: Batches::new(engine, options()), path, model: model.into(), seen })
    }

    fn worker(&self) -> Result<Child> {
        let text = |path: &Path| path.display().to_string();
        let arguments =
            ["batch-worker", "--store", &text(&self.path), "--model", &text(&self.model)].map(str::to_owned);
        let seen = self.seen.clone();
        Child::start(&arguments, None, move |line| seen.one(line))
    }

    async fn submit(&self, seed: u64) -> Result<String> {
        let cx = Context::new();
        let mut upload = self.batches.upload();
        upload.push(&cx, requests(seed).as_bytes()).await?;
        let file = upload.finish(&cx, "requests.jsonl", "batch").await?;
        Ok(self.batches.create(&cx, NewBatch::new(file.id, Endpoint::Completions)).await?.id)
    }

    async fn batch(&self, id: &str) -> Result<BatchObject> {
        Ok(self.batches.batch(&Context::new(), id).await?)
    }

    async fn over(&self, id: &str) -> Result<BatchObject> {
        let started = Instant::now();
        loop {
            let batch = self.batch(id).await?;
            if batch.status.is_final() {
                return Ok(batch);
            }
            ensure!(started.elapsed() < PATIENCE, "a batch does not end: {batch:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The lines of its output file: the name and what was said, in their order.
    async fn answers(&self, batch: &BatchObject) -> Result<Vec<(String, Value)>> {
        let Some(file) = &batch.output_file_id else { return Ok(Vec::new()) };
        let content = self.batches.content(&Context::new(), file).await?;
        let text: Vec<u8> =
            content.try_fold(Vec::new(), |all, piece| async move { Ok([all, piece.to_vec()].concat()) }).await?;
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines
            .map(|line| {
                let one: Value = serde_json::from_slice(line)?;
                let (body, id) = (&one["response"]["body"], one["custom_id"].as_str().unwrap_or_default());
                let said = json!([body["choices"], body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]]);
                Ok((id.to_owned(), said))
            })
            .collect()
    }
}

fn requests(seed: u64) -> String {
    let prompts = ["Once upon a time", "The sea is", "Green tea", "In the morning"];
    let line = |at: u32| {
        let temperature = if at.is_multiple_of(2) { 0.0 } else { 0.9 };
        let body = json!({
            "prompt": prompts[at as usize % prompts.len()], "max_tokens": 24, "temperature": temperature,
            "seed": seed as u32 ^ at,
        });
        json!({ "custom_id": at.to_string(), "method": "POST", "url": Endpoint::Completions, "body": body }).to_string()
    };
    (0..REQUESTS).map(line).collect::<Vec<_>>().join("\n")
}

/// What each request is answered in a run that nothing breaks, by one of the two models.
type Expected = BTreeMap<String, Value>;

/// What a batch's output is beside those of the same requests in unbroken runs. Whichever model answered, it did so from the
/// first word to the last: half an answer of each is nobody's answer.
fn judge(total: u64, answers: Vec<(String, Value)>, expected: &[Expected]) -> Verdict {
    let mut verdict = Verdict { acknowledged: total, effects: answers.len() as u64, ..Verdict::default() };
    let mut seen = BTreeMap::new();
    for (id, said) in answers {
        verdict.wrong += u64::from(!expected.iter().any(|model| model.get(&id) == Some(&said)));
        verdict.doubled += u64::from(seen.insert(id, said).is_some());
    }
    verdict.lost = total.saturating_sub(seen.len() as u64);
    verdict
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let started = Instant::now();
    let Options { common, model } = options;
    let rounds = common.rounds.unwrap_or(100);
    let mut dice = Rng::with_seed(common.seed);
    let folder = tempfile::tempdir()?;
    let (faults, seen) = (Tally::default(), Tally::default());

    // The same model in another format: other answers to most requests, and the same shape.
    let other = folder.path().join("other.gguf");
    llama::prepare(&model, &other, Format::Q4_0).context("the model cannot be prepared in another format")?;
    let models = [model, other];
    let mut expected = Vec::new();
    for (name, model) in ["unbroken.db", "unbroken-other.db"].into_iter().zip(&models) {
        expected.push(unbroken(folder.path(), name, model, common.seed).await?);
    }
    ensure!(expected[0] != expected[1], "both models answer alike, so a mixture would not be noticed");

    let served = folder.path().join("served.gguf");
    let mut current = 0;
    replace(&served, &models[current])?;
    let bench = Bench::open(folder.path(), "broken.db", &served, seen.clone())?;
    let mut verdict = Verdict::default();
    let mut worker = bench.worker()?;
    let mut id = bench.submit(common.seed).await?;
    let mut done = 0;
    while done < rounds && common.seconds.is_none_or(|limit| started.elapsed().as_secs() < limit) {
        // Anything from the first instructions of its start to the middle of its work.
        sleep(Duration::from_millis(if dice.u8(..5) == 0 { dice.u64(1..300) } else { dice.u64(600..2_500) })).await;
        if dice.u8(..6) == 0 {
            current = 1 - current;
            replace(&served, &models[current])?;
            faults.one("replaced");
        }
        if dice.u8(..5) == 0 {
            worker.freeze()?;
            faults.one("frozen");
            let other = bench.worker()?;
            sleep(HOLD * 2 + Duration::from_millis(dice.u64(500..1_500))).await;
            worker.thaw()?;
            sleep(Duration::from_millis(500)).await;
            worker.kill().await?;
            worker = other;
        } else {
            worker.kill().await?;
            faults.one("killed");
            worker = bench.worker()?;
        }
        done += 1;
        let batch = bench.batch(&id).await?;
        if batch.status.is_final() {
            settle(&bench, &batch, &expected, &mut verdict).await?;
            id = bench.submit(common.seed).await?;
        }
    }
    let batch = bench.over(&id).await?;
    settle(&bench, &batch, &expected, &mut verdict).await?;
    worker.kill().await?;
    let report = Report {
        rounds: done,
        injected: faults.total(),
        verdict,
        stale_refused: seen.of("stale"),
        seed: common.seed,
        seconds: Report::seconds_since(started),
        by_kind: faults.all(),
        seen: seen.all(),
        not_injected: Vec::new(),
    };
    report.conclude(&common)?;
    ensure!(seen.of("resumed") > 0 || done < 5, "no answer was cut short and gone on with, so that was not shown");
    Ok(())
}

/// The answers when nothing happens.
async fn unbroken(folder: &Path, name: &str, model: &Path, seed: u64) -> Result<Expected> {
    let bench = Bench::open(folder, name, model, Tally::default())?;
    let worker = bench.worker()?;
    let batch = bench.over(&bench.submit(seed).await?).await?;
    let answers: Expected = bench.answers(&batch).await?.into_iter().collect();
    ensure!(answers.len() == REQUESTS as usize, "an unbroken run did not answer everything: {batch:?}");
    worker.kill().await?;
    Ok(answers)
}

/// Puts another model where workers look for theirs. Whoever has the file open goes on reading the one it opened.
fn replace(served: &Path, model: &Path) -> Result<()> {
    let next = served.with_extension("next");
    fs::copy(model, &next).with_context(|| format!("cannot copy {}", model.display()))?;
    Ok(fs::rename(&next, served)?)
}

async fn settle(bench: &Bench, batch: &BatchObject, expected: &[Expected], verdict: &mut Verdict) -> Result<()> {
    bench.seen.one("batches");
    bench.seen.add("resumed", batch.resumed.requests);
    bench.seen.add("resumed_tokens", batch.resumed.tokens);
    let answers = bench.answers(batch).await.context("the output cannot be read")?;
    *verdict += judge(batch.request_counts.total, answers, expected);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_doubled_or_wrong_is_counted() {
        let said = |ids: &[&str]| ids.iter().map(|id| ((*id).to_owned(), json!(id))).collect::<Vec<_>>();
        let expected = [said(&["a", "b"]), vec![("b".into(), json!("another's"))]];
        let expected = expected.map(|answers| answers.into_iter().collect::<Expected>());
        let count = |answers| {
            let Verdict { lost, doubled, wrong, .. } = judge(2, answers, &expected);
            (lost, doubled, wrong)
        };
        assert_eq!(count(said(&["b", "a"])), (0, 0, 0));
        assert_eq!(count([said(&["a"]), vec![("b".into(), json!("another's"))]].concat()), (0, 0, 0));
        assert_eq!(count(said(&["b"])), (1, 0, 0));
        assert_eq!(count(said(&["a", "b", "b"])), (0, 1, 0));
        assert_eq!(count(vec![("a".into(), json!("x")), ("c".into(), json!("c"))]), (0, 0, 2));
    }
}
