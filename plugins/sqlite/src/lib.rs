//! The Store on SQLite: the embedded default, on a phone and on a laptop.
//!
//! One thread owns the one writing connection and puts the commits of many callers into one flush, each with its own
//! outcome (group commit). Readers have connections of their own, so reading never waits for writing. The file is in
//! write-ahead-log mode; several processes may use it at once, and each notices the others' commits.
//!
//! ```
//! use selvedge_core::{Context, store::{LeaseRequest, NewJob, StoreExt}, Commit, Store};
//! use selvedge_sqlite::SqliteStore;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! let store = SqliteStore::open(folder.path().join("app.db"))?;
//! let cx = Context::new();
//! store.enqueue(&cx, NewJob::new("mail", r#"{"to":"ada"}"#)).await?;
//!
//! let jobs = store.lease(&cx, LeaseRequest::new("mail", 10)).await?;
//! store.commit(&cx, Commit::new().complete_many(jobs.iter().map(|job| job.lease))).await?;
//! # Ok(())
//! # }
//! ```

mod apply;
mod clock;
mod combine;
mod cron;
mod error;
mod fact;
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
mod reader;
mod ready;
mod room;
mod schema;
mod span;
mod store;
mod topic;
mod tx;
mod writer;

pub use apply::apply;
pub use open::{Builder, Durability};
pub use rusqlite;
pub use store::{EffectError, SqliteStore};
