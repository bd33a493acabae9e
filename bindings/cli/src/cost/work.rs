//! What a request costs an API and takes of a node, on average: sums over requests, and means of the sums.

use std::ops::{Add, Sub};

use super::{log::Request, traffic::is_batch};

/// How fast a node works when it is full, in tokens a second over all its streams.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Speed {
    pub(crate) prompt: f64,
    pub(crate) completion: f64,
}

impl Speed {
    /// Seconds of a whole node that a request takes.
    fn seconds(self, request: &Request) -> f64 {
        self.reading(request) + f64::from(request.completion) / self.completion
    }

    /// Seconds until its prompt is read.
    pub(crate) fn reading(self, request: &Request) -> f64 {
        f64::from(request.prompt) / self.prompt
    }
}

/// Dollars per million tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ApiPrice {
    pub(crate) prompt: f64,
    pub(crate) completion: f64,
}

impl ApiPrice {
    fn of(self, request: &Request) -> f64 {
        (f64::from(request.prompt) * self.prompt + f64::from(request.completion) * self.completion) / 1e6
    }
}

/// Sums over some requests. They add up, so those of a run of requests are a difference of two sums.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sums {
    requests: f64,
    tokens: f64,
    api: f64,
    seconds: f64,
    interactive: f64,
    interactive_seconds: f64,
    interactive_squares: f64,
}

impl Sums {
    pub(crate) fn of(request: &Request, price: ApiPrice, speed: Speed) -> Self {
        let seconds = speed.seconds(request);
        let interactive = if is_batch(request) { 0.0 } else { 1.0 };
        Self {
            requests: 1.0,
            tokens: f64::from(request.prompt) + f64::from(request.completion),
            api: price.of(request),
            seconds,
            interactive,
            interactive_seconds: interactive * seconds,
            interactive_squares: interactive * seconds * seconds,
        }
    }
}

impl Add for Sums {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            tokens: self.tokens + other.tokens,
            api: self.api + other.api,
            seconds: self.seconds + other.seconds,
            interactive: self.interactive + other.interactive,
            interactive_seconds: self.interactive_seconds + other.interactive_seconds,
            interactive_squares: self.interactive_squares + other.interactive_squares,
        }
    }
}

impl Sub for Sums {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self {
            requests: self.requests - other.requests,
            tokens: self.tokens - other.tokens,
            api: self.api - other.api,
            seconds: self.seconds - other.seconds,
            interactive: self.interactive - other.interactive,
            interactive_seconds: self.interactive_seconds - other.interactive_seconds,
            interactive_squares: self.interactive_squares - other.interactive_squares,
        }
    }
}

/// The average request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Work {
    /// Dollars at the API.
    pub(crate) api: f64,
    pub(crate) tokens: f64,
    /// Seconds of a whole node.
    pub(crate) seconds: f64,
    /// The share of requests that a person waits for: all but batch.
    pub(crate) interactive: f64,
    /// Seconds of a whole node that one of those takes.
    pub(crate) interactive_seconds: f64,
    /// The variance of that over its squared mean.
    pub(crate) interactive_scv: f64,
}

impl Work {
    pub(crate) fn of(sums: Sums) -> Self {
        let mean = |sum: f64, count: f64| if count > 0.0 { sum / count } else { 0.0 };
        let seconds = mean(sums.interactive_seconds, sums.interactive);
        let squares = mean(sums.interactive_squares, sums.interactive);
        // Rounding may leave a variance of nothing below zero.
        let scv = if seconds > 0.0 { (squares / (seconds * seconds) - 1.0).max(0.0) } else { 0.0 };
        Self {
            api: mean(sums.api, sums.requests),
            tokens: mean(sums.tokens, sums.requests),
            seconds: mean(sums.seconds, sums.requests),
            interactive: mean(sums.interactive, sums.requests),
            interactive_seconds: seconds,
            interactive_scv: scv,
        }
    }
}

#[cfg(test)]
mod tests {
    use selvedge::scheduler::Class;

    use super::*;

    #[test]
    fn the_average_request_is_that_of_its_parts() {
        let price = ApiPrice { prompt: 2.0, completion: 8.0 };
        let speed = Speed { prompt: 1_000.0, completion: 100.0 };
        let request =
            |prompt, completion, class| Request { at: 0.0, prompt, completion, ttft: None, latency: None, class };
        let sums = [request(1_000, 100, Class::P0), request(3_000, 0, Class::P1), request(0, 700, Class::P2)]
            .iter()
            .fold(Sums::default(), |sums, request| sums + Sums::of(request, price, speed));
        let work = Work::of(sums);
        let close = |one: f64, other: f64| assert!((one - other).abs() < 1e-12, "{one} is not {other} in {work:?}");
        close(work.api, (0.0028 + 0.006 + 0.0056) / 3.0);
        close(work.tokens, 4_800.0 / 3.0);
        close(work.seconds, (2.0 + 3.0 + 7.0) / 3.0);
        close(work.interactive, 2.0 / 3.0);
        close(work.interactive_seconds, 2.5);
        close(work.interactive_scv, 0.04);
        assert_eq!(Work::of(Sums::default()).interactive_scv, 0.0);
    }
}
