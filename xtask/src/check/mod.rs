//! `cargo xtask check`: everything that must be so before a change goes in, besides the tests.
//!
//! Each check has a name, gives the problems it found, and lets the others run; the summary says how to mend them.

mod adr;
mod apps;
mod arrows;
mod cargo;
mod commands;
mod lints;
mod markdown;
mod memory;
mod mentions;
mod paths;
mod pure;
mod scenarios;
mod sources;
mod targets;
mod tools;

use std::{
    fmt, fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use self::sources::Sources;
pub(crate) use self::tools::fetch as fetch_tools;
use crate::shell;

/// What to check.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Check {
    /// Only what takes seconds: what the git hook runs
    #[arg(long)]
    quick: bool,
    /// Only these, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "NAMES", conflicts_with = "quick")]
    only: Vec<String>,
    /// Also write one row for each check to this file: check, outcome, seconds, problems, mend
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One check.
struct Rule {
    name: &'static str,
    /// Whether it takes seconds on a repository that has not been built.
    quick: bool,
    /// What to do when it finds something.
    mend: &'static str,
    run: fn(&Sources) -> Result<Outcome>,
}

/// What a check found.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Problems, one a line; none is clean.
    Checked(Vec<String>),
    /// It cannot be checked on this machine, and why.
    Skipped(String),
}

/// All of them, the quick ones first.
const RULES: [Rule; 19] = [
    Rule { name: "format", quick: true, mend: "run `cargo fmt --all`", run: cargo::format },
    Rule {
        name: "arrows",
        quick: true,
        mend: "bindings → plugins → core: move what two plugins share into core, and tests that span plugins into tests/",
        run: arrows::check,
    },
    Rule {
        name: "core",
        quick: true,
        mend: "core does no I/O and has no runtime: a plugin or a binding does it, behind a trait of core",
        run: pure::check,
    },
    Rule {
        name: "lints",
        quick: true,
        mend: "take up the workspace's lints; `unsafe` has its crates, and each exception there its reason",
        run: lints::check,
    },
    Rule {
        name: "adr",
        quick: true,
        mend: "give it the form that docs/adr/001-one-error-type.md has",
        run: adr::check,
    },
    Rule {
        name: "memory",
        quick: true,
        mend: "shorten CLAUDE.md: what must always happen is a check, what is long is a page of docs/guide",
        run: memory::check,
    },
    Rule { name: "paths", quick: true, mend: "correct the document, or bring the file back", run: paths::check },
    Rule { name: "commands", quick: true, mend: "correct the document, or the command", run: commands::check },
    Rule { name: "mentions", quick: true, mend: "say it in the document that is named", run: mentions::check },
    Rule {
        name: "scenarios",
        quick: true,
        mend: "write the test that is missing, under the scenario's name",
        run: scenarios::check,
    },
    Rule {
        name: "spelling",
        quick: true,
        mend: "correct it, or add a word that is right to typos.toml with its reason",
        run: tools::spelling,
    },
    Rule { name: "links", quick: true, mend: "correct the link", run: tools::links },
    Rule {
        name: "dependencies",
        quick: false,
        mend: "drop the dependency, or add an exception to deny.toml with its reason",
        run: tools::dependencies,
    },
    Rule {
        name: "advisories",
        quick: false,
        mend: "move to a release without the hole, or add an exception to deny.toml with its reason",
        run: tools::advisories,
    },
    Rule {
        name: "clippy",
        quick: false,
        mend: "mend what clippy names, or `#[expect(…, reason = \"…\")]` it where it is wrong",
        run: cargo::clippy,
    },
    Rule { name: "docs", quick: false, mend: "mend what rustdoc names", run: cargo::docs },
    Rule { name: "kotlin", quick: false, mend: "run ktlint with --format", run: apps::kotlin },
    Rule {
        name: "swift",
        quick: false,
        mend: "run `swift format --in-place`, and name in comments only what is there",
        run: apps::swift,
    },
    Rule {
        name: "targets",
        quick: false,
        mend: "make it compile for phones too: no path, size or call that only the desktop has",
        run: targets::check,
    },
];

/// What the summary and the JSON file say of one check.
#[derive(Debug, Serialize)]
struct Row {
    check: &'static str,
    outcome: &'static str,
    seconds: f64,
    problems: Vec<String>,
    mend: Option<&'static str>,
}

