//! A payments service on PostgreSQL, whose clients may repeat every request.
//!
//! | route | its effect | how it happens once |
//! | --- | --- | --- |
//! | `POST /payments` | a row in our own database | the row and the answer to the key are **one transaction**: [`atomic`] |
//! | `POST /payouts` | a charge at somebody else's service | **recovery points**, and a key of its own for that service: [`steps`] |
//!
//! Both are behind one [`selvedge_http::IdempotencyLayer`]. Try it:
//!
//! ```console
//! cargo run --release -p payments -- --store postgres://postgres@localhost/postgres
//! curl -i localhost:8080/payments -H 'idempotency-key: cart-17' -H 'content-type: application/json' \
//!   -d '{"account":"ada","cents":500}'
//! ```

mod atomic;
mod shop;
mod steps;

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use selvedge::{Context, Store, store::Maintain};
use tokio::net::TcpListener;

/// A payments service whose clients may repeat every request.
#[derive(Debug, Parser)]
struct Options {
    /// The database: postgres://user@host:5432/database
    #[arg(long, value_name = "URL", env = "PAYMENTS_STORE", hide_env_values = true)]
    store: String,
    /// Where it listens; port 0 takes a free one. The address is printed
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The payment provider's address; without it there is no /payouts
    #[arg(long, value_name = "URL")]
    provider: Option<String>,
    /// Seconds that a claim on a key holds: after a crash the key is free again after this
    #[arg(long, default_value_t = 30)]
    hold_seconds: u64,
    /// Days that answers are kept: longer than any client may be offline
    #[arg(long, default_value_t = 7)]
    keep_days: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let options = Options::parse();
    let shop = shop::Shop::open(&options.store, options.provider.as_deref()).await?;
    let layer = selvedge_http::IdempotencyLayer::new(shop.store())
        .hold(Duration::from_secs(options.hold_seconds))
        .retention(Duration::from_secs(options.keep_days * 86_400));
    tokio::spawn(keep(shop.clone()));
    let listener =
        TcpListener::bind(options.listen).await.with_context(|| format!("cannot listen on {}", options.listen))?;
    println!("listening on http://{}", listener.local_addr()?);
    let stop = async { drop(tokio::signal::ctrl_c().await) };
    selvedge_http::serve(listener, shop.router(layer), stop, Duration::from_secs(10)).await?;
    Ok(())
}

/// Drops keys that are past their retention.
async fn keep(shop: shop::Shop) {
    loop {
        if let Err(error) = shop.store.maintain(&Context::new(), Maintain::default()).await {
            tracing::warn!(%error, "a tick of housekeeping failed");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
