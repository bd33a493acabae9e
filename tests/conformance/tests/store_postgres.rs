//! The Store suite on a real PostgreSQL: with wake-ups by LISTEN, by polling alone, and through PgBouncer in transaction mode with
//! a direct connection for LISTEN. With LISTEN it runs on the oldest and the newest version too.

use std::{
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::Duration,
};

use selvedge_core::{AnyStore, Error, Result};
use selvedge_postgres::PostgresStore;
use selvedge_testkit::{ManualClock, StoreHome, Suite, pgbouncer::PgBouncer, postgres::Cluster, store_suite};

/// The servers, which end with the process: the one that is installed, and those that `cargo xtask setup` fetches.
static CLUSTERS: [OnceLock<Cluster>; 3] = [const { OnceLock::new() }; 3];
static POOL: OnceLock<PgBouncer> = OnceLock::new();

const INSTALLED: usize = 0;
const OLDEST: usize = 1;
const NEWEST: usize = 2;

/// How a Store reaches its server.
const LISTEN: u8 = 0;
const POLL: u8 = 1;
const PGBOUNCER: u8 = 2;

/// A schema of a cluster.
struct Home<const SERVER: usize, const WAY: u8> {
    schema: String,
    clock: Arc<ManualClock>,
}

/// A server that was started before the first case.
fn running<T>(server: &OnceLock<T>) -> Result<&T> {
    server.get().ok_or_else(|| Error::unsupported("postgres", "test.open"))
}

impl<const SERVER: usize, const WAY: u8> StoreHome for Home<SERVER, WAY> {
    fn new(clock: Arc<ManualClock>) -> Result<Self> {
        Ok(Self { schema: running(&CLUSTERS[SERVER])?.schema(), clock })
    }

    async fn open(&self) -> Result<AnyStore> {
        let cluster = running(&CLUSTERS[SERVER])?;
        let builder = match WAY {
            PGBOUNCER => PostgresStore::builder(running(&POOL)?.url()).listener(cluster.url()),
            POLL => PostgresStore::builder(cluster.url()).without_listener().poll(Duration::from_millis(20)),
            _ => PostgresStore::builder(cluster.url()),
        };
        Ok(AnyStore::new(builder.schema(&self.schema).clock(self.clock.clone()).connections(8).open().await?))
    }
}

fn main() -> ExitCode {
    let mut suite = Suite::default();
    match Cluster::start().and_then(|cluster| Ok((PgBouncer::start(&cluster)?, cluster))) {
        Ok((pool, cluster)) => {
            drop((POOL.set(pool), CLUSTERS[INSTALLED].set(cluster)));
            suite = suite
                .and(store_suite::<Home<INSTALLED, LISTEN>>().named("listen"))
                .and(store_suite::<Home<INSTALLED, POLL>>().named("poll"))
                .and(store_suite::<Home<INSTALLED, PGBOUNCER>>().named("pgbouncer"));
        }
        Err(error) if must(true) => return fail(&error),
        Err(error) => println!("skipped: {error:#}"),
    }
    // npm has the newest version for 64-bit ARM, too.
    let (x64, arm64) = (cfg!(target_arch = "x86_64"), cfg!(target_arch = "aarch64"));
    for (server, version, published, cases) in [
        (OLDEST, 13, x64, store_suite::<Home<OLDEST, LISTEN>>()),
        (NEWEST, 18, x64 || arm64, store_suite::<Home<NEWEST, LISTEN>>()),
    ] {
        match Cluster::of_version(version) {
            Ok(cluster) => {
                drop(CLUSTERS[server].set(cluster));
                suite = suite.and(cases.named(&format!("listen_{version}")));
            }
            Err(error) if must(published && cfg!(target_os = "linux")) => return fail(&error),
            Err(error) => println!("skipped: {error:#}"),
        }
    }
    suite.run()
}

/// A person's machine may lack a server. One that is meant to run all tests may lack only what there is none of.
fn must(there_is_one: bool) -> bool {
    there_is_one && std::env::var_os("CI").is_some()
}

fn fail(error: &impl std::fmt::Display) -> ExitCode {
    eprintln!("{error:#}");
    ExitCode::FAILURE
}
