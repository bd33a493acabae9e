//! The server: takes intents through its idempotency gate into a queue, and charges each order once.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use selvedge::{
    BoxFuture, Commit, Context, Engine, Result,
    engine::{JobHandler, JobOutcome, WorkerOptions},
    intent::ReceivedIntent,
    sqlite::SqliteStore,
    store::{LeasedJob, Maintain},
};
use selvedge_http::ServerOptions;
use serde::Deserialize;
use tokio::net::TcpListener;

/// Leases are short, so that what a killed worker held is soon worked on again.
const HOLD: Duration = Duration::from_millis(400);

/// Runs the server alone.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Its database.
    #[arg(long)]
    db: PathBuf,
    /// Where it listens; port 0 takes a free one. The address is printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

/// The server's parts, running until dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) store: SqliteStore,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// A charge as the database has it: what the story is judged by.
#[derive(Debug)]
pub(crate) struct Charge {
    pub(crate) key: String,
    pub(crate) cents: u64,
    pub(crate) trace_id: String,
}

#[derive(Debug, Deserialize)]
struct Order {
    cents: u64,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let server = Server::start(&options.db, options.listen).await?;
    println!("listening {}", server.address);
    std::future::pending().await
}

pub(crate) async fn run_worker(db: &Path) -> anyhow::Result<()> {
    let store = open(db)?;
    let engine = selvedge::builder().store(store.clone()).build();
    println!("working");
    Ok(engine.work(&Context::new(), &worker_options(), &Charger { store }).await?)
}

fn open(db: &Path) -> anyhow::Result<SqliteStore> {
    SqliteStore::open(db).with_context(|| format!("the server's database {}", db.display()))
}

fn worker_options() -> WorkerOptions {
    let poll = Duration::from_millis(100);
    WorkerOptions { hold: HOLD, poll, ..WorkerOptions::new("intents", 8) }
}

impl Server {
    /// Opens the database, creates the shop's own table beside Selvedge's, and serves.
    pub(crate) async fn start(db: &Path, listen: SocketAddr) -> anyhow::Result<Self> {
        let store = open(db)?;
        store
            .commit_with(&Context::new(), Commit::new(), |tx| {
                // No unique column: a second charge for one order would stand here for all to see.
                Ok(tx.execute_batch(
                    "CREATE TABLE IF NOT EXISTS charge (id INTEGER PRIMARY KEY, key TEXT, cents INTEGER, trace_id TEXT)",
                )?)
            })
            .await?;
        let engine = selvedge::builder().store(store.clone()).build();
        let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
        let address = listener.local_addr()?;
        let router = selvedge_http::router(engine.clone(), ServerOptions::default());
        let serving = tokio::spawn(async move {
            let never = std::future::pending::<()>();
            if let Err(error) = selvedge_http::serve(listener, router, never, Duration::from_secs(5)).await {
                tracing::error!(%error, "the server ended");
            }
        });
        let charger = Charger { store: store.clone() };
        let working = tokio::spawn(work(engine.clone(), charger));
        let keeping = tokio::spawn(keep(engine));
        Ok(Self { address, store, tasks: vec![serving, working, keeping] })
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
    store: SqliteStore,
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
            let lease = job.lease;
            let charge = move |tx: &selvedge::sqlite::rusqlite::Transaction<'_>| {
                Ok(tx.execute(
                    "INSERT INTO charge (key, cents, trace_id) VALUES (?1, ?2, ?3)",
                    (&received.key, order.cents as i64, &trace_id),
                )?)
            };
            // The charge and the end of the job become true together; a worker that lost its lease charges nothing.
            match self.store.commit_with(&cx, Commit::new().complete(lease), charge).await {
                Ok(_) => Ok(JobOutcome::Committed),
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

/// All charges in a server's database.
pub(crate) async fn charges(store: &SqliteStore) -> anyhow::Result<Vec<Charge>> {
    let (charges, _) = store
        .commit_with(&Context::new(), Commit::new(), |tx| {
            let mut statement = tx.prepare("SELECT key, cents, trace_id FROM charge ORDER BY id")?;
            let rows = statement.query_map([], |row| {
                Ok(Charge { key: row.get(0)?, cents: row.get::<_, i64>(1)? as u64, trace_id: row.get(2)? })
            })?;
            Ok(rows.collect::<std::result::Result<Vec<_>, _>>()?)
        })
        .await?;
    Ok(charges)
}
