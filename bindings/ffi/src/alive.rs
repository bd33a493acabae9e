use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Outcome, guarded};

/// Objects that the host holds, or forgot to give back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Record)]
pub struct LiveObjects {
    /// Engines.
    pub engines: u64,
    /// Answers and subscriptions that are being read.
    pub streams: u64,
    /// Cancel handles.
    pub cancels: u64,
    /// Large payloads on their way in.
    pub bulks: u64,
    /// Exit offers.
    pub exit_offers: u64,
}

/// How many objects are alive in this process: what a leak test counts.
///
/// # Errors
/// None; it is a `Result` like every call.
#[uniffi::export]
pub fn live_objects() -> Outcome<LiveObjects> {
    guarded("live_objects", || {
        Ok(LiveObjects {
            engines: ENGINES.get(),
            streams: STREAMS.get(),
            cancels: CANCELS.get(),
            bulks: BULKS.get(),
            exit_offers: EXIT_OFFERS.get(),
        })
    })
}

/// Counts the objects of one type.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

pub(crate) static ENGINES: Counter = Counter(AtomicU64::new(0));
pub(crate) static STREAMS: Counter = Counter(AtomicU64::new(0));
pub(crate) static CANCELS: Counter = Counter(AtomicU64::new(0));
pub(crate) static BULKS: Counter = Counter(AtomicU64::new(0));
pub(crate) static EXIT_OFFERS: Counter = Counter(AtomicU64::new(0));

impl Counter {
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts as one object while it lives.
#[derive(Debug)]
pub(crate) struct Alive(&'static Counter);

impl Alive {
    pub(crate) fn of(counter: &'static Counter) -> Self {
        counter.0.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
