//! The posterior of an effect: to report by, not to stop by.

use selvedge_core::Result;
use serde::{Deserialize, Serialize};

use super::{Effect, Looks, crossing, invalid, normal};

/// What is believed before the data: a normal distribution of the effect.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prior {
    /// Its mean.
    pub mean: f64,
    /// Its standard deviation.
    pub deviation: f64,
}

/// What is believed after the data.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Posterior {
    /// The mean of the effect.
    pub mean: f64,
    /// Its standard deviation.
    pub deviation: f64,
    /// The credible interval's lower end.
    pub low: f64,
    /// The credible interval's upper end.
    pub high: f64,
    /// The probability that the treated arm is better.
    pub chance_to_win: f64,
    /// What is lost on average if the treated arm is shipped, in the unit of the effect.
    pub loss_if_shipped: f64,
    /// What is lost on average if the control is kept.
    pub loss_if_kept: f64,
    /// How often this interval is wrong when it is looked at again and again.
    pub peeking: Peeking,
}

/// How often an experiment without any effect has, at some look, an interval that excludes zero.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Peeking {
    /// Looks at equal steps, up to these data.
    pub looks: u32,
    /// The share of experiments; 0.05 is what people think it is.
    pub false_positives: f64,
}

/// The posterior of an effect under a prior, or under a flat one.
///
/// The estimate is taken as normal with a known variance, as in gbstats 0.8.0 (`EffectBayesianABTest`). `looks` is how
/// often it was or will be looked, which the posterior does not know of: [`Peeking`] says what that does.
///
/// # Errors
/// `InvalidInput` for a prior without a deviation above 0, and for no look or more than 10,000.
pub fn posterior(effect: &Effect, prior: Option<Prior>, alpha: f64, looks: u32) -> Result<Posterior> {
    if let Some(Prior { mean, deviation }) = prior
        && !(mean.is_finite() && deviation > 0.0 && deviation.is_finite())
    {
        return Err(invalid("a prior has a mean and a deviation above 0")
            .with("mean", mean)
            .with("deviation", deviation));
    }
    let (mean, deviation) = update(effect, prior);
    let (low, high) = credible(effect, prior, alpha);
    let z = mean / deviation;
    let loss_if_kept = mean * normal::cdf(z) + deviation * normal::pdf(z);
    Ok(Posterior {
        mean,
        deviation,
        low,
        high,
        chance_to_win: normal::cdf(z),
        loss_if_shipped: loss_if_kept - mean,
        loss_if_kept,
        peeking: peeking(looks, alpha, effect.standard_error, prior)?,
    })
}

/// The mean and the standard deviation of the posterior.
fn update(effect: &Effect, prior: Option<Prior>) -> (f64, f64) {
    let data = effect.standard_error.powi(-2);
    let (before, center) = prior.map_or((0.0, 0.0), |prior| (prior.deviation.powi(-2), prior.mean));
    let precision = data + before;
    ((effect.estimate * data + center * before) / precision, precision.sqrt().recip())
}

/// The ends of the credible interval.
pub fn credible(effect: &Effect, prior: Option<Prior>, alpha: f64) -> (f64, f64) {
    let (mean, deviation) = update(effect, prior);
    let reach = normal::quantile_of_tail(alpha / 2.0) * deviation;
    (mean - reach, mean + reach)
}

/// How often a rule "stop when the credible interval excludes zero" is wrong, by integration.
///
/// With a standard error `s` at the end, it is `s/√t` at a look, and the posterior's interval excludes zero when
/// `|z + m·s_t/τ²| > z_{α/2}·√(1 + s_t²/τ²)`: a boundary like others. A prior's mean `m` is taken as 0 here.
///
/// # Errors
/// `InvalidInput` for no look or more than 10,000.
pub fn peeking(looks: u32, alpha: f64, standard_error: f64, prior: Option<Prior>) -> Result<Peeking> {
    if !(1..=10_000).contains(&looks) {
        return Err(invalid("looks are counted from 1 to 10,000").with("looks", looks));
    }
    let fractions = Looks::equal(looks).fractions;
    let critical = normal::quantile_of_tail(alpha / 2.0);
    let shrink = prior.map_or(0.0, |prior| (standard_error / prior.deviation).powi(2));
    let z: Vec<_> = fractions.iter().map(|fraction| Some(critical * (1.0 + shrink / fraction).sqrt())).collect();
    let false_positives = crossing(&fractions, &z, 0.0, 2)?.iter().sum();
    Ok(Peeking { looks, false_positives })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::test::{
        relative,
        tests::{arms, close},
    };

    /// gbstats 0.8.0, `EffectBayesianABTest`.
    #[test]
    fn posteriors_are_those_of_gbstats() {
        let (a, b) = arms();
        let effect = relative(&a, &b, 0.05).expect("an effect");
        let flat = posterior(&effect, None, 0.05, 1).expect("a posterior");
        close(flat.chance_to_win, 0.83450874);
        let prior = Prior { mean: 0.0, deviation: 0.3 };
        let proper = posterior(&effect, Some(prior), 0.05, 1).expect("a posterior");
        close(proper.chance_to_win, 0.82633038);
        close(proper.mean, 0.07215103);
        close(proper.loss_if_kept - proper.loss_if_shipped, proper.mean);
    }

    /// McPherson (1974): 5 looks 14.2 %, 10 looks 19.3 %, 20 looks 24.8 %, 50 looks 32.0 %.
    #[test]
    fn a_flat_prior_peeks_like_no_correction_at_all() {
        for (looks, share) in [(1, 0.05), (5, 0.142), (10, 0.193), (20, 0.248), (50, 0.320)] {
            let found = peeking(looks, 0.05, 0.1, None).expect("peeking").false_positives;
            assert!((found - share).abs() < 6e-4, "{looks}: {found}");
        }
    }

    #[test]
    fn a_sceptical_prior_peeks_less_and_still_too_much() {
        let found =
            |deviation| peeking(14, 0.05, 0.04, Some(Prior { mean: 0.0, deviation })).expect("peeking").false_positives;
        assert!(found(0.05) < found(0.1) && found(0.1) < 0.22 && found(0.1) > 0.08, "{} {}", found(0.05), found(0.1));
        let effect = relative(&arms().0, &arms().1, 0.05).expect("an effect");
        assert!(posterior(&effect, Some(Prior { mean: 0.0, deviation: 0.0 }), 0.05, 1).is_err());
        assert!(posterior(&effect, None, 0.05, 0).is_err());
    }
}