/// Something is not clean, which the summary has said already.
#[derive(Debug)]
pub(crate) struct Unclean;

impl fmt::Display for Unclean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the check found problems")
    }
}

impl std::error::Error for Unclean {}

/// Runs the checks to the end of the list, whatever they find.
pub(crate) fn run(check: &Check) -> Result<()> {
    let rules = chosen(check)?;
    let sources = Sources::of_repository()?;
    let rows: Vec<Row> = rules.into_iter().map(|rule| one(rule, &sources)).collect();
    if let Some(path) = &check.json {
        let text = serde_json::to_string_pretty(&rows)?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write the rows to {}", path.display()))?;
    }
    if summary(&rows) { Ok(()) } else { bail!(Unclean) }
}

fn chosen(check: &Check) -> Result<Vec<&'static Rule>> {
    if let Some(unknown) = check.only.iter().find(|name| !RULES.iter().any(|rule| rule.name == *name)) {
        let names: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
        bail!("no check is named {unknown:?}; there are: {}", names.join(", "));
    }
    let wanted = |rule: &&Rule| match check.only.as_slice() {
        [] => rule.quick || !check.quick,
        only => only.iter().any(|name| name == rule.name),
    };
    Ok(RULES.iter().filter(wanted).collect())
}

fn one(rule: &'static Rule, sources: &Sources) -> Row {
    let start = Instant::now();
    // A check that cannot run has not passed.
    let outcome = (rule.run)(sources).unwrap_or_else(|error| Outcome::Checked(vec![format!("{error:#}")]));
    let elapsed = start.elapsed();
    let row = |outcome, problems, mend| Row { check: rule.name, outcome, seconds: seconds(elapsed), problems, mend };
    match outcome {
        Outcome::Checked(problems) if problems.is_empty() => {
            shell::done(rule.name, elapsed);
            row("clean", problems, None)
        }
        Outcome::Checked(problems) => {
            shell::failed(rule.name, elapsed);
            for problem in &problems {
                eprintln!("    {}", problem.replace('\n', "\n    "));
            }
            row("problems", problems, Some(rule.mend))
        }
        Outcome::Skipped(why) => {
            shell::say(format_args!("{}: skipped, {why}", rule.name));
            row("skipped", vec![why], None)
        }
    }
}

fn seconds(elapsed: Duration) -> f64 {
    (elapsed.as_secs_f64() * 1e3).round() / 1e3
}

/// Prints the count and how to mend what was found; whether all is clean.
fn summary(rows: &[Row]) -> bool {
    let count = |outcome: &str| rows.iter().filter(|row| row.outcome == outcome).count();
    println!();
    for row in rows.iter().filter(|row| row.outcome == "problems") {
        println!("{}: {}", row.check, row.mend.unwrap_or_default());
    }
    let time = Duration::from_secs_f64(rows.iter().map(|row| row.seconds).sum());
    let (clean, bad, skipped) = (count("clean"), count("problems"), count("skipped"));
    println!("{clean} clean, {bad} with problems, {skipped} skipped ({})", shell::time(time));
    bad == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(only: &[&str]) -> Check {
        Check { only: only.iter().map(ToString::to_string).collect(), ..Check::default() }
    }

    #[test]
    fn what_is_asked_for_is_run() {
        let names = |check: &Check| chosen(check).unwrap().into_iter().map(|rule| rule.name).collect::<Vec<_>>();
        assert_eq!(names(&named(&["links", "adr"])), ["adr", "links"]);
        assert_eq!(names(&Check::default()).len(), RULES.len());
        let quick = names(&Check { quick: true, ..Check::default() });
        assert!(quick.contains(&"format") && !quick.contains(&"clippy"), "{quick:?}");
        let unknown = chosen(&named(&["grammar"])).err().unwrap().to_string();
        assert!(unknown.contains("spelling"), "{unknown}");
    }

    #[test]
    fn a_check_that_cannot_run_has_not_passed() {
        fn broken(_: &Sources) -> Result<Outcome> {
            bail!("the tool is missing")
        }
        static BROKEN: Rule = Rule { name: "trial", quick: true, mend: "install it", run: broken };
        let row = one(&BROKEN, &Sources::default());
        assert_eq!((row.outcome, row.problems.as_slice()), ("problems", &["the tool is missing".to_owned()][..]));
        assert!(!summary(&[row]));
    }
}
