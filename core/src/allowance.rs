//! What a tenant or an API key may use of the models.
//!
//! An [`Allowance`] has up to three limits. A call that stands under [`Allowances`] (its [`Context`](crate::Context) names
//! them) passes all of them or is refused with `RateLimited`, which says when to come back and which limit it was:
//!
//! | limit | is kept in | is settled |
//! | --- | --- | --- |
//! | requests a minute | a bucket of the quotas' Store; large ones are taken some at a time | never: a request counts however it ends |
//! | tokens a minute | a bucket of the quotas' Store | when the answer ends: the estimate was the prompt and the most tokens of the answer |
//! | concurrent requests | claims in the Store, one for each place | when the answer ends, or when a claim runs out |
//!
//! The limits hold over all processes that share the Stores.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::store::TokenBucket;

/// The limits of a tenant or key. None are set at first.
///
/// ```
/// use selvedge_core::allowance::Allowance;
///
/// let trial = Allowance::new().requests_per_minute(20).tokens_per_minute(10_000).concurrent(2);
/// assert_eq!(trial.tokens_per_minute, Some(10_000));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// The most requests a minute, and at once.
    pub requests_per_minute: Option<u64>,
    /// The most tokens a minute, and at once: those of the prompt and those of the answer.
    pub tokens_per_minute: Option<u64>,
    /// The most requests at a time.
    pub concurrent: Option<u32>,
    /// How long a request may take while `concurrent` is limited; after that it is stopped, so that the place of a process
    /// that crashed can be given to another by then.
    pub hold: Duration,
}

impl Allowance {
    /// How long a request may take while `concurrent` is limited, unless set: ten minutes.
    pub const HOLD: Duration = Duration::from_secs(600);

    /// No limits.
    pub fn new() -> Self {
        Self { requests_per_minute: None, tokens_per_minute: None, concurrent: None, hold: Self::HOLD }
    }

    /// Sets the most requests a minute.
    #[must_use]
    pub fn requests_per_minute(mut self, most: u64) -> Self {
        self.requests_per_minute = Some(most);
        self
    }

    /// Sets the most tokens a minute.
    #[must_use]
    pub fn tokens_per_minute(mut self, most: u64) -> Self {
        self.tokens_per_minute = Some(most);
        self
    }

    /// Sets the most requests at a time.
    #[must_use]
    pub fn concurrent(mut self, most: u32) -> Self {
        self.concurrent = Some(most);
        self
    }

    /// Sets how long a request may take while `concurrent` is limited.
    #[must_use]
    pub fn hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }

    /// Whether it limits nothing.
    pub fn is_unlimited(&self) -> bool {
        self.requests_per_minute.is_none() && self.tokens_per_minute.is_none() && self.concurrent.is_none()
    }

    /// What to take at admission for a prompt and an answer of at most so many tokens. An answer is estimated at no more than
    /// the bucket ever holds beside the prompt: what it takes beyond that is a debt when it is settled. `None` when the
    /// prompt alone is more than the bucket ever holds.
    ///
    /// ```
    /// use selvedge_core::allowance::Allowance;
    ///
    /// assert_eq!(Allowance::estimate(1_000, 200, 500), Some(700));
    /// assert_eq!(Allowance::estimate(1_000, 200, 5_000), Some(1_000));
    /// assert_eq!(Allowance::estimate(1_000, 1_001, 0), None);
    /// ```
    pub fn estimate(tokens_per_minute: u64, prompt: usize, answer: usize) -> Option<u64> {
        let (prompt, answer) = (prompt as u64, answer as u64);
        (prompt <= tokens_per_minute).then(|| prompt.saturating_add(answer).min(tokens_per_minute))
    }
}

impl Default for Allowance {
    fn default() -> Self {
        Self::new()
    }
}

/// One of an allowance's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// Requests a minute.
    Requests,
    /// Tokens a minute.
    Tokens,
    /// Requests at a time.
    Concurrent,
}

