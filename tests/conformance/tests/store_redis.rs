//! The Store suite on a real Redis: what it cannot do is skipped.

use std::{
    process::ExitCode,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use selvedge_core::{AnyStore, Result};
use selvedge_redis::RedisStore;
use selvedge_testkit::{ManualClock, StoreHome, redis::RedisServer, store_suite};

/// The server, which ends with the process.
static SERVER: OnceLock<RedisServer> = OnceLock::new();

/// Keys of its own on the one server; by Redis' clock when it is given none.
struct Home<const OWN_CLOCK: bool> {
    prefix: String,
    clock: Arc<ManualClock>,
}

impl<const OWN_CLOCK: bool> StoreHome for Home<OWN_CLOCK> {
    const TAKES_CLOCK: bool = !OWN_CLOCK;

    fn new(clock: Arc<ManualClock>) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        Ok(Self { prefix: format!("case{}", NUMBER.fetch_add(1, Ordering::Relaxed)), clock })
    }

    async fn open(&self) -> Result<AnyStore> {
        let server = SERVER.get().ok_or_else(|| selvedge_core::Error::unsupported("redis", "test.open"))?;
        let builder = RedisStore::builder(server.url()).prefix(&self.prefix);
        let builder = if OWN_CLOCK { builder } else { builder.clock(self.clock.clone()) };
        Ok(AnyStore::new(builder.open().await?))
    }
}

fn main() -> ExitCode {
    match RedisServer::start() {
        Ok(server) => drop(SERVER.set(server)),
        Err(error) if std::env::var_os("CI").is_some() => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
        Err(error) => {
            println!("skipped: {error:#}");
            return ExitCode::SUCCESS;
        }
    }
    store_suite::<Home<false>>().named("given").and(store_suite::<Home<true>>().named("own")).run()
}
