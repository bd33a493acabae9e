//! The Store suite under a Retry layer while every fifth call fails before its effect: no rule may notice.

use std::{process::ExitCode, sync::Arc, time::Duration};

use selvedge::{TokioClock, layers::Retry, store::Backoff};
use selvedge_core::{AnyStore, Layer, Result};
use selvedge_testkit::{Chaos, ManualClock, MemoryStore, StoreHome, store_suite_with};

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
    let instant = Duration::from_micros(1);
    let retry = Retry::new(50, Backoff::new(instant, instant), Arc::new(TokioClock));
    let layers: [Box<dyn Layer>; 2] = [Box::new(Chaos::new(7).before(0.2)), Box::new(retry)];
    store_suite_with::<Home>(layers).named("chaos").run()
}
