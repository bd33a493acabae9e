use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result, Timestamp};

/// A token bucket's rule: it holds at most `capacity` tokens and gains `refill` tokens evenly over each `per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenBucket {
    /// The most tokens it holds: the largest burst.
    pub capacity: u64,
    /// Tokens gained over each `per`.
    pub refill: u64,
    /// The time over which `refill` tokens are gained.
    pub per: Duration,
}

const MICRO: i128 = 1_000_000;

impl TokenBucket {
    /// `refill` tokens a minute, with a burst of as many.
    pub fn per_minute(refill: u64) -> Self {
        Self { capacity: refill, refill, per: Duration::from_secs(60) }
    }

    /// Does what is asked with a bucket in `state` at `now`. Pure: every Store uses this rule.
    ///
    /// Over any span of time no more than `capacity + refill × span / per` tokens are granted: what is gained is rounded
    /// down to millionths of a token. A clock that steps back gains nothing and takes nothing away. Settling is never
    /// refused: it may leave a debt, which is gained back before anything is granted again.
    ///
    /// ```
    /// use selvedge_core::{Timestamp, store::{Ask, Taken, TokenBucket}};
    ///
    /// let rule = TokenBucket::per_minute(60);
    /// let (state, taken) = rule.apply(None, Timestamp(0), Ask::Spend(60));
    /// assert_eq!(taken, Taken::Granted { remaining: 0 });
    /// let (state, taken) = rule.apply(Some(state), Timestamp(500_000), Ask::Spend(1));
    /// assert_eq!(taken, Taken::Denied { retry_after: std::time::Duration::from_millis(500) });
    /// // 60 were an estimate; 40 of them were not needed.
    /// let (_, taken) = rule.apply(Some(state), Timestamp(500_000), Ask::Settle(-40));
    /// assert_eq!(taken, Taken::Granted { remaining: 40 });
    /// ```
    pub fn apply(&self, state: Option<Bucket>, now: Timestamp, ask: Ask) -> (Bucket, Taken) {
        let full = i128::from(self.capacity) * MICRO;
        let mut bucket = match state {
            None => Bucket { micro_tokens: full, refilled_at: now },
            Some(bucket) => Bucket {
                micro_tokens: bucket.micro_tokens.saturating_add(self.gained(now.since(bucket.refilled_at))).min(full),
                refilled_at: bucket.refilled_at.max(now),
            },
        };
        let taken = match ask {
            Ask::Settle(by) => {
                bucket.micro_tokens = bucket.micro_tokens.saturating_sub(i128::from(by) * MICRO).min(full);
                Taken::Granted { remaining: bucket.tokens() }
            }
            Ask::Spend(amount) => {
                let wanted = i128::from(amount) * MICRO;
                if wanted <= bucket.micro_tokens {
                    bucket.micro_tokens -= wanted;
                    Taken::Granted { remaining: bucket.tokens() }
                } else if wanted > full || self.refill == 0 {
                    Taken::Never
                } else {
                    Taken::Denied { retry_after: self.time_to_gain(wanted.saturating_sub(bucket.micro_tokens)) }
                }
            }
        };
        (bucket, taken)
    }

    /// How long a bucket with so many tokens takes to be full, if nobody takes any. `Duration::MAX` when it gains none.
    ///
    /// ```
    /// use selvedge_core::store::TokenBucket;
    ///
    /// let rule = TokenBucket::per_minute(60);
    /// assert_eq!(rule.full_in(60), std::time::Duration::ZERO);
    /// assert_eq!(rule.full_in(50), std::time::Duration::from_secs(10));
    /// ```
    pub fn full_in(&self, tokens: u64) -> Duration {
        match self.capacity.saturating_sub(tokens) {
            0 => Duration::ZERO,
            _ if self.refill == 0 => Duration::MAX,
            missing => self.time_to_gain(i128::from(missing) * MICRO),
        }
    }

    /// Millionths of a token gained in a time.
    fn gained(&self, time: Duration) -> i128 {
        let gained = time.as_micros().saturating_mul(u128::from(self.refill)).saturating_mul(MICRO as u128);
        i128::try_from(gained / self.per.as_micros().max(1)).unwrap_or(i128::MAX)
    }

