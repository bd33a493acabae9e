//! The suite itself, on the plain Store in memory.

use std::{process::ExitCode, sync::Arc};

use selvedge_core::{AnyStore, Result};
use selvedge_testkit::{ManualClock, MemoryStore, StoreHome, store_suite};

struct Home(MemoryStore);

impl StoreHome for Home {
    fn new(clock: Arc<ManualClock>) -> Result<Self> {
        Ok(Self(MemoryStore::new(clock)))
    }

    async fn open(&self) -> Result<AnyStore> {
        Ok(AnyStore::new(self.0.reopen()))
    }
}

fn main() -> ExitCode {
    store_suite::<Home>().run()
}
