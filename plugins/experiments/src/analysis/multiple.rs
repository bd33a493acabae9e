//! Several variations against one control: each comparison is another chance to be wrong.

use serde::{Deserialize, Serialize};

/// How p-values are corrected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Correction {
    /// The chance of any false finding is kept: S. Holm, Scandinavian Journal of Statistics 6 (1979).
    #[default]
    Holm,
    /// The share of false ones among the findings is kept: Y. Benjamini, Y. Hochberg, JRSS B 57 (1995).
    BenjaminiHochberg,
}

impl Correction {
    /// The corrected p-values, in the order of those given.
    ///
    /// ```
    /// use selvedge_experiments::analysis::Correction;
    /// assert_eq!(Correction::Holm.adjust(&[0.01, 0.04, 0.03]), [0.03, 0.06, 0.06]);
    /// ```
    pub fn adjust(self, p: &[f64]) -> Vec<f64> {
        let mut order: Vec<_> = (0..p.len()).collect();
        order.sort_by(|&left, &right| p[left].total_cmp(&p[right]));
        let mut adjusted = vec![0.0; p.len()];
        let count = p.len();
        match self {
            Self::Holm => {
                let mut least = 0.0f64;
                for (rank, &index) in order.iter().enumerate() {
                    least = least.max((p[index] * (count - rank) as f64).min(1.0));
                    adjusted[index] = least;
                }
            }
            Self::BenjaminiHochberg => {
                let mut most = 1.0f64;
                for (rank, &index) in order.iter().enumerate().rev() {
                    most = most.min(p[index] * (count as f64 / (rank + 1) as f64));
                    adjusted[index] = most;
                }
            }
        }
        adjusted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// R 4: `p.adjust(c(0.005, 0.02, 0.021, 0.4), method)`.
    #[test]
    fn corrections_are_rs() {
        let p = [0.4, 0.02, 0.005, 0.021];
        let close = |found: Vec<f64>, wanted: [f64; 4]| {
            assert!(found.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-12), "{found:?}");
        };
        close(Correction::Holm.adjust(&p), [0.4, 0.06, 0.02, 0.06]);
        close(Correction::BenjaminiHochberg.adjust(&p), [0.4, 0.028, 0.02, 0.028]);
    }

    proptest! {
        #[test]
        fn corrected_values_are_no_smaller_and_in_the_same_order(p in proptest::collection::vec(0.0..1.0f64, 1..12)) {
            let (holm, bh) = (Correction::Holm.adjust(&p), Correction::BenjaminiHochberg.adjust(&p));
            for index in 0..p.len() {
                prop_assert!(p[index] <= bh[index] && bh[index] <= holm[index] + 1e-15 && holm[index] <= 1.0);
                for other in 0..p.len() {
                    if p[index] <= p[other] {
                        prop_assert!(holm[index] <= holm[other] && bh[index] <= bh[other]);
                    }
                }
            }
        }
    }
}
