//! What a log says of its traffic: how much, how bursty, and how long the texts are.

use selvedge::{Error, ErrorKind, Result, scheduler::Class};
use serde::Serialize;

use super::{MONTH, log::Request};

const HOUR: f64 = 3_600.0;
/// The busiest of fewer hours than a day says nothing of a day.
const HOURS_FOR_PEAK: usize = 24;
/// Of fewer requests an hour the busiest hour is mostly chance.
const REQUESTS_AN_HOUR: f64 = 30.0;
/// Counts in windows of this many seconds: longer than the whole seconds that OpenAI's `created` has.
const WINDOW: f64 = 10.0;
/// Below this many requests in the busiest hour its windows are mostly empty.
const REQUESTS_FOR_BURSTS: usize = 100;

/// A distribution in four numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
}

/// What a log says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Traffic {
    pub(crate) requests: usize,
    /// From the first to the last.
    pub(crate) days: f64,
    /// At this rate; `None` when all came at once.
    pub(crate) requests_per_month: Option<f64>,
    /// The busiest hour over the mean one; `None` when the log is too short or too thin to tell.
    pub(crate) peak: Option<f64>,
    /// Variance over mean of the counts in the busiest hour; `None` when that hour has too few requests.
    pub(crate) burstiness: Option<f64>,
    /// The share of batch requests, P2.
    pub(crate) batch: f64,
    pub(crate) prompt_tokens: Spread,
    pub(crate) completion_tokens: Spread,
    /// Seconds, of the requests that say.
    pub(crate) ttft: Option<Spread>,
    pub(crate) latency: Option<Spread>,
}

impl Traffic {
    /// Of requests in the order in which they came, at least one.
    pub(crate) fn of(requests: &[Request]) -> Self {
        let times: Vec<f64> = requests.iter().map(|request| request.at).collect();
        let span = span(&times);
        let of = |value: fn(&Request) -> Option<f64>| Spread::of(requests.iter().filter_map(value).collect());
        let empty = Spread { mean: 0.0, p50: 0.0, p95: 0.0, p99: 0.0 };
        Self {
            requests: requests.len(),
            days: span / 86_400.0,
            // So many gaps fit into the span, one fewer than requests.
            requests_per_month: (span > 0.0).then(|| (times.len() - 1) as f64 / span * MONTH),
            peak: peak(&times),
            burstiness: burstiness(&times),
            batch: requests.iter().filter(|request| is_batch(request)).count() as f64 / requests.len().max(1) as f64,
            prompt_tokens: of(|request| Some(request.prompt.into())).unwrap_or(empty),
            completion_tokens: of(|request| Some(request.completion.into())).unwrap_or(empty),
            ttft: of(|request| request.ttft),
            latency: of(|request| request.latency),
        }
    }
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let quantile = |share| quantile(&values, share);
        Some(Self {
            mean: values.iter().sum::<f64>() / values.len() as f64,
            p50: quantile(0.5)?,
            p95: quantile(0.95)?,
            p99: quantile(0.99)?,
        })
    }
}

/// The smallest of the sorted values that at least this share does not exceed.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// Whether it may wait until the machine is idle.
pub(crate) fn is_batch(request: &Request) -> bool {
    request.class == Class::P2
}

/// Tokens a second, prompt and completion, of the busiest minute: what served the log can do at least that much.
///
/// # Errors
/// `InvalidInput` when the log is shorter than a minute.
pub(crate) fn busiest_minute(requests: &[Request]) -> Result<f64> {
    let times: Vec<f64> = requests.iter().map(|request| request.at).collect();
    if span(&times) < 60.0 {
        return Err(Error::new(ErrorKind::InvalidInput, "cost.capacity", "the log is shorter than a minute")
            .advise("give what a node does with --tokens-per-second, or a longer log"));
    }
    let (mut first, mut tokens, mut most) = (0, 0.0_f64, 0.0_f64);
    let count = |request: &Request| f64::from(request.prompt) + f64::from(request.completion);
    for request in requests {
        tokens += count(request);
        while let Some(old) = requests.get(first).filter(|old| request.at - old.at >= 60.0) {
            tokens -= count(old);
            first += 1;
        }
        most = most.max(tokens);
    }
    Ok(most / 60.0)
}

fn span(times: &[f64]) -> f64 {
    match times {
        [first, .., last] => last - first,
        _ => 0.0,
    }
}

/// Counts in windows of so many seconds from a start on, for as many as fit before an end.
fn counts(times: &[f64], start: f64, end: f64, window: f64) -> Vec<usize> {
    let mut counts = vec![0_usize; ((end - start) / window) as usize];
    for time in times {
        let index = ((time - start) / window).floor();
        if index >= 0.0
            && let Some(count) = counts.get_mut(index as usize)
        {
            *count += 1;
        }
    }
    counts
}

/// The hours of a log, whole ones from its first request on.
fn hours(times: &[f64]) -> Vec<usize> {
    match times {
        [first, .., last] => counts(times, *first, *last, HOUR),
        _ => Vec::new(),
    }
}

