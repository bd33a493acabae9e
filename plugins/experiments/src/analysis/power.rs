//! How many users an experiment takes.

use selvedge_core::Result;
use serde::{Deserialize, Serialize};

use super::{Looks, boundary, bounds, invalid, normal};

/// What the effect is taken to do to the variance of the other arm, which the number of users hangs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variance {
    /// Nothing: what textbooks assume.
    #[default]
    Equal,
    /// More users pay the same: it grows with the lift.
    Volume,
    /// The same users pay more: it grows with the square of the lift.
    Price,
}

impl Variance {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Equal, Self::Volume, Self::Price];

    /// The variance of the treated arm over that of the control, for small shares of payers.
    fn ratio(self, lift: f64) -> f64 {
        match self {
            Self::Equal => 1.0,
            Self::Volume => 1.0 + lift,
            Self::Price => (1.0 + lift) * (1.0 + lift),
        }
    }

    /// Its name: `equal`, `volume` or `price`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Volume => "volume",
            Self::Price => "price",
        }
    }
}

/// How users are divided.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Allocation {
    /// Users of the treated arm for each of the control.
    pub treated_per_control: f64,
}

impl Default for Allocation {
    fn default() -> Self {
        Self { treated_per_control: 1.0 }
    }
}

/// What an experiment is to find, and how surely.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The coefficient of variation of the metric over all exposed users, payers or not: standard deviation over mean.
    pub cv: f64,
    /// The smallest lift to find, as a fraction of the control's mean: 0.1 for 10 %.
    pub lift: f64,
    /// The probability to find it.
    pub power: f64,
    /// When it is looked, and the error allowed.
    pub looks: Looks,
    /// How users are divided.
    pub allocation: Allocation,
    /// What the lift does to the variance.
    pub variance: Variance,
}

impl Plan {
    /// Half of the users each, one look, two-sided 5 %, 80 % power.
    pub fn new(cv: f64, lift: f64) -> Self {
        Self {
            cv,
            lift,
            power: 0.8,
            looks: Looks::equal(1),
            allocation: Allocation::default(),
            variance: Variance::Equal,
        }
    }

    /// The same, with looks at these fractions.
    #[must_use]
    pub fn looks(mut self, looks: Looks) -> Self {
        self.looks = looks;
        self
    }

    fn check(&self) -> Result<()> {
        let wrong = |name: &'static str, value: f64, meant: &str| Err(invalid(meant).with(name, value));
        if !(self.cv > 0.0 && self.cv <= 1e4) {
            return wrong("cv", self.cv, "the coefficient of variation is above 0 and at most 10000");
        }
        if !(self.lift > -1.0 && self.lift.abs() >= 1e-6 && self.lift <= 1e3) {
            return wrong("lift", self.lift, "the lift is a fraction above -1, at least a millionth away from 0");
        }
        if !(self.power > self.looks.alpha && self.power < 1.0) {
            return wrong("power", self.power, "the power lies between the error allowed and 1");
        }
        let ratio = self.allocation.treated_per_control;
        if !(1e-3..=1e3).contains(&ratio) {
            return wrong("allocation", ratio, "one arm has at most a thousand times the users of the other");
        }
        self.looks.check()
    }
}

/// How many users it takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Power {
    /// Users of an arm; with an uneven allocation, of the control.
    pub n_per_arm: u64,
    /// Users of the treated arm.
    pub n_treated: u64,
    /// Both arms together.
    pub n_total: u64,
    /// What it would take if it were looked once, at the end.
    pub n_per_arm_one_look: u64,
    /// What the looks cost: users over those of one look.
    pub inflation: f64,
    /// The boundaries of |z| at each look.
    pub z: Vec<Option<f64>>,
    /// The share of the users that it takes on average if the lift is as planned, since it may stop early.
    pub expected_share: f64,
    /// `n_per_arm` under each assumption about the variance.
    pub by_variance: Vec<ByVariance>,
    /// The article's claim and what is right.
    pub article: Article,
}

/// Users of an arm under an assumption about the variance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ByVariance {
    /// The assumption.
    pub variance: Variance,
    /// Users of an arm; with an uneven allocation, of the control.
    pub n_per_arm: u64,
}

