//! How old a configuration is, on a clock that people set.

use std::time::Duration;

use selvedge_core::Timestamp;
use serde::{Deserialize, Serialize};

/// How long ago the server last said that a configuration is the newest.
///
/// It is carried forward and added to, never computed from two readings of the wall clock that lie far apart. A clock that is
/// set back adds nothing and takes nothing away, so it makes no configuration young; and time goes on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Age {
    micros: u64,
    stamped_at: Timestamp,
}

impl Age {
    /// Confirmed this moment.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { micros: 0, stamped_at: now }
    }

    /// The same at `now`, when the process has been `running` since the last stamp by a clock that only goes forward (zero
    /// over a restart).
    #[must_use]
    pub(crate) fn advanced(self, now: Timestamp, running: Duration) -> Self {
        let passed = now.since(self.stamped_at).max(running);
        let passed = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
        Self { micros: self.micros.saturating_add(passed), stamped_at: now }
    }

    pub(crate) fn duration(self) -> Duration {
        Duration::from_micros(self.micros)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn with_an_honest_clock_it_is_the_time_that_passed(steps in prop::collection::vec(0..1_000_000u64, 0..20)) {
            let mut now = Timestamp(0);
            let mut age = Age::new(now);
            for step in &steps {
                now = now + Duration::from_micros(*step);
                age = age.advanced(now, Duration::ZERO);
            }
            prop_assert_eq!(age.duration(), Duration::from_micros(steps.iter().sum()));
        }

        #[test]
        fn whatever_is_done_to_the_clock_it_never_gets_younger_and_goes_on(
            steps in prop::collection::vec((any::<i32>(), 0..1_000_000u64), 1..20)
        ) {
            let mut age = Age::new(Timestamp(0));
            for (now, running) in steps {
                let running = Duration::from_micros(running);
                let later = age.advanced(Timestamp(now.into()), running);
                prop_assert!(later.duration() >= age.duration() + running);
                age = later;
            }
        }

        #[test]
        fn a_clock_set_back_expires_nothing(back in 0..i64::MAX / 2) {
            let now = Timestamp(i64::MAX / 2);
            let age = Age::new(now).advanced(Timestamp(now.0 - back), Duration::ZERO);
            prop_assert_eq!(age.duration(), Duration::ZERO);
        }
    }
}
