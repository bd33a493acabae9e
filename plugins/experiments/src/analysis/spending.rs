//! How much of the error may be spent by when.

use selvedge_core::Result;
use serde::{Deserialize, Serialize};

use super::{invalid, normal};

/// An alpha-spending function: the share of the error that may be used up when a fraction `t` of the information is in.
///
/// K. K. G. Lan, D. L. DeMets, "Discrete sequential boundaries for clinical trials", Biometrika 70 (1983). Unlike the
/// boundaries that they are named after, they need neither the number of looks nor their times beforehand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spending {
    /// Very little early, nearly all of it at the end: `2 − 2Φ(z_{α/2}/√t)`.
    #[default]
    ObrienFleming,
    /// About the same at every look: `α·ln(1 + (e − 1)·t)`.
    Pocock,
}

impl Spending {
    /// The error that may have been spent on one side of a test when a fraction `t` of the information is in, `alpha`
    /// being that side's whole error.
    ///
    /// ```
    /// use selvedge_experiments::analysis::Spending;
    /// let spent = Spending::ObrienFleming.spent(0.025, 0.2);
    /// assert!((spent - 5.3887e-7).abs() < 1e-11);
    /// assert_eq!(Spending::Pocock.spent(0.025, 1.0), 0.025);
    /// ```
    pub fn spent(self, alpha: f64, t: f64) -> f64 {
        if t >= 1.0 {
            return alpha;
        }
        match self {
            Self::ObrienFleming => 2.0 * normal::tail(normal::quantile_of_tail(alpha / 2.0) / t.sqrt()),
            Self::Pocock => alpha * (1.0 + (std::f64::consts::E - 1.0) * t).ln(),
        }
    }

    /// Its name: `obrien-fleming` or `pocock`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ObrienFleming => "obrien-fleming",
            Self::Pocock => "pocock",
        }
    }

    /// The function of this name.
    ///
    /// # Errors
    /// `InvalidInput` when there is none.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "obrien-fleming" => Ok(Self::ObrienFleming),
            "pocock" => Ok(Self::Pocock),
            _ => Err(invalid("there is no such spending function")
                .with("spending", name)
                .advise("write obrien-fleming or pocock")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn spending_grows_to_alpha(alpha in 0.001..0.4f64, t in 0.001..1.0f64, more in 0.0..1.0f64) {
            for spending in [Spending::ObrienFleming, Spending::Pocock] {
                let (now, then) = (spending.spent(alpha, t), spending.spent(alpha, (t + more).min(1.0)));
                prop_assert!(0.0 <= now && now <= then + 1e-15 && then <= alpha + 1e-12, "{now} {then}");
                prop_assert_eq!(spending.spent(alpha, 1.0), alpha);
            }
        }
    }
}
