//! What a call costs in each language: our façade beside UniFFI's code alone, and that beside a bare call of C.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::{
    Entry, Plan, Report, first_line,
    measure::{self, Measurement, Peer, Rounds},
};
use crate::{
    bindings,
    language::{kotlin, python, swift},
    place, setup,
};

pub(super) const ENTRY: Entry = Entry {
    name: "ffi",
    title: "What a call costs in Kotlin, Swift and Python",
    method: "The calls of an app, on a real database (`fast`), in one process of each language: the façade and the code \
             that UniFFI generates take turns in blocks of 20 ms, on the same engine. The façade may cost a tenth more. \
             \"smallest call\" sets UniFFI's code for a method without arguments (`CancelHandle.is_cancelled`) beside a \
             function of the same library called bare, by C in Swift, by JNA's direct mapping in Kotlin, by ctypes in Python; \
             it is there to inform. Python has no façade.",
    measure,
};

/// A façade may cost a tenth more than UniFFI alone.
const TARGET: f64 = 1.0 / 1.1;

/// A line of a program: which layer, and what it measured.
#[derive(Deserialize)]
struct Line {
    layer: String,
    #[serde(flatten)]
    measurement: Measurement,
}

fn measure(plan: &Plan) -> Result<Report> {
    let model = setup::tests(false)?;
    let library = bindings::library()?;
    let mut programs = [
        ("Kotlin", kotlin::bench(&library)?),
        ("Swift", swift::bench(&library, &model)?),
        ("Python", python::bench(&library)?),
    ];
    let (mut facade, mut uniffi, mut bare) = (Rounds::default(), Rounds::default(), Rounds::default());
    for round in 1..=plan.rounds {
        for (language, program) in &mut programs {
            if round == 1 {
                program.args(plan.quick.then_some("--quick"));
            }
            for Line { layer, measurement } in measure::records(&format!("{language}, round {round}"), program)? {
                match layer.as_str() {
                    "facade" => facade.add(vec![measurement]),
                    "uniffi" => uniffi.add(vec![measurement]),
                    _ => bare.add(vec![measurement]),
                }
            }
        }
    }
    let version = locked("uniffi")?;
    let mut rows = facade.against(plan.name, &Peer { name: "UniFFI", version }, &uniffi, |_| Some(TARGET))?;
    ensure!(rows.len() == 18, "nine calls of two façades were to be measured, not {}", rows.len());
    let alone = Peer { name: "bare call", version: "-".into() };
    rows.extend(uniffi.against(plan.name, &alone, &bare, |_| None)?);
    let python = uniffi.medians().filter(|(case, ..)| case.starts_with("Python") && !case.ends_with("smallest call"));
    let alone = python.map(|(case, unit, value)| (case.to_owned(), value, unit.to_owned())).collect();
    let facts = [("Java", first_line("java", &["--version"])), ("Python", first_line("python3", &["--version"]))];
    Ok(Report { rows, alone, facts: facts.map(|(name, value)| (name.to_owned(), value)).into() })
}

/// The version of a crate in the lock file.
fn locked(name: &str) -> Result<String> {
    let lock = fs::read_to_string(place::root().join("Cargo.lock"))?;
    let after = lock.split_once(&format!("name = \"{name}\"\nversion = \"")).map(|(_, rest)| rest);
    let version = after.and_then(|rest| rest.split('"').next());
    Ok(version.with_context(|| format!("Cargo.lock has no {name}"))?.to_owned())
}
