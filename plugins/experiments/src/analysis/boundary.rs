//! Boundaries of a test that is looked at several times, by recursive numerical integration.
//!
//! P. Armitage, C. K. McPherson, B. C. Rowe, "Repeated significance tests on accumulating data", JRSS A 132 (1969);
//! C. Jennison, B. W. Turnbull, "Group Sequential Methods with Applications to Clinical Trials" (2000), chapter 19. What
//! is followed from look to look is the density of the score `S = Z·√t` of the experiments that go on.

use selvedge_core::Result;
use serde::Serialize;

use super::{Spending, invalid, normal};

/// An increment of the spending below this has no boundary: nothing that double precision can tell lies beyond it.
const NOTHING: f64 = 1e-15;

/// So many standard deviations hold all but 1e-19 of a normal distribution.
const FAR: f64 = 9.0;

/// When it is looked, and how much error is allowed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Looks {
    /// The information at each look, as a fraction of what is planned: rising, above 0, at most 1.
    pub fractions: Vec<f64>,
    /// The error of the whole experiment, of both sides together.
    pub alpha: f64,
    /// 1 or 2.
    pub sides: u8,
    /// How the error is spent.
    pub spending: Spending,
}

impl Looks {
    /// Two-sided O'Brien–Fleming spending of 5 % at these fractions.
    pub fn new(fractions: impl Into<Vec<f64>>) -> Self {
        Self { fractions: fractions.into(), alpha: 0.05, sides: 2, spending: Spending::ObrienFleming }
    }

    /// The same for `count` looks at equal steps.
    pub fn equal(count: u32) -> Self {
        Self::new((1..=count).map(|look| f64::from(look) / f64::from(count)).collect::<Vec<_>>())
    }

    /// The error of one side.
    pub(crate) fn one_sided(&self) -> f64 {
        self.alpha / f64::from(self.sides)
    }

    /// # Errors
    /// `InvalidInput`, naming what is wrong.
    pub(crate) fn check(&self) -> Result<()> {
        if !matches!(self.sides, 1 | 2) {
            return Err(invalid("a test has one side or two").with("sides", self.sides));
        }
        if !(self.alpha > 0.0 && self.one_sided() < 0.5) {
            return Err(invalid("the error must be above 0 and below a half a side").with("alpha", self.alpha));
        }
        if self.fractions.is_empty() {
            return Err(invalid("there is no look").advise("give fractions such as 0.2,0.4,0.6,0.8,1"));
        }
        let mut before = 0.0;
        for &fraction in &self.fractions {
            if !(fraction > 0.0 && fraction <= 1.0) {
                return Err(invalid("a look is above 0 and at most 1").with("look", fraction));
            }
            // Also what keeps the grid of the integration small.
            if fraction - before < 1e-5 {
                return Err(invalid("looks must rise, by 0.00001 at least").with("look", fraction));
            }
            before = fraction;
        }
        Ok(())
    }
}

/// Where an experiment stops.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Boundaries {
    /// The value of |z| (of z, when one-sided) to reach at each look; `None` where the spending is too small for one.
    pub z: Vec<Option<f64>>,
    /// The error of one side that is spent up to each look.
    pub spent: Vec<f64>,
    /// The p-value, of as many sides as the test has, that is as far out as `z`.
    pub nominal_p: Vec<Option<f64>>,
}

