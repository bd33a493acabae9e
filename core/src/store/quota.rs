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

const MICRO: u128 = 1_000_000;

impl TokenBucket {
    /// `refill` tokens a minute, with a burst of as many.
    pub fn per_minute(refill: u64) -> Self {
        Self { capacity: refill, refill, per: Duration::from_secs(60) }
    }

    /// Takes `amount` tokens from a bucket in `state` at `now`. Pure: every Store uses this rule.
    ///
    /// Over any span of time no more than `capacity + refill × span / per` tokens are granted: what is gained is rounded
    /// down to millionths of a token. A clock that steps back gains nothing and takes nothing away.
    ///
    /// ```
    /// use selvedge_core::{Timestamp, store::{Bucket, Taken, TokenBucket}};
    ///
    /// let rule = TokenBucket::per_minute(60);
    /// let (state, taken) = rule.take(None, Timestamp(0), 60);
    /// assert_eq!(taken, Taken::Granted { remaining: 0 });
    /// let (_, taken) = rule.take(Some(state), Timestamp(500_000), 1);
    /// assert_eq!(taken, Taken::Denied { retry_after: std::time::Duration::from_millis(500) });
    /// ```
    pub fn take(&self, state: Option<Bucket>, now: Timestamp, amount: u64) -> (Bucket, Taken) {
        let full = u128::from(self.capacity) * MICRO;
        let per = self.per.as_micros().max(1);
        let mut bucket = match state {
            None => Bucket { micro_tokens: full, refilled_at: now },
            Some(bucket) => {
                let gained = now.since(bucket.refilled_at).as_micros() * u128::from(self.refill) * MICRO / per;
                Bucket {
                    micro_tokens: bucket.micro_tokens.saturating_add(gained).min(full),
                    refilled_at: bucket.refilled_at.max(now),
                }
            }
        };
        let wanted = u128::from(amount) * MICRO;
        let taken = if wanted <= bucket.micro_tokens {
            bucket.micro_tokens -= wanted;
            Taken::Granted { remaining: (bucket.micro_tokens / MICRO) as u64 }
        } else if wanted > full || self.refill == 0 {
            Taken::Never
        } else {
            let missing = (wanted - bucket.micro_tokens) * per;
            let micros = missing.div_ceil(u128::from(self.refill) * MICRO);
            Taken::Denied { retry_after: Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)) }
        };
        (bucket, taken)
    }
}

/// What a Store keeps of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Millionths of a token in it.
    pub micro_tokens: u128,
    /// When it was last filled up.
    pub refilled_at: Timestamp,
}

/// Asks for tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Take {
    /// The bucket's name: `tenant/acme/tokens`.
    pub bucket: String,
    /// Its rule; a changed rule applies from this call on.
    pub rule: TokenBucket,
    /// How many tokens.
    pub amount: u64,
}

impl Take {
    /// `amount` tokens from `bucket`, which follows `rule`.
    pub fn new(bucket: impl Into<String>, rule: TokenBucket, amount: u64) -> Self {
        Self { bucket: bucket.into(), rule, amount }
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
                let (next, taken) = rule.take(state, Timestamp(now), amount);
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
            let (state, _) = rule.take(None, Timestamp(0), first);
            let (state, taken) = rule.take(Some(state), Timestamp(0), second);
            if let Taken::Denied { retry_after } = taken {
                let (_, again) = rule.take(Some(state), Timestamp(0) + retry_after, second);
                let is_granted = matches!(again, Taken::Granted { .. });
                prop_assert!(is_granted);
            }
        }
    }
}
