//! Conformance suites: what every plugin of a kind must do, as tests that its author runs.
//!
//! Each case has a name and the rule it checks; the rule is printed when the case fails. A case whose capability the plugin
//! says it lacks is skipped with that reason, and another case checks that such a plugin answers `Unsupported` instead of
//! pretending.
//!
//! | suite | for | needs from its author |
//! | --- | --- | --- |
//! | [`store_suite`] | a Store: jobs, leases, outbox, topics, keys, quotas, facts; and random programs beside a plain Store | a [`StoreHome`] that opens one |
//! | [`scheduler_suite`] | a Scheduler: admission and step planning | a function that opens one with given bounds |
//! | [`inference_suite`] | a model: prompts, answers, limits, vectors | a function that opens one |
//! | [`experiment_suite`] | an Experiment: assignments and facts | an [`ExperimentHome`] that opens one |
//!
//! [`store_suite_with`] runs the Store's rules through layers; with [`Chaos`] under a Retry layer they must all still hold.
//! When a random program fails, the shortest one found and its seed are printed; `SELVEDGE_SEED` runs that seed again.
//!
//! A test target with `harness = false` is all it takes ([`Suite::report`] tells a program instead):
//!
//! ```no_run
//! use std::{process::ExitCode, sync::Arc};
//! use selvedge_core::{AnyStore, Result};
//! use selvedge_testkit::{ManualClock, MemoryStore, StoreHome, store_suite};
//!
//! // One case's own place to keep data. A plugin with files keeps a temporary folder here.
//! struct Home(MemoryStore);
//!
//! impl StoreHome for Home {
//!     fn new(clock: Arc<ManualClock>) -> Result<Self> {
//!         Ok(Self(MemoryStore::new(clock)))
//!     }
//!     async fn open(&self) -> Result<AnyStore> {
//!         Ok(AnyStore::new(self.0.reopen()))
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     store_suite::<Home>().run()
//! }
//! ```

mod chaos;
mod clock;
mod experiment;
mod fake;
mod inference;
mod keeper;
mod memory;
pub mod nats;
pub mod pgbouncer;
pub mod postgres;
pub mod redis;
mod scheduler;
mod store;
mod suite;

pub use chaos::Chaos;
pub use clock::ManualClock;
pub use experiment::{ExperimentHome, Placement, Variation, experiment_suite};
pub use fake::{MemoryExperiment, ToyModel};
pub use inference::inference_suite;
pub use memory::MemoryStore;
pub use scheduler::scheduler_suite;
pub use store::{StoreHome, store_suite, store_suite_with};
pub use suite::{Finding, Report, Suite};
