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
             a callback to serve; ours also notes which experiments were entered.",
    measure,
};

/// The version of the package from npm.
const ON_NODE: &str = "1.8.0";
/// The version of the crate, as `Cargo.toml` has it.
const CRATE: &str = "0.4.0";

/// How often quicker ours has to be.
const TARGETS: [(&str, f64); 2] = [("growthbook-rust", 3.0), ("@growthbook/growthbook", 10.0)];

/// What is measured, each part with its own rows and facts.
const PARTS: &[fn(&Plan) -> Result<Report>] = &[evaluation];

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
