//! The outbox's way to NATS JetStream.
//!
//! A [`JetStreamSink`] publishes each event to the subject `PREFIX.TOPIC` and waits until the stream has acknowledged it. The
//! event's id goes along as `Nats-Msg-Id`, by which JetStream drops what it was sent before within the stream's duplicate
//! window; consumers drop the rest by the same id (`Engine::receive`). Events of one aggregate arrive in order.
//!
//! The stream is yours to make, with the subjects `PREFIX.>`: limits, replicas and retention are its owner's choice.
//!
//! ```no_run
//! use selvedge_core::{Context, Engine};
//! use selvedge_nats::JetStreamSink;
//!
//! # async fn example(engine: Engine) -> Result<(), selvedge_core::Error> {
//! let sink = JetStreamSink::connect("nats://127.0.0.1:4222", "shop").await?.topic("order.created");
//! engine.relay(&Context::new(), &sink).await?; // until its context is cancelled
//! # Ok(())
//! # }
//! ```

mod error;
mod sink;

pub use async_nats;
pub use sink::JetStreamSink;
