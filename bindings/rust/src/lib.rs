//! Selvedge: one engine for an app and its backend.
//!
//! This crate is the facade a Rust program depends on. Plugins are cargo features; everything of
//! [`selvedge_core`] is re-exported.
//!
//! | feature | adds |
//! | --- | --- |
//! | `sqlite` (default) | [`sqlite`]: the Store on SQLite |
//! | `postgres` | `postgres`: the Store on PostgreSQL |
//! | `nats` | `nats`: the outbox's way to NATS JetStream |
//! | `redis` | `redis`: quotas on Redis |
//! | `priority` (default) | [`priority`]: the Scheduler for servers |
//! | `llama` | `llama`: Inference on llama.cpp |
//!
//! ```
//! use selvedge::{Context, Intent, sqlite::SqliteStore};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! let store = SqliteStore::open(folder.path().join("shop.db"))?;
//! let engine = selvedge::builder().store(store).build();
//!
//! // Once this returns, the order survives the end of the process.
//! let order = Intent::new("orders.create", r#"{"item":"tea","cents":500}"#);
//! let submitted = engine.submit(&Context::new(), order).await?;
//! println!("will be sent with the key {}", submitted.key);
//! # Ok(())
//! # }
//! ```

use std::{sync::Arc, time::Duration};

pub use selvedge_core::*;

#[cfg(feature = "experiments")]
#[doc(inline)]
pub use selvedge_experiments as experiments;
#[cfg(feature = "llama")]
#[doc(inline)]
pub use selvedge_llama as llama;
#[cfg(feature = "nats")]
#[doc(inline)]
pub use selvedge_nats as nats;
#[cfg(feature = "postgres")]
#[doc(inline)]
pub use selvedge_postgres as postgres;
#[cfg(feature = "priority")]
#[doc(inline)]
pub use selvedge_priority as priority;
#[cfg(feature = "redis")]
#[doc(inline)]
pub use selvedge_redis as redis;
#[cfg(feature = "sqlite")]
#[doc(inline)]
pub use selvedge_sqlite as sqlite;

/// The start of an engine that waits by tokio's timer.
pub fn builder() -> EngineBuilder {
    Engine::builder().clock(Arc::new(TokioClock))
}

/// A clock on tokio's timer; its sleeps must run inside a tokio runtime with time enabled.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokioClock;

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        // Called lazily, so that a sleep may be made outside the runtime that waits for it.
        Box::pin(async move { tokio::time::sleep(duration).await })
    }
}

/// The pages whose Rust examples are compiled with the tests.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../../../README.md")]
    struct Readme;
    #[doc = include_str!("../../../docs/guide/jobs.md")]
    struct Jobs;
    #[doc = include_str!("../../../docs/guide/intents.md")]
    struct Intents;
    #[doc = include_str!("../../../docs/guide/outbox.md")]
    struct Outbox;
    #[doc = include_str!("../../../docs/guide/plugins.md")]
    struct Plugins;
    #[doc = include_str!("../../../docs/guide/serving.md")]
    struct Serving;
    #[cfg(feature = "postgres")]
    #[doc = include_str!("../../../docs/guide/postgres.md")]
    struct Postgres;
    #[cfg(all(feature = "postgres", feature = "nats"))]
    #[doc = include_str!("../../../docs/guide/outgrowing-postgres.md")]
    struct OutgrowingPostgres;
    #[cfg(feature = "llama")]
    #[doc = include_str!("../../../docs/guide/models.md")]
    struct Models;
}
