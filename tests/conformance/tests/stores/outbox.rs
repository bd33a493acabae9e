//! The outbox's way to handlers of the same process, and how fast it is.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use selvedge::{
    BoxFuture, CancelToken, Commit, Context, Result, Store,
    engine::{Delivery, EventSink, HandlerSink},
    store::{Event, JobFilter, LeasedEvent, NewJob, StoreExt},
};
use selvedge_postgres::PostgresStore;
use selvedge_testkit::postgres::Cluster;

use super::Place;

type Delivered = BoxFuture<'static, Result<Delivery>>;

fn receipt(_: Context, event: LeasedEvent) -> Delivered {
    Box::pin(async move { Ok(Delivery::Done(Commit::new().enqueue([NewJob::new("receipts", event.event.payload)]))) })
}

fn panics(_: Context, event: LeasedEvent) -> Delivered {
    panic!("a bug in the handler of {}", event.event.topic)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_topic_has_its_handler_and_a_panic_is_a_failed_attempt() {
    for place in Place::all() {
        let (engine, _) = place.engine().await;
        let (store, cx) = (engine.store().unwrap(), Context::new());
        let events = [("order/1", "order.paid"), ("order/2", "order.odd"), ("order/3", "order.deleted")];
        for (aggregate, topic) in events {
            store.commit(&cx, Commit::new().emit(Event::new(aggregate, topic, "{}"))).await.unwrap();
        }
        let sink = HandlerSink::new("order.paid", receipt).on("order.odd", panics);
        let report = engine.relay_once(&cx, &sink, false).await.unwrap();
        assert_eq!((report.attempts, report.delivered, report.failed), (2, 1, 1));
        let jobs = store.jobs(&cx, JobFilter::default()).await.unwrap().items;
        assert_eq!(jobs.len(), 1, "the effect is there with the end of the event");
        let left = store.outbox(&cx, false, None, 10).await.unwrap().items;
        let left: BTreeMap<_, _> = left.iter().map(|view| (view.event.topic.as_str(), view)).collect();
        assert_eq!(left.keys().copied().collect::<Vec<_>>(), ["order.deleted", "order.odd"]);
        let odd = left["order.odd"];
        let error = odd.last_error.as_deref().unwrap();
        assert!(!odd.dead && error.contains("a bug in the handler of order.odd"), "{error}");
        assert_eq!(left["order.deleted"].attempts, 0, "nobody asked for it");
    }
}

/// Notes when each event came.
#[derive(Debug, Default)]
struct Counts(Mutex<Vec<(String, u64)>>);

impl EventSink for Counts {
    fn topics(&self) -> Vec<String> {
        vec!["t".into()]
    }

    fn deliver<'a>(&'a self, _: &'a Context, event: &'a LeasedEvent) -> BoxFuture<'a, Result<Delivery>> {
        Box::pin(async move {
            let number = String::from_utf8_lossy(&event.event.payload).parse().unwrap();
            self.0.lock().unwrap().push((event.event.aggregate.clone(), number));
            Ok(Delivery::Done(Commit::new()))
        })
    }
}

/// How many events two relays, each with connections of its own, send in a second to a sink that costs nothing.
async fn rate(cluster: &Cluster, aggregates: u64, each: u64) -> f64 {
    let schema = cluster.schema();
    let cx = Context::new();
    let open = || PostgresStore::builder(cluster.url()).schema(&schema).connections(16).open();
    let store = open().await.unwrap();
    let mut commit = Commit::new();
    for number in 0..aggregates * each {
        let event = Event::new(format!("order/{}", number % aggregates), "t", (number / aggregates).to_string());
        commit = commit.emit(event);
        if commit.ops().len() == 500 {
            store.commit(&cx, std::mem::take(&mut commit)).await.unwrap();
        }
    }
    store.commit(&cx, commit).await.unwrap();
    let sink = Arc::new(Counts::default());
    let stop = CancelToken::new();
    let mut engines = Vec::new();
    for _ in 0..2 {
        engines.push(selvedge::builder().store(open().await.unwrap()).build());
    }
    let begun = Instant::now();
    let relays = engines.into_iter().map(|engine| {
        let (sink, cx) = (sink.clone(), Context::new().with_cancel(stop.clone()));
        tokio::spawn(async move { engine.relay(&cx, &*sink).await.unwrap() })
    });
    let relays: Vec<_> = relays.collect();
    while !store.outbox(&cx, false, None, 1).await.unwrap().items.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(120), "the relays do not get through");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let took = begun.elapsed();
    stop.cancel();
    for relay in relays {
        relay.await.unwrap();
    }
    let sent = std::mem::take(&mut *sink.0.lock().unwrap());
    assert_eq!(sent.len() as u64, aggregates * each, "each went out once");
    let mut next: BTreeMap<String, u64> = BTreeMap::new();
    for (aggregate, number) in sent {
        let next = next.entry(aggregate).or_default();
        assert_eq!(number, *next);
        *next += 1;
    }
    (aggregates * each) as f64 / took.as_secs_f64()
}

/// `cargo test --release -p selvedge-conformance --test stores -- --ignored --nocapture how_fast`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures, and takes a minute"]
async fn how_fast_two_relays_are_on_postgresql() {
    // A real one, that flushes what it acknowledges.
    let cluster = Cluster::start_with(&[]).unwrap();
    for round in 1..=3 {
        for (aggregates, each) in [(3_000, 1), (100, 30), (1, 1_000)] {
            let rate = rate(&cluster, aggregates, each).await;
            println!("round {round}: {aggregates} aggregates with {each} events each: {rate:.0} events/s");
        }
    }
}
