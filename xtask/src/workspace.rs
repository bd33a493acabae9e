//! The one way this repository is built: the same profile and the same features for the demo, the tests, clippy and
//! the benchmarks, so that nothing (llama.cpp first of all) is compiled twice.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, bail};

use crate::{place, shell};

/// What every build of the workspace shares.
pub(crate) const FLAGS: [&str; 3] = ["--release", "--workspace", "--all-features"];

/// `cargo VERB` with those flags.
pub(crate) fn cargo(verb: &str) -> Command {
    let mut command = place::cargo();
    command.arg(verb).args(FLAGS);
    command
}

/// Builds one program of the workspace and gives its path.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let (status, elapsed) = shell::streamed(&format!("build {name}"), cargo("build").args(["--bin", name]), |_, _| {})?;
    if !status.success() {
        bail!("{name} does not compile: the compiler's words are above");
    }
    shell::done(format_args!("build {name}"), elapsed);
    place::program(name)
}
