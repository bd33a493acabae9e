//! Prefill and decode beside llama.cpp's own `llama-bench`, built from the same commit with the same flags.

use std::{path::Path, process::Command, thread};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{
    Entry, Plan, Report,
    llama_cpp::{self, PACKAGE, VERSION},
    measure::{self, Measurement, Peer, Rounds},
    program,
};
use crate::{setup, shell};

pub(super) const ENTRY: Entry = Entry {
    name: "llama",
    title: "The language model",
    method: "A prompt of 256 tokens is read (prefill), and 64 tokens are generated from an empty context (decode), by ours, \
             through the public API with all that surrounds a token, and by llama.cpp's own `llama-bench`: the same model \
             file, the same number of threads, the same release of llama.cpp, compiled by the same compiler with the same \
             flags (Release, AVX2 and FMA on x86-64, no OpenMP, nothing tuned to the machine).",
    measure,
};

const PROMPT: u32 = 256;
const GENERATE: u32 = 64;
/// What ours has to reach: the same engine runs below, so only what surrounds it can be lost.
const TARGET: f64 = 0.98;

fn measure(plan: &Plan) -> Result<Report> {
    let model = setup::all(false)?;
    let ours = program("generate")?;
    let llama_bench = llama_cpp::program("llama-bench")?;
    let threads = thread::available_parallelism().map_or(1, usize::from).to_string();
    let (mut mine, mut theirs) = (Rounds::default(), Rounds::default());
    for round in 1..=plan.rounds {
        let mut command = Command::new(&ours);
        command.arg("--model").arg(&model).args(["--threads", &threads]).args(plan.quick.then_some("--quick"));
        mine.add(measure::lines(&format!("selvedge, round {round}"), &mut command)?);
        theirs.add(peer(&llama_bench, &model, &threads, plan, round)?);
    }
    let peer = Peer { name: "llama-bench", version: format!("{PACKAGE} {VERSION}") };
    let rows = mine.against(plan.name, &peer, &theirs, |_| Some(TARGET))?;
    if rows.len() < 2 {
        let cases: Vec<&str> = mine.medians().map(|(case, ..)| case).collect();
        bail!("ours has to measure \"prefill {PROMPT}\" and \"decode {GENERATE}\"; it measured {cases:?}");
    }
    let file = model.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let facts = [("model", file), ("threads", threads), ("peer's source", format!("{PACKAGE} {VERSION}"))];
    Ok(Report { rows, alone: Vec::new(), facts: facts.map(|(name, value)| (name.to_owned(), value)).into() })
}

/// What `llama-bench -o json` says about one test.
#[derive(Deserialize)]
struct Test {
    n_prompt: u32,
    n_gen: u32,
    samples_ts: Vec<f64>,
}

fn peer(program: &Path, model: &Path, threads: &str, plan: &Plan, round: usize) -> Result<Vec<Measurement>> {
    let repetitions = if plan.quick { "2" } else { "5" };
    let (prompt, generate) = (PROMPT.to_string(), GENERATE.to_string());
    let mut command = Command::new(program);
    command.args(["-o", "json", "-p", &prompt, "-n", &generate, "-t", threads, "-r", repetitions, "-m"]).arg(model);
    let text = shell::quiet(&format!("llama-bench, round {round}"), &mut command)?;
    let tests: Vec<Test> = serde_json::from_str(&text).context("llama-bench printed JSON of another form")?;
    let measurements = tests.into_iter().map(|test| Measurement {
        case: if test.n_gen == 0 { format!("prefill {}", test.n_prompt) } else { format!("decode {}", test.n_gen) },
        unit: "tokens/s".into(),
        value: measure::median(&test.samples_ts),
    });
    Ok(measurements.collect())
}
