//! What experiments cost: evaluating flags for a user, beside the SDKs whose specification this follows.

use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{
    Entry, Plan, Report, first_line,
    measure::{self, Measurement, Peer, Rounds, Row},
    program,
};
use crate::{place, setup};

pub(super) const ENTRY: Entry = Entry {
    name: "experiment",
    title: "Experiments",
    method: "*64 flags, one user*: switches, rollouts, experiments, prerequisites and saved groups of 100 ids, each behind \
             conditions, are evaluated for the same user over and over; all contestants first have to come to the same values. \
             The crate `growthbook-rust` runs in our process, turn by turn with ours, with the user's attributes as its \
             client's, and copies features and groups with each call; `@growthbook/growthbook` runs on Node as its authors \
             document it for servers, in production mode, one client and the user's context with each call. Neither peer has \
             a callback to serve; ours also notes which experiments were entered.\n\n\
             - *an assignment that is kept*: the same people come again to a placement with an experiment; SQLite on disk. They are \
             remembered, as is the default, or read each time, user and device in one read.\n\
             - *10 million users*: one file, a line for each user with revenue and a covariate, read and analysed in one pass; \
             gbstats is given what pandas read and grouped. The results differ by less than a millionth, or this fails.\n\
             - *false positives*: 10,000 experiments without an effect for each CV, with zero-inflated lognormal revenue, looked at \
             each day for 28 days. Below the table: how often other rules are wrong on the same data, how often a lift of 10 % is \
             found with the computed number of users, and what the article's two variants come to.",
    measure,
};

/// The version of the package from npm.
const ON_NODE: &str = "1.8.0";
/// The version of the crate, as `Cargo.toml` has it.
const CRATE: &str = "0.4.0";

/// How often quicker ours has to be.
const TARGETS: [(&str, f64); 2] = [("growthbook-rust", 3.0), ("@growthbook/growthbook", 10.0)];

/// What is measured, each part with its own rows and facts.
const PARTS: &[fn(&Plan) -> Result<Report>] = &[evaluation, assignment, analysis, simulation];

/// The most that an assignment that is kept may take, in µs, remembered or not.
const KEPT: f64 = 20.0;
/// What ten million users may take to be analysed: seconds, and MiB.
const ANALYSED: (f64, f64) = (10.0, 1_024.0);
/// How many experiments without an effect may seem to have one, in percent, looking at them each day.
const FALSE: f64 = 5.5;
/// What gbstats runs with, as its authors pin it.
const GBSTATS: &str = "0.8.0";

fn measure(plan: &Plan) -> Result<Report> {
    let mut report = Report::default();
    for part in PARTS {
        let Report { rows, alone, facts } = part(plan)?;
        report.rows.extend(rows);
        report.alone.extend(alone);
        report.facts.extend(facts);
    }
    Ok(report)
}

/// A line of the programs: a measurement, and whose it is.
#[derive(Deserialize)]
struct Line {
    contestant: String,
    #[serde(flatten)]
    measurement: Measurement,
}

fn evaluation(plan: &Plan) -> Result<Report> {
    let program = program("evaluate")?;
    let modules = setup::node::modules("experiment", &[&format!("@growthbook/growthbook@{ON_NODE}")])?;
    let node = modules.join(".bin/node");
    let folder = place::cache()?.join("experiment");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let quick = plan.quick.then_some("--quick");

    let (mut ours, mut theirs) = (Rounds::default(), [Rounds::default(), Rounds::default()]);
    for round in 1..=plan.rounds {
        let mut in_rust = Command::new(&program);
        in_rust.arg("--files").arg(&folder).args(quick);
        let mut on_node = Command::new(&node);
        on_node.arg(place::root().join("tests/growthbook/benches/evaluate.mjs")).arg(&modules).arg(&folder).args(quick);
        let mut lines: Vec<Line> = measure::records(&format!("evaluate, round {round}"), &mut in_rust)?;
        lines.extend(measure::records::<Line>(&format!("evaluate on Node, round {round}"), &mut on_node)?);
        for Line { contestant, measurement } in lines {
            let peer = TARGETS.iter().position(|(name, _)| *name == contestant);
            peer.map_or(&mut ours, |peer| &mut theirs[peer]).add(vec![measurement]);
        }
    }
    let mut rows: Vec<Row> = Vec::new();
    for (((name, target), version), theirs) in TARGETS.into_iter().zip([CRATE, ON_NODE]).zip(&theirs) {
        let peer = Peer { name, version: version.into() };
        rows.extend(ours.against(plan.name, &peer, theirs, |_| Some(target))?);
    }
    anyhow::ensure!(rows.len() == TARGETS.len(), "the benchmark evaluate did not measure {TARGETS:?}");
    let node = first_line(&node.display().to_string(), &["--version"]);
    let facts = vec![
        ("growthbook-rust".into(), CRATE.into()),
        ("@growthbook/growthbook".into(), format!("{ON_NODE} on Node {node}")),
    ];
    Ok(Report { rows, alone: Vec::new(), facts })
}

fn bound(of: &'static str) -> Peer {
    Peer { name: of, version: env!("CARGO_PKG_VERSION").to_owned() }
}

fn assignment(plan: &Plan) -> Result<Report> {
    let program = program("assign")?;
    let mut rounds = Rounds::default();
    for round in 1..=plan.rounds {
        let mut command = Command::new(&program);
        rounds.add(measure::lines(&format!("assign, round {round}"), command.args(plan.quick.then_some("--quick")))?);
    }
    let rows = rounds
        .medians()
        .map(|(case, unit, ours)| Row::new(plan.name, case, unit, ours, KEPT, &bound("bound"), Some(1.0)));
    Ok(Report { rows: rows.collect(), ..Report::default() })
}

