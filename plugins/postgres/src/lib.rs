//! The Store on PostgreSQL 13 or newer: for servers.
//!
//! Jobs are claimed with `FOR UPDATE SKIP LOCKED`; leases, schedules and retention go by the server's clock; watchers are
//! woken by NOTIFY after the commit, and poll where that cannot be had. Statements have no names and leave nothing behind on
//! their connection, so PgBouncer may stand between in transaction mode.
//!
//! ```no_run
//! use selvedge_core::{Commit, Context, Store, store::{LeaseRequest, NewJob, StoreExt}};
//! use selvedge_postgres::PostgresStore;
//!
//! # async fn example() -> Result<(), selvedge_core::Error> {
//! let store = PostgresStore::open("postgres://app@localhost/shop").await?;
//! let cx = Context::new();
//! store.enqueue(&cx, NewJob::new("mail", r#"{"to":"ada"}"#)).await?;
//!
//! let jobs = store.lease(&cx, LeaseRequest::new("mail", 10)).await?;
//! store.commit(&cx, Commit::new().complete_many(jobs.iter().map(|job| job.lease))).await?;
//! # Ok(())
//! # }
//! ```

mod apply;
mod connections;
mod cron;
mod error;
mod fact;
mod group;
mod hints;
mod intent;
mod job;
mod key;
mod lease;
mod load;
mod maintain;
mod open;
mod outbox;
mod quota;
mod read;
mod schema;
mod store;
mod topic;
mod tx;
mod wake;

pub use open::Builder;
pub use store::{Applied, PostgresStore};
pub use tokio_postgres;
