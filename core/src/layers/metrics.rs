use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{Around, Attempt};
use crate::{Context, ErrorKind, Result};

/// Counts calls and their time, by operation. Clones share the counts, so keep one to read them.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Mutex<BTreeMap<&'static str, CallStats>>>);

/// What one operation did since the start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CallStats {
    /// Calls that ended.
    pub calls: u64,
    /// Time they took together.
    pub time: Duration,
    /// Calls that took at most each of [`CallStats::BOUNDS`], then all others.
    pub buckets: [u64; 9],
    /// Calls that failed, by kind.
    pub errors: BTreeMap<&'static str, u64>,
}

impl CallStats {
    /// Upper bounds of the histogram's buckets.
    pub const BOUNDS: [Duration; 8] = [
        Duration::from_micros(100),
        Duration::from_millis(1),
        Duration::from_millis(5),
        Duration::from_millis(25),
        Duration::from_millis(100),
        Duration::from_millis(500),
        Duration::from_millis(2_500),
        Duration::from_millis(10_000),
    ];

    fn count(&mut self, took: Duration, error: Option<ErrorKind>) {
        self.calls += 1;
        self.time += took;
        let bucket = Self::BOUNDS.iter().position(|bound| took <= *bound).unwrap_or(Self::BOUNDS.len());
        self.buckets[bucket] += 1;
        if let Some(kind) = error {
            *self.errors.entry(kind.as_str()).or_default() += 1;
        }
    }
}

impl Metrics {
    /// No counts yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The counts, by operation (`store.commit`).
    pub fn snapshot(&self) -> BTreeMap<&'static str, CallStats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Around for Metrics {
    async fn around<T, F>(
        &self,
        _cx: &Context,
        operation: &'static str,
        mut call: impl FnMut(Attempt) -> F + Send,
    ) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        let started = Instant::now();
        let result = call(Attempt::Last).await;
        let error = result.as_ref().err().map(crate::Error::kind);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(operation).or_default().count(started.elapsed(), error);
        result
    }
}
