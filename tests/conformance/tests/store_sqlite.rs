//! The Store suite on SQLite.

use std::{process::ExitCode, sync::Arc};

use selvedge_core::{AnyStore, Error, ErrorKind, Result};
use selvedge_sqlite::SqliteStore;
use selvedge_testkit::{ManualClock, StoreHome, store_suite};

struct Home {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl StoreHome for Home {
    fn new(clock: Arc<ManualClock>) -> Result<Self> {
        let folder = tempfile::tempdir().map_err(|error| {
            Error::new(ErrorKind::Unavailable, "test.open", "no folder for a test").caused_by(error)
        })?;
        Ok(Self { folder, clock })
    }

    async fn open(&self) -> Result<AnyStore> {
        let path = self.folder.path().join("suite.db");
        Ok(AnyStore::new(SqliteStore::builder(path).clock(self.clock.clone()).open()?))
    }
}

fn main() -> ExitCode {
    store_suite::<Home>().run()
}