/// The boundaries that spend the error as it should be.
///
/// Exact to 1e-6 (compared with rpact 3.3.4).
///
/// ```
/// use selvedge_experiments::analysis::{Looks, bounds};
///
/// let found = bounds(&Looks::equal(5))?;
/// let z: Vec<_> = found.z.into_iter().flatten().collect();
/// for (found, printed) in z.iter().zip([4.87688, 3.35701, 2.68028, 2.28982, 2.03103]) {
///     assert!((found - printed).abs() < 1e-5);
/// }
/// # Ok::<(), selvedge_core::Error>(())
/// ```
///
/// # Errors
/// `InvalidInput` for looks that do not rise within (0, 1], an error outside (0, 1) or another number of sides.
pub fn bounds(looks: &Looks) -> Result<Boundaries> {
    looks.check()?;
    let alpha = looks.one_sided();
    let (mut spent, mut z) = (0.0, Vec::with_capacity(looks.fractions.len()));
    let mut walk = Walk::new(&looks.fractions, 0.0, looks.sides);
    let mut spent_at = Vec::new();
    while let Some(step) = walk.step() {
        let increment = looks.spending.spent(alpha, step.fraction()) - spent;
        let boundary = (increment >= NOTHING).then(|| step.boundary(increment));
        spent += if boundary.is_some() { increment } else { 0.0 };
        spent_at.push(spent);
        z.push(boundary);
        walk.go_on(boundary);
    }
    let sides = f64::from(looks.sides);
    let nominal_p = z.iter().map(|z| z.map(|z| sides * normal::tail(z))).collect();
    Ok(Boundaries { z, spent: spent_at, nominal_p })
}

/// The probability to stop at each look, at these boundaries, when the mean of z is `drift·√t`: power, or with a drift of
/// 0 the false positives of any rule that compares |z| with a number.
///
/// ```
/// use selvedge_experiments::analysis::{Looks, crossing};
///
/// // Who looks ten times and stops at |z| > 1.96 is wrong in 19.3 % of experiments without an effect (McPherson 1974).
/// let looks = Looks::equal(10);
/// let stops = crossing(&looks.fractions, &[Some(1.959964); 10], 0.0, 2)?;
/// assert!((stops.iter().sum::<f64>() - 0.193).abs() < 5e-4);
/// # Ok::<(), selvedge_core::Error>(())
/// ```
///
/// # Errors
/// `InvalidInput` as [`bounds`], or when there is not one boundary for each look.
pub fn crossing(fractions: &[f64], z: &[Option<f64>], drift: f64, sides: u8) -> Result<Vec<f64>> {
    Looks { fractions: fractions.to_vec(), sides, ..Looks::new([]) }.check()?;
    if z.len() != fractions.len() {
        return Err(invalid("each look needs one boundary").with("looks", fractions.len()).with("boundaries", z.len()));
    }
    let mut walk = Walk::new(fractions, drift, sides);
    let mut stops = Vec::with_capacity(z.len());
    for &z in z {
        let Some(step) = walk.step() else { break };
        stops.push(z.map_or(0.0, |z| step.upper(z) + if sides == 2 { step.lower(z) } else { 0.0 }));
        walk.go_on(z);
    }
    Ok(stops)
}

/// The experiments that still go on, from look to look.
struct Walk<'a> {
    fractions: &'a [f64],
    look: usize,
    drift: f64,
    sides: u8,
    /// Points of the score at the last look, and the probability that each stands for.
    points: Vec<(f64, f64)>,
}

/// What happens between the last look and this one.
struct Step<'w> {
    points: &'w [(f64, f64)],
    fraction: f64,
    /// The mean and the standard deviation of what is added to the score.
    mean: f64,
    deviation: f64,
}

impl<'a> Walk<'a> {
    fn new(fractions: &'a [f64], drift: f64, sides: u8) -> Self {
        // At the beginning, all of them have a score of 0.
        Self { fractions, look: 0, drift, sides, points: vec![(0.0, 1.0)] }
    }

    fn step(&self) -> Option<Step<'_>> {
        let fraction = *self.fractions.get(self.look)?;
        let step = fraction - self.look.checked_sub(1).map_or(0.0, |last| self.fractions[last]);
        Some(Step { points: &self.points, fraction, mean: self.drift * step, deviation: step.sqrt() })
    }

    /// On to the next look with those that did not reach the boundary.
    fn go_on(&mut self, z: Option<f64>) {
        let Some(step) = self.step() else { return };
        let root = step.fraction.sqrt();
        let (center, reach) = (self.drift * step.fraction, FAR * root);
        let limit = z.map_or(f64::INFINITY, |z| z * root);
        let high = limit.min(center + reach);
        let low = if self.sides == 2 { (-limit).max(center - reach) } else { center - reach };
        let next = self.fractions.get(self.look + 1).map_or(f64::INFINITY, |next| (next - step.fraction).sqrt());
        // The density bends within a standard deviation of the step before it, the question within one of the step after.
        let panels = ((high - low) / step.deviation.min(next)).ceil().max(1.0);
        let width = (high - low) / panels;
        let mut points = Vec::new();
        if high > low {
            for panel in 0..panels as usize {
                let middle = low + (panel as f64 + 0.5) * width;
                for (node, weight) in GAUSS {
                    for node in [-node, node] {
                        let at = middle + 0.5 * width * node;
                        points.push((at, 0.5 * width * weight * step.density(at)));
                    }
                }
            }
        }
        points.sort_by(|left, right| left.0.total_cmp(&right.0));
        self.points = points;
        self.look += 1;
    }
}

