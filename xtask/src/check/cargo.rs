//! What cargo checks by itself, with the flags of every other build.

use std::process::Command;

use anyhow::Result;

use super::{Outcome, Sources};
use crate::{place, shell, workspace};

pub(super) fn format(_: &Sources) -> Result<Outcome> {
    said("cargo fmt", place::cargo().args(["fmt", "--all", "--check"]))
}

pub(super) fn clippy(_: &Sources) -> Result<Outcome> {
    let mut command = workspace::cargo("clippy");
    said("clippy", command.args(["--all-targets", "--keep-going", "--", "-D", "warnings"]))
}

/// The libraries: the command and its library share a name, and so one page.
pub(super) fn docs(_: &Sources) -> Result<Outcome> {
    let mut command = workspace::cargo("doc");
    command.args(["--lib", "--no-deps"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    said("rustdoc", &mut command)
}

/// A program that has shown what is wrong.
fn said(name: &str, command: &mut Command) -> Result<Outcome> {
    let (status, _) = shell::streamed(name, command, |_, _| {})?;
    let problems =
        if status.success() { vec![] } else { vec![format!("{name} ended with {status}; its words are above")] };
    Ok(Outcome::Checked(problems))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_is_a_problem() {
        assert_eq!(said("trial", &mut Command::new("true")).unwrap(), Outcome::Checked(vec![]));
        let Outcome::Checked(problems) = said("trial", &mut Command::new("false")).unwrap() else { panic!("skipped") };
        assert!(problems[0].contains("trial ended with"), "{problems:?}");
    }
}
