//! Where the tests' model is.

use std::path::PathBuf;

/// The model that `cargo xtask setup` fetches, or the one that `SELVEDGE_MODEL` names.
pub(crate) fn model() -> PathBuf {
    let path = match std::env::var_os("SELVEDGE_MODEL") {
        Some(path) => PathBuf::from(path),
        None => cache().join("models/SmolLM2-135M-Instruct.Q4_1.gguf"),
    };
    assert!(path.is_file(), "there is no model at {}: run `cargo xtask setup`, or set SELVEDGE_MODEL", path.display());
    path
}

fn cache() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("HOME").map(|home| home.join(".cache"));
    set("SELVEDGE_CACHE")
        .unwrap_or_else(|| set("XDG_CACHE_HOME").or_else(home).expect("HOME or SELVEDGE_CACHE is set").join("selvedge"))
}