impl Step<'_> {
    fn fraction(&self) -> f64 {
        self.fraction
    }

    /// The density of the score at this look.
    fn density(&self, at: f64) -> f64 {
        let reach = FAR * self.deviation;
        let from = self.points.partition_point(|point| point.0 < at - self.mean - reach);
        let near = self.points[from..].iter().take_while(|point| point.0 <= at - self.mean + reach);
        near.map(|(score, weight)| weight * normal::pdf((at - score - self.mean) / self.deviation)).sum::<f64>()
            / self.deviation
    }

    /// The probability of a z of at least this.
    fn upper(&self, z: f64) -> f64 {
        let limit = z * self.fraction.sqrt() - self.mean;
        self.points.iter().map(|(score, weight)| weight * normal::tail((limit - score) / self.deviation)).sum()
    }

    /// The probability of a z of at most minus this.
    fn lower(&self, z: f64) -> f64 {
        let limit = -z * self.fraction.sqrt() - self.mean;
        self.points.iter().map(|(score, weight)| weight * normal::cdf((limit - score) / self.deviation)).sum()
    }

    /// The z that is exceeded with this probability.
    fn boundary(&self, probability: f64) -> f64 {
        let (mut low, mut high) = (-FAR, FAR);
        while high - low > 1e-11 {
            let middle = 0.5 * (low + high);
            if self.upper(middle) > probability { low = middle } else { high = middle }
        }
        0.5 * (low + high)
    }
}

