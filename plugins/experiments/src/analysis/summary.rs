//! What is kept of the users of a variation: counts and sums, so that ten million of them take no memory.

use serde::Serialize;

/// A sum to twice the precision of `f64`, so that neither the order of the rows nor their number shows in it.
///
/// T. J. Dekker, "A floating-point technique for extending the available precision", Numerische Mathematik 18 (1971).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sum {
    high: f64,
    low: f64,
}

impl Sum {
    /// Adds a value.
    #[inline]
    pub fn add(&mut self, value: f64) {
        let sum = self.high + value;
        let part = sum - self.high;
        self.low += (self.high - (sum - part)) + (value - part);
        self.high = sum;
    }

    /// Adds the product of two values, its rounding error included.
    #[inline]
    pub fn add_product(&mut self, left: f64, right: f64) {
        let product = left * right;
        self.add(product);
        self.low += left.mul_add(right, -product);
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: Self) {
        self.add(other.high);
        self.low += other.low;
    }

    /// The sum.
    pub fn value(self) -> f64 {
        self.high + self.low
    }

    /// Adds `factor` times another sum.
    fn add_scaled(&mut self, other: Self, factor: f64) {
        self.add_product(other.high, factor);
        self.add_product(other.low, factor);
    }
}

/// Number, sum and sum of squares of values.
///
/// ```
/// use selvedge_experiments::analysis::Moments;
/// let revenue: Moments = [0.0, 0.0, 9.99, 29.99].into_iter().collect();
/// assert_eq!((revenue.n, revenue.sum()), (4, 39.98));
/// assert!((revenue.mean() - 9.995).abs() < 1e-12);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    /// How many values.
    pub n: u64,
    sum: Sum,
    squares: Sum,
}

impl Moments {
    /// Adds a value.
    #[inline]
    pub fn add(&mut self, value: f64) {
        self.n += 1;
        if value != 0.0 {
            self.sum.add(value);
            self.squares.add_product(value, value);
        }
    }

    /// Adds `n` values of 0.
    pub fn add_zeros(&mut self, n: u64) {
        self.n += n;
    }

    /// Adds the values of another.
    pub fn merge(&mut self, other: &Self) {
        self.n += other.n;
        self.sum.merge(other.sum);
        self.squares.merge(other.squares);
    }

    /// The sum of the values.
    pub fn sum(&self) -> f64 {
        self.sum.value()
    }

    /// Their mean; 0 of none.
    pub fn mean(&self) -> f64 {
        if self.n == 0 { 0.0 } else { self.sum() / self.n as f64 }
    }

    /// Their variance, with n − 1; 0 of fewer than two.
    pub fn variance(&self) -> f64 {
        covariance(self, self, self.squares)
    }

    /// Standard deviation over mean; 0 where the mean is.
    pub fn cv(&self) -> f64 {
        if self.mean() == 0.0 { 0.0 } else { self.variance().sqrt() / self.mean().abs() }
    }

    /// As a test takes it.
    pub fn arm(&self) -> Arm {
        Arm { n: self.n, mean: self.mean(), unadjusted: self.mean(), variance: self.variance() }
    }
}

impl FromIterator<f64> for Moments {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut moments = Self::default();
        values.into_iter().for_each(|value| moments.add(value));
        moments
    }
}

/// The covariance of two values that the same users have, from the sum of their products; 0 of fewer than two users.
pub fn covariance(left: &Moments, right: &Moments, products: Sum) -> f64 {
    if left.n < 2 {
        return 0.0;
    }
    // Σ(x − a)(y − b) holds for any a and b near the means, and loses nothing to cancellation.
    let (a, b) = (left.mean(), right.mean());
    let mut sum = products;
    sum.add_scaled(right.sum, -a);
    sum.add_scaled(left.sum, -b);
    let mut whole = Sum::default();
    whole.add_product(a, b);
    sum.add_scaled(whole, left.n as f64);
    sum.value() / (left.n - 1) as f64
}

/// What a test knows of one arm.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Arm {
    /// Users.
    pub n: u64,
    /// The mean, adjusted or not.
    pub mean: f64,
    /// The mean without adjustment, which relative effects are relative to.
    pub unadjusted: f64,
    /// The variance of a user's value.
    pub variance: f64,
}

impl Arm {
    /// Of `n` users of whom `of_them` did something.
    pub fn proportion(of_them: u64, n: u64) -> Self {
        let mean = if n == 0 { 0.0 } else { of_them as f64 / n as f64 };
        Self { n, mean, unadjusted: mean, variance: mean * (1.0 - mean) }
    }

    /// The variance of the mean.
    pub fn error(&self) -> f64 {
        self.variance / self.n as f64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch(values: &[f64]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        (mean, values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0))
    }

    fn near(left: f64, right: f64) -> bool {
        (left - right).abs() <= 1e-10 * left.abs().max(right.abs()).max(1e-9)
    }

    #[test]
    fn a_large_mean_does_not_swamp_the_variance() {
        let moments: Moments = (0..1_000_000).map(|n| 1e9 + f64::from(n % 2)).collect();
        assert!(near(moments.variance(), 0.25 * 1_000_000.0 / 999_999.0), "{}", moments.variance());
    }

    #[test]
    fn ten_million_cents_are_summed_to_the_cent() {
        let moments: Moments = (0..10_000_000).map(|_| 0.01).collect();
        assert!((moments.sum() - 100_000.0).abs() < 1e-9, "{}", moments.sum());
    }

    proptest! {
        #[test]
        fn streaming_equals_batch(values in proptest::collection::vec(-1e4..1e4f64, 2..300)) {
            let moments: Moments = values.iter().copied().collect();
            let (mean, variance) = batch(&values);
            prop_assert!((moments.mean() - mean).abs() < 1e-9);
            prop_assert!(near(moments.variance(), variance));
        }

        #[test]
        fn parts_may_be_merged_in_any_way(
            values in proptest::collection::vec(-1e4..1e4f64, 3..300),
            cuts in (0.0..1.0f64, 0.0..1.0f64),
        ) {
            let at = |share: f64| (share * values.len() as f64) as usize;
            let (first, second) = (at(cuts.0).min(at(cuts.1)), at(cuts.0).max(at(cuts.1)));
            let part = |range: std::ops::Range<usize>| values[range].iter().copied().collect::<Moments>();
            let (a, b, c) = (part(0..first), part(first..second), part(second..values.len()));
            let (mut left, mut right) = (a, b);
            left.merge(&b);
            left.merge(&c);
            right.merge(&c);
            let mut other = a;
            other.merge(&right);
            let whole: Moments = values.iter().copied().collect();
            for merged in [left, other] {
                prop_assert_eq!(merged.n, whole.n);
                prop_assert!(near(merged.sum(), whole.sum()) && near(merged.variance(), whole.variance()));
            }
        }
    }
}

/// Moments from the sums that references give.
#[cfg(test)]
pub(crate) mod tests_support {
    use super::{Moments, Sum};

    pub(crate) fn sum(high: f64) -> Sum {
        Sum { high, low: 0.0 }
    }

    pub(crate) fn moments(n: u64, total: f64, squares: f64) -> Moments {
        Moments { n, sum: sum(total), squares: sum(squares) }
    }
}
