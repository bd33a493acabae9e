//! Somebody holds a snapshot while jobs come and go, so that the server can clean nothing up: how many buffers does a claim
//! touch? The server says so itself, by auto_explain.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    super::measure::{self, Measurement},
    cluster::{Cluster, Idle, ask},
    raw,
};

/// How our claim is recognised in the log, and its look from the beginning of the queue, which it does once in a while.
const CLAIM: &str = "/* selvedge claim */";
const LOOK_BACK: &str = "/* selvedge look-back */";

/// Every statement's plan and buffers go to a log file of the server's own.
const SETTINGS: [&str; 13] = [
    "session_preload_libraries=auto_explain",
    "auto_explain.log_min_duration=0",
    "auto_explain.log_analyze=on",
    "auto_explain.log_buffers=on",
    "auto_explain.log_timing=off",
    "auto_explain.log_nested_statements=on",
    "auto_explain.log_format=json",
    "logging_collector=on",
    "log_directory=log",
    "log_filename=explain.log",
    "log_rotation_age=0",
    "log_rotation_size=0",
    "log_line_prefix=%p ",
];

const WAVE: usize = 8_000;
/// A claim of many touches each of them: what counts here is what it takes to find one.
const BATCH: usize = 1;
/// What the statements of ours begin with, and those within their functions do not.
const OURS: &str = "SELECT * FROM ";

/// The buffers that each statement of a kind touched.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) claims: Vec<f64>,
    /// The same with what planning read.
    pub(super) planned: Vec<f64>,
    pub(super) look_backs: Vec<f64>,
    pub(super) raw: Vec<f64>,
}

pub(super) fn measure(keeper: &Path, ours: &Path, jobs: usize) -> Result<Touched> {
    let cluster = Cluster::start(keeper, &SETTINGS)?;
    let url = cluster.fresh("selvedge")?;
    let mut command = Command::new(ours);
    command.args(["--url", &url, "--case", "held", "--jobs", &jobs.to_string(), "--batch", &BATCH.to_string()]);
    held(&url, || {
        let told = measure::lines("selvedge, a snapshot is held", &mut command)?;
        let done = told.iter().find(|Measurement { case, .. }| case == "jobs").map(|one| one.value as usize);
        ensure!(done == Some(jobs), "{done:?} of {jobs} jobs were worked off");
        Ok(())
    })?;
    let url = cluster.fresh("raw")?;
    held(&url, || raw::waves(&url, jobs, WAVE, BATCH))?;
    let log = Path::new(&cluster.ask("SHOW data_directory")?).join("log/explain.log");
    let log = File::open(&log).with_context(|| format!("cannot read the server's log {}", log.display()))?;
    let touched = touched(BufReader::new(log))?;
    for (kind, found) in [(CLAIM, &touched.claims), (raw::CLAIM, &touched.raw)] {
        let least = jobs / BATCH * 9 / 10;
        ensure!(found.len() >= least, "the log has {} statements with {kind}; at least {least} ran", found.len());
    }
    Ok(touched)
}

/// Runs the work while a snapshot of that database is held, and makes sure that it was to the end.
fn held(url: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let idle = Idle::begin(url)?;
    work()?;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND backend_xmin IS NOT NULL";
    let holders = ask(url, sql)?;
    drop(idle);
    if holders == "0" { bail!("the snapshot was not held to the end") } else { Ok(()) }
}

/// Reads the log of a server with auto_explain.
///
/// A claim of ours is a function, and what it touched is what the statements within it did, which the server logs before it. Beside
/// that its own entry has what planning them read from the catalogues, once for a connection and again when the server has analysed
/// a table; the plain statement's has not.
fn touched(log: impl BufRead) -> Result<Touched> {
    let mut touched = Touched::default();
    let mut within: HashMap<String, u64> = HashMap::new();
    each_plan(log, |process, plan| {
        let entry: Value = serde_json::from_str(plan).with_context(|| format!("auto_explain wrote {plan}"))?;
        let text = entry["Query Text"].as_str().unwrap_or_default();
        let own = buffers(&entry["Plan"]);
        let is_ours = text.starts_with(OURS);
        let inside = within.entry(process).or_default();
        if text.contains(raw::CLAIM) {
            touched.raw.push(own as f64);
        } else if text.contains(CLAIM) {
            // A log without them would count nothing, whatever was touched.
            ensure!(*inside > 0, "the log has no statement within this claim: {text}");
            touched.claims.push(*inside as f64);
            touched.planned.push(own as f64);
        } else if text.contains(LOOK_BACK) {
            touched.look_backs.push(own as f64);
        } else if !is_ours {
            *inside += own;
        }
        if is_ours {
            *inside = 0;
        }
        Ok(())
    })?;
    Ok(touched)
}

