//! CUPED: less noise, by what was known of a user before the experiment.

use serde::Serialize;

use super::{
    Arm, Effect, Moments,
    summary::{Sum, covariance},
    test,
};

/// The values of an arm's users beside a covariate of theirs from before the exposure.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Paired {
    /// The values.
    pub value: Moments,
    /// The covariates.
    pub covariate: Moments,
    products: Sum,
}

impl Paired {
    /// Adds a user.
    #[inline]
    pub fn add(&mut self, value: f64, covariate: f64) {
        self.value.add(value);
        self.covariate.add(covariate);
        self.products.add_product(value, covariate);
    }

    /// Adds the users of another.
    pub fn merge(&mut self, other: &Self) {
        self.value.merge(&other.value);
        self.covariate.merge(&other.covariate);
        self.products.merge(other.products);
    }

    fn covariance(&self) -> f64 {
        covariance(&self.value, &self.covariate, self.products)
    }

    /// The arm with the covariate taken out.
    fn adjusted(&self, theta: f64) -> Arm {
        let plain = self.value.arm();
        Arm {
            mean: plain.mean - theta * self.covariate.mean(),
            variance: plain.variance + theta * theta * self.covariate.variance() - 2.0 * theta * self.covariance(),
            ..plain
        }
    }
}

/// An effect with the covariate taken out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cuped {
    /// The weight of the covariate.
    pub theta: f64,
    /// The share of the variance that is gone.
    pub variance_removed: f64,
    /// The difference of the means.
    pub absolute: Effect,
    /// It as a fraction of the control's mean.
    pub relative: Option<Effect>,
}

/// The effect, adjusted by the covariate. `None` where the covariate does not vary or there is nothing to compare.
///
/// A. Deng, Y. Xu, R. Kohavi, T. Walker, "Improving the sensitivity of online controlled experiments by utilizing
/// pre-experiment data", WSDM 2013; one θ for both arms, as in gbstats 0.8.0 (`RegressionAdjustedStatistic`). A covariate
/// from after the exposure would take out the effect itself.
pub fn cuped(control: &Paired, treated: &Paired, alpha: f64) -> Option<Cuped> {
    let mut both = *control;
    both.merge(treated);
    let spread = both.covariate.variance();
    if spread <= 0.0 {
        return None;
    }
    let theta = both.covariance() / spread;
    let (a, b) = (control.adjusted(theta), treated.adjusted(theta));
    let absolute = test::difference(&a, &b, alpha)?;
    let before = control.value.arm().error() + treated.value.arm().error();
    let variance_removed = 1.0 - (a.error() + b.error()) / before;
    Some(Cuped { theta, variance_removed, absolute, relative: test::relative(&a, &b, alpha) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A covariate that says half of what there is to know takes out half of the variance.
    #[test]
    fn what_was_known_is_taken_out() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut draw = |lift: f64| {
            let mut paired = Paired::default();
            for _ in 0..20_000 {
                let (before, since) = (rng.f64(), rng.f64());
                paired.add(before + since + lift, before);
            }
            paired
        };
        let (a, b) = (draw(0.0), draw(0.02));
        let found = cuped(&a, &b, 0.05).expect("an effect");
        assert!((found.theta - 1.0).abs() < 0.02 && (found.variance_removed - 0.5).abs() < 0.02, "{found:?}");
        assert!((found.absolute.estimate - 0.02).abs() < 0.01 && found.absolute.p < 1e-6);
        assert_eq!(cuped(&Paired::default(), &Paired::default(), 0.05), None);
    }

    /// gbstats 0.8.0: θ and the relative effect from sums.
    #[test]
    fn effects_are_those_of_gbstats() {
        use crate::analysis::summary::tests_support::{moments, sum};
        let paired = |n, y: (f64, f64), x: (f64, f64), products| Paired {
            value: moments(n, y.0, y.1),
            covariate: moments(n, x.0, x.1),
            products: sum(products),
        };
        let a = paired(10_000, (5_948.05, 101_600.0), (5_500.0, 90_000.0), 60_000.0);
        let b = paired(10_020, (6_420.10, 113_900.0), (5_600.0, 91_000.0), 63_000.0);
        let found = cuped(&a, &b, 0.05).expect("an effect");
        let close = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-7, "{found}, not {wanted}");
        close(found.theta, 0.66425748);
        close(found.absolute.estimate, 0.04002345);
        close(found.absolute.p, 0.26779483);
    }
}
