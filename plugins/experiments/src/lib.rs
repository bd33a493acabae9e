//! The Experiment of Selvedge: placements, sticky assignments, exposures and events, over any Store.
//!
//! A placement is a feature of a [GrowthBook](https://docs.growthbook.io/lib/build-your-own) payload: what its SDK endpoint
//! serves works as it is. Everything is decided on the spot, without a request: the configuration comes with the app, is
//! fetched in the background by [`Experiments::refresh`], and is kept between runs. What is decided and observed is kept in a
//! Store, and goes to the server by its outbox.
//!
//! ```
//! use selvedge_core::{AnyStore, Context, Experiment, experiment::Assign};
//! use selvedge_experiments::Experiments;
//!
//! # async fn example(store: AnyStore) -> selvedge_core::Result<()> {
//! let experiments = Experiments::builder()
//!     .store(store)
//!     .bundled(r#"{"features": {"main_paywall": {"defaultValue": {"offering": "annual"}}}}"#)
//!     .build()?;
//! let assignment = experiments.assign(&Context::new(), Assign::new("ada", "main_paywall")).await?;
//! assert_eq!(assignment.value()?.and_then(|value| value.offering).as_deref(), Some("annual"));
//! # Ok(())
//! # }
//! ```
//!
//! The feature `analysis` adds the statistics by which an experiment is judged.

#[cfg(feature = "analysis")]
pub mod analysis;
mod assign;
mod builder;
mod config;
pub mod decrypt;
mod delivery;
mod experiments;
mod health;
mod remembered;

pub use builder::{ExperimentsBuilder, WhenStale};
pub use config::{ConfigSource, Refreshed, public_key, sign};
pub use delivery::Delivery;
pub use experiments::Experiments;
pub use health::Health;
