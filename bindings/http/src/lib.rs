//! Selvedge over HTTP: a tower layer that makes any axum service idempotent, an axum server for an engine, and the
//! transport by which Rust hosts send their intents and events.
//!
//! | item | is for |
//! | --- | --- |
//! | [`IdempotencyLayer`] | one effect for one `Idempotency-Key`, around any axum service |
//! | [`router`] and [`serve`] | the server: OpenAI's API, intents, placements and events, health, metrics |
//! | [`Batches`] | many requests in one file, worked off whenever there is room |
//! | [`ReqwestTransport`] | sending intents |
//! | [`HttpSink`] | relaying outbox events to a server |
//! | [`Problem`] | errors as `application/problem+json` |

mod auth;
mod batch;
mod body;
mod idempotency;
mod openai;
mod options;
mod problem;
mod quota;
mod server;
mod sink;
mod transport;

pub use auth::{ApiKey, Principal};
pub use batch::{
    BatchObject, BatchOptions, BatchUsage, Batches, CachedTokens, Content, Counts, Errors, FileObject, NewBatch,
    ReasoningTokens, Resumed, Upload,
};
pub use idempotency::{IdempotencyLayer, IdempotencyService, Settled, Ticket};
pub use options::ServerOptions;
pub use problem::{Problem, status_of};
pub use server::{Drained, ServedConfig, router, serve};
pub use sink::HttpSink;
pub use transport::ReqwestTransport;
