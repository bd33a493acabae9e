//! Are there as many users in each arm as there should be.

use selvedge_core::Result;
use serde::Serialize;

use super::{invalid, normal};

/// Below this p-value the arms are not comparable, whatever they show.
pub const MISMATCH: f64 = 0.001;

/// The sample-ratio test.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SampleRatio {
    /// Users that each arm should have.
    pub expected: Vec<f64>,
    /// χ².
    pub chi_squared: f64,
    /// The probability of ratios as far off as these, or farther, if nothing is wrong.
    pub p: f64,
    /// Whether p is at least 0.001. If not, exposures get lost in one arm, or are counted twice: find out, do not decide.
    pub holds: bool,
}

/// Compares the numbers of users with the shares that the arms were to have, by the χ² test.
///
/// ```
/// use selvedge_experiments::analysis::sample_ratio;
/// // gbstats 0.8.0: `check_srm([5000, 5200], [0.5, 0.5])`.
/// let found = sample_ratio(&[5_000, 5_200], &[0.5, 0.5])?;
/// assert!((found.p - 0.04767038).abs() < 1e-8 && found.holds);
/// # Ok::<(), selvedge_core::Error>(())
/// ```
///
/// # Errors
/// `InvalidInput` unless there are two arms or more, each with a weight above 0, and a user.
pub fn sample_ratio(users: &[u64], weights: &[f64]) -> Result<SampleRatio> {
    let fine = |weight: &f64| *weight > 0.0 && weight.is_finite();
    if users.len() < 2 || users.len() != weights.len() || !weights.iter().all(fine) {
        return Err(invalid("two arms or more, each with a weight above 0, can be compared")
            .with("arms", users.len())
            .with("weights", format!("{weights:?}")));
    }
    let (all, whole) = (users.iter().sum::<u64>() as f64, weights.iter().sum::<f64>());
    if all == 0.0 {
        return Err(invalid("there is no user"));
    }
    let expected: Vec<_> = weights.iter().map(|weight| all * weight / whole).collect();
    let chi_squared =
        users.iter().zip(&expected).map(|(&found, expected)| (found as f64 - expected).powi(2) / expected).sum();
    let p = normal::chi_squared_tail(chi_squared, (users.len() - 1) as f64);
    Ok(SampleRatio { expected, chi_squared, p, holds: p >= MISMATCH })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// gbstats 0.8.0: `check_srm`.
    #[test]
    fn three_arms_are_as_in_gbstats() {
        let found = sample_ratio(&[500, 500, 560], &[0.34, 0.33, 0.33]).expect("a ratio");
        assert!((found.p - 0.04650298).abs() < 1e-8, "{found:?}");
        let lost = sample_ratio(&[10_000, 9_000], &[1.0, 1.0]).expect("a ratio");
        assert!(!lost.holds, "{lost:?}");
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        for (users, weights) in
            [(vec![5], vec![1.0]), (vec![5, 5], vec![1.0]), (vec![5, 5], vec![1.0, 0.0]), (vec![0, 0], vec![1.0, 1.0])]
        {
            assert!(sample_ratio(&users, &weights).is_err(), "{users:?} {weights:?}");
        }
    }
}
