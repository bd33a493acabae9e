//! The one crate that Kotlin, Swift and Python call.
//!
//! It converts and delegates: every call is one method of [`selvedge::Engine`] under the same name. UniFFI is confined to
//! this crate, so that the generator can be changed.
//!
//! What holds for every call:
//! - it returns an [`EngineError`]; a panic becomes one of kind `Internal` and never crosses the line,
//! - it runs on threads of the engine, so it never blocks the caller's, and callbacks of the host run on those threads too,
//! - it can be cancelled with a [`CancelHandle`]; the work stops at its next step,
//! - every call back into the host has a timeout.
//!
//! ```no_run
//! use selvedge_ffi::{Call, Engine, EngineConfig, Hosts, NewIntent};
//!
//! # async fn example() -> Result<(), selvedge_ffi::EngineError> {
//! let engine = Engine::open(EngineConfig::at("shop.db"), Hosts::default()).await?;
//! let order = NewIntent::new("orders.create", br#"{"item":"tea"}"#.to_vec());
//! let submitted = engine.submit(order, Call::default(), None).await?;
//! println!("{}", submitted.key);
//! engine.shutdown()?;
//! # Ok(())
//! # }
//! ```

#![allow(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    reason = "UniFFI generates it; nothing here is written by hand"
)]
#![allow(clippy::result_large_err, reason = "the error is a plain value that UniFFI can convert, and rarely made")]

uniffi::setup_scaffolding!();

mod alive;
mod call;
mod chat;
mod config;
mod doctor;
mod engine;
mod error;
mod experiment;
mod hosts;
mod intents;
mod jobs;
mod log;
mod stream;
mod topics;

pub use alive::{LiveObjects, live_objects};
pub use call::{Call, CancelHandle, Class};
pub use chat::{ChatChunk, ChatMessage, ChatRequest, ChatStream, ModelDescription, StopReason};
pub use config::{Durability, EngineConfig, ModelConfig};
pub use doctor::{DoctorReport, Finding, Health};
pub use engine::Engine;
pub use error::{EngineError, ErrorKind, Failure};
pub use experiment::{
    AssignRequest, Assignment, ConfigHealth, ConfigOrigin, Declined, Eligibility, ExitAction, ExitInput, ExitOffer,
    ExitOfferSettings, ExperimentsConfig, NewEvent, PaywallEvent, Platform, Shown, Trigger, TrustedKey,
};
pub use hosts::{
    Connectivity, Header, HostClock, Hosts, HttpRequest, HttpResponse, HttpTransport, LogLevel, LogRecord, LogSink,
    NetworkStatus, ThermalReading, ThermalSensor, ThermalStatus,
};
pub use intents::{Flushed, IntentFilter, IntentPage, IntentState, IntentView, NewIntent, Submitted};
pub use jobs::{
    EnqueuedJob, JobFilter, JobHandler, JobOutcome, JobPage, JobState, JobView, LeasedJob, NewJob, QueueStats,
    WorkOptions,
};
pub use topics::{Notice, Start, TopicStream};
