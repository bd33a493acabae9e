//! `cargo xtask test`: every test of every language, and one plain last line over all of them.

use std::{
    fmt,
    ops::AddAssign,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::{
    demo::{self, Demo},
    faults::{self, Faults},
    language,
    setup::{self, system::Missing},
    shell, workspace,
};

/// Which tests to run.
#[derive(Args, Clone, Debug)]
pub(crate) struct Test {
    /// Only these, separated by commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<Language>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Language {
    Rust,
    Kotlin,
    Swift,
    Python,
    E2e,
}

/// All of them, in the order in which they run.
const ALL: [Language; 5] = [Language::Rust, Language::Python, Language::Kotlin, Language::Swift, Language::E2e];

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Count {
    /// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`, as libtest and libtest-mimic print it.
    fn read(line: &str) -> Option<Self> {
        let (_, counts) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
        let mut count = Self::default();
        for part in counts.split(';') {
            let (number, what) = part.trim().split_once(' ')?;
            match what {
                "passed" => count.passed = number.parse().ok()?,
                "failed" => count.failed = number.parse().ok()?,
                "ignored" => count.skipped = number.parse().ok()?,
                _ => {}
            }
        }
        Some(count)
    }

    fn of(outcome: Result<()>, name: &str) -> Self {
        match outcome {
            Ok(()) => {
                println!("test {name} ... ok");
                Self { passed: 1, ..Self::default() }
            }
            Err(error) => {
                println!("test {name} ... FAILED\n{error:?}");
                Self { failed: 1, ..Self::default() }
            }
        }
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Sets up and runs; an error also when a test failed. The last line on stdout is the count, whatever happened.
pub(crate) fn run(test: &Test) -> Result<()> {
    let languages = if test.only.is_empty() { ALL.to_vec() } else { test.only.clone() };
    let mut phases = Phases::default();
    let model = phases.timed("set-up", || setup::tests(false))?;
    let mut count = Count::default();
    for language in languages {
        count += match language {
            Language::E2e => end_to_end(&mut phases),
            Language::Kotlin => host("Kotlin", phases.timed("Kotlin tests", || language::kotlin::run(&model)))?,
            Language::Python => host("Python", phases.timed("Python tests", || language::python::run(&model)))?,
            Language::Swift => host("Swift", phases.timed("Swift tests", || language::swift::run(&model)))?,
            Language::Rust => rust(&mut phases)?,
        };
    }
    phases.print();
    println!("{count}");
    if count.failed > 0 {
        return Err(Failed.into());
    }
    Ok(())
}

/// A language that cannot be set up is skipped on a person's machine, with the reason; CI has to have all of them.
fn host(name: &str, outcome: Result<Count>) -> Result<Count> {
    match outcome {
        Err(error) if error.is::<Missing>() && !in_ci() => {
            shell::say(format_args!("the {name} tests are skipped: {error:#}"));
            Ok(Count { skipped: 1, ..Count::default() })
        }
        outcome => outcome,
    }
}

fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

/// Some test failed, which the last line has said already.
#[derive(Debug)]
pub(crate) struct Failed;

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("some tests failed")
    }
}

impl std::error::Error for Failed {}

/// Every Rust test of the workspace, documentation tests included.
fn rust(phases: &mut Phases) -> Result<Count> {
    let built = phases.timed("build the Rust tests", || {
        let mut command = workspace::cargo("test");
        command.arg("--no-run");
        shell::streamed("build the tests", &mut command, |_, _| {}).map(|(status, _)| status)
    })?;
    if !built.success() {
        eprintln!("the workspace's tests do not compile, so none of them ran: that counts as one failure");
        return Ok(Count { failed: 1, ..Count::default() });
    }
    let mut tally = Tally::default();
    let status = phases.timed("Rust tests", || {
        let mut command = workspace::cargo("test");
        command.arg("--no-fail-fast");
        shell::streamed("Rust tests", &mut command, |_, line| tally.line(line)).map(|(status, _)| status)
    })?;
    Ok(tally.finish(status.success()))
}

/// Adds up the results of many test programs, and notices one that began and never reported.
#[derive(Debug, Default)]
struct Tally {
    count: Count,
    begun: u64,
    ended: u64,
}

impl Tally {
    fn line(&mut self, line: &str) {
        if let Some(count) = Count::read(line) {
            self.count += count;
            self.ended += 1;
        } else if line.strip_prefix("running ").is_some_and(|rest| rest.ends_with(" tests") || rest == "1 test") {
            self.begun += 1;
        }
    }

    fn finish(mut self, success: bool) -> Count {
        let silent = self.begun.saturating_sub(self.ended);
        if silent > 0 {
            eprintln!("{silent} test program(s) ended without a result (a crash?): counted as failed");
            self.count.failed += silent;
        }
        if !success && self.count.failed == 0 {
            eprintln!("cargo test failed although no test did: counted as one failure; its words are above");
            self.count.failed = 1;
        }
        self.count
    }
}

/// The demo and a few faults, each as one test.
fn end_to_end(phases: &mut Phases) -> Count {
    let mut count = Count::default();
    count += Count::of(phases.timed("demo", demo_charges_once), "e2e: every order of the demo is charged once");
    count += Count::of(phases.timed("faults", few_faults), "e2e: the storefront survives being killed");
    count
}

fn demo_charges_once() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let json = scratch.path().join("demo.json");
    demo::run(&Demo { orders: Some(8), shoppers: Some(60), json: Some(json.clone()), ..Demo::default() })?;
    effects_equal_intents(&json, 8)?;
    events_count_once(&json, 60)
}

