//! `cargo xtask faults NAME`: injects faults and counts what they did.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{setup, shell, workspace};

/// The faults there are, each with the program that injects it and the command of it that does.
const KNOWN: [(&str, &str, &str); 4] = [
    ("storefront", "storefront", "faults"),
    ("queue", "faults", "queue"),
    ("idempotency", "faults", "idempotency"),
    ("batch", "faults", "batch"),
];

/// Which faults, and how many.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Faults {
    /// What to hurt: storefront, queue, idempotency or batch
    pub(crate) name: String,
    /// How many faults to inject; for idempotency, how many requests to make
    #[arg(long)]
    pub(crate) rounds: Option<u32>,
    /// Stop after this many seconds, however many rounds that is
    #[arg(long)]
    pub(crate) seconds: Option<u64>,
    /// Seeds the moments and the choices, so that a run can be repeated
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Also write the counts to this file: rounds, injected, lost, doubled, wrong, stale_refused, seed
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// What a run of faults counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    rounds: u64,
    injected: u64,
    lost: u64,
    doubled: u64,
    wrong: u64,
    stale_refused: u64,
    seed: u64,
}

impl Counts {
    fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("the faults wrote no counts to {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| {
            format!("{} does not hold rounds, injected, lost, doubled, wrong, stale_refused and seed", path.display())
        })
    }

    /// What is wrong with them: a run that injected nothing proves nothing.
    fn verdict(&self) -> Result<()> {
        if self.injected == 0 {
            bail!(
                "no fault was injected, so nothing was tested (seed {}); give it more --rounds or --seconds",
                self.seed
            );
        }
        if self.lost + self.doubled + self.wrong > 0 {
            bail!(
                "{} lost, {} doubled, {} wrong after {} faults; repeat it with --seed {}",
                self.lost,
                self.doubled,
                self.wrong,
                self.injected,
                self.seed
            );
        }
        Ok(())
    }
}

/// Sets up, builds, injects, and judges the counts.
pub(crate) fn run(faults: &Faults) -> Result<Counts> {
    let Some((_, program, verb)) = KNOWN.iter().find(|(name, ..)| *name == faults.name) else {
        let names: Vec<&str> = KNOWN.iter().map(|(name, ..)| *name).collect();
        bail!("no faults are named {:?}; there are: {}", faults.name, names.join(", "));
    };
    let model = setup::all(false)?;
    if faults.name == "queue"
        && let Err(error) = setup::system::ensure(&setup::system::CLOCKS)
    {
        shell::say(format_args!("only the engines' clocks will be wrong, not the workers' own: {error:#}"));
    }
    let program = workspace::program(program)?;
    let scratch = tempfile::tempdir().context("no room for the counts")?;
    let json = faults.json.clone().unwrap_or_else(|| scratch.path().join("counts.json"));
    let mut command = Command::new(program);
    command.arg(verb).env("SELVEDGE_MODEL", model);
    for (flag, value) in
        [("--rounds", faults.rounds.map(u64::from)), ("--seconds", faults.seconds), ("--seed", faults.seed)]
    {
        if let Some(value) = value {
            command.args([flag, &value.to_string()]);
        }
    }
    command.arg("--json").arg(&json);
    let (status, _) = shell::streamed(&format!("faults {}", faults.name), &mut command, |_, _| {})?;
    let counts = Counts::read(&json);
    if !status.success() {
        counts.and_then(|counts| counts.verdict())?;
        bail!("faults {} ended with {status}; its words are above", faults.name);
    }
    let counts = counts?;
    counts.verdict()?;
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(injected: u64, lost: u64) -> Counts {
        Counts { rounds: 3, injected, lost, doubled: 0, wrong: 0, stale_refused: 1, seed: 7 }
    }

    #[test]
    fn a_loss_and_an_idle_run_are_both_failures() {
        assert!(counts(6, 0).verdict().is_ok());
        assert!(counts(6, 1).verdict().unwrap_err().to_string().contains("--seed 7"));
        assert!(counts(0, 0).verdict().is_err());
    }

    #[test]
    fn counts_that_lack_a_field_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), r#"{"rounds":1,"injected":1}"#).unwrap();
        assert!(Counts::read(file.path()).is_err());
        fs::write(file.path(), serde_json::to_vec(&counts(1, 0)).unwrap()).unwrap();
        assert_eq!(Counts::read(file.path()).unwrap(), counts(1, 0));
    }
}
