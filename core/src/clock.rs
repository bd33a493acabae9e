//! Time: stamps, and the clock that an engine waits by.

use std::{
    fmt,
    future::Future,
    ops::{Add, Sub},
    sync::{Arc, Mutex, PoisonError},
    task::{Poll, Waker},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::BoxFuture;

/// A moment: whole microseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The system's wall clock.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// Microseconds since the Unix epoch.
    pub fn as_micros(self) -> i64 {
        self.0
    }

    /// How long after `earlier` this is; zero when it is before.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match chrono::DateTime::from_timestamp_micros(self.0) {
            Some(time) => write!(f, "{}", time.format("%Y-%m-%dT%H:%M:%S%.3fZ")),
            None => write!(f, "{}µs", self.0),
        }
    }
}

/// What an engine tells time and waits by. A host with a runtime gives its own (the facade crate has one for tokio).
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The wall clock.
    fn now(&self) -> Timestamp;
    /// Completes after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// A clock that needs no runtime: each sleep parks one thread of its own. Good for tests and small programs.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        #[derive(Default)]
        struct Alarm {
            rung: bool,
            waker: Option<Waker>,
        }
        let alarm = Arc::new(Mutex::new(Alarm::default()));
        let mut started = false;
        Box::pin(std::future::poll_fn(move |cx| {
            let mut state = alarm.lock().unwrap_or_else(PoisonError::into_inner);
            if state.rung || duration.is_zero() {
                return Poll::Ready(());
            }
            state.waker = Some(cx.waker().clone());
            if !started {
                started = true;
                let alarm = alarm.clone();
                std::thread::spawn(move || {
                    std::thread::sleep(duration);
                    let mut state = alarm.lock().unwrap_or_else(PoisonError::into_inner);
                    state.rung = true;
                    if let Some(waker) = state.waker.take() {
                        waker.wake();
                    }
                });
            }
            Poll::Pending
        }))
    }
}

/// Runs `work` for at most `limit`; `None` when time ran out.
pub(crate) async fn within<F: Future>(clock: &dyn Clock, limit: Duration, work: F) -> Option<F::Output> {
    use futures_util::future::{Either, select};
    match select(std::pin::pin!(work), clock.sleep(limit)).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(_) => None,
    }
}
