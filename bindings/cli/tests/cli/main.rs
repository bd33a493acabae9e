//! The `selvedge` command as its users meet it: a process with arguments, files, an environment and signals.
#![cfg(unix)]
#![allow(clippy::expect_used, clippy::unwrap_used, missing_docs)]

mod batch;
mod configuration;
mod cost;
mod experiment;
mod generate;
mod jobs;
mod models;
mod outbox;
mod peer;
mod serve;
mod shell;
mod stop;
mod support;
