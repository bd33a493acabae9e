//! Who waits for what, and how they are woken once a commit is true.

use std::{
    collections::{HashMap, HashSet},
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
};

use futures_util::task::AtomicWaker;

/// What a commit may wake.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Signal {
    /// A queue has a job that may be ready.
    Queue(String),
    /// A topic has a message.
    Topic(String),
    /// The outbox has an event that may go out.
    Outbox,
}

/// The signals of one transaction, kept until it is committed.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// Nobody waits: collecting would be for nothing.
    muted: bool,
    set: HashSet<Signal>,
}

impl Signals {
    pub(crate) fn muted() -> Self {
        Self { muted: true, ..Self::default() }
    }

    pub(crate) fn queue(&mut self, queue: &str) {
        if !self.muted {
            self.set.insert(Signal::Queue(queue.into()));
        }
    }

    pub(crate) fn topic(&mut self, topic: &str) {
        if !self.muted {
            self.set.insert(Signal::Topic(topic.into()));
        }
    }

    pub(crate) fn outbox(&mut self) {
        if !self.muted {
            self.set.insert(Signal::Outbox);
        }
    }
}

/// All watchers of one Store.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    watchers: Mutex<HashMap<u64, Arc<Watcher>>>,
    count: AtomicUsize,
    next: AtomicU64,
    closed: AtomicBool,
}

/// One subscription's doorbell.
#[derive(Debug)]
pub(crate) struct Watcher {
    signals: Vec<Signal>,
    rung: AtomicBool,
    waker: AtomicWaker,
}

impl Hub {
    fn watchers(&self) -> MutexGuard<'_, HashMap<u64, Arc<Watcher>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    pub(crate) fn signals(&self) -> Signals {
        if self.is_empty() { Signals::muted() } else { Signals::default() }
    }

    /// Rings those who wait for one of `signals`.
    pub(crate) fn ring(&self, signals: Signals) {
        if signals.muted {
            // Whoever came while the transaction ran may have read before it was committed.
            if !self.is_empty() {
                self.ring_all();
            }
            return;
        }
        if signals.set.is_empty() {
            return;
        }
        for watcher in self.watchers().values() {
            if watcher.signals.iter().any(|signal| signals.set.contains(signal)) {
                watcher.ring();
            }
        }
    }

    /// Rings everybody: another process wrote something, and SQLite does not say what.
    pub(crate) fn ring_all(&self) {
        self.watchers().values().for_each(|watcher| watcher.ring());
    }

    /// Ends all subscriptions.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.ring_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl Watcher {
    fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Forgets rings so far: what they told of is read next.
    pub(crate) fn hush(&self) {
        self.rung.store(false, Ordering::Release);
    }

    /// Completes once it was rung.
    pub(crate) async fn rung(&self) {
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            if self.rung.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// A watcher's place in the hub; dropping it ends the watch.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) hub: Arc<Hub>,
    pub(crate) watcher: Arc<Watcher>,
    key: u64,
}

impl Seat {
    pub(crate) fn take(hub: &Arc<Hub>, signals: Vec<Signal>) -> Self {
        let watcher = Arc::new(Watcher { signals, rung: AtomicBool::new(false), waker: AtomicWaker::new() });
        let key = hub.next.fetch_add(1, Ordering::Relaxed);
        let mut watchers = hub.watchers();
        watchers.insert(key, watcher.clone());
        hub.count.store(watchers.len(), Ordering::Release);
        drop(watchers);
        Self { hub: hub.clone(), watcher, key }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut watchers = self.hub.watchers();
        watchers.remove(&self.key);
        self.hub.count.store(watchers.len(), Ordering::Release);
    }
}
