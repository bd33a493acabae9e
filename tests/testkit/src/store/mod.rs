//! The Store suite.

mod atomic;
mod fact;
mod idempotency;
mod intent;
mod job;
mod lease;
mod model;
mod outbox;
mod quota;
mod read;
mod topic;

use std::{future::Future, sync::Arc, time::Duration};

use selvedge_core::{
    AnyStore, BoxFuture, Clock, Commit, Context, Layer, Result, Store, Timestamp,
    layers::Timeout,
    store::{LeaseRequest, LeasedJob, Maintain, Maintained, NewJob, StoreCapabilities, StoreExt},
};

use crate::{
    ManualClock,
    clock::TokioClock,
    suite::{Suite, WAIT, needs},
};

/// Where one case's Store keeps its data: a file, a schema, a block of memory. It is made fresh and empty for each case
/// and dropped with it, so that cases run side by side.
pub trait StoreHome: Sized + Send + Sync + 'static {
    /// Whether Stores opened here go by the given clock. Cases that must move time are skipped if not.
    const TAKES_CLOCK: bool = true;

    /// A new, empty place, whose Store should tell time by `clock`.
    ///
    /// # Errors
    /// What keeps the place from being made; the case then fails.
    fn new(clock: Arc<ManualClock>) -> Result<Self>;

    /// Opens the Store: the first time empty, after that with everything that was kept.
    ///
    /// # Errors
    /// What keeps the Store from being opened; the case then fails.
    fn open(&self) -> impl Future<Output = Result<AnyStore>> + Send;

    /// Ends a Store as a crash would, as nearly as the plugin can within one process. Dropping it is enough for most.
    fn crash(&self, store: AnyStore) -> impl Future<Output = ()> + Send {
        async move { drop(store) }
    }
}

/// Every rule of the Store, checked on Stores opened at an `H` of their own each.
pub fn store_suite<H: StoreHome>() -> Suite {
    store_suite_with::<H>([])
}

/// The same rules, checked through layers; the last is outermost. A Store that fails now and then under a
/// [`Retry`](selvedge_core::layers::Retry) layer must still keep them all.
pub fn store_suite_with<H: StoreHome>(layers: impl IntoIterator<Item = Box<dyn Layer>>) -> Suite {
    let layers: Layers = layers.into_iter().collect();
    Suite::new(all(), move || Bed::new::<H>(layers.clone()))
}

fn all() -> Vec<crate::suite::Case<Bed>> {
    [
        lease::cases(),
        job::cases(),
        outbox::cases(),
        intent::cases(),
        idempotency::cases(),
        quota::cases(),
        topic::cases(),
        fact::cases(),
        atomic::cases(),
        read::cases(),
        model::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What a case works with: an open Store, its clock and its home.
pub(crate) struct Bed {
    store: std::sync::Mutex<Option<AnyStore>>,
    pub(crate) can: StoreCapabilities,
    home: Box<dyn Home>,
    clock: Arc<ManualClock>,
    layers: Layers,
    make: fn(Layers) -> BoxFuture<'static, anyhow::Result<Bed>>,
    pub(crate) cx: Context,
}

type Layers = Arc<[Box<dyn Layer>]>;

/// [`StoreHome`] without its type.
trait Home: Send + Sync {
    fn takes_clock(&self) -> bool;
    fn open(&self) -> BoxFuture<'_, Result<AnyStore>>;
    fn crash(&self, store: AnyStore) -> BoxFuture<'_, ()>;
}

impl<H: StoreHome> Home for H {
    fn takes_clock(&self) -> bool {
        H::TAKES_CLOCK
    }
    fn open(&self) -> BoxFuture<'_, Result<AnyStore>> {
        Box::pin(StoreHome::open(self))
    }
    fn crash(&self, store: AnyStore) -> BoxFuture<'_, ()> {
        Box::pin(StoreHome::crash(self, store))
    }
}

