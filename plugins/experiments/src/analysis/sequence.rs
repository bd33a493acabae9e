//! Intervals that hold however often one looks, without a plan.

use serde::Serialize;

use super::Effect;

/// An interval that covers the effect at all times together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AlwaysValid {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// The p-value that may be looked at at any time.
    pub p: f64,
    /// The number of users, of both arms, at which the interval is tightest.
    pub tuned_for: f64,
}

/// The asymptotic confidence sequence of an effect that `users` of both arms show, tightest at `tuned_for` users.
///
/// I. Waudby-Smith, D. Arbour, R. Sinha, E. H. Kennedy, A. Ramdas, "Time-uniform central limit theory and asymptotic
/// confidence sequences", Annals of Statistics 52 (2024), arXiv 2103.06476v7: equations 9, 155 and 161, as gbstats 0.8.0
/// has them (`SequentialTwoSidedTTest`).
pub fn always_valid(effect: &Effect, users: u64, alpha: f64, tuned_for: f64) -> AlwaysValid {
    let n = users as f64;
    let rho = ((-2.0 * alpha.ln() + (-2.0 * alpha.ln()).ln_1p()) / tuned_for).sqrt();
    let grown = n * rho * rho + 1.0;
    let scale = effect.standard_error * n.sqrt();
    let reach = scale * (2.0 * grown * (grown.sqrt() / alpha).ln() / (n * rho).powi(2)).sqrt();
    let squared = effect.z.powi(2) * n;
    let p = (grown.sqrt() * (-rho * rho * squared / (2.0 * grown)).exp()).min(1.0);
    AlwaysValid { low: effect.estimate - reach, high: effect.estimate + reach, p, tuned_for }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::test::{
        difference,
        tests::{arms, close},
    };

    /// gbstats 0.8.0, `SequentialTwoSidedTTest`.
    #[test]
    fn intervals_are_those_of_gbstats() {
        let (a, b) = arms();
        let effect = difference(&a, &b, 0.05).expect("an effect");
        for (tuned_for, low, high) in [(5_000.0, -0.09650485, 0.18835193), (20_000.0, -0.09231373, 0.18416082)] {
            let found = always_valid(&effect, a.n + b.n, 0.05, tuned_for);
            close(found.low, low);
            close(found.high, high);
            assert!(found.p <= 1.0 && found.p > 0.05);
        }
    }

    /// The p-value is 5 % where the interval ends at 0.
    #[test]
    fn the_p_value_belongs_to_the_interval() {
        let (a, b) = arms();
        let effect = difference(&a, &b, 0.05).expect("an effect");
        let reach = always_valid(&effect, a.n + b.n, 0.05, 5_000.0).high - effect.estimate;
        let z = reach / effect.standard_error;
        let at_the_end = Effect { estimate: reach, z, ..effect };
        close(always_valid(&at_the_end, a.n + b.n, 0.05, 5_000.0).p, 0.05);
    }
}