impl Limit {
    /// Its name in configurations, errors and metrics: `requests_per_minute`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests_per_minute",
            Self::Tokens => "tokens_per_minute",
            Self::Concurrent => "concurrent",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How much of a limit was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// The limit.
    pub limit: u64,
    /// What is left of it now.
    pub remaining: u64,
    /// When all of it is there again, if nobody takes any. After a refusal: when to come back.
    pub reset: Duration,
}

impl Left {
    pub(crate) fn of(rule: TokenBucket, remaining: u64) -> Self {
        Self { limit: rule.capacity, remaining, reset: rule.full_in(remaining) }
    }

    pub(crate) fn none(rule: TokenBucket, reset: Duration) -> Self {
        Self { limit: rule.capacity, remaining: 0, reset }
    }
}

/// How the latest call found its allowances: of several, the one with the least left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Requests a minute, if they are limited.
    pub requests: Option<Left>,
    /// Tokens a minute, if they are limited.
    pub tokens: Option<Left>,
    /// The limit that refused the call.
    pub refused: Option<Limit>,
}

/// The allowances that a call must keep to, each under the name by which all processes know it. Clones share their
/// [`standing`](Allowances::standing).
///
/// ```
/// use selvedge_core::{Context, allowance::{Allowance, Allowances}};
///
/// let acme = ("tenant/acme", Allowance::new().tokens_per_minute(100_000));
/// let phone = ("key/phone", Allowance::new().requests_per_minute(60).concurrent(1));
/// let allowances = Allowances::new([acme, phone]);
/// let cx = Context::new().with_allowances(allowances.clone());
/// // … `engine.chat(&cx, …)` keeps to both; then:
/// assert_eq!(allowances.standing().refused, None);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Allowances(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    all: Vec<(Arc<str>, Allowance)>,
    standing: Mutex<Standing>,
}

impl Allowances {
    /// These allowances; those that limit nothing are left out.
    pub fn new<N: Into<Arc<str>>>(all: impl IntoIterator<Item = (N, Allowance)>) -> Self {
        let all = all.into_iter().filter(|(_, allowance)| !allowance.is_unlimited());
        let all = all.map(|(name, allowance)| (name.into(), allowance)).collect();
        Self(Arc::new(Inner { all, standing: Mutex::default() }))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.all.is_empty()
    }

    /// Each, with its name.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Allowance)> {
        self.0.all.iter().map(|(name, allowance)| (name, allowance))
    }

    /// How the latest call found them.
    pub fn standing(&self) -> Standing {
        *self.0.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a call.
    pub(crate) fn begin(&self) {
        *self.0.standing.lock().unwrap_or_else(PoisonError::into_inner) = Standing::default();
    }

    /// Notes what is left of a limit, if that is less than what is known.
    pub(crate) fn note(&self, limit: Limit, left: Left) {
        let mut standing = self.0.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match limit {
            Limit::Requests => &mut standing.requests,
            Limit::Tokens => &mut standing.tokens,
            Limit::Concurrent => return,
        };
        if known.is_none_or(|known| left.remaining < known.remaining) {
            *known = Some(left);
        }
    }

    pub(crate) fn refuse(&self, limit: Limit) {
        self.0.standing.lock().unwrap_or_else(PoisonError::into_inner).refused = Some(limit);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_estimate_covers_the_prompt_and_fits_the_bucket(most in 0u64..1_000, prompt in 0usize..1_500, answer: usize) {
            match Allowance::estimate(most, prompt, answer) {
                Some(estimate) => prop_assert!(estimate >= prompt as u64 && estimate <= most),
                None => prop_assert!(prompt as u64 > most),
            }
        }

        #[test]
        fn the_least_is_what_stands(all in proptest::collection::vec(0u64..100, 1..5)) {
            let allowances = Allowances::new([("a", Allowance::new().requests_per_minute(100))]);
            for remaining in &all {
                allowances.note(Limit::Requests, Left::of(TokenBucket::per_minute(100), *remaining));
            }
            let left = allowances.standing().requests.map(|left| left.remaining);
            prop_assert_eq!(left, all.into_iter().min());
        }
    }
}
