//! Conformance suites: what every plugin of a kind must do, as tests that its author runs.
//!
//! Each case has a name and the rule it checks; the rule is printed when the case fails. A case whose capability the plugin
//! says it lacks is skipped with that reason, and another case checks that such a plugin answers `Unsupported` instead of
//! pretending.
//!
//! A test target with `harness = false` is all it takes:
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

mod clock;
mod memory;
mod store;
mod suite;

pub use clock::ManualClock;
pub use memory::MemoryStore;
pub use store::{StoreHome, store_suite};
pub use suite::Suite;
