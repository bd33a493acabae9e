//! The server: takes intents through its idempotency gate into a queue, charges each order once, and keeps each event once.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use selvedge::{
    AnyStore, BoxFuture, Context, Engine, Result,
    engine::{JobHandler, JobOutcome, WorkerOptions},
    intent::ReceivedIntent,
    store::{LeasedJob, Maintain},
};
use selvedge_http::ServerOptions;
use serde::Deserialize;
use tokio::net::TcpListener;

use crate::{
    paywall,
    shop::{Charge, Place, Shop},
};

/// Leases are short, so that what a killed worker held is soon worked on again.
const HOLD: Duration = Duration::from_millis(400);

/// Runs the server alone.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    database: Database,
    /// Where it listens; port 0 takes a free one. The address is printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

/// The server's database.
#[derive(Debug, clap::Args)]
pub(crate) struct Database {
    /// postgres://user@host:5432/database, or a SQLite file.
    #[arg(long, visible_alias = "db", value_name = "URL|FILE")]
    store: String,
}

impl Database {
    fn place(&self) -> Place {
        Place::of(&self.store, "storefront")
    }
}

/// The server's parts, running until dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) shop: Shop,
    pub(crate) store: AnyStore,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Debug, Deserialize)]
struct Order {
    cents: u64,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let server = Server::start(&options.database.place(), options.listen).await?;
    println!("listening {}", server.address);
    std::future::pending().await
}

pub(crate) async fn run_worker(database: &Database) -> anyhow::Result<()> {
    let shop = Shop::open(&database.place()).await?;
    let engine = selvedge::builder().store(shop.store()).build();
    println!("working");
    Ok(engine.work(&Context::new(), &worker_options(), &Charger { shop }).await?)
}

fn worker_options() -> WorkerOptions {
    let poll = Duration::from_millis(100);
    WorkerOptions { hold: HOLD, poll, ..WorkerOptions::new("intents", 8) }
}

impl Server {
    /// Opens the database and serves.
    pub(crate) async fn start(place: &Place, listen: SocketAddr) -> anyhow::Result<Self> {
        let shop = Shop::open(place).await?;
        let store = shop.store();
        let (experiments, config) = paywall::serve(store.clone())?;
        let engine = selvedge::builder().store(store.clone()).experiment(experiments.clone()).build();
        let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
        let address = listener.local_addr()?;
        let options =
            ServerOptions { config: Some(config), experiments: Some(experiments), ..ServerOptions::default() };
        let router = selvedge_http::router(engine.clone(), options);
        let serving = tokio::spawn(async move {
            let never = std::future::pending::<()>();
            if let Err(error) = selvedge_http::serve(listener, router, never, Duration::from_secs(5)).await {
                tracing::error!(%error, "the server ended");
            }
        });
        let charger = Charger { shop: shop.clone() };
        let working = tokio::spawn(work(engine.clone(), charger));
        let keeping = tokio::spawn(keep(engine));
        Ok(Self { address, shop, store, tasks: vec![serving, working, keeping] })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn work(engine: Engine, charger: Charger) {
    if let Err(error) = engine.work(&Context::new(), &worker_options(), &charger).await {
        tracing::error!(%error, "the worker ended");
    }
}

async fn keep(engine: Engine) {
    loop {
        if let Err(error) = engine.maintain(&Context::new(), Maintain::default()).await {
            tracing::warn!(%error, "a tick of housekeeping failed");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Charges orders.
struct Charger {
    shop: Shop,
}

impl JobHandler for Charger {
    fn handle(&self, cx: Context, job: LeasedJob) -> BoxFuture<'_, Result<JobOutcome>> {
        Box::pin(async move {
            let received = ReceivedIntent::from_json(&job.payload)?;
            let order: Order = received.payload()?;
            println!("charging {}", job.id);
            // A payment provider takes its time; a kill or a freeze may come at any moment of it.
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..30))).await;
            let trace_id = cx.trace().map(|trace| trace.trace_id()).unwrap_or_default();
            let charge = Charge { key: received.key, cents: order.cents, trace_id };
            match self.shop.charge(&cx, job.lease, charge).await {
                Ok(()) => Ok(JobOutcome::Committed),
                Err(error) => {
                    if error.kind() == selvedge::ErrorKind::LeaseLost {
                        println!("stale {}", job.id);
                    }
                    Err(error)
                }
            }
        })
    }
}
