//! Is the difference more than chance: tests of two arms, absolute and relative.

use serde::Serialize;

use super::{Arm, normal};

/// The effect of the treated arm, with how sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Effect {
    /// The effect: a difference, or a fraction of the control's mean.
    pub estimate: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
    /// The estimate over its standard error: what boundaries are compared with.
    pub z: f64,
    /// The two-sided p-value of one look.
    pub p: f64,
}

impl Effect {
    /// Whether nothing but noise would look like this, were it looked once.
    pub fn excludes_zero(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// The difference of the means, by Welch's test. `None` when an arm has fewer than two users, or nothing varies.
pub fn difference(control: &Arm, treated: &Arm, alpha: f64) -> Option<Effect> {
    effect(control, treated, treated.mean - control.mean, control.error() + treated.error(), alpha)
}

/// The difference as a fraction of the control's mean, its variance by the delta method: that of the control counts
/// too. `None` also when the control's mean is 0.
///
/// Its p-value differs a little from that of [`difference`]: decisions go by that one.
pub fn relative(control: &Arm, treated: &Arm, alpha: f64) -> Option<Effect> {
    let base = control.unadjusted;
    let variance = treated.error() / base.powi(2) + control.error() * treated.unadjusted.powi(2) / base.powi(4);
    effect(control, treated, (treated.mean - control.mean) / base, variance, alpha)
}

fn effect(control: &Arm, treated: &Arm, estimate: f64, variance: f64, alpha: f64) -> Option<Effect> {
    if control.n < 2 || treated.n < 2 || !estimate.is_finite() || !(variance > 0.0 && variance.is_finite()) {
        return None;
    }
    let df = degrees_of_freedom(control, treated);
    let standard_error = variance.sqrt();
    let z = estimate / standard_error;
    let reach = normal::t_quantile_of_tail(alpha / 2.0, df) * standard_error;
    let (low, high, p) = (estimate - reach, estimate + reach, normal::t_two_sided(z, df));
    Some(Effect { estimate, standard_error, low, high, z, p })
}

/// B. L. Welch, "The generalization of Student's problem when several different population variances are involved",
/// Biometrika 34 (1947).
fn degrees_of_freedom(control: &Arm, treated: &Arm) -> f64 {
    let part = |arm: &Arm| arm.error().powi(2) / (arm.n - 1) as f64;
    (control.error() + treated.error()).powi(2) / (part(control) + part(treated))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Arms from sums, as gbstats takes them.
    pub(crate) fn arm(n: u64, sum: f64, squares: f64) -> Arm {
        let mean = sum / n as f64;
        Arm { n, mean, unadjusted: mean, variance: (squares - sum * sum / n as f64) / (n - 1) as f64 }
    }

    pub(crate) fn arms() -> (Arm, Arm) {
        (arm(10_000, 5_948.05, 101_600.0), arm(10_020, 6_420.10, 113_900.0))
    }

    #[track_caller]
    pub(crate) fn close(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-7, "{found}, not {wanted}");
    }

    /// gbstats 0.8.0, `TwoSidedTTest`.
    #[test]
    fn effects_are_those_of_gbstats() {
        let (a, b) = arms();
        let absolute = difference(&a, &b, 0.05).expect("an effect");
        close(absolute.estimate, 0.04592354);
        close(absolute.low, -0.04334772);
        close(absolute.high, 0.13519481);
        close(absolute.p, 0.3133134);
        let relative = relative(&a, &b, 0.05).expect("an effect");
        close(relative.estimate, 0.07720773);
        close(relative.low, -0.07846332);
        close(relative.high, 0.23287877);
        close(relative.p, 0.3309943);
    }

    #[test]
    fn nothing_to_compare_is_no_effect() {
        let (a, _) = arms();
        let zero = Arm::proportion(0, 100);
        assert_eq!(relative(&zero, &a, 0.05), None);
        assert_eq!(difference(&zero, &zero, 0.05), None);
        assert_eq!(difference(&Arm { n: 1, ..a }, &a, 0.05), None);
    }
}