    /// The time in which so many millionths of a token are gained. There must be a refill.
    fn time_to_gain(&self, micro_tokens: i128) -> Duration {
        let missing = micro_tokens.unsigned_abs().saturating_mul(self.per.as_micros().max(1));
        let micros = missing.div_ceil(u128::from(self.refill.max(1)) * MICRO as u128);
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

/// What a Store keeps of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Millionths of a token in it; less than none is a debt.
    pub micro_tokens: i128,
    /// When it was last filled up.
    pub refilled_at: Timestamp,
}

impl Bucket {
    /// Whole tokens in it; none when there is a debt.
    pub fn tokens(&self) -> u64 {
        u64::try_from(self.micro_tokens.max(0) / MICRO).unwrap_or(u64::MAX)
    }
}

/// What is asked of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// So many tokens, or none and the time to come back.
    Spend(u64),
    /// Corrects an estimate that was spent before: what was used beyond it is charged, and what was not used (below zero)
    /// is given back, up to the capacity. Never refused: it may leave a debt.
    Settle(i64),
}

/// Asks something of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Take {
    /// The bucket's name: `tenant/acme/tokens`.
    pub bucket: String,
    /// Its rule; a changed rule applies from this call on.
    pub rule: TokenBucket,
    /// What is asked.
    pub ask: Ask,
}

impl Take {
    /// `amount` tokens from `bucket`, which follows `rule`.
    pub fn new(bucket: impl Into<String>, rule: TokenBucket, amount: u64) -> Self {
        Self { bucket: bucket.into(), rule, ask: Ask::Spend(amount) }
    }

