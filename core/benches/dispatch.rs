//! What it costs to call a plugin through `dyn`, and what one layer adds. Prints a JSON line for each case.
#![allow(clippy::print_stdout, clippy::expect_used, missing_docs)]

use std::{
    future::Future,
    hint::black_box,
    task::{Context as TaskContext, Poll, Waker},
    time::Instant,
};

use selvedge_core::{
    AnyStore, Context, Error, Layer, Result, Store,
    idempotency::{Claim, ClaimRequest},
    layers::{Around, Attempt},
    store::*,
};

/// A Store whose calls cost nothing, so that only the way to it is measured.
#[derive(Debug)]
struct Nothing;

impl Store for Nothing {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities {
            plugin: "nothing",
            jobs: false,
            outbox: false,
            topics: false,
            idempotency: false,
            quotas: false,
            facts: false,
            cross_process: false,
            durable: false,
        }
    }
    async fn commit(&self, _: &Context, _: Commit) -> Result<Receipt> {
        Err(Error::unsupported("nothing", "store.commit"))
    }
    async fn lease(&self, _: &Context, _: LeaseRequest) -> Result<Vec<LeasedJob>> {
        Err(Error::unsupported("nothing", "store.lease"))
    }
    async fn relay(&self, _: &Context, _: RelayRequest) -> Result<Vec<LeasedEvent>> {
        Err(Error::unsupported("nothing", "store.relay"))
    }
    async fn claim(&self, _: &Context, _: ClaimRequest) -> Result<Claim> {
        Err(Error::unsupported("nothing", "store.claim"))
    }
    async fn take(&self, _: &Context, _: Take) -> Result<Taken> {
        Err(Error::unsupported("nothing", "store.take"))
    }
    async fn read(&self, _: &Context, _: Query) -> Result<Rows> {
        Err(Error::unsupported("nothing", "store.read"))
    }
    async fn watch(&self, _: &Context, _: Watch) -> Result<Subscription> {
        Err(Error::unsupported("nothing", "store.watch"))
    }
    async fn maintain(&self, _: &Context, _: Maintain) -> Result<Maintained> {
        Ok(Maintained::default())
    }
}

/// A layer that does nothing, so that only being one is measured.
#[derive(Clone, Debug)]
struct Through;

impl Around for Through {
    async fn around<T, F>(&self, _: &Context, _: &'static str, mut call: impl FnMut(Attempt) -> F + Send) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        call(Attempt::Last).await
    }
}

fn ready<F: Future>(future: F) -> F::Output {
    match std::pin::pin!(future).poll(&mut TaskContext::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("nothing here waits"),
    }
}

/// The median over rounds of nanoseconds a call.
fn nanoseconds(store: &impl Store, calls: u32) -> f64 {
    let cx = Context::new();
    let mut rounds: Vec<f64> = (0..15)
        .map(|_| {
            let started = Instant::now();
            for _ in 0..calls {
                black_box(ready(black_box(store).maintain(&cx, black_box(Maintain::default()))).expect("does nothing"));
            }
            started.elapsed().as_nanos() as f64 / f64::from(calls)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

fn main() {
    let calls = if std::env::args().any(|arg| arg == "--quick") { 100_000 } else { 1_000_000 };
    const LAYERS: u32 = 4;
    let bare = AnyStore::new(Nothing);
    let layered = (0..LAYERS).fold(bare.clone(), |inner, _| Layer::store(&Through, inner));
    let dyn_call = nanoseconds(&bare, calls);
    let layer = (nanoseconds(&layered, calls) - dyn_call) / f64::from(LAYERS);
    for (case, value) in [("static call", nanoseconds(&Nothing, calls)), ("dyn call", dyn_call), ("one layer", layer)] {
        println!(r#"{{"case":"{case}","unit":"ns/call","value":{value:.1}}}"#);
    }
}