/// The Gauss–Legendre rule of ten points: nodes above 0 and their weights.
const GAUSS: [(f64, f64); 5] = [
    (0.148_874_338_981_631_21, 0.295_524_224_714_752_87),
    (0.433_395_394_129_247_2, 0.269_266_719_309_996_36),
    (0.679_409_568_299_024_4, 0.219_086_362_515_982_04),
    (0.865_063_366_688_984_5, 0.149_451_349_150_580_6),
    (0.973_906_528_517_171_7, 0.066_671_344_308_688_14),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(looks: &Looks, printed: &[f64]) {
        let found = bounds(looks).expect("bounds");
        for (found, printed) in found.z.iter().map(|z| z.expect("a boundary")).zip(printed) {
            assert!((found - printed).abs() < 1e-5, "{found}, not {printed} of {printed:?}");
        }
        assert_eq!(found.z.len(), printed.len());
    }

    /// rpact 3.3.4: `getDesignGroupSequential(typeOfDesign = "asOF", alpha = 0.05, sided = 2)`.
    #[test]
    fn obrien_fleming_is_rpacts() {
        check(&Looks::equal(1), &[1.959964]);
        check(&Looks::equal(2), &[2.96259, 1.96860]);
        check(&Looks::equal(3), &[3.71030, 2.51143, 1.99305]);
        check(&Looks::equal(4), &[4.33263, 2.96313, 2.35904, 2.01409]);
        check(&Looks::equal(5), &[4.87688, 3.35701, 2.68028, 2.28982, 2.03103]);
        check(&Looks::equal(6), &[5.36656, 3.71034, 2.96974, 2.53868, 2.25219, 2.04479]);
        check(&Looks::equal(8), &[6.23197, 4.33264, 3.48138, 2.97961, 2.64434, 2.40116, 2.21464, 2.06578]);
        check(
            &Looks::equal(10),
            &[6.99135, 4.87689, 3.92968, 3.36708, 2.98933, 2.71481, 2.50408, 2.33583, 2.19750, 2.08118],
        );
        check(&Looks::new([0.3, 0.5, 0.9, 1.0]), &[3.92857, 2.96562, 2.10502, 2.05726]);
    }

    /// rpact 3.3.4: `typeOfDesign = "asP"`, a one-sided test of 2.5 %. The two-sided one of 5 % leaves out who crosses one
    /// side after the other, and so differs in the fifth digit.
    #[test]
    fn pocock_is_rpacts() {
        let printed = [2.43798, 2.42681, 2.41019, 2.39665, 2.38600];
        let one_sided = Looks { spending: Spending::Pocock, alpha: 0.025, sides: 1, ..Looks::equal(5) };
        check(&one_sided, &printed);
        let two_sided = bounds(&Looks { spending: Spending::Pocock, ..Looks::equal(5) }).expect("bounds");
        for (found, printed) in two_sided.z.iter().flatten().zip(printed) {
            assert!((found - printed).abs() < 2e-5, "{found}, not {printed}");
        }
    }

    /// The constants of Pocock and of O'Brien and Fleming for five looks spend 5 % (rpact 3.3.4, "P" and "OF").
    #[test]
    fn classic_boundaries_spend_alpha() {
        let five = Looks::equal(5).fractions;
        for z in [[2.41318; 5], [4.56174, 3.22564, 2.63372, 2.28087, 2.04007]] {
            let spent: f64 = crossing(&five, &z.map(Some), 0.0, 2).expect("crossing").iter().sum();
            assert!((spent - 0.05).abs() < 2e-6, "{spent}");
        }
    }

    #[test]
    fn spending_too_small_has_no_boundary() {
        let found = bounds(&Looks::equal(30)).expect("bounds");
        assert_eq!(found.z[0], None);
        assert!(found.z[29].is_some_and(|z| z > 2.0 && z < 2.2), "{:?}", found.z[29]);
    }

    #[test]
    fn wrong_looks_are_refused() {
        for fractions in [vec![], vec![0.0, 1.0], vec![0.5, 0.5], vec![0.5, 1.2], vec![f64::NAN], vec![0.6, 0.4]] {
            assert!(bounds(&Looks::new(fractions.clone())).is_err(), "{fractions:?}");
        }
        for (alpha, sides) in [(0.0, 2), (1.0, 2), (0.5, 1), (f64::NAN, 2), (0.05, 3), (0.05, 0)] {
            assert!(bounds(&Looks { alpha, sides, ..Looks::equal(2) }).is_err(), "{alpha} {sides}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whatever the times: the error that the boundaries let through is alpha, both sides counted.
        #[test]
        fn all_of_alpha_is_spent(
            steps in proptest::collection::vec(0.01..1.0f64, 1..9),
            alpha in 0.001..0.2f64,
            sides in 1u8..=2,
            obrien in any::<bool>(),
        ) {
            let whole: f64 = steps.iter().sum();
            let mut fractions: Vec<_> = steps
                .iter()
                .scan(0.0, |sum, step| { *sum += step / whole; Some(*sum) })
                .collect();
            if let Some(last) = fractions.last_mut() { *last = 1.0; }
            let spending = if obrien { Spending::ObrienFleming } else { Spending::Pocock };
            let looks = Looks { fractions, alpha, sides, spending };
            let found = bounds(&looks).expect("bounds");
            let stops = crossing(&looks.fractions, &found.z, 0.0, sides).expect("crossing");
            // Who crosses one side and would later have crossed the other is counted once.
            prop_assert!((stops.iter().sum::<f64>() - alpha).abs() < 1e-8, "{stops:?}");
        }

        #[test]
        fn obrien_fleming_falls(count in 2u32..25, alpha in 0.001..0.2f64) {
            let found = bounds(&Looks { alpha, ..Looks::equal(count) }).expect("bounds");
            let z: Vec<_> = found.z.iter().flatten().collect();
            prop_assert!(z.windows(2).all(|pair| pair[0] > pair[1]), "{z:?}");
        }
    }
}
