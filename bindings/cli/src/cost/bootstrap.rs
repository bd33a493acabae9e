//! How far a result may be off because the log is a sample: the circular block bootstrap.
//!
//! The log is drawn again many times from blocks of requests that followed each other, since requests of one session resemble one
//! another and drawing them one by one would make the sample look larger than it is (D. N. Politis and J. P. Romano, "A circular
//! block-resampling procedure for stationary data", 1992). Blocks have n^(1/3) requests, the usual order. Sums of a block are
//! differences of running sums, so a log of millions of requests takes no longer to draw than its blocks are many.

use fastrand::Rng;
use serde::Serialize;

use super::work::Sums;

/// Running sums over a log.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    running: Vec<Sums>,
}

impl Sample {
    pub(crate) fn of(requests: impl Iterator<Item = Sums>) -> Self {
        let mut running = vec![Sums::default()];
        let mut sum = Sums::default();
        running.extend(requests.map(|request| {
            sum = sum + request;
            sum
        }));
        Self { running }
    }

    fn len(&self) -> usize {
        self.running.len() - 1
    }

    /// The sums of the log itself.
    pub(crate) fn whole(&self) -> Sums {
        self.before(self.len())
    }

    fn before(&self, index: usize) -> Sums {
        self.running.get(index).copied().unwrap_or_default()
    }

    /// The sums of a log of the same length that is drawn from blocks of this one.
    pub(crate) fn draw(&self, random: &mut Rng) -> Sums {
        let count = self.len();
        let block = (count as f64).cbrt().ceil() as usize;
        let mut sums = Sums::default();
        let mut left = count;
        while left > 0 {
            let length = block.min(left);
            let (start, end) = {
                let start = random.usize(..count);
                (start, start + length)
            };
            // The log is a ring: a block that goes over its end goes on at its beginning.
            sums = sums + self.before(end.min(count)) - self.before(start) + self.before(end.saturating_sub(count));
            left -= length;
        }
        sums
    }
}

/// Where 95 % of the draws lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Interval {
    pub(crate) low: f64,
    /// `None` when too many draws have no such volume.
    pub(crate) high: Option<f64>,
}

impl Interval {
    /// From draws, `None` for one without a result. It is widened to the point estimate where that lies outside, so that it
    /// never speaks against the number that it stands beside.
    pub(crate) fn of(point: f64, draws: impl Iterator<Item = Option<f64>>) -> Self {
        let mut draws: Vec<f64> = draws.map(|draw| draw.unwrap_or(f64::INFINITY)).collect();
        draws.sort_by(f64::total_cmp);
        let at = |share| super::traffic::quantile(&draws, share).unwrap_or(point);
        let high = at(0.975).max(point);
        Self { low: at(0.025).min(point), high: high.is_finite().then_some(high) }
    }
}

#[cfg(test)]
mod tests {
    // Named, because proptest has another.
    use fastrand::Rng;
    use proptest::prelude::*;
    use selvedge::scheduler::Class;

    use super::*;
    use crate::cost::{
        log::Request,
        work::{ApiPrice, Speed, Work},
    };

    fn sample(tokens: &[u32]) -> Sample {
        let speed = Speed { prompt: 1.0, completion: 1.0 };
        Sample::of(tokens.iter().map(|&prompt| {
            let request = Request { at: 0.0, prompt, completion: 0, ttft: None, latency: None, class: Class::P0 };
            Sums::of(&request, ApiPrice { prompt: 1e6, completion: 0.0 }, speed)
        }))
    }

    #[test]
    fn the_interval_of_a_mean_is_as_wide_as_theory_says_and_covers_it_as_often() {
        // Means of 400 uniform numbers below 1,000: the standard error is 1000/√12/20 = 14.4.
        let mut random = Rng::with_seed(1);
        let (mut covered, mut width) = (0, 0.0);
        for _ in 0..200 {
            let log: Vec<u32> = (0..400).map(|_| random.u32(..1_000)).collect();
            let sample = sample(&log);
            let draws: Vec<_> = (0..300).map(|_| Some(Work::of(sample.draw(&mut random)).api)).collect();
            let interval = Interval::of(Work::of(sample.whole()).api, draws.into_iter());
            let high = interval.high.expect("every draw has a mean");
            covered += u32::from((interval.low..=high).contains(&499.5));
            width += (high - interval.low) / 200.0;
        }
        assert!((48.0..62.0).contains(&width), "{width}, and 2·1.96·14.4 = 56.6");
        assert!((175..=200).contains(&covered), "{covered} of 200");
    }

    #[test]
    fn requests_that_resemble_their_neighbours_tell_less() {
        let width = |log: &[u32]| {
            let (sample, mut random) = (sample(log), Rng::with_seed(2));
            let draws: Vec<_> = (0..500).map(|_| Some(Work::of(sample.draw(&mut random)).api)).collect();
            let interval = Interval::of(Work::of(sample.whole()).api, draws.into_iter());
            interval.high.expect("every draw has a mean") - interval.low
        };
        let mut random = Rng::with_seed(3);
        let sessions: Vec<u32> = (0..100).flat_map(|_| [random.u32(..1_000); 10]).collect();
        let mut shuffled = sessions.clone();
        random.shuffle(&mut shuffled);
        assert!(width(&sessions) > 1.8 * width(&shuffled), "{} and {}", width(&sessions), width(&shuffled));
    }

    #[test]
    fn draws_without_a_result_open_the_interval() {
        let draws = |without: usize| (0..100).map(move |index| (index >= without).then_some(5.0));
        assert_eq!(Interval::of(5.0, draws(2)), Interval { low: 5.0, high: Some(5.0) });
        assert_eq!(Interval::of(5.0, draws(3)), Interval { low: 5.0, high: None });
        assert_eq!(Interval::of(5.0, std::iter::empty()), Interval { low: 5.0, high: Some(5.0) });
    }

    proptest! {
        #[test]
        fn a_seed_repeats_a_draw_and_a_draw_is_as_long_as_the_log(
            log in proptest::collection::vec(1u32..10_000, 1..200), seed in any::<u64>(),
        ) {
            let sample = sample(&log);
            let draw = || Work::of(sample.draw(&mut Rng::with_seed(seed)));
            prop_assert_eq!(draw(), draw());
            let (least, most) = (log.iter().min().copied(), log.iter().max().copied());
            let mean = draw().api;
            prop_assert!(mean >= f64::from(least.unwrap_or_default()) - 1e-6);
            prop_assert!(mean <= f64::from(most.unwrap_or_default()) + 1e-6);
        }

        #[test]
        fn an_interval_covers_its_point(
            point in 1.0..1e6, draws in proptest::collection::vec(proptest::option::of(1.0..1e6), 0..60),
        ) {
            let interval = Interval::of(point, draws.into_iter());
            prop_assert!(interval.low <= point && interval.high.is_none_or(|high| high >= point));
        }
    }
}
