//! The outbox on a real nats-server: order, duplicates, and a server that is killed.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use selvedge_core::{
    Commit, Context, Engine, ErrorKind, Store, TraceContext,
    engine::{Delivery, EventSink, RelayReport},
    store::{Event, EventView, Lease, LeaseTarget, LeasedEvent, StoreExt},
};
use selvedge_nats::{
    JetStreamSink,
    async_nats::{
        self, Client, HeaderMap,
        jetstream::{self, stream::Stream},
    },
};
use selvedge_testkit::{ManualClock, MemoryStore, nats::NatsServer};

const SOON: Duration = Duration::from_secs(60);

/// A machine without nats-server skips these tests, unless it is meant to run them all.
fn started() -> Option<NatsServer> {
    match NatsServer::start() {
        Ok(server) => Some(server),
        Err(error) if std::env::var_os("CI").is_some() => panic!("{error:#}"),
        Err(error) => {
            println!("skipped: {error:#}");
            None
        }
    }
}

async fn stream(client: &Client) -> Stream {
    let config =
        jetstream::stream::Config { name: "SHOP".into(), subjects: vec!["shop.>".into()], ..Default::default() };
    jetstream::new(client.clone()).create_stream(config).await.expect("a stream")
}

/// Its sleeps are tokio's.
fn engine() -> (Engine, MemoryStore) {
    let clock = Arc::new(ManualClock::new());
    let store = MemoryStore::new(clock.clone());
    (Engine::builder().store(store.reopen()).clock(clock).build(), store)
}

async fn emit(store: &MemoryStore, event: Event) {
    store.commit(&Context::new(), Commit::new().emit(event)).await.unwrap();
}

async fn outbox(store: &MemoryStore) -> Vec<EventView> {
    store.outbox(&Context::new(), false, None, 10_000).await.unwrap().items
}

struct Kept {
    subject: String,
    headers: HeaderMap,
    payload: String,
}

impl Kept {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.as_str())
    }
}

/// All that the stream keeps, in its order.
async fn kept(stream: &mut Stream) -> Vec<Kept> {
    let state = stream.info().await.unwrap().state.clone();
    let mut kept = Vec::new();
    for sequence in state.first_sequence..=state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        kept.push(Kept {
            subject: message.subject.to_string(),
            headers: message.headers,
            payload: String::from_utf8(message.payload.to_vec()).unwrap(),
        });
    }
    kept
}

