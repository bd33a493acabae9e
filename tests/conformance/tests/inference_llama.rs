//! The Inference suite on llama.cpp, with the model that the demo runs on.

use std::{path::PathBuf, process::ExitCode};

use selvedge_core::{AnyInference, Error, ErrorKind, Result};
use selvedge_llama::Llama;
use selvedge_testkit::inference_suite;

/// The model that `cargo xtask setup` fetches, or the one that `SELVEDGE_MODEL` names.
fn path() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache =
        || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache"))).map(|cache| cache.join("selvedge"));
    let fetched = || Some(set("SELVEDGE_CACHE").or_else(cache)?.join("models/SmolLM2-135M-Instruct.Q4_1.gguf"));
    let path = set("SELVEDGE_MODEL").or_else(fetched).unwrap_or_default();
    if path.is_file() {
        return Ok(path);
    }
    Err(Error::new(ErrorKind::NotFound, "test.model", "there is no model")
        .with("path", path.display())
        .advise("run `cargo xtask setup`, or set SELVEDGE_MODEL"))
}

fn open() -> Result<AnyInference> {
    // Short, so that a prompt that fills the context is read quickly; one thread, because several spin while they wait for
    // each other, which takes very long on a machine that does other things.
    Ok(AnyInference::new(Llama::builder(path()?).context_length(128).batch(32).threads(1).open()?))
}

fn main() -> ExitCode {
    inference_suite(open).run()
}