fn peak(times: &[f64]) -> Option<f64> {
    let hours = hours(times);
    let mean = hours.iter().sum::<usize>() as f64 / hours.len().max(1) as f64;
    let known = hours.len() >= HOURS_FOR_PEAK && mean >= REQUESTS_AN_HOUR;
    let most = hours.iter().max().filter(|_| known)?;
    Some(*most as f64 / mean)
}

/// The index of dispersion of the busiest hour. For arrivals whose gaps are independent it tends to the squared coefficient of
/// variation of the gaps, which is what a queue asks for; and it does not mind that times are rounded to seconds.
fn burstiness(times: &[f64]) -> Option<f64> {
    let start = *times.first()?;
    let (busiest, most) = hours(times).into_iter().enumerate().max_by_key(|(_, count)| *count)?;
    if most < REQUESTS_FOR_BURSTS {
        return None;
    }
    let from = start + busiest as f64 * HOUR;
    let counts = counts(times, from, from + HOUR, WINDOW);
    let mean = counts.iter().sum::<usize>() as f64 / counts.len() as f64;
    let variance = counts.iter().map(|count| (*count as f64 - mean).powi(2)).sum::<f64>() / (counts.len() as f64 - 1.0);
    Some(variance / mean)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(at: f64) -> Request {
        Request { at, prompt: 10, completion: 5, ttft: None, latency: None, class: Class::P0 }
    }

    fn every(seconds: f64, count: usize) -> Vec<Request> {
        (0..count).map(|index| at(index as f64 * seconds)).collect()
    }

    #[test]
    fn a_steady_log_has_no_peak_and_no_bursts() {
        let traffic = Traffic::of(&every(10.0, 8_641));
        assert_eq!(traffic.requests_per_month, Some(262_800.0));
        assert_eq!(traffic.days, 1.0);
        assert!((traffic.peak.expect("a day") - 1.0).abs() < 0.01);
        assert!(traffic.burstiness.expect("360 an hour") < 0.01);
        assert_eq!(traffic.prompt_tokens, Spread { mean: 10.0, p50: 10.0, p95: 10.0, p99: 10.0 });
    }

    #[test]
    fn requests_at_random_are_as_bursty_as_a_poisson_process() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut now = 0.0;
        let mut poisson: Vec<Request> = Vec::new();
        for _ in 0..20_000 {
            now += -(1.0 - random.f64()).ln() * 5.0;
            // Whole seconds, as `created` has.
            poisson.push(at(f64::floor(now)));
        }
        let burstiness = Traffic::of(&poisson).burstiness.expect("720 an hour");
        assert!((0.7..1.4).contains(&burstiness), "{burstiness}");
        // The same in pairs.
        let pairs: Vec<Request> = poisson.iter().flat_map(|request| [*request, *request]).collect();
        let paired = Traffic::of(&pairs).burstiness.expect("1,440 an hour");
        assert!((paired / burstiness - 2.0).abs() < 1e-9, "{paired}");
    }

    #[test]
    fn a_busy_hour_is_found_and_a_short_or_thin_log_says_nothing() {
        let mut busy = every(60.0, 48 * 60 + 1);
        busy.extend((0..180).map(|index| at(10.0 * HOUR + f64::from(index) * 20.0)));
        busy.sort_by(|one, other| one.at.total_cmp(&other.at));
        let peak = Traffic::of(&busy).peak.expect("two days");
        // 60 an hour, and 240 in one of 48.
        assert!((peak - 240.0 / (60.0 + 180.0 / 48.0)).abs() < 1e-9, "{peak}");
        assert_eq!(Traffic::of(&every(60.0, 60 * 23)).peak, None);
        assert_eq!(Traffic::of(&every(600.0, 6 * 48)).peak, None);
        assert_eq!(Traffic::of(&every(60.0, 60 * 23)).burstiness, None);
        let once = Traffic::of(&[at(5.0)]);
        assert_eq!((once.requests_per_month, once.peak, once.burstiness), (None, None, None));
    }

    #[test]
    fn the_busiest_minute_is_what_is_served_at_least() {
        assert_eq!(busiest_minute(&every(10.0, 100)).expect("long enough"), 15.0 * 6.0 / 60.0);
        let mut busy = every(60.0, 100);
        busy.extend((0..9).map(|_| at(6_000.0)));
        assert_eq!(busiest_minute(&busy).expect("long enough"), 15.0 * 9.0 / 60.0);
        let error = busiest_minute(&every(1.0, 60)).expect_err("59 seconds").to_string();
        assert!(error.contains("--tokens-per-second"), "{error}");
    }

    proptest! {
        #[test]
        fn quantiles_are_values_in_order(mut values in proptest::collection::vec(0.0..1e6, 1..50), share in 0.0..1.0) {
            values.sort_by(f64::total_cmp);
            let value = quantile(&values, share).expect("there are values");
            prop_assert!(values.contains(&value));
            prop_assert!(quantile(&values, 1.0) == values.last().copied() && value <= values[values.len() - 1]);
            let within = values.iter().filter(|other| **other <= value).count() as f64;
            prop_assert!(within >= share * values.len() as f64);
        }
    }
}
