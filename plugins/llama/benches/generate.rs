//! Symbols a second through the public API, measured as `llama-bench -p 256 -n 64` does: one warm-up, then the median.
//!
//! `--quick` repeats less, `--model PATH` and `--threads N` choose what to measure. Prints a JSON object a line.

use std::path::PathBuf;

use selvedge_core::{
    Context, Error, ErrorKind, Inference, Result,
    inference::{Generate, Prompt, Usage},
};
use selvedge_llama::Llama;

const PREFILL: usize = 256;
const DECODE: usize = 64;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let (mut repetitions, mut path, mut threads) = (5_u32, None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => repetitions = 3,
            "--model" => path = arguments.next().map(PathBuf::from),
            "--threads" => threads = arguments.next().and_then(|threads| threads.parse().ok()),
            // Cargo passes this to every benchmark.
            "--bench" => {}
            _ => return Err(usage(&argument)),
        }
    }
    let path = path.or_else(|| std::env::var_os("SELVEDGE_MODEL").map(PathBuf::from)).or_else(cached);
    let mut builder = Llama::builder(path.ok_or_else(|| usage("no --model"))?);
    if let Some(threads) = threads {
        builder = builder.threads(threads);
    }
    let llama = builder.open()?;

    let mut prefill = Vec::new();
    let mut decode = Vec::new();
    for repetition in 0..=repetitions {
        // Any symbols do: how long a pass takes does not depend on which they are. Each time others: what was read before is
        // not read again.
        let prompt = (0..PREFILL).map(|index| 1_000 + repetition + index as u32 * 7).collect();
        let usage = run(&llama, Prompt::Symbols(prompt), 1).await?;
        prefill.push(PREFILL as f64 / usage.prefill.as_secs_f64());
    }
    for _ in 0..=repetitions {
        // The first symbol comes out of reading the prompt.
        let usage = run(&llama, Prompt::Text("Count: 1 2 3 4 5 6 7 8".into()), DECODE + 1).await?;
        if usage.completion_tokens != DECODE + 1 {
            return Err(Error::new(ErrorKind::Internal, "bench", "the answer is too short to measure"));
        }
        decode.push(usage.tokens_per_second());
    }
    report(&format!("decode {DECODE}"), decode);
    report(&format!("prefill {PREFILL}"), prefill);
    Ok(())
}

async fn run(llama: &Llama, prompt: Prompt, symbols: usize) -> Result<Usage> {
    let request = Generate::new(prompt).max_tokens(symbols);
    Ok(llama.generate(&Context::new(), request).await?.collect().await?.usage)
}

/// Prints the median of all but the first, which warms up.
fn report(case: &str, values: Vec<f64>) {
    let mut values: Vec<_> = values.into_iter().skip(1).collect();
    values.sort_unstable_by(f64::total_cmp);
    let value = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
    println!("{}", serde_json::json!({ "case": case, "unit": "tokens/s", "value": value }));
}

/// The model that `cargo xtask setup` fetches.
fn cached() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("SELVEDGE_CACHE").or_else(|| {
        set("XDG_CACHE_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".cache")))
            .map(|cache| cache.join("selvedge"))
    });
    cache.map(|cache| cache.join("models/SmolLM2-135M-Instruct.Q4_1.gguf"))
}

fn usage(argument: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, "bench", "this argument cannot be used")
        .with("argument", argument)
        .advise("use --quick, --model PATH, --threads N")
}