    /// Corrects an estimate that was granted by what was used.
    ///
    /// ```
    /// use selvedge_core::store::{Ask, Take, TokenBucket};
    ///
    /// let rule = TokenBucket::per_minute(1_000);
    /// assert_eq!(Take::settle("acme", rule, 500, 120).ask, Ask::Settle(-380));
    /// assert_eq!(Take::settle("acme", rule, 100, 120).ask, Ask::Settle(20));
    /// ```
    pub fn settle(bucket: impl Into<String>, rule: TokenBucket, estimate: u64, used: u64) -> Self {
        let by = i128::from(used) - i128::from(estimate);
        let by = i64::try_from(by).unwrap_or(if by < 0 { i64::MIN } else { i64::MAX });
        Self { bucket: bucket.into(), rule, ask: Ask::Settle(by) }
    }
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Taken {
    /// The tokens are yours.
    Granted {
        /// Whole tokens left.
        remaining: u64,
    },
    /// Not enough yet; nothing was taken.
    Denied {
        /// When there will be enough, if nobody else takes any.
        retry_after: Duration,
    },
    /// More than the bucket ever holds; nothing was taken.
    Never,
}

impl Taken {
    /// The tokens, or an error a caller can pass on.
    ///
    /// # Errors
    /// `RateLimited` with `retry_after`, or `InvalidInput` when the bucket never holds so many.
    pub fn granted(self, bucket: &str) -> Result<u64> {
        match self {
            Self::Granted { remaining } => Ok(remaining),
            Self::Denied { retry_after } => {
                Err(Error::new(ErrorKind::RateLimited, "store.take", "the quota is used up")
                    .with("bucket", bucket)
                    .retry_in(retry_after))
            }
            Self::Never => Err(Error::new(
                ErrorKind::InvalidInput,
                "store.take",
                "asks for more than the quota ever allows at once",
            )
            .with("bucket", bucket)
            .advise("ask for less, or raise the capacity")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_span_of_time_grants_more_than_its_bound(
            capacity in 0u64..100, refill in 0u64..100, per_ms in 1u64..10_000,
            steps in proptest::collection::vec((-50_000i64..500_000, 0u64..40), 1..100),
        ) {
            let rule = TokenBucket { capacity, refill, per: Duration::from_millis(per_ms) };
            let (mut state, mut now, mut granted) = (None, 0i64, 0u64);
            // The span begins with the first call: a bucket is full when it is first seen.
            let (mut first, mut latest) = (None, i64::MIN);
            for (step, amount) in steps {
                now += step;
                latest = latest.max(now);
                let span = latest - *first.get_or_insert(now);
                let (next, taken) = rule.apply(state, Timestamp(now), Ask::Spend(amount));
                state = Some(next);
                if matches!(taken, Taken::Granted { .. }) {
                    granted += amount;
                }
                let bound = capacity as f64 + refill as f64 * span as f64 / (per_ms as f64 * 1000.0);
                prop_assert!(granted as f64 <= bound + 1e-6, "{granted} > {bound}");
            }
        }

        #[test]
        fn coming_back_when_told_is_enough(capacity in 1u64..100, refill in 1u64..100, first in 0u64..100, second in 0u64..100) {
            let rule = TokenBucket { capacity, refill, per: Duration::from_secs(7) };
            let (state, _) = rule.apply(None, Timestamp(0), Ask::Spend(first));
            let (state, taken) = rule.apply(Some(state), Timestamp(0), Ask::Spend(second));
            if let Taken::Denied { retry_after } = taken {
                let (_, again) = rule.apply(Some(state), Timestamp(0) + retry_after, Ask::Spend(second));
                let is_granted = matches!(again, Taken::Granted { .. });
                prop_assert!(is_granted);
            }
        }

        #[test]
        fn what_is_used_stays_within_the_bound_and_the_debt_that_settling_left(
            capacity in 0u64..100, refill in 0u64..100, per_ms in 1u64..10_000,
            // An estimate, what was really used, and whether it is settled.
            steps in proptest::collection::vec((-50_000i64..500_000, 0u64..40, 0u64..80, any::<bool>()), 1..100),
        ) {
            let rule = TokenBucket { capacity, refill, per: Duration::from_millis(per_ms) };
            let (mut state, mut now, mut charged) = (None, 0i64, 0i128);
            let (mut first, mut latest) = (None, i64::MIN);
            for (step, estimate, used, settled) in steps {
                now += step;
                latest = latest.max(now);
                let span = latest - *first.get_or_insert(now);
                let (next, taken) = rule.apply(state, Timestamp(now), Ask::Spend(estimate));
                state = Some(next);
                if matches!(taken, Taken::Granted { .. }) {
                    charged += i128::from(estimate);
                    if settled {
                        let Take { ask, .. } = Take::settle("b", rule, estimate, used);
                        let before = next.micro_tokens;
                        let (next, taken) = rule.apply(state, Timestamp(now), ask);
                        let exact = before - (i128::from(used) - i128::from(estimate)) * MICRO;
                        prop_assert_eq!(next.micro_tokens, exact.min(i128::from(capacity) * MICRO));
                        prop_assert_eq!(taken, Taken::Granted { remaining: next.tokens() });
                        state = Some(next);
                        charged += i128::from(used) - i128::from(estimate);
                    }
                } else {
                    prop_assert!(next.micro_tokens < i128::from(estimate) * MICRO);
                }
                let debt = (-state.map_or(0, |bucket| bucket.micro_tokens)).max(0) as f64 / 1e6;
                let bound = capacity as f64 + refill as f64 * span as f64 / (per_ms as f64 * 1000.0) + debt;
                prop_assert!(charged as f64 <= bound + 1e-6, "{charged} > {bound}");
            }
        }

        #[test]
        fn nothing_is_granted_from_a_debt_until_it_is_gained_back(capacity in 1u64..100, refill in 1u64..100, beyond in 1i64..1_000, amount in 0u64..100) {
            let rule = TokenBucket { capacity, refill, per: Duration::from_secs(7) };
            let (state, _) = rule.apply(None, Timestamp(0), Ask::Spend(capacity));
            let (state, taken) = rule.apply(Some(state), Timestamp(0), Ask::Settle(beyond));
            prop_assert_eq!(taken, Taken::Granted { remaining: 0 });
            let (state, taken) = rule.apply(Some(state), Timestamp(0), Ask::Spend(amount));
            match taken {
                Taken::Denied { retry_after } => {
                    let early = Timestamp(0) + (retry_after - Duration::from_micros(1));
                    let is_denied = matches!(rule.apply(Some(state), early, Ask::Spend(amount)).1, Taken::Denied { .. });
                    let (_, again) = rule.apply(Some(state), Timestamp(0) + retry_after, Ask::Spend(amount));
                    let is_granted = matches!(again, Taken::Granted { .. });
                    prop_assert!(is_denied && is_granted);
                }
                other => prop_assert!(other == Taken::Never && amount > capacity, "{other:?}"),
            }
        }

        #[test]
        fn no_number_is_too_large(capacity: u64, refill: u64, per: u64, spend: u64, by: i64, step: i64) {
            let rule = TokenBucket { capacity, refill, per: Duration::from_secs(per) };
            let mut state = None;
            for ask in [Ask::Spend(spend), Ask::Settle(by), Ask::Settle(i64::MIN), Ask::Settle(i64::MAX), Ask::Spend(spend)] {
                state = Some(rule.apply(state, Timestamp(step), ask).0);
                state = Some(rule.apply(state, Timestamp(i64::MAX), ask).0);
            }
            let _ = rule.full_in(spend);
        }
    }
}
