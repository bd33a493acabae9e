//! A link as bad as a train ride: it drops, delays and repeats, and counts what it did.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use selvedge::{
    BoxFuture, Context, Error, ErrorKind, Result,
    transport::{HttpRequest, HttpResponse, HttpTransport},
};

/// What the link did.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Requests the phone sent.
    pub(crate) attempts: AtomicU64,
    /// Requests that never arrived, and responses that never came back.
    pub(crate) drops: AtomicU64,
    /// Requests that arrived twice.
    pub(crate) repeats: AtomicU64,
}

/// A transport with faults.
#[derive(Debug)]
pub(crate) struct BadLink<T> {
    inner: T,
    drop_rate: f64,
    random: std::sync::Mutex<Rng>,
    counts: Arc<Counts>,
}

/// What happens to one request.
struct Fate {
    request_lost: bool,
    repeated: bool,
    response_lost: bool,
    delay: Duration,
}

impl<T> BadLink<T> {
    /// Loses a request or its response with the chance `drop_rate` each, and repeats a request with the same chance.
    pub(crate) fn new(inner: T, drop_rate: f64, seed: u64) -> Self {
        Self { inner, drop_rate, random: Rng::with_seed(seed).into(), counts: Arc::default() }
    }

    pub(crate) fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }

    fn fate(&self) -> Fate {
        let mut random = self.random.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut happens = || random.f64() < self.drop_rate;
        let (request_lost, repeated, response_lost) = (happens(), happens(), happens());
        Fate { request_lost, repeated, response_lost, delay: Duration::from_millis(random.u64(0..20)) }
    }

    fn lost(&self, what: &str) -> Error {
        self.counts.drops.fetch_add(1, Ordering::Relaxed);
        Error::new(ErrorKind::Unavailable, "link.send", format!("the link dropped the {what}"))
    }
}

impl<T: HttpTransport> HttpTransport for BadLink<T> {
    fn send<'a>(&'a self, cx: &'a Context, request: HttpRequest) -> BoxFuture<'a, Result<HttpResponse>> {
        Box::pin(async move {
            let fate = self.fate();
            self.counts.attempts.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(fate.delay).await;
            if fate.request_lost {
                return Err(self.lost("request"));
            }
            let response = if fate.repeated {
                self.counts.repeats.fetch_add(1, Ordering::Relaxed);
                // Both copies are on their way at once, as when a proxy sends a request again.
                let copy = self.inner.send(cx, request.clone());
                let (first, _) = futures_util::join!(self.inner.send(cx, request), copy);
                first
            } else {
                self.inner.send(cx, request).await
            };
            if fate.response_lost {
                return Err(self.lost("response"));
            }
            response
        })
    }
}
