//! Where things are: the repository, the one cache folder, what cargo built.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

/// The root of the repository. Cargo names the folder of this crate when it runs it; a binary started by hand falls
/// back to the folder it was built from.
pub(crate) fn root() -> PathBuf {
    let here =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    here.parent().map(Path::to_path_buf).unwrap_or(here)
}

/// The folder that every download goes into: `SELVEDGE_CACHE`, else the user's cache directory. Never the tree.
pub(crate) fn cache() -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = if let Some(folder) = set("SELVEDGE_CACHE") {
        folder
    } else if let Some(folder) = set("XDG_CACHE_HOME") {
        folder.join("selvedge")
    } else if let Some(home) = set("HOME") {
        home.join(".cache/selvedge")
    } else {
        bail!("no folder to keep downloads in: set SELVEDGE_CACHE, or HOME")
    };
    std::fs::create_dir_all(&folder).with_context(|| {
        format!("cannot create the cache folder {}; set SELVEDGE_CACHE to one you can write", folder.display())
    })?;
    folder.canonicalize().with_context(|| format!("cannot resolve the cache folder {}", folder.display()))
}

/// Cargo, in the root of the repository.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // What cargo says about xtask to xtask. Build scripts that read such variables (ring's does) would run anew, and half of the
    // workspace would be compiled with them, each time that somebody changes between `cargo` and `cargo xtask`.
    let about_us = |name: &str| ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.starts_with(prefix));
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(about_us)) {
        command.env_remove(name);
    }
    command
}

/// What `cargo metadata` says about the workspace.
pub(crate) fn metadata() -> Result<serde_json::Value> {
    let output = cargo()
        .args(["metadata", "--format-version", "1", "--no-deps", "--quiet"])
        .output()
        .context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata printed something that is not JSON")
}

/// The folder of everything that is built.
pub(crate) fn target() -> Result<PathBuf> {
    let metadata = metadata()?;
    metadata["target_directory"].as_str().map(PathBuf::from).context("cargo metadata names no target directory")
}

/// A program of the workspace, where `cargo build --release` puts it.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    built(&format!("{name}{}", env::consts::EXE_SUFFIX))
}

/// A file that `cargo build --release` makes.
pub(crate) fn built(file: &str) -> Result<PathBuf> {
    Ok(target()?.join("release").join(file))
}

/// A program on the PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).find(|file| file.is_file())
}
