//! Faults on PostgreSQL, counted.
//!
//! `faults queue` kills and freezes workers, crashes the server, cuts connections and fills the disk while jobs are worked
//! off; `faults idempotency` does so to an HTTP service whose clients try again until they have an answer. Both remember
//! outside of the Store what it promised, and judge it by that.

mod child;
mod counts;
mod judge;
mod plan;
mod produce;
mod proxy;
mod queue;
mod server;
mod task;
mod worker;

use clap::{Parser, Subcommand};

/// Injects faults and counts what was lost, done twice or done wrongly; exits 1 if anything was, or if no fault was injected.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The queue, under killed and frozen workers, crashes, bad connections, wrong clocks and a full disk.
    Queue(counts::Options),
    /// A worker of `queue`.
    #[command(hide = true)]
    Worker(worker::Options),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_env("SELVEDGE_LOG").unwrap_or_else(|_| "error".into()))
        .with_writer(std::io::stderr)
        .init();
    match Cli::parse().role {
        Role::Queue(options) => queue::run(options).await,
        Role::Worker(options) => worker::run(options).await,
    }
}