/// What the program `analyse` prints.
#[derive(Deserialize)]
struct Analysed {
    users: u64,
    csv: Cost,
    parquet: Cost,
    gbstats: Cost,
    largest_relative_difference: f64,
}

#[derive(Deserialize)]
struct Cost {
    seconds: f64,
    peak_mib: f64,
}

fn analysis(plan: &Plan) -> Result<Report> {
    let gbstats = format!("gbstats=={GBSTATS}");
    let python = setup::python::environment("gbstats", &[&gbstats, "numpy==1.26.4", "pandas==1.5.3"])?.join("python3");
    let program = program("analyse")?;
    let folder = tempfile::tempdir().context("no room for ten million users")?;
    let mut command = Command::new(program);
    command.arg("--folder").arg(folder.path()).arg("--python").arg(python);
    if plan.quick {
        command.args(["--users", "1000000"]);
    }
    let mut found: Vec<Analysed> = measure::records("analyse", &mut command)?;
    let found = found.pop().context("the program analyse printed nothing")?;
    anyhow::ensure!(
        found.largest_relative_difference <= 1e-6,
        "the results differ from those of gbstats by {:e}",
        found.largest_relative_difference
    );
    let peer = Peer { name: "gbstats", version: GBSTATS.into() };
    let users = format!("{} million users", found.users / 1_000_000);
    let row = |case: String, unit, ours, other, peer: &Peer, target| {
        Row::new(plan.name, &case, unit, ours, other, peer, target)
    };
    // The bounds are those of ten million.
    let whole = (found.users == 10_000_000).then_some(1.0);
    let rows = vec![
        row(format!("{users}, CSV"), "s", found.csv.seconds, found.gbstats.seconds, &peer, None),
        row(format!("{users}, CSV"), "MiB", found.csv.peak_mib, found.gbstats.peak_mib, &peer, None),
        row(format!("{users}, CSV"), "s", found.csv.seconds, ANALYSED.0, &bound("bound"), whole),
        row(format!("{users}, CSV"), "MiB", found.csv.peak_mib, ANALYSED.1, &bound("bound"), whole),
        row(format!("{users}, Parquet"), "s", found.parquet.seconds, ANALYSED.0, &bound("bound"), whole),
    ];
    let facts = vec![
        ("gbstats".into(), format!("{GBSTATS}, pandas 1.5.3, numpy 1.26.4")),
        ("largest difference to gbstats".into(), format!("{:.0e} of the result", found.largest_relative_difference)),
    ];
    Ok(Report { rows, facts, ..Report::default() })
}

/// What the program `simulate` prints.
#[derive(Deserialize)]
struct Simulated {
    experiments: u64,
    looks: u32,
    without_effect: Vec<NoEffect>,
    with_effect: Vec<Effect>,
    article: Article,
}

/// Shares of experiments without an effect.
#[derive(Deserialize)]
struct NoEffect {
    cv: f64,
    naive: f64,
    obrien_fleming: f64,
    always_valid: f64,
    bayes_flat: f64,
    covered_relative: f64,
}

#[derive(Deserialize)]
struct Effect {
    cv: f64,
    lift_by: String,
    planned_for: String,
    users_per_arm: u64,
    obrien_fleming: f64,
}

#[derive(Deserialize)]
struct Article {
    revenue_keeps_control: f64,
    conversion_ships_b: f64,
}

fn simulation(plan: &Plan) -> Result<Report> {
    let mut command = Command::new(program("simulate")?);
    if plan.quick {
        command.args(["--experiments", "1000"]);
    }
    let mut found: Vec<Simulated> = measure::records("simulate", &mut command)?;
    let found = found.pop().context("the program simulate printed nothing")?;
    let rows = found.without_effect.iter().map(|one| {
        let case = format!("false positives, O'Brien–Fleming, CV {}", one.cv);
        Row::new(plan.name, &case, "%", one.obrien_fleming * 100.0, FALSE, &bound("bound"), Some(1.0))
    });
    let rows = rows.collect();
    let mut alone = Vec::new();
    let mut say = |what: String, share: f64| alone.push((what, share * 100.0, "%".to_owned()));
    for one in &found.without_effect {
        let cv = one.cv;
        say(format!("false positives, |z| > 1.96 each day, CV {cv}"), one.naive);
        say(format!("false positives, credible interval with a flat prior each day, CV {cv}"), one.bayes_flat);
        say(format!("false positives, confidence sequence, CV {cv}"), one.always_valid);
        say(format!("intervals of 95 % that hold the truth, CV {cv}"), one.covered_relative);
    }
    for Effect { cv, lift_by, planned_for, users_per_arm, obrien_fleming } in &found.with_effect {
        let plan = if lift_by == planned_for { "for such a lift" } else { "by the textbook" };
        say(
            format!("a lift of 10 % by {lift_by} is found, of 80 % planned {plan} ({users_per_arm} an arm), CV {cv}"),
            *obrien_fleming,
        );
    }
    say("the article's variants: revenue per user keeps A".into(), found.article.revenue_keeps_control);
    say("the article's variants: conversion ships B".into(), found.article.conversion_ships_b);
    let facts =
        vec![("simulated".into(), format!("{} experiments a figure, {} looks", found.experiments, found.looks))];
    Ok(Report { rows, alone, facts })
}
