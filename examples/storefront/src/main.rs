//! The storefront: a phone and a server in one story.
//!
//! The shopper's question is answered by a language model on the phone. The order goes into the phone's outbox, over a link
//! that drops, delays and repeats on purpose, through the server's idempotency gate into its queue, and is charged exactly
//! once. The trace id follows it all the way.
//!
//! Then shoppers come to a paywall: what they see is decided on the phone, some who leave are made an offer, and the events
//! arrive on the server once, which says what each variation earned.

mod faults;
mod host;
mod link;
mod paywall;
mod phone;
mod server;
mod shop;
mod shopper;
mod story;

use clap::{Parser, Subcommand};

/// A phone and a server in one story. Exits non-zero unless every intent had exactly one effect, and every event counts once.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    story: story::Options,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Runs the server alone, until it is stopped.
    Server(server::Options),
    /// Works on the server's queue alone, until it is stopped.
    Worker(server::Database),
    /// Runs a phone alone: submits an order now and then and prints each one's id once it is written down.
    Phone(phone::Options),
    /// Runs the server and a phone that is written in another language, and counts what was lost or charged twice.
    Host(host::Options),
    /// Kills and freezes phone and server at random moments and counts what was lost or charged twice.
    Faults(faults::Options),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_env("SELVEDGE_LOG").unwrap_or_else(|_| "error".into()))
        .with_writer(std::io::stderr)
        .init();
    let cli = Cli::parse();
    match cli.role {
        None => story::run(cli.story).await,
        Some(Role::Server(options)) => server::run(options).await,
        Some(Role::Worker(database)) => server::run_worker(&database).await,
        Some(Role::Phone(options)) => phone::run(options).await,
        Some(Role::Host(options)) => host::run(options).await,
        Some(Role::Faults(options)) => faults::run(options).await,
    }
}
