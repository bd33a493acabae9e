//! What was injected and what came of it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

/// How much, how long, from which seed.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// How much: worker kills of `queue` (default 1000), requests of `idempotency` (default 100000), kills and freezes of `batch`
    /// (default 100).
    #[arg(long)]
    pub(crate) rounds: Option<u64>,
    /// Stops injecting after so many seconds.
    #[arg(long)]
    pub(crate) seconds: Option<u64>,
    /// The seed of the plan: which faults, in which order, at which moments. The scheduling of the machine is not in it.
    #[arg(long, default_value_t = 11)]
    pub(crate) seed: u64,
    /// Also writes the counts as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// A tally of things by name that many tasks add to. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally(Arc<Mutex<BTreeMap<String, u64>>>);

impl Tally {
    pub(crate) fn add(&self, name: &str, count: u64) {
        if count > 0 {
            *lock(&self.0).entry(name.into()).or_default() += count;
        }
    }

    pub(crate) fn one(&self, name: &str) {
        self.add(name, 1);
    }

    pub(crate) fn of(&self, name: &str) -> u64 {
        lock(&self.0).get(name).copied().unwrap_or(0)
    }

    pub(crate) fn total(&self) -> u64 {
        lock(&self.0).values().sum()
    }

    pub(crate) fn all(&self) -> BTreeMap<String, u64> {
        lock(&self.0).clone()
    }
}

/// A lock whose holder panicked still guards what it held.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the judge found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// What was acknowledged.
    pub(crate) acknowledged: u64,
    /// What was done for it.
    pub(crate) effects: u64,
    /// Acknowledged and never done.
    pub(crate) lost: u64,
    /// Done more than once.
    pub(crate) doubled: u64,
    /// Done for nobody, or otherwise than asked.
    pub(crate) wrong: u64,
}

impl std::ops::AddAssign for Verdict {
    fn add_assign(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.effects += other.effects;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.wrong += other.wrong;
    }
}

/// The outcome of a run, as it is printed and written.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) rounds: u64,
    pub(crate) injected: u64,
    #[serde(flatten)]
    pub(crate) verdict: Verdict,
    /// Late completions that were refused.
    pub(crate) stale_refused: u64,
    pub(crate) seed: u64,
    pub(crate) seconds: f64,
    /// The faults by kind.
    pub(crate) by_kind: BTreeMap<String, u64>,
    /// What clients, workers and servers saw of them.
    pub(crate) seen: BTreeMap<String, u64>,
    /// Faults that this machine does not let us inject, and why.
    pub(crate) not_injected: Vec<String>,
}

impl Report {
    pub(crate) fn seconds_since(started: Instant) -> f64 {
        (started.elapsed().as_secs_f64() * 10.0).round() / 10.0
    }

    /// Prints and writes it, and says what is wrong with it.
    pub(crate) fn conclude(&self, options: &Options) -> anyhow::Result<()> {
        println!("{}", serde_json::to_string_pretty(self)?);
        if let Some(file) = &options.json {
            std::fs::write(file, serde_json::to_string(self)? + "\n")
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        let Verdict { acknowledged, lost, doubled, wrong, .. } = self.verdict;
        ensure!(self.injected > 0, "no fault was injected, so nothing was shown");
        ensure!(acknowledged > 0, "nothing was acknowledged, so nothing was shown");
        ensure!(
            lost + doubled + wrong == 0,
            "{lost} lost, {doubled} doubled, {wrong} wrong; repeat it with --seed {}",
            self.seed
        );
        ensure!(
            self.stale_refused > 0 || self.by_kind.get("frozen").is_none_or(|frozen| *frozen < 3),
            "no freeze outlasted a lease that was then used, so it was not shown that a late completion is refused"
        );
        Ok(())
    }
}
