use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a job waits before its next attempt: exponential, capped, with equal jitter.
///
/// Half of each delay is fixed and half random, so that a crowd of failures does not come back at one moment
/// ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
///
/// ```
/// use std::time::Duration;
/// use selvedge_core::store::Backoff;
///
/// let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// assert_eq!(backoff.delay(1, 1.0), Duration::from_secs(1));
/// assert_eq!(backoff.delay(3, 0.0), Duration::from_secs(2)); // half of 4 s
/// assert_eq!(backoff.delay(30, 1.0), Duration::from_secs(60));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
}

impl Backoff {
    /// Doubles from `base` after the first failure up to `cap`.
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap: cap.max(base) }
    }

    /// The longest delay after the first failure.
    pub fn base(self) -> Duration {
        self.base
    }

    /// The longest delay after any failure.
    pub fn cap(self) -> Duration {
        self.cap
    }

    /// The delay after the `failures`-th failure (counted from 1). `jitter` is a random number in `0.0..=1.0`.
    pub fn delay(self, failures: u32, jitter: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let ceiling = self.base.checked_mul(1 << doublings).map_or(self.cap, |delay| delay.min(self.cap));
        let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 1.0 };
        ceiling / 2 + (ceiling / 2).mul_f64(jitter)
    }
}

impl Default for Backoff {
    /// From 1 second to 1 hour.
    fn default() -> Self {
        Self::new(Duration::from_secs(1), Duration::from_secs(3600))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_delay_lies_between_half_its_ceiling_and_the_cap(
            base in 1u64..10_000, cap in 1u64..100_000_000, failures in 0u32..u32::MAX, jitter in proptest::num::f64::ANY,
        ) {
            let backoff = Backoff::new(Duration::from_millis(base), Duration::from_millis(cap));
            let delay = backoff.delay(failures, jitter);
            prop_assert!(delay <= backoff.cap());
            prop_assert!(delay >= backoff.base() / 2 - Duration::from_nanos(1));
        }

        #[test]
        fn a_later_failure_never_waits_less(failures in 1u32..60, jitter in 0.0f64..=1.0) {
            let backoff = Backoff::default();
            prop_assert!(backoff.delay(failures + 1, jitter) >= backoff.delay(failures, jitter));
        }
    }
}
