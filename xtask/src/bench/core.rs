//! What a plugin call through `dyn` costs, and what one layer adds, against bounds of our own.

use std::process::Command;

use anyhow::{Result, bail};

use super::{
    Entry, Plan, Report,
    measure::{self, Measurement, Peer, Rounds},
    program,
};

pub(super) const ENTRY: Entry = Entry {
    name: "core",
    title: "What a call through core costs",
    method: "A Store whose calls do nothing is called directly, as an `Arc<dyn …>`, and through layers that do nothing, so \
             that only the way to it is measured. The peer is a bound: 100 ns for a dyn call, 60 ns for a layer.",
    measure,
};

/// The most each case may cost, in nanoseconds a call.
const BOUNDS: [(&str, f64); 2] = [("dyn call", 100.0), ("one layer", 60.0)];

fn measure(plan: &Plan) -> Result<Report> {
    let program = program("dispatch")?;
    let mut ours = Rounds::default();
    for round in 1..=plan.rounds {
        let mut command = Command::new(&program);
        command.args(plan.quick.then_some("--quick"));
        ours.add(measure::lines(&format!("dispatch, round {round}"), &mut command)?);
    }
    let mut bounds = Rounds::default();
    bounds.add(BOUNDS.map(|(case, value)| Measurement { case: case.into(), unit: "ns/call".into(), value }).into());
    let peer = Peer { name: "bound", version: "-".into() };
    let rows = ours.against(plan.name, &peer, &bounds, |_| Some(1.0))?;
    if rows.len() != BOUNDS.len() {
        bail!("the benchmark dispatch did not measure all of {:?}", BOUNDS.map(|(case, _)| case));
    }
    let alone = ours
        .medians()
        .filter(|(case, ..)| BOUNDS.iter().all(|(bound, _)| bound != case))
        .map(|(case, unit, value)| (case.to_owned(), value, unit.to_owned()))
        .collect();
    Ok(Report { rows, alone, facts: Vec::new() })
}
