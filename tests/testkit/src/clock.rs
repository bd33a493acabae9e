use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use selvedge_core::{BoxFuture, Clock, Timestamp};

/// A clock that a test moves: it stands still until [`ManualClock::advance`] or [`ManualClock::set`] is called.
///
/// ```
/// use std::time::Duration;
/// use selvedge_core::Clock;
/// use selvedge_testkit::ManualClock;
///
/// let clock = ManualClock::new();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.now().since(before), Duration::from_secs(60));
/// ```
#[derive(Debug)]
pub struct ManualClock {
    micros: AtomicI64,
}

impl ManualClock {
    /// A clock that shows 2027-01-15 08:00:00 UTC.
    pub fn new() -> Self {
        Self { micros: AtomicI64::new(1_800_000_000_000_000) }
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        self.set(self.now() + by);
    }

    /// Sets it to any moment, also an earlier one.
    pub fn set(&self, to: Timestamp) {
        self.micros.store(to.0, Ordering::Release);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.micros.load(Ordering::Acquire))
    }

    /// Waits by real time: a plugin may pace itself by this clock, but no case depends on it.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// The wall clock and tokio's timer, for the layers around the plugin under test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokioClock;

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}
