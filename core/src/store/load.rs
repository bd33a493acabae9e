use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// How many jobs a Store had ever taken in at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadSample {
    /// The moment, by the Store's clock.
    pub at: Timestamp,
    /// Jobs ever enqueued. A Store may count numbers that it gave out and that no job has, so this is an upper bound.
    pub enqueued: u64,
}

/// What a Store knows of its load: samples of the last day, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LoadHistory {
    /// The Store's clock when this was read.
    pub now: Timestamp,
    /// The samples. [`Store::maintain`](super::Store::maintain) takes them, so there are none while nobody calls it.
    pub samples: Vec<LoadSample>,
}

impl LoadHistory {
    /// A sample is taken about this often: 10 seconds.
    pub const EVERY: Duration = Duration::from_secs(10);
    /// Samples are kept this long: a day.
    pub const KEEP: Duration = Duration::from_secs(86_400);

    /// Whether a sample is to be taken at `now`, when the latest was taken at `last`. Pure: every Store uses this rule.
    pub fn is_due(last: Option<Timestamp>, now: Timestamp) -> bool {
        // After the clock stepped back, what is later than now says nothing.
        last.is_none_or(|last| last > now || last + Self::EVERY <= now)
    }
}

/// The rate at which a queue has outgrown its Store: the line that a meter is read against.
///
/// ```
/// use std::time::Duration;
/// use selvedge_core::{Timestamp, store::{Ceiling, LoadHistory, LoadSample}};
///
/// // 900 jobs a second for two minutes.
/// let second = Duration::from_secs(1);
/// let sample = |n: u32| LoadSample { at: Timestamp(0) + second * n, enqueued: u64::from(n) * 900 };
/// let history = LoadHistory { now: Timestamp(0) + second * 120, samples: (0..=12).map(|n| sample(n * 10)).collect() };
///
/// let load = Ceiling::new(1_000.0).measure(&history);
/// assert_eq!(load.rate, Some(900.0));
/// assert_eq!(load.headroom, Some(100.0));
/// assert_eq!(load.over_for, second * 110); // over 80 % of the ceiling since the first rate that was seen
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// Jobs a second.
    pub jobs_per_second: f64,
    /// The share of it, 0 to 1, from which on the queue counts as over it.
    pub share: f64,
}

/// How far a queue is from its [`Ceiling`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Load {
    /// The ceiling, in jobs a second.
    pub ceiling: f64,
    /// Jobs enqueued a second, over the last minute; `None` while there are not enough samples, or no recent ones.
    pub rate: Option<f64>,
    /// Jobs a second that are left to the ceiling; negative above it.
    pub headroom: Option<f64>,
    /// How long the rate has been over the share of the ceiling, without a break; at most [`LoadHistory::KEEP`].
    pub over_for: Duration,
}

impl Default for Ceiling {
    fn default() -> Self {
        Self::new(Self::JOBS_PER_SECOND)
    }
}

impl Ceiling {
    /// The ceiling unless another is given: 1,000 jobs a second. It is where to begin, not what a server was measured to keep
    /// up with: a job a millisecond is much for one team's work, and little for one database.
    pub const JOBS_PER_SECOND: f64 = 1_000.0;
    /// A rate is counted over this long, so that one burst is not a trend: a minute.
    pub const WINDOW: Duration = Duration::from_secs(60);
    /// Without a sample for this long nothing is known: two minutes.
    pub const STALE: Duration = Duration::from_secs(120);
    /// The share from which on a queue counts as over its ceiling, unless another is given: 0.8.
    pub const SHARE: f64 = 0.8;

    /// A ceiling of so many jobs a second.
    pub fn new(jobs_per_second: f64) -> Self {
        Self { jobs_per_second, share: Self::SHARE }
    }

