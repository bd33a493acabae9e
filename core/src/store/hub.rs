//! Who waits for what, and how they are woken once a commit is true: for Stores to build
//! [`watch`](crate::Store::watch) with.
//!
//! ```
//! use std::sync::Arc;
//! use selvedge_core::store::hub::{Hub, Seat, Signal, Signals};
//!
//! let hub = Arc::new(Hub::default());
//! let seat = Seat::take(&hub, vec![Signal::Queue("mail".into())]);
//! let mut signals = Signals::default();
//! signals.queue("mail");
//! hub.ring(signals);
//! # futures_util::future::FutureExt::now_or_never(seat.rung()).expect("it was rung");
//! ```

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
pub enum Signal {
    /// A queue has a job that may be ready.
    Queue(String),
    /// A topic has a message.
    Topic(String),
    /// The outbox has an event that may go out.
    Outbox,
}

/// The signals of one transaction, kept until it is committed.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    /// Nobody waits: collecting would be for nothing.
    muted: bool,
    set: HashSet<Signal>,
}

impl Signals {
    /// Collects nothing.
    pub fn muted() -> Self {
        Self { muted: true, ..Self::default() }
    }

    /// What was collected, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Signal> {
        self.set.iter()
    }

    /// Adds a signal.
    pub fn add(&mut self, signal: Signal) {
        if !self.muted {
            self.set.insert(signal);
        }
    }

    /// A queue has a job.
    pub fn queue(&mut self, queue: &str) {
        if !self.muted {
            self.set.insert(Signal::Queue(queue.into()));
        }
    }

    /// A topic has a message.
    pub fn topic(&mut self, topic: &str) {
        if !self.muted {
            self.set.insert(Signal::Topic(topic.into()));
        }
    }

    /// The outbox has an event.
    pub fn outbox(&mut self) {
        if !self.muted {
            self.set.insert(Signal::Outbox);
        }
    }
}

/// All watchers of one Store.
#[derive(Debug, Default)]
pub struct Hub {
    watchers: Mutex<HashMap<u64, Arc<Watcher>>>,
    count: AtomicUsize,
    next: AtomicU64,
    closed: AtomicBool,
}

/// One subscription's doorbell.
#[derive(Debug)]
struct Watcher {
    signals: Vec<Signal>,
    rung: AtomicBool,
    waker: AtomicWaker,
}

impl Hub {
    fn watchers(&self) -> MutexGuard<'_, HashMap<u64, Arc<Watcher>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// A place to collect signals, which stays empty while nobody waits.
    pub fn signals(&self) -> Signals {
        if self.is_empty() { Signals::muted() } else { Signals::default() }
    }

    /// Rings those who wait for one of `signals`. Empty `muted` ones ring everybody: nobody knows what they would have told.
    pub fn ring(&self, signals: Signals) {
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
    pub fn ring_all(&self) {
        self.watchers().values().for_each(|watcher| watcher.ring());
    }

    /// Ends all subscriptions.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.ring_all();
    }

    /// Whether subscriptions have ended.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl Watcher {
    fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// A watcher's place in the hub; dropping it ends the watch.
#[derive(Debug)]
pub struct Seat {
    hub: Arc<Hub>,
    watcher: Arc<Watcher>,
    key: u64,
}

impl Seat {
    /// Begins to wait for any of `signals`.
    pub fn take(hub: &Arc<Hub>, signals: Vec<Signal>) -> Self {
        let watcher = Arc::new(Watcher { signals, rung: AtomicBool::new(false), waker: AtomicWaker::new() });
        let key = hub.next.fetch_add(1, Ordering::Relaxed);
        let mut watchers = hub.watchers();
        watchers.insert(key, watcher.clone());
        hub.count.store(watchers.len(), Ordering::Release);
        drop(watchers);
        Self { hub: hub.clone(), watcher, key }
    }

    /// Whether the Store was closed.
    pub fn is_closed(&self) -> bool {
        self.hub.is_closed()
    }

    /// Forgets rings so far: what they told of is read next.
    pub fn hush(&self) {
        self.watcher.rung.store(false, Ordering::Release);
    }

    /// Completes once it was rung.
    pub async fn rung(&self) {
        poll_fn(|cx| {
            self.watcher.waker.register(cx.waker());
            if self.watcher.rung.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut watchers = self.hub.watchers();
        watchers.remove(&self.key);
        self.hub.count.store(watchers.len(), Ordering::Release);
    }
}