/// "For a 10 % RPU lift at 80 % power and 95 % confidence, expect needing 5,000–10,000 users per variant minimum", with a
/// CV of 3 to 5, says "Server-Driven Paywall A/B Testing That Actually Moves Revenue". Beside it, what the same
/// assumptions give.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Article {
    /// The fewest and the most that it names.
    pub claimed_per_arm: [u64; 2],
    /// What its own assumptions give: one look, a lift of 10 %, 80 % power, for a CV of 3 and of 5.
    pub right_per_arm: [u64; 2],
    /// The power that its numbers of users have for your plan.
    pub power_of_claimed: [f64; 2],
}

/// How many users the plan takes.
///
/// With one look `(z_{α/2} + z_β)²·CV²·(1 + v/r)/lift²` in the control, where `v` is the ratio of the variances and `r`
/// that of the users. With several, times the factor by which the boundaries cost power, which is found by
/// integration. The test is that of the difference of means.
///
/// ```
/// use selvedge_experiments::analysis::{Looks, Plan, power};
///
/// assert_eq!(power(&Plan::new(5.0, 0.10))?.n_per_arm, 39_245);
/// let daily = power(&Plan::new(5.0, 0.10).looks(Looks::equal(14)))?;
/// assert!((daily.inflation - 1.0424).abs() < 1e-4);
/// # Ok::<(), selvedge_core::Error>(())
/// ```
///
/// # Errors
/// `InvalidInput` for a plan that makes no sense, naming what.
pub fn power(plan: &Plan) -> Result<Power> {
    plan.check()?;
    let boundaries = bounds(&plan.looks)?;
    let one = Looks { fractions: vec![1.0], ..plan.looks.clone() };
    let one_look = drift(&one, &bounds(&one)?.z, plan.power)?;
    let drift = drift(&plan.looks, &boundaries.z, plan.power)?;
    let control = |variance, drift| users(plan, variance, drift).ceil() as u64;
    let n_per_arm = control(plan.variance, drift);
    let n_treated = (users(plan, plan.variance, drift) * plan.allocation.treated_per_control).ceil() as u64;
    let stops = boundary::crossing(&plan.looks.fractions, &boundaries.z, drift, plan.looks.sides)?;
    let last = plan.looks.fractions.last().copied().unwrap_or(1.0);
    let stopped: f64 = stops.iter().sum();
    let expected: f64 = stops.iter().zip(&plan.looks.fractions).map(|(stop, fraction)| stop * fraction).sum();
    Ok(Power {
        n_per_arm,
        n_treated,
        n_total: n_per_arm + n_treated,
        n_per_arm_one_look: control(plan.variance, one_look),
        inflation: (drift / one_look).powi(2),
        z: boundaries.z,
        expected_share: expected + (1.0 - stopped) * last,
        by_variance: Variance::ALL
            .map(|variance| ByVariance { variance, n_per_arm: control(variance, drift) })
            .to_vec(),
        article: article(plan, one_look)?,
    })
}

/// Users of the control for which z has this mean at the end.
fn users(plan: &Plan, variance: Variance, drift: f64) -> f64 {
    let per_user = 1.0 + variance.ratio(plan.lift) / plan.allocation.treated_per_control;
    (drift * plan.cv / plan.lift).powi(2) * per_user
}

/// The mean of z at the end for which the boundaries are reached with this probability.
fn drift(looks: &Looks, z: &[Option<f64>], power: f64) -> Result<f64> {
    let reached =
        |drift| -> Result<f64> { Ok(boundary::crossing(&looks.fractions, z, drift, looks.sides)?.iter().sum()) };
    let (mut low, mut high) = (0.0, 1.0);
    while reached(high)? < power {
        high *= 2.0;
    }
    while high - low > 1e-9 {
        let middle = 0.5 * (low + high);
        if reached(middle)? < power { low = middle } else { high = middle }
    }
    Ok(0.5 * (low + high))
}

fn article(plan: &Plan, one_look: f64) -> Result<Article> {
    let claimed_per_arm = [5_000, 10_000];
    let right = |cv| -> Result<u64> {
        let own = Plan::new(cv, 0.10);
        let drift = drift(&own.looks, &bounds(&own.looks)?.z, own.power)?;
        Ok(users(&own, own.variance, drift).ceil() as u64)
    };
    let critical = normal::quantile_of_tail(plan.looks.one_sided());
    let needed = users(plan, plan.variance, one_look);
    let power_of_claimed = claimed_per_arm.map(|claimed| {
        let drift = one_look * (claimed as f64 / needed).sqrt();
        let other = if plan.looks.sides == 2 { normal::cdf(-critical - drift) } else { 0.0 };
        normal::tail(critical - drift) + other
    });
    Ok(Article { claimed_per_arm, right_per_arm: [right(3.0)?, right(5.0)?], power_of_claimed })
}