    /// Sets the share of the ceiling from which on the queue counts as over it, 0 to 1.
    #[must_use]
    pub fn share(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// Reads the meter. Pure.
    ///
    /// The rate at a sample is that of the minute before it; between samples further apart than that it is their average. A
    /// count that went down, as after a backup was restored, starts anew.
    pub fn measure(&self, history: &LoadHistory) -> Load {
        let end = history.samples.partition_point(|sample| sample.at <= history.now);
        let samples = &history.samples[..end];
        let nothing = Load { ceiling: self.jobs_per_second, rate: None, headroom: None, over_for: Duration::ZERO };
        let Some(last) = samples.last() else { return nothing };
        if history.now.since(last.at) > Self::STALE {
            return nothing;
        }
        let Some(rate) = rate_at(samples, samples.len() - 1) else { return nothing };
        let limit = self.jobs_per_second * self.share;
        let is_over = |index: &usize| rate_at(samples, *index).is_some_and(|rate| rate >= limit);
        let since = (0..samples.len()).rev().take_while(is_over).last();
        Load {
            rate: Some(rate),
            headroom: Some(self.jobs_per_second - rate),
            over_for: since.map_or(Duration::ZERO, |since| history.now.since(samples[since].at)),
            ..nothing
        }
    }
}

/// Jobs a second over the minute before a sample; `None` for the first, and where the count starts anew.
fn rate_at(samples: &[LoadSample], index: usize) -> Option<f64> {
    let end = samples[index];
    let mut begin = None;
    for (steps, window) in samples[..=index].windows(2).rev().enumerate() {
        let [earlier, later] = [window[0], window[1]];
        let too_early = end.at.since(earlier.at) > Ceiling::WINDOW;
        if earlier.enqueued > later.enqueued || earlier.at >= later.at || (too_early && steps > 0) {
            break;
        }
        begin = Some(earlier);
        if too_early {
            break;
        }
    }
    begin.map(|begin| (end.enqueued - begin.enqueued) as f64 / end.at.since(begin.at).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000;

    fn history(steps: impl IntoIterator<Item = (i64, u64)>) -> LoadHistory {
        let (mut at, mut enqueued) = (0, 0);
        let mut samples = vec![LoadSample { at: Timestamp(0), enqueued: 0 }];
        for (seconds, jobs) in steps {
            (at, enqueued) = (at + seconds * SECOND, enqueued + jobs);
            samples.push(LoadSample { at: Timestamp(at), enqueued });
        }
        LoadHistory { now: Timestamp(at), samples }
    }

    proptest! {
        #[test]
        fn a_steady_rate_is_what_is_shown_and_over_for_as_long_as_it_was_seen(
            rate in 0u64..3_000, every in 1i64..300, count in 1usize..60,
        ) {
            let history = history((0..count).map(|_| (every, rate * every as u64)));
            let load = Ceiling::new(1_000.0).measure(&history);
            prop_assert!((load.rate.unwrap() - rate as f64).abs() < 1e-6, "{load:?}");
            prop_assert!((load.headroom.unwrap() - (1_000.0 - rate as f64)).abs() < 1e-6);
            let seen = Duration::from_secs(every as u64 * (count as u64 - 1));
            prop_assert_eq!(load.over_for, if rate >= 800 { seen } else { Duration::ZERO });
        }

        #[test]
        fn it_is_over_only_when_the_rate_of_the_moment_is(
            steps in proptest::collection::vec((1i64..200, 0u64..400_000), 1..60), share in 0.1f64..=1.0,
        ) {
            let history = history(steps);
            let ceiling = Ceiling::new(1_000.0).share(share);
            let load = ceiling.measure(&history);
            if load.rate.unwrap() < 1_000.0 * share {
                prop_assert_eq!(load.over_for, Duration::ZERO);
            }
            prop_assert!(load.over_for <= history.now.since(history.samples[0].at));
            // A higher ceiling is never crossed for longer.
            let higher = Ceiling { jobs_per_second: 2_000.0, ..ceiling }.measure(&history);
            prop_assert!(higher.over_for <= load.over_for);
        }

        #[test]
        fn no_samples_make_it_panic_or_show_a_rate_below_nothing(
            now in any::<i64>(), samples in proptest::collection::vec((any::<i64>(), any::<u64>()), 0..20),
        ) {
            let samples = samples.into_iter().map(|(at, enqueued)| LoadSample { at: Timestamp(at), enqueued }).collect();
            let load = Ceiling::new(1_000.0).measure(&LoadHistory { now: Timestamp(now), samples });
            prop_assert!(load.rate.is_none_or(|rate| rate >= 0.0));
        }

        #[test]
        fn a_sample_is_due_once_in_ten_seconds(last in -100i64..100, now in -100i64..100) {
            let due = LoadHistory::is_due(Some(Timestamp(last * SECOND)), Timestamp(now * SECOND));
            prop_assert_eq!(due, !(last..last + 10).contains(&now));
            prop_assert!(LoadHistory::is_due(None, Timestamp(now)));
        }
    }

    #[test]
    fn a_burst_of_ten_seconds_is_no_trend_and_a_quiet_one_breaks_none() {
        let ceiling = Ceiling::new(1_000.0);
        let burst = history((0..12).map(|n| (10, if n == 11 { 20_000 } else { 0 })));
        assert_eq!(ceiling.measure(&burst).over_for, Duration::ZERO);
        let quiet = history((0..30).map(|n| (10, if n == 15 { 5_000 } else { 10_000 })));
        assert_eq!(ceiling.measure(&quiet).over_for, Duration::from_secs(290));
    }

    #[test]
    fn what_is_old_or_alone_says_nothing_and_a_restored_count_starts_anew() {
        let ceiling = Ceiling::new(1_000.0);
        assert_eq!(ceiling.measure(&LoadHistory::default()).rate, None);
        assert_eq!(ceiling.measure(&history([])).rate, None);
        let mut old = history([(10, 10_000)]);
        old.now = old.now + Ceiling::STALE + Duration::from_secs(1);
        assert_eq!((ceiling.measure(&old).rate, ceiling.measure(&old).over_for), (None, Duration::ZERO));
        let mut restored = history([(10, 10_000), (10, 10_000), (10, 10_000)]);
        restored.samples[2].enqueued = 3;
        restored.samples[3].enqueued = 103;
        assert_eq!(ceiling.measure(&restored).rate, Some(10.0));
        let mut ahead = history([(10, 100), (10, 10_000)]);
        ahead.now = Timestamp(10 * SECOND);
        assert_eq!(ceiling.measure(&ahead).rate, Some(10.0));
    }
}
