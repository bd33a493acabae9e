//! Does the effect last, or was it the novelty.

use serde::Serialize;

use super::{Day, Effect, Moments, normal, test};

/// The lift among the users who were first exposed on one day.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DayLift {
    /// The day.
    pub day: String,
    /// The relative lift; `None` where nothing can be compared.
    pub lift: Option<Effect>,
}

/// How the lift changes from day to day.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Novelty {
    /// The lift by day of first exposure.
    pub by_day: Vec<DayLift>,
    /// The change of the relative lift a day, by weighted least squares; `None` below three days.
    pub slope: Option<f64>,
    /// The two-sided p-value of no change.
    pub p: Option<f64>,
}

/// The lift by day and its trend, from the control's and the treated users of each day.
pub fn novelty(days: &[(Day, Moments, Moments)], alpha: f64) -> Novelty {
    let lifts: Vec<_> =
        days.iter().map(|(_, control, treated)| test::relative(&control.arm(), &treated.arm(), alpha)).collect();
    let points: Vec<_> = days
        .iter()
        .zip(&lifts)
        .filter_map(|(day, lift)| lift.map(|lift| (day.0.number as f64, lift.estimate, lift.standard_error.powi(-2))))
        .collect();
    let trend = trend(&points);
    let by_day = days.iter().zip(lifts).map(|(day, lift)| DayLift { day: day.0.to_string(), lift }).collect();
    Novelty { by_day, slope: trend.map(|trend| trend.0), p: trend.map(|trend| trend.1) }
}

/// The slope of points with weights, and the p-value of a slope of 0.
fn trend(points: &[(f64, f64, f64)]) -> Option<(f64, f64)> {
    if points.len() < 3 {
        return None;
    }
    let weight: f64 = points.iter().map(|point| point.2).sum();
    let middle = points.iter().map(|point| point.0 * point.2).sum::<f64>() / weight;
    let spread: f64 = points.iter().map(|point| point.2 * (point.0 - middle).powi(2)).sum();
    let slope = points.iter().map(|point| point.2 * (point.0 - middle) * point.1).sum::<f64>() / spread;
    let p = 2.0 * normal::tail(slope.abs() * spread.sqrt());
    (spread > 0.0).then_some((slope, p))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(lift: impl Fn(i64) -> f64) -> Vec<(Day, Moments, Moments)> {
        let mut rng = fastrand::Rng::with_seed(3);
        let mut draw = |lift: f64| (0..4_000).map(|_| (1.0 + lift) * 2.0 * rng.f64()).collect::<Moments>();
        (0..14).map(|day| (Day::date(day), draw(0.0), draw(lift(day)))).collect()
    }

    #[test]
    fn an_effect_that_wears_off_is_seen() {
        let fading = novelty(&days(|day| 0.2 - 0.014 * day as f64), 0.05);
        assert!(fading.slope.is_some_and(|slope| (slope + 0.014).abs() < 0.004), "{fading:?}");
        assert!(fading.p.is_some_and(|p| p < 1e-6));
        let lasting = novelty(&days(|_| 0.1), 0.05);
        assert!(lasting.p.is_some_and(|p| p > 0.01), "{:?}", lasting.p);
        assert_eq!(novelty(&days(|_| 0.1)[..2], 0.05).slope, None);
    }
}