impl Bed {
    // A future with a name, so that a bed can hold the function that makes beds.
    pub(crate) fn new<H: StoreHome>(layers: Layers) -> BoxFuture<'static, anyhow::Result<Self>> {
        Box::pin(async move {
            let clock = Arc::new(ManualClock::new());
            let home = Box::new(H::new(clock.clone())?);
            let store = StoreHome::open(&*home).await?;
            let can = store.capabilities();
            let bed = Self { store: None.into(), can, home, clock, layers, make: Self::new::<H>, cx: Context::new() };
            bed.keep(Some(store));
            Ok(bed)
        })
    }

    /// Another bed of the same kind, empty.
    pub(crate) async fn another(&self) -> anyhow::Result<Self> {
        (self.make)(self.layers.clone()).await
    }

    fn keep(&self, store: Option<AnyStore>) -> Option<AnyStore> {
        let layered = store.map(|store| {
            let store = self.layers.iter().fold(store, |store, layer| layer.store(store));
            // A plugin that hangs fails the case instead of holding it up.
            Timeout::new(WAIT, Arc::new(TokioClock)).store(store)
        });
        std::mem::replace(&mut *self.store.lock().unwrap_or_else(std::sync::PoisonError::into_inner), layered)
    }

    /// The open Store.
    pub(crate) fn store(&self) -> anyhow::Result<AnyStore> {
        let store = self.store.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        store.clone().ok_or_else(|| anyhow::anyhow!("the Store is closed"))
    }

    /// Closes the Store as a crash would and opens it again. Handles and subscriptions must be dropped before.
    pub(crate) async fn crash(&self) -> anyhow::Result<()> {
        needs(self.can.durable, "a Store that keeps its data: `durable`")?;
        if let Some(store) = self.keep(None) {
            self.home.crash(store).await;
        }
        self.keep(Some(self.home.open().await?));
        Ok(())
    }

    /// Moves the Store's clock forward.
    pub(crate) fn pass(&self, time: Duration) -> anyhow::Result<()> {
        needs(self.home.takes_clock(), "a Store that goes by a given clock")?;
        self.clock.advance(time);
        Ok(())
    }

    /// Sets the Store's clock back.
    pub(crate) fn step_back(&self, time: Duration) -> anyhow::Result<()> {
        needs(self.home.takes_clock(), "a Store that goes by a given clock")?;
        self.clock.set(self.clock.now() - time);
        Ok(())
    }

    /// The Store's clock.
    pub(crate) async fn now(&self) -> anyhow::Result<Timestamp> {
        Ok(self.store()?.info(&self.cx).await?.now)
    }

    pub(crate) async fn commit(&self, commit: Commit) -> anyhow::Result<selvedge_core::store::Receipt> {
        Ok(self.store()?.commit(&self.cx, commit).await?)
    }

    /// Commits without turning the error into a failed case.
    pub(crate) async fn try_commit(&self, commit: Commit) -> Result<selvedge_core::store::Receipt> {
        let store = self.store().map_err(|error| {
            selvedge_core::Error::new(selvedge_core::ErrorKind::Internal, "testkit", error.to_string())
        })?;
        store.commit(&self.cx, commit).await
    }

    /// Enqueues jobs and returns their numbers.
    pub(crate) async fn enqueue(
        &self,
        jobs: impl IntoIterator<Item = NewJob>,
    ) -> anyhow::Result<Vec<selvedge_core::store::JobId>> {
        Ok(self.commit(Commit::new().enqueue(jobs)).await?.jobs().map(|job| job.id).collect())
    }

    pub(crate) async fn lease(&self, queue: &str, limit: usize) -> anyhow::Result<Vec<LeasedJob>> {
        Ok(self.store()?.lease(&self.cx, LeaseRequest::new(queue, limit)).await?)
    }

    /// Leases the one job that must be there.
    pub(crate) async fn lease_one(&self, queue: &str) -> anyhow::Result<LeasedJob> {
        let job = self.lease(queue, 1).await?.pop();
        job.ok_or_else(|| anyhow::anyhow!("no job of queue {queue:?} could be leased"))
    }

    pub(crate) async fn maintain(&self) -> anyhow::Result<Maintained> {
        Ok(self.store()?.maintain(&self.cx, Maintain::default()).await?)
    }
}
