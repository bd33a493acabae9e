//! A short run of the simulation that the figures come from: the rule that everybody uses must fail in it, and the
//! boundaries must hold.
#![cfg(feature = "analysis")]
#![allow(clippy::expect_used, reason = "A test may panic, and so may what it is made of.")]

#[path = "../benches/simulation/mod.rs"]
mod simulation;

use selvedge_experiments::analysis::Variance;
use simulation::{Behaviour, Design, sample_size, simulate};

#[test]
fn peeking_fails_and_boundaries_hold() {
    let control = Behaviour::with_cv(5.0);
    let design = Design { control, treated: control, users_per_arm: 20_000, looks: 28, experiments: 2_000, seed: 4 };
    let null = simulate(&design);
    // Four standard errors of 2,000 experiments around 5 % and 27 %.
    assert!(null.naive > 0.23 && null.naive < 0.31, "{null:?}");
    assert!(null.obrien_fleming < 0.07 && null.obrien_fleming > 0.03, "{null:?}");
    assert!(null.always_valid < 0.05, "{null:?}");
    assert!(null.bayes_flat > 0.20, "{null:?}");
    assert!((null.covered_absolute - 0.95).abs() < 0.02 && (null.covered_relative - 0.95).abs() < 0.02, "{null:?}");
    assert!(null.covered_always > 0.95, "{null:?}");
}

#[test]
fn the_computed_users_find_the_lift() {
    let control = Behaviour::with_cv(3.0);
    for by in [Variance::Volume, Variance::Price] {
        let users_per_arm = sample_size(3.0, 28, by);
        let design = Design {
            control,
            treated: control.lifted(0.10, by),
            users_per_arm,
            looks: 28,
            experiments: 1_500,
            seed: 5,
        };
        let found = simulate(&design).obrien_fleming;
        assert!((found - 0.8).abs() < 0.04, "{by:?}: {found}");
        // The article's upper number of users is far too few.
        let few = simulate(&Design { users_per_arm: 5_000, ..design }).obrien_fleming;
        assert!(few < 0.5, "{by:?}: {few}");
    }
}

#[test]
fn revenue_keeps_out_the_articles_variant_b() {
    let (a, b) = (Behaviour { payers: 0.032, price: 60.0 }, Behaviour { payers: 0.058, price: 25.0 });
    let design = Design { control: a, treated: b, users_per_arm: 30_000, looks: 28, experiments: 300, seed: 6 };
    let found = simulate(&design);
    assert!(found.conversion_up > 0.99 && found.obrien_fleming > 0.95 && found.obrien_fleming_up < 0.01, "{found:?}");
}