/// The coefficient of variation of revenue per user, from the share of users that pay and the coefficient of variation
/// among those: `√((1 + cv²)/p − 1)`.
///
/// ```
/// use selvedge_experiments::analysis::power::cv_of_all;
/// // Two payers in a hundred make 8.4, far above the 3 to 5 that are often assumed.
/// assert!((cv_of_all(0.02, 0.66)? - 8.41).abs() < 0.01);
/// # Ok::<(), selvedge_core::Error>(())
/// ```
///
/// # Errors
/// `InvalidInput` for a share outside (0, 1] or a negative coefficient.
pub fn cv_of_all(payers: f64, cv_of_payers: f64) -> Result<f64> {
    if !(payers > 0.0 && payers <= 1.0 && cv_of_payers >= 0.0 && cv_of_payers.is_finite()) {
        return Err(invalid("payers are a share above 0 and at most 1, their CV is 0 or more")
            .with("payers", payers)
            .with("cv_of_payers", cv_of_payers));
    }
    Ok(((1.0 + cv_of_payers * cv_of_payers) / payers - 1.0).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(plan: Plan) -> u64 {
        power(&plan).expect("power").n_per_arm
    }

    /// statsmodels 0.15.0: `NormalIndPower().solve_power`, rounded up.
    #[test]
    fn one_look_is_the_textbooks() {
        for (cv, lift, users) in [(3.0, 0.10, 14_128), (4.0, 0.10, 25_117), (5.0, 0.10, 39_245), (5.0, 0.05, 156_978)] {
            assert_eq!(n(Plan::new(cv, lift)), users, "{cv} {lift}");
        }
        let article = power(&Plan::new(5.0, 0.10)).expect("power").article;
        assert_eq!(article.right_per_arm, [14_128, 39_245]);
        assert!(article.power_of_claimed[0] < 0.18 && article.power_of_claimed[1] < 0.30, "{article:?}");
    }

    /// rpact 3.3.4: `getDesignCharacteristics(getDesignGroupSequential(typeOfDesign = "asOF", beta = 0.2))$inflationFactor`.
    #[test]
    fn looks_cost_what_rpact_says() {
        for (looks, factor) in [(2, 1.00373), (3, 1.01280), (4, 1.01964), (5, 1.02472), (10, 1.03777), (14, 1.04242)] {
            let found = power(&Plan::new(5.0, 0.10).looks(Looks::equal(looks))).expect("power").inflation;
            assert!((found - factor).abs() < 1e-5, "{looks} looks: {found}, not {factor}");
        }
    }

    #[test]
    fn uneven_arms_and_a_growing_variance_take_more() {
        let even = power(&Plan::new(5.0, 0.10)).expect("power");
        let uneven = Plan { allocation: Allocation { treated_per_control: 0.25 }, ..Plan::new(5.0, 0.10) };
        let uneven = power(&uneven).expect("power");
        // (1 + 4)·(1 + 1/4)/4 times as many in all.
        let ratio = uneven.n_total as f64 / even.n_total as f64;
        assert!((ratio - 1.5625).abs() < 1e-4, "{ratio}");
        let by: Vec<_> = even.by_variance.iter().map(|by| by.n_per_arm).collect();
        assert_eq!(by, [39_245, 41_207, 43_365]);
    }

    #[test]
    fn senseless_plans_are_refused() {
        for (cv, lift) in [(0.0, 0.1), (f64::NAN, 0.1), (5.0, 0.0), (5.0, -1.0), (5.0, f64::NAN), (5.0, f64::INFINITY)]
        {
            assert!(power(&Plan::new(cv, lift)).is_err(), "{cv} {lift}");
        }
        for power_ in [0.0, 0.05, 1.0, f64::NAN] {
            assert!(power(&Plan { power: power_, ..Plan::new(5.0, 0.1) }).is_err(), "{power_}");
        }
    }
}
