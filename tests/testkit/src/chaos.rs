//! Failures on purpose.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use selvedge_core::{
    Context, Error, ErrorKind, Result,
    layers::{Around, Attempt},
};

/// A layer under which calls fail now and then, as over a link that breaks: before the call had its effect, or after it,
/// when only the answer is lost. Clones share the dice and the count.
///
/// Put a [`Retry`](selvedge_core::layers::Retry) around it. What fails [`before`](Chaos::before) its effect a retry makes
/// good, so every suite must pass then. What fails [`after`](Chaos::after) it is told as retryable too, although it had an
/// effect: that is a backend which breaks its promise, and only what is idempotent survives it.
///
/// ```
/// use selvedge_testkit::Chaos;
///
/// let chaos = Chaos::new(7).before(0.2).after(0.1);
/// assert_eq!(chaos.faults(), (0, 0));
/// ```
#[derive(Clone, Debug)]
pub struct Chaos {
    random: Arc<Mutex<fastrand::Rng>>,
    before: f64,
    after: f64,
    faults: Arc<(AtomicU64, AtomicU64)>,
}

impl Chaos {
    /// Nothing fails yet; the dice begin with `seed`.
    pub fn new(seed: u64) -> Self {
        let random = Arc::new(Mutex::new(fastrand::Rng::with_seed(seed)));
        Self { random, before: 0.0, after: 0.0, faults: Arc::default() }
    }

    /// This fraction of calls fails before its effect.
    #[must_use]
    pub fn before(self, rate: f64) -> Self {
        Self { before: rate, ..self }
    }

    /// This fraction of the calls that succeed fails after its effect.
    #[must_use]
    pub fn after(self, rate: f64) -> Self {
        Self { after: rate, ..self }
    }

    /// How many calls failed before their effect, and after it.
    pub fn faults(&self) -> (u64, u64) {
        (self.faults.0.load(Ordering::Relaxed), self.faults.1.load(Ordering::Relaxed))
    }

    fn strikes(&self, rate: f64, count: &AtomicU64) -> bool {
        let strikes = self.random.lock().unwrap_or_else(PoisonError::into_inner).f64() < rate;
        count.fetch_add(u64::from(strikes), Ordering::Relaxed);
        strikes
    }
}

fn broken(operation: &'static str, message: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, operation, message)
}

impl Around for Chaos {
    async fn around<T, F>(
        &self,
        _: &Context,
        operation: &'static str,
        mut call: impl FnMut(Attempt) -> F + Send,
    ) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        if self.strikes(self.before, &self.faults.0) {
            return Err(broken(operation, "the link broke on the way there"));
        }
        let done = call(Attempt::Last).await?;
        if self.strikes(self.after, &self.faults.1) {
            return Err(broken(operation, "the link broke on the way back"));
        }
        Ok(done)
    }
}