fn leased(event: Event) -> LeasedEvent {
    let now = selvedge_core::Timestamp::now();
    let lease = Lease { target: LeaseTarget::Event, id: 1, token: 1 };
    LeasedEvent { lease, event, attempt: 1, emitted_at: now, leased_until: now }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_arrives_once_with_its_id_aggregate_and_trace() {
    let Some(server) = started() else { return };
    let client = async_nats::connect(server.url()).await.unwrap();
    let mut stream = stream(&client).await;
    let (engine, store) = engine();
    let mut event = Event::new("order/größe 7", "order.created", r#"{"item":"tea"}"#);
    event.trace = Some(TraceContext::start());
    emit(&store, event.clone()).await;
    emit(&store, Event::new("order/8", "order.deleted", "{}")).await;

    let sink = JetStreamSink::connect(&server.url(), "shop").await.unwrap().topic("order.created");
    let report = engine.relay_once(&Context::new(), &sink, false).await.unwrap();
    assert_eq!(report, RelayReport { attempts: 1, delivered: 1, ..RelayReport::default() });
    assert_eq!(outbox(&store).await.len(), 1, "the other topic waits for its sink");

    // A relay that died after the acknowledgement sends it again, perhaps from elsewhere.
    let other = JetStreamSink::new(client, "shop").unwrap();
    let again = other.deliver(&Context::new(), &leased(event.clone())).await.unwrap();
    assert!(matches!(again, Delivery::Done(_)), "{again:?}");

    let kept = kept(&mut stream).await;
    assert_eq!(kept.len(), 1, "the stream drops what it has by its id");
    assert_eq!((kept[0].subject.as_str(), kept[0].payload.as_str()), ("shop.order.created", r#"{"item":"tea"}"#));
    assert_eq!(kept[0].header("Nats-Msg-Id"), Some(event.id.to_string().as_str()));
    assert_eq!(kept[0].header("Selvedge-Aggregate"), Some("order/größe 7"));
    let trace: TraceContext = kept[0].header("traceparent").unwrap().parse().unwrap();
    assert_eq!(trace.trace_id(), event.trace.unwrap().trace_id());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_arrive_is_refused_and_what_may_pass_is_not() {
    let Some(server) = started() else { return };
    let sink = JetStreamSink::connect(&server.url(), "shop").await.unwrap().with_timeout(Duration::from_secs(1));
    let cx = Context::new();
    let nobody = sink.deliver(&cx, &leased(Event::new("a", "t", "{}"))).await.unwrap_err();
    assert_eq!((nobody.kind(), nobody.retryable()), (ErrorKind::Unavailable, true), "{nobody}");
    assert!(nobody.advice().is_some_and(|advice| advice.contains("stream")), "{nobody}");

    let client = async_nats::connect(server.url()).await.unwrap();
    let _stream = stream(&client).await;
    for event in [Event::new("a", "no subject", "{}"), Event::new("a", "t", vec![0; 2 << 20])] {
        let refused = sink.deliver(&cx, &leased(event)).await.unwrap();
        assert!(matches!(refused, Delivery::Refused { .. }), "{refused:?}");
    }
    let taken = sink.deliver(&cx, &leased(Event::new("a", "t", "{}"))).await.unwrap();
    assert!(matches!(taken, Delivery::Done(_)), "the connection stands all the same: {taken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_waited_for_no_longer_than_said() {
    // It greets as NATS does and takes everything, but it never acknowledges anything.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mute = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = listener.accept().await.unwrap();
        let info = r#"{"server_id":"mute","version":"2.9.10","max_payload":1048576,"headers":true,"proto":1}"#;
        stream.write_all(format!("INFO {info}\r\n").as_bytes()).await.unwrap();
        let mut heard = vec![0; 4096];
        while let Ok(bytes @ 1..) = stream.read(&mut heard).await {
            if heard[..bytes].windows(4).any(|word| word == b"PING") {
                stream.write_all(b"PONG\r\n").await.unwrap();
            }
        }
    });
    let sink = JetStreamSink::connect(&format!("nats://{address}"), "shop").await.unwrap();
    let sink = sink.with_timeout(Duration::from_millis(200));
    let begun = Instant::now();
    let late = sink.deliver(&Context::new(), &leased(Event::new("a", "t", "{}"))).await.unwrap_err();
    assert_eq!((late.kind(), late.retryable()), (ErrorKind::DeadlineExceeded, false), "it may have arrived: {late}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    mute.abort();
}

#[tokio::test]
async fn what_cannot_be_used_says_why() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = JetStreamSink::connect(&format!("nats://user:secret@{free}"), "shop").await.unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::Unavailable);
    assert!(nobody.advice().is_some() && !format!("{nobody:?}").contains("secret"), "{nobody:?}");
    let nonsense = JetStreamSink::connect("nats://:::", "shop").await.unwrap_err();
    assert_eq!(nonsense.kind(), ErrorKind::InvalidInput, "{nonsense}");
    let Some(server) = started() else { return };
    for prefix in ["", "a b", "a.", "a.*", ">"] {
        let refused = JetStreamSink::connect(&server.url(), prefix).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{prefix:?}");
    }
}

/// Two relays, each with a connection of its own, while the server is killed twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_loses_nothing_and_keeps_each_aggregates_order() {
    const AGGREGATES: usize = 16;
    const EVENTS: usize = 100;
    let Some(mut server) = started() else { return };
    let client = async_nats::connect(server.url()).await.unwrap();
    let mut stream = stream(&client).await;
    let (engine, store) = engine();
    for number in 0..EVENTS {
        for aggregate in 0..AGGREGATES {
            emit(&store, Event::new(format!("order/{aggregate}"), "t", format!("{number}"))).await;
        }
    }
    let done = Arc::new(AtomicBool::new(false));
    let relays = [0, 1].map(|_| {
        let (engine, url, done) = (engine.clone(), server.url(), done.clone());
        tokio::spawn(async move {
            let sink = JetStreamSink::connect(&url, "shop").await.unwrap().with_timeout(Duration::from_millis(500));
            let mut failed = 0;
            while !done.load(Ordering::Acquire) {
                failed += engine.relay_once(&Context::new(), &sink, true).await.unwrap().failed;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            failed
        })
    });
    let begun = Instant::now();
    let mut thresholds = vec![AGGREGATES * EVENTS / 3, AGGREGATES * EVENTS * 2 / 3];
    loop {
        let left = outbox(&store).await.len();
        assert!(begun.elapsed() < SOON, "{left} events are left");
        if thresholds.last().is_some_and(|at| left <= *at) {
            thresholds.pop();
            assert!(left > 0, "it is killed in the middle");
            server = tokio::task::spawn_blocking(move || {
                server.kill().unwrap();
                std::thread::sleep(Duration::from_millis(300));
                server.restart().unwrap();
                server
            })
            .await
            .unwrap();
        }
        if left == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    done.store(true, Ordering::Release);
    let mut failed = 0;
    for relay in relays {
        failed += relay.await.unwrap();
    }
    assert!(thresholds.is_empty(), "it was killed twice");
    assert!(failed > 0, "the relays noticed nothing: the fault did not happen");

    let mut arrived: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for message in kept(&mut stream).await {
        let aggregate = message.header("Selvedge-Aggregate").unwrap().to_owned();
        arrived.entry(aggregate).or_default().push(message.payload.parse().unwrap());
    }
    assert_eq!(arrived.len(), AGGREGATES);
    for (aggregate, numbers) in arrived {
        assert_eq!(numbers, (0..EVENTS).collect::<Vec<_>>(), "{aggregate}");
    }
    println!("{failed} attempts failed and were repeated");
}
