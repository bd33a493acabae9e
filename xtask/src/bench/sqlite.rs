//! The SQLite queue beside the queues on SQLite that Python has.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{
    Entry, Plan, Report,
    measure::{self, Measurement, Peer, Rounds, Row},
    program,
};
use crate::{place, setup};

pub(super) const ENTRY: Entry = Entry {
    name: "sqlite",
    title: "The SQLite queue",
    method: "Jobs are enqueued, and leased and completed, in batches. Every contestant writes to a fresh database file in \
             the same folder, once with the setting that survives a crash of the process (`fast`: SQLite's \
             `synchronous=NORMAL`) and once with the one that survives a power cut (`durable`: `synchronous=FULL`), the \
             same on both sides. honker opens its writer with `synchronous=NORMAL` and offers no way to change \
             that, so it is compared for `fast` only. Rows named \"one caller\" wait for each commit before the next call and are there to \
             inform.",
    measure,
};

const HUEY: (&str, &str) = ("huey", "3.5.4");
const HONKER: (&str, &str) = ("honker", "0.2.4");

fn measure(plan: &Plan) -> Result<Report> {
    let packages = [HUEY, HONKER].map(|(name, version)| format!("{name}=={version}"));
    let bin = setup::python::environment("queues", &packages.each_ref().map(String::as_str))?;
    let ours = program("queue")?;
    let scratch =
        tempfile::Builder::new().prefix("bench-").tempdir_in(place::cache()?).context("no room to measure in")?;
    let mut report = Report::default();
    for durability in ["durable", "fast"] {
        let contest = Contest { plan, ours: &ours, bin: &bin, durability, scratch: scratch.path() };
        report.rows.extend(contest.rows()?);
    }
    report.facts = packages.into_iter().map(|package| ("peer".to_owned(), package)).collect();
    Ok(report)
}

/// What a ratio has to reach: ten times huey wherever a batch is possible, half as much again as honker at batch 100.
fn target(peer: &str, case: &str) -> Option<f64> {
    match peer {
        _ if case.contains("one caller") => None,
        "huey" => Some(10.0),
        "honker" if case.contains("batch 100,") => Some(1.5),
        _ => None,
    }
}

/// All contestants with one durability.
struct Contest<'a> {
    plan: &'a Plan,
    ours: &'a Path,
    bin: &'a Path,
    durability: &'static str,
    scratch: &'a Path,
}

impl Contest<'_> {
    fn rows(&self) -> Result<Vec<Row>> {
        let (mut ours, mut huey, mut honker) = (Rounds::default(), Rounds::default(), Rounds::default());
        for round in 1..=self.plan.rounds {
            ours.add(self.turn("selvedge", Command::new(self.ours), round)?);
            huey.add(self.turn("huey", self.python("huey_queue.py"), round)?);
            if !self.honker_can() {
                continue;
            }
            ours.add(self.turn("selvedge", Command::new(self.ours), round)?);
            honker.add(self.turn("honker", self.python("honker_queue.py"), round)?);
        }
        let mut rows = Vec::new();
        for ((name, version), theirs) in [(HUEY, &huey), (HONKER, &honker)] {
            let peer = Peer { name, version: version.into() };
            let paired = ours.against(self.plan.name, &peer, theirs, |case| target(name, case))?;
            if paired.is_empty() && (name == HUEY.0 || self.honker_can()) {
                bail!("{name} and ours measured no case of the same name");
            }
            rows.extend(paired);
        }
        Ok(rows)
    }

    /// honker's writer has one durability.
    fn honker_can(&self) -> bool {
        self.durability == "fast"
    }

    fn python(&self, script: &str) -> Command {
        let path: PathBuf = place::root().join("xtask/peers").join(script);
        let mut command = Command::new(self.bin.join("python3"));
        command.arg(path);
        command
    }

    /// One contestant's turn, in a folder of its own that goes with it.
    fn turn(&self, who: &str, mut command: Command, round: usize) -> Result<Vec<Measurement>> {
        let folder = tempfile::tempdir_in(self.scratch)?;
        command.args(["--durability", self.durability, "--dir"]).arg(folder.path());
        command.args(self.plan.quick.then_some("--quick"));
        let mut lines = measure::lines(&format!("{who}, {}, round {round}", self.durability), &mut command)?;
        for line in &mut lines {
            line.case = format!("{}, {}", line.case, self.durability);
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_follow_the_case() {
        assert_eq!(target("huey", "enqueue batch 1, fast"), Some(10.0));
        assert_eq!(target("huey", "enqueue batch 1, one caller, fast"), None);
        assert_eq!(target("honker", "enqueue batch 100, fast"), Some(1.5));
        assert_eq!(target("honker", "enqueue batch 1000, fast"), None);
    }
}
