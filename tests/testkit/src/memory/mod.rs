//! A plain Store in memory: the model that Stores are compared with, and the fake that tests the suite itself.

mod apply;
mod data;
mod read;
mod take;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::stream;
use selvedge_core::{
    Clock, Commit, Context, Result, Store, Timestamp,
    idempotency::{Claim, ClaimRequest},
    store::{
        LeaseRequest, LeasedEvent, LeasedJob, Maintain, Maintained, Notice, Query, Receipt, RelayRequest, Rows,
        StoreCapabilities, Subscription, Take, Taken, Watch,
    },
};

pub(crate) use data::Data;

/// A Store in memory, behind one mutex, written to be read: every commit works on a copy of all data.
///
/// It is for testing this suite and for comparing Stores with. It is **not** a Store for programs: it is slow, and
/// nothing survives the process. [`MemoryStore::reopen`] gives a second handle on the same data, as if a file were opened
/// again.
pub struct MemoryStore {
    shared: Arc<Shared>,
    closed: Arc<Closed>,
}

struct Shared {
    data: Mutex<Data>,
    changed: event_listener::Event,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Closed(std::sync::atomic::AtomicBool);

impl MemoryStore {
    /// An empty Store that goes by `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let shared = Shared { data: Mutex::default(), changed: event_listener::Event::new(), clock };
        Self { shared: Arc::new(shared), closed: Arc::default() }
    }

    /// Another handle on the same data.
    #[must_use]
    pub fn reopen(&self) -> Self {
        Self { shared: self.shared.clone(), closed: Arc::default() }
    }

    pub(crate) fn data(&self) -> MutexGuard<'_, Data> {
        self.shared.data()
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }
}

impl Shared {
    fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.closed.0.store(true, std::sync::atomic::Ordering::Release);
        self.shared.changed.notify(usize::MAX);
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryStore")
    }
}

impl Store for MemoryStore {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities {
            plugin: "memory",
            jobs: true,
            outbox: true,
            topics: true,
            idempotency: true,
            quotas: true,
            facts: true,
            cross_process: false,
            // Within the meaning of the suite: what was committed is there when the Store is opened again.
            durable: true,
        }
    }

    async fn commit(&self, cx: &Context, commit: Commit) -> Result<Receipt> {
        cx.check("store.commit")?;
        commit.check()?;
        let now = self.now();
        let outcomes = {
            let mut data = self.data();
            let mut copy = data.clone();
            let outcomes = commit.into_ops().into_iter().map(|op| copy.apply(op, now)).collect::<Result<_>>()?;
            *data = copy;
            outcomes
        };
        self.shared.changed.notify(usize::MAX);
        Ok(Receipt { outcomes })
    }

    async fn lease(&self, cx: &Context, request: LeaseRequest) -> Result<Vec<LeasedJob>> {
        cx.check("store.lease")?;
        Ok(self.data().lease(request, self.now()))
    }

    async fn relay(&self, cx: &Context, request: RelayRequest) -> Result<Vec<LeasedEvent>> {
        cx.check("store.relay")?;
        Ok(self.data().relay(request, self.now()))
    }

    async fn claim(&self, cx: &Context, request: ClaimRequest) -> Result<Claim> {
        cx.check("store.claim")?;
        Ok(self.data().claim(request, self.now()))
    }

    async fn take(&self, cx: &Context, request: Take) -> Result<Taken> {
        cx.check("store.take")?;
        Ok(self.data().take(request, self.now()))
    }

    async fn read(&self, cx: &Context, query: Query) -> Result<Rows> {
        cx.check("store.read")?;
        self.data().read(query, self.now())
    }

    async fn watch(&self, cx: &Context, request: Watch) -> Result<Subscription> {
        cx.check("store.watch")?;
        let (shared, closed) = (self.shared.clone(), self.closed.clone());
        let from = match &request {
            Watch::Topic { topic, from, .. } => self.data().start(topic, *from),
            Watch::Jobs(_) | Watch::Outbox => 0,
        };
        let hint = shared.changed.listen();
        let follow = |(shared, closed, request, from, mut changed): Following| async move {
            loop {
                if closed.0.load(std::sync::atomic::Ordering::Acquire) {
                    return None;
                }
                if let Watch::Topic { topic, buffer, .. } = &request {
                    let listener = shared.changed.listen();
                    let next = shared.data().next_notice(topic, from, *buffer);
                    if let Some((notice, cursor)) = next {
                        return Some((Ok(notice), (shared, closed, request, cursor, listener)));
                    }
                    changed = listener;
                    changed.await;
                } else {
                    changed.await;
                    if !closed.0.load(std::sync::atomic::Ordering::Acquire) {
                        let listener = shared.changed.listen();
                        return Some((Ok(Notice::Work), (shared, closed, request, from, listener)));
                    }
                }
                changed = shared.changed.listen();
            }
        };
        Ok(Subscription::new(stream::unfold((shared, closed, request, from, hint), follow)))
    }

    async fn maintain(&self, cx: &Context, request: Maintain) -> Result<Maintained> {
        cx.check("store.maintain")?;
        let done = self.data().maintain(request, self.now());
        self.shared.changed.notify(usize::MAX);
        Ok(done)
    }
}

type Following = (Arc<Shared>, Arc<Closed>, Watch, i64, event_listener::EventListener);
