//! `cargo xtask bench NAME`: ours and its peers in one run, turn by turn, and the ratio between them.

mod core;
mod experiment;
mod ffi;
mod llama;
mod llama_cpp;
mod machine;
mod measure;
mod page;
mod queue;
mod serve;
mod sqlite;

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};
use clap::Args;

use self::measure::Row;
use crate::{place, shell};

/// Which benchmark, and how long.
#[derive(Args, Clone, Debug)]
pub(crate) struct Bench {
    /// What to measure: core, experiment, ffi, llama, queue, serve or sqlite
    name: String,
    /// Shorten the work, never the peers, and leave docs/figures as it is
    #[arg(long)]
    quick: bool,
    /// How often each side has its turn, 5 times by default and 3 with --quick; the page says how often it was
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Also write the rows to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One benchmark: how to measure it, and what a reader of its page has to know.
struct Entry {
    name: &'static str,
    title: &'static str,
    /// What is measured and how, as Markdown.
    method: &'static str,
    measure: fn(&Plan) -> Result<Report>,
}

/// Every benchmark there is.
const ENTRIES: [Entry; 7] =
    [core::ENTRY, experiment::ENTRY, ffi::ENTRY, llama::ENTRY, queue::ENTRY, serve::ENTRY, sqlite::ENTRY];

/// How much to measure.
struct Plan {
    name: &'static str,
    quick: bool,
    rounds: usize,
}

/// What was measured.
#[derive(Default)]
struct Report {
    rows: Vec<Row>,
    /// What was measured without a peer to set it beside.
    alone: Vec<(String, f64, String)>,
    /// Versions and settings, for the page.
    facts: Vec<(String, String)>,
}

/// Measures, prints the table, writes the rows and, unless quick, the page. A target that is not held is shown, and is
/// no error: an error is a measurement that could not be made.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    let Some(entry) = ENTRIES.iter().find(|entry| entry.name == bench.name) else {
        let names: Vec<&str> = ENTRIES.iter().map(|entry| entry.name).collect();
        bail!("no benchmark is named {:?}; there are: {}", bench.name, names.join(", "));
    };
    let rounds = bench.rounds.map_or(if bench.quick { 3 } else { 5 }, usize::from);
    let plan = Plan { name: entry.name, quick: bench.quick, rounds };
    let report = (entry.measure)(&plan)?;
    if report.rows.is_empty() {
        bail!("benchmark {} measured no case that a peer measured too", entry.name);
    }
    page::print(&report.rows);
    if let Some(path) = &bench.json {
        let text = serde_json::to_string_pretty(&report.rows)?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write the rows to {}", path.display()))?;
    }
    if !bench.quick {
        let path = place::root().join(format!("docs/figures/{}.md", entry.name));
        fs::create_dir_all(path.parent().unwrap_or(&path))?;
        fs::write(&path, page::markdown(entry, &plan, &report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        shell::say(format_args!("wrote docs/figures/{}.md", entry.name));
    }
    Ok(())
}

/// Builds a benchmark program with the flags of every other build and gives its path.
fn program(name: &str) -> Result<PathBuf> {
    // `cargo bench` knows no `--release`: its profile is the release one.
    let mut command = place::cargo();
    command.args([
        "bench",
        "--workspace",
        "--all-features",
        "--no-run",
        "--message-format",
        "json-render-diagnostics",
        "--bench",
        name,
    ]);
    executable(name, &shell::quiet(&format!("build the benchmark {name}"), &mut command)?)
}

/// The program of that name among what cargo says it built.
fn executable(name: &str, artifacts: &str) -> Result<PathBuf> {
    artifacts
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|artifact| artifact["target"]["name"] == name)
        .find_map(|artifact| artifact["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo built {name} and named no program"))
}

/// The first line of what a program prints, for the page.
fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").trim().to_owned()
}
