//! The Store suite on a real PostgreSQL: with wake-ups by LISTEN, and by polling alone.

use std::{
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::Duration,
};

use selvedge_core::{AnyStore, Result};
use selvedge_postgres::PostgresStore;
use selvedge_testkit::{ManualClock, StoreHome, postgres::Cluster, store_suite};

/// Ends with the process.
static CLUSTER: OnceLock<Cluster> = OnceLock::new();

/// A schema of the one cluster; `LISTEN` or not.
struct Home<const LISTEN: bool> {
    url: String,
    schema: String,
    clock: Arc<ManualClock>,
}

impl<const LISTEN: bool> StoreHome for Home<LISTEN> {
    fn new(clock: Arc<ManualClock>) -> Result<Self> {
        let cluster = CLUSTER.get().ok_or_else(|| selvedge_core::Error::unsupported("postgres", "test.open"))?;
        Ok(Self { url: cluster.url(), schema: cluster.schema(), clock })
    }

    async fn open(&self) -> Result<AnyStore> {
        let builder = PostgresStore::builder(&self.url).schema(&self.schema).clock(self.clock.clone()).connections(8);
        let builder = if LISTEN { builder } else { builder.without_listener().poll(Duration::from_millis(20)) };
        Ok(AnyStore::new(builder.open().await?))
    }
}

fn main() -> ExitCode {
    match Cluster::start() {
        Ok(cluster) => drop(CLUSTER.set(cluster)),
        Err(error) if std::env::var_os("CI").is_some() => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
        Err(error) => {
            println!("skipped: {error:#}");
            return ExitCode::SUCCESS;
        }
    }
    store_suite::<Home<true>>().named("listen").and(store_suite::<Home<false>>().named("poll")).run()
}
