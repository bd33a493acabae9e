//! The phone: writes orders down and sends them whenever it can.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use selvedge::{Context, Engine, Intent, TraceContext, sqlite::SqliteStore, store::Backoff};
use selvedge_http::ReqwestTransport;

use crate::link::BadLink;

/// How long a request may take; it is also how long an order waits after the phone was killed in the middle of sending it.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Runs a phone alone.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Its database.
    #[arg(long)]
    db: PathBuf,
    /// The server: `http://127.0.0.1:4000`.
    #[arg(long)]
    server: String,
    /// The share of requests, and of responses, that the link loses.
    #[arg(long, default_value_t = 0.2)]
    drop_rate: f64,
    /// The link's seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Submits no further orders; only sends what is pending.
    #[arg(long)]
    only_send: bool,
}

/// An order for something worth `cents`.
pub(crate) fn order(item: &str, cents: u64) -> Intent {
    let payload = serde_json::json!({ "item": item, "cents": cents }).to_string();
    Intent::new("orders.create", payload)
        .business_key(item)
        .trace(TraceContext::start())
        .backoff(Backoff::new(Duration::from_millis(50), Duration::from_secs(1)))
}

/// A phone's engine on its own database.
pub(crate) fn engine(store: SqliteStore) -> Engine {
    selvedge::builder().store(store).build()
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let store =
        SqliteStore::open(&options.db).with_context(|| format!("the phone's database {}", options.db.display()))?;
    let engine = engine(store);
    let link = BadLink::new(ReqwestTransport::new(&options.server)?, options.drop_rate, options.seed);
    let cx = Context::new();
    let sending = async {
        let sink = engine.intent_sink(&link).with_timeout(TIMEOUT);
        engine.relay(&cx, &sink).await.map(|_| ())
    };
    let ordering = async {
        loop {
            if options.only_send {
                std::future::pending::<()>().await;
            }
            let intent = order("tea", fastrand::u64(100..1000));
            let submitted = engine.submit(&cx, intent).await?;
            // Printed only after it is written down: from here on it may not be lost.
            println!("submitted {}", submitted.key);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..10))).await;
        }
    };
    Ok(futures_util::future::try_join(sending, ordering).await.map(|((), ())| ())?)
}