fn counts_of(json: &Path) -> Result<Value> {
    let text = std::fs::read(json).with_context(|| format!("the demo wrote nothing to {}", json.display()))?;
    serde_json::from_slice(&text).context("the demo's counts are not JSON")
}

fn events_count_once(json: &Path, shoppers: u64) -> Result<()> {
    let counts = &counts_of(json)?["experiment"];
    let number =
        |name: &str| counts[name].as_u64().with_context(|| format!("the paywall's counts lack {name:?}: {counts}"));
    ensure!(number("shoppers")? == shoppers, "{shoppers} shoppers were asked for: {counts}");
    ensure!(number("exit_offers")? > 0, "nobody was made an exit offer: {counts}");
    ensure!(number("events")? == number("kept")?, "events were lost or doubled: {counts}");
    Ok(())
}

fn effects_equal_intents(json: &Path, orders: u64) -> Result<()> {
    let counts = counts_of(json)?;
    let number =
        |name: &str| counts[name].as_u64().with_context(|| format!("the demo's counts lack {name:?}: {counts}"));
    let (intents, effects) = (number("intents")?, number("effects")?);
    number("attempts")?;
    number("drops")?;
    ensure!(counts["tokens_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "the model said nothing: {counts}");
    ensure!(intents == orders, "{orders} orders became {intents} intents: {counts}");
    ensure!(intents == effects, "{intents} intents had {effects} effects: {counts}");
    Ok(())
}

fn few_faults() -> Result<()> {
    faults::run(&Faults { name: "storefront".into(), rounds: Some(3), ..Faults::default() }).map(|_| ())
}

/// What took how long.
#[derive(Debug, Default)]
struct Phases(Vec<(&'static str, Duration)>);

impl Phases {
    fn timed<T>(&mut self, name: &'static str, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let outcome = work();
        self.0.push((name, start.elapsed()));
        outcome
    }

    fn print(&self) {
        println!();
        for (name, elapsed) in &self.0 {
            println!("{name:<22} {:>14}", shell::time(*elapsed));
        }
        println!("{:<22} {:>14}", "all", shell::time(self.0.iter().map(|(_, elapsed)| *elapsed).sum()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_many_programs_add_up() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "running 1 test",
            "test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        ] {
            tally.line(line);
        }
        assert_eq!(tally.finish(false), Count { passed: 2, failed: 1, skipped: 1 });
    }

    #[test]
    fn a_program_that_dies_without_a_result_is_a_failure() {
        let mut tally = Tally::default();
        tally.line("running 5 tests");
        assert_eq!(tally.finish(false).failed, 1);
    }

    #[test]
    fn a_failure_of_cargo_itself_is_a_failure() {
        assert_eq!(Tally::default().finish(false).failed, 1);
        assert_eq!(Tally::default().finish(true), Count::default());
    }

    #[test]
    fn an_order_without_an_effect_fails_the_demo() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut counts =
            serde_json::json!({"intents": 8, "attempts": 11, "drops": 3, "effects": 8, "tokens_per_second": 40.0});
        std::fs::write(file.path(), counts.to_string()).unwrap();
        effects_equal_intents(file.path(), 8).unwrap();
        counts["effects"] = 7.into();
        std::fs::write(file.path(), counts.to_string()).unwrap();
        assert!(effects_equal_intents(file.path(), 8).is_err());
    }

    #[test]
    fn an_event_that_is_lost_fails_the_demo() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let paywall = serde_json::json!({ "shoppers": 60, "exit_offers": 9, "events": 90, "kept": 90 });
        let holds = |name: &str, count: u64| {
            let mut counts = serde_json::json!({ "experiment": paywall });
            counts["experiment"][name] = count.into();
            std::fs::write(file.path(), counts.to_string()).unwrap();
            events_count_once(file.path(), 60).is_ok()
        };
        assert!(holds("kept", 90));
        assert!(!holds("kept", 89) && !holds("shoppers", 61) && !holds("exit_offers", 0));
    }
}
