//! Ten thousand experiments without an effect, and as many with one, looked at daily: prints one JSON object.
//!
//! `cargo bench -p selvedge-experiments --features analysis --bench simulate [-- --experiments N] [--seed S]`
#![allow(clippy::expect_used, reason = "A benchmark that cannot go on has nothing to say.")]

mod simulation;

use std::time::Instant;

use selvedge_experiments::analysis::Variance;
use serde_json::{Value, json};
use simulation::{Behaviour, Design, naive_expected, sample_size, simulate};

/// Four weeks.
const LOOKS: u32 = 28;

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let flag = |name: &str| {
        let value = arguments.iter().position(|argument| argument == name).and_then(|place| arguments.get(place + 1));
        value.map(|value| value.parse::<u64>().expect("a number"))
    };
    let experiments = flag("--experiments").unwrap_or(10_000) as usize;
    let seed = flag("--seed").unwrap_or(1);
    let began = Instant::now();
    let (mut without_effect, mut with_effect) = (Vec::new(), Vec::new());
    for cv in [3.0, 5.0, 8.0] {
        let control = Behaviour::with_cv(cv);
        let users_per_arm = sample_size(cv, LOOKS, Variance::Equal);
        let design = Design { control, treated: control, users_per_arm, looks: LOOKS, experiments, seed };
        let mut row = json!({ "cv": cv, "users_per_arm": users_per_arm, "payers": control.payers });
        merge(&mut row, json!(simulate(&design)));
        without_effect.push(row);
        // A lift that comes from more payers, or from higher prices, at the users computed for just that; and the
        // textbook's users, which leave the change of the variance out.
        for (by, planned) in [
            (Variance::Volume, Variance::Volume),
            (Variance::Price, Variance::Price),
            (Variance::Volume, Variance::Equal),
            (Variance::Price, Variance::Equal),
        ] {
            let users_per_arm = sample_size(cv, LOOKS, planned);
            let design = Design { treated: control.lifted(0.10, by), users_per_arm, seed: seed + 1, ..design.clone() };
            let mut row = json!({ "cv": cv, "lift_by": by, "planned_for": planned, "users_per_arm": users_per_arm, "target": 0.8 });
            merge(&mut row, json!(simulate(&design)));
            with_effect.push(row);
        }
    }
    // The article's variants: 3.2 % pay $60, or 5.8 % pay $25.
    let (a, b) = (Behaviour { payers: 0.032, price: 60.0 }, Behaviour { payers: 0.058, price: 25.0 });
    let article = Design { control: a, treated: b, users_per_arm: 30_000, looks: LOOKS, experiments, seed: seed + 2 };
    let found = simulate(&article);
    let decision = json!({
        "users_per_arm": article.users_per_arm,
        "revenue_keeps_control": found.obrien_fleming - found.obrien_fleming_up,
        "revenue_ships_b": found.obrien_fleming_up,
        "conversion_ships_b": found.conversion_up,
        "share_used": found.share_used,
    });
    let report = json!({
        "experiments": experiments,
        "looks": LOOKS,
        "seed": seed,
        "naive_by_integration": naive_expected(LOOKS),
        "without_effect": without_effect,
        "with_effect": with_effect,
        "article": decision,
        "seconds": began.elapsed().as_secs_f64(),
    });
    println!("{report}");
}

fn merge(row: &mut Value, more: Value) {
    if let (Value::Object(row), Value::Object(more)) = (row, more) {
        row.extend(more);
    }
}
