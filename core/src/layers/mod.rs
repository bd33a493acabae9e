//! Layers: what happens around every call of a plugin.
//!
//! A layer wraps a plugin in another value of the same trait, so retries, timeouts, spans and counts are never `if`s inside
//! a backend. Most layers do the same to every call; they implement [`Around`] once and are a [`Layer`] for all four traits.
//!
//! Order matters: the layer added last is outermost. A timeout *inside* a retry bounds each attempt; outside, it bounds
//! them all together.

mod around;
mod deadline;
mod metrics;
mod retry;
mod spans;

pub use around::{Around, Attempt};
pub use deadline::Timeout;
pub use metrics::{CallStats, Metrics};
pub use retry::Retry;
pub use spans::Spans;

use crate::{AnyExperiment, AnyInference, AnyScheduler, AnyStore};

/// Wraps plugins. Each method leaves its plugin alone unless overridden.
pub trait Layer: Send + Sync + std::fmt::Debug + 'static {
    /// Wraps a Store.
    fn store(&self, inner: AnyStore) -> AnyStore {
        inner
    }
    /// Wraps a Scheduler.
    fn scheduler(&self, inner: AnyScheduler) -> AnyScheduler {
        inner
    }
    /// Wraps an Inference.
    fn inference(&self, inner: AnyInference) -> AnyInference {
        inner
    }
    /// Wraps an Experiment.
    fn experiment(&self, inner: AnyExperiment) -> AnyExperiment {
        inner
    }
}
