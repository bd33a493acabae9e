//! Quotas on Redis: for servers that take from a bucket far more often than their database should be asked.
//!
//! [`RedisStore`] is a [`Store`](selvedge_core::Store) whose only capability is quotas; everything else answers
//! `Unsupported`. Give it to an engine beside its Store:
//!
//! ```no_run
//! use selvedge_core::{Engine, Store};
//! use selvedge_redis::RedisStore;
//!
//! # async fn example(store: impl Store) -> Result<(), selvedge_core::Error> {
//! let quotas = RedisStore::open("redis://127.0.0.1:6379").await?;
//! let engine = Engine::builder().store(store).quotas(quotas).build();
//! # Ok(())
//! # }
//! ```
//!
//! One script on the server does what [`TokenBucket::apply`](selvedge_core::store::TokenBucket::apply) says, by Redis' clock, so
//! that a bucket is the same for all processes. Capacity and refill may be up to [`RedisStore::MOST`] tokens.
//!
//! What is kept is as durable as that Redis is: a bucket that is lost is a full one, and a debt is forgiven with it. Its memory
//! must not be evicted (`maxmemory-policy noeviction`). A bucket that has filled up again takes no memory.

mod connection;
mod error;
mod store;

pub use store::{Builder, RedisStore};
