//! Faults on PostgreSQL, and in batches, counted.
//!
//! `faults queue` kills and freezes workers, crashes the server, cuts connections and fills the disk while jobs are worked
//! off; `faults idempotency` does so to an HTTP service whose clients try again until they have an answer. Both remember
//! outside of the Store what it promised, and judge it by that. `faults batch` kills and freezes those who answer the requests
//! of batches, and compares what comes out with an unbroken run.

mod batch;
mod child;
mod client;
mod counts;
mod disk;
mod idempotency;
mod judge;
mod plan;
mod produce;
mod proxy;
mod queue;
mod server;
mod service;
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
    /// An HTTP service with idempotency keys, under killed and frozen processes, crashes, and clients that try again.
    Idempotency(counts::Options),
    /// Batches, under killed and frozen workers, beside an unbroken run. On SQLite, with a model.
    Batch(batch::Options),
    /// A worker of `batch`.
    #[command(hide = true)]
    BatchWorker(batch::WorkerOptions),
    /// A process of the service of `idempotency`.
    #[command(hide = true)]
    Service(service::Options),
    /// The full disk of `queue`, in a mount namespace of its own.
    #[command(hide = true)]
    Disk(disk::Options),
    /// A worker of `queue`.
    #[command(hide = true)]
    Worker(worker::Options),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Failed requests are what this is about: they are counted, not told.
    let filter = tracing_subscriber::EnvFilter::try_from_env("SELVEDGE_LOG")
        .unwrap_or_else(|_| "error,selvedge_http=off".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match Cli::parse().role {
        Role::Queue(options) => queue::run(options).await,
        Role::Idempotency(options) => idempotency::run(options).await,
        Role::Batch(options) => batch::run(options).await,
        Role::BatchWorker(options) => batch::worker(options).await,
        Role::Service(options) => service::run(options).await,
        Role::Disk(options) => disk::run(options).await,
        Role::Worker(options) => worker::run(options).await,
    }
}