/// Looks at the plans in a log of any size, each with the number of its server process: JSON that follows a line which ends with
/// `plan:`. The server puts a tab before the lines that continue one.
fn each_plan(log: impl BufRead, mut look: impl FnMut(String, &str) -> Result<()>) -> Result<()> {
    let mut plan: Option<(String, String)> = None;
    for line in log.split(b'\n') {
        let line = line.context("the server's log cannot be read")?;
        let line = String::from_utf8_lossy(&line);
        match (line.strip_prefix('\t'), &mut plan) {
            (Some(more), Some((_, text))) => {
                text.push_str(more);
                text.push('\n');
            }
            _ => {
                if let Some((process, text)) = plan.take() {
                    look(process, &text)?;
                }
                if line.contains("duration: ") && line.trim_end().ends_with("plan:") {
                    plan = Some((line.split(' ').next().unwrap_or_default().into(), String::new()));
                }
            }
        }
    }
    plan.map_or(Ok(()), |(process, text)| look(process, &text))
}

/// The shared buffers that a statement touched. A node counts what is below it; what a `WITH` of its own changed may be
/// counted at that only.
fn buffers(node: &Value) -> u64 {
    let of = |name: &str| node[name].as_u64().unwrap_or(0);
    let own = of("Shared Hit Blocks") + of("Shared Read Blocks");
    let below = node["Plans"].as_array().into_iter().flatten().map(buffers).max();
    own.max(below.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "7 LOG:  database system is ready to accept connections\n\
        7 LOG:  duration: 0.234 ms  plan:\n\
        \t{\n\
        \t  \"Query Text\": \"SELECT array_agg(ready)\",\n\
        \t  \"Plan\": {\"Node Type\": \"Result\", \"Shared Hit Blocks\": 7, \"Shared Read Blocks\": 2,\n\
        \t    \"Plans\": [{\"Node Type\": \"ModifyTable\", \"Shared Hit Blocks\": 11, \"Shared Read Blocks\": 0}]}\n\
        \t}\n\
        8 LOG:  duration: 0.1 ms  plan:\n\
        \t{\"Query Text\": \"DELETE\", \"Plan\": {\"Shared Hit Blocks\": 3}}\n\
        7 LOG:  duration: 0.134 ms  plan:\n\
        \t{\"Query Text\": \"UPDATE job\", \"Plan\": {\"Shared Hit Blocks\": 4}}\n\
        7 LOG:  duration: 1.234 ms  plan:\n\
        \t{\"Query Text\": \"SELECT * FROM claim() /* selvedge claim */\", \"Plan\": {\"Shared Hit Blocks\": 90}}\n\
        7 LOG:  duration: 0.100 ms  plan:\n\
        \t{\"Query Text\": \"SELECT * FROM look() /* selvedge look-back */\", \"Plan\": {\"Shared Hit Blocks\": 1500}}\n\
        7 ERROR:  something else\n\
        \tof two lines\n\
        8 LOG:  duration: 0.1 ms  plan:\n\
        \t{\"Query Text\": \"SELECT * FROM complete_many()\", \"Plan\": {\"Shared Hit Blocks\": 3}}\n";

    #[test]
    fn a_claim_touches_what_the_statements_within_it_do() {
        let touched = touched(LOG.repeat(2).as_bytes()).unwrap();
        assert_eq!(touched.claims, [15.0, 15.0], "the largest node of each counts, and no planning");
        assert_eq!(touched.planned, [90.0, 90.0]);
        assert_eq!(touched.look_backs, [1500.0, 1500.0]);
        assert_eq!(touched.raw, [] as [f64; 0]);
    }

    #[test]
    fn a_log_without_what_ran_within_a_claim_is_an_error() {
        let outer = "7 LOG:  duration: 1 ms  plan:\n\
            \t{\"Query Text\": \"SELECT * FROM claim() /* selvedge claim */\", \"Plan\": {\"Shared Hit Blocks\": 90}}\n";
        assert!(touched(outer.as_bytes()).is_err());
    }

    #[test]
    fn a_log_that_breaks_off_is_an_error() {
        let cut = "7 LOG:  duration: 1 ms  plan:\n\t{\"Query Text\": \"x\",\n";
        assert!(touched(cut.as_bytes()).is_err());
    }
}
