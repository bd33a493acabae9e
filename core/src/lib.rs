//! The contract of Selvedge: four plugin traits, the words they share, and the [`Engine`] that holds the plugins.
//!
//! | trait | it answers |
//! | --- | --- |
//! | [`Store`] | what must not be lost: jobs, outbox, topics, idempotency keys, quotas, assignments, facts |
//! | [`Scheduler`] | who runs next, and with how much of the machine |
//! | [`Inference`] | what comes next in a sequence: a token, or a screen |
//! | [`Experiment`] | who sees what, and did it earn more |
//!
//! This crate does no I/O and starts no runtime. What a queue, a lease, a key or a quota *means* is written here once, as
//! types and pure functions; a plugin only says how to do it with its backend.
//!
//! A plugin author writes plain `async fn`s. The engine keeps plugins as `Arc<dyn …>` through a boxed twin of each trait
//! ([`store::AnyStore`] and its siblings), so a [`Layer`] can wrap any of them without generics.

mod plugin;

pub mod allowance;
pub mod batch;
pub mod cancel;
pub mod clock;
pub mod context;
pub mod engine;
pub mod error;
pub mod experiment;
pub mod idempotency;
pub mod inference;
pub mod intent;
pub mod layers;
pub mod scheduler;
pub mod store;
pub mod trace;
pub mod transport;

pub use cancel::CancelToken;
pub use clock::{Clock, SystemClock, Timestamp};
pub use context::Context;
pub use engine::{Engine, EngineBuilder};
pub use error::{Error, ErrorKind, Result};
pub use experiment::{AnyExperiment, Experiment};
pub use inference::{AnyInference, Inference};
pub use intent::Intent;
pub use layers::Layer;
pub use plugin::BoxFuture;
pub use scheduler::{AnyScheduler, Scheduler};
pub use store::{AnyStore, Commit, Store};
pub use trace::TraceContext;
