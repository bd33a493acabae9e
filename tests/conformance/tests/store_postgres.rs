//! The Store suite on a real PostgreSQL: with wake-ups by LISTEN, by polling alone, and through PgBouncer in transaction mode with
//! a direct connection for LISTEN.

use std::{
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::Duration,
};

use selvedge_core::{AnyStore, Result};
use selvedge_postgres::PostgresStore;
use selvedge_testkit::{ManualClock, StoreHome, pgbouncer::PgBouncer, postgres::Cluster, store_suite};

/// The servers, which end with the process.
static SERVERS: OnceLock<(Cluster, PgBouncer)> = OnceLock::new();

/// How a Store reaches its server.
const LISTEN: u8 = 0;
const POLL: u8 = 1;
const PGBOUNCER: u8 = 2;

/// A schema of the one cluster.
struct Home<const WAY: u8> {
    schema: String,
    clock: Arc<ManualClock>,
}

fn servers() -> Result<&'static (Cluster, PgBouncer)> {
    SERVERS.get().ok_or_else(|| selvedge_core::Error::unsupported("postgres", "test.open"))
}

impl<const WAY: u8> StoreHome for Home<WAY> {
    fn new(clock: Arc<ManualClock>) -> Result<Self> {
        Ok(Self { schema: servers()?.0.schema(), clock })
    }

    async fn open(&self) -> Result<AnyStore> {
        let (cluster, pgbouncer) = servers()?;
        let builder = match WAY {
            PGBOUNCER => PostgresStore::builder(pgbouncer.url()).listener(cluster.url()),
            POLL => PostgresStore::builder(cluster.url()).without_listener().poll(Duration::from_millis(20)),
            _ => PostgresStore::builder(cluster.url()),
        };
        Ok(AnyStore::new(builder.schema(&self.schema).clock(self.clock.clone()).connections(8).open().await?))
    }
}

fn main() -> ExitCode {
    let started = Cluster::start().and_then(|cluster| Ok((PgBouncer::start(&cluster)?, cluster)));
    match started {
        Ok((pgbouncer, cluster)) => drop(SERVERS.set((cluster, pgbouncer))),
        Err(error) if std::env::var_os("CI").is_some() => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
        Err(error) => {
            println!("skipped: {error:#}");
            return ExitCode::SUCCESS;
        }
    }
    store_suite::<Home<LISTEN>>()
        .named("listen")
        .and(store_suite::<Home<POLL>>().named("poll"))
        .and(store_suite::<Home<PGBOUNCER>>().named("pgbouncer"))
        .run()
}
