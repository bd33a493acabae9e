//! Quotas on a real Redis: its clock, a server that is killed, and what is refused.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use selvedge_core::{
    Context, ErrorKind, Store, Timestamp,
    store::{Ask, Bucket, StoreExt, Take, Taken, TokenBucket},
};
use selvedge_redis::RedisStore;
use selvedge_testkit::{ManualClock, redis::RedisServer};

/// A machine without redis-server skips these tests, unless it is meant to run them all.
fn started() -> Option<RedisServer> {
    match RedisServer::start() {
        Ok(server) => Some(server),
        Err(error) if std::env::var_os("CI").is_some() => panic!("{error:#}"),
        Err(error) => {
            println!("skipped: {error:#}");
            None
        }
    }
}

/// Says something to Redis by hand.
fn say(server: &RedisServer, line: &str) -> String {
    let address = server.url().trim_start_matches("redis://").trim_end_matches("/0").to_owned();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{line}\r\nQUIT\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.trim_end_matches("+OK\r\n").to_owned()
}

fn slow(capacity: u64) -> TokenBucket {
    TokenBucket { capacity, refill: 1, per: Duration::from_secs(86_400) }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_is_the_rule_to_the_last_millionth() {
    let Some(server) = started() else { return };
    let clock = Arc::new(ManualClock::new());
    let store = RedisStore::builder(server.url()).clock(clock.clone()).open().await.unwrap();
    let cx = Context::new();
    let mut random = fastrand::Rng::with_seed(7);
    let most = RedisStore::MOST;
    for bucket in 0..60 {
        let large = bucket % 2 == 0;
        let number = |random: &mut fastrand::Rng| if large { random.u64(0..=most) } else { random.u64(0..20) };
        let per = Duration::from_micros(if large { random.u64(1..1 << 51) } else { random.u64(1..10_000_000) });
        let rule = TokenBucket { capacity: number(&mut random), refill: number(&mut random), per };
        let mut state: Option<Bucket> = None;
        for _ in 0..40 {
            clock.advance(Duration::from_micros(if large { random.u64(..1 << 40) } else { random.u64(..3_000_000) }));
            let ask = match random.u8(..6) {
                0 => Ask::Settle(number(&mut random) as i64),
                1 => Ask::Settle(-(number(&mut random) as i64)),
                2 => Ask::Spend(random.u64(..)),
                _ => Ask::Spend(number(&mut random) / 2),
            };
            let (next, mut taken) = rule.apply(state, selvedge_core::Clock::now(&*clock), ask);
            // A debt beyond what Redis keeps is another matter: it is not made here.
            if next.micro_tokens < -3_900_000_000_000_000 {
                continue;
            }
            state = Some(next);
            if let Taken::Denied { retry_after } = &mut taken {
                *retry_after = (*retry_after).min(Duration::from_micros(9_000_000_000_000_000));
            }
            let request = Take { bucket: format!("b{bucket}"), rule, ask };
            assert_eq!(store.take(&cx, request).await.unwrap(), taken, "{rule:?} {ask:?} {next:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_by_redis_clock_and_forgets_what_is_full() {
    let Some(server) = started() else { return };
    let store = RedisStore::builder(server.url()).prefix("shop").open().await.unwrap();
    let cx = Context::new();
    let rule = TokenBucket { capacity: 10, refill: 10, per: Duration::from_millis(500) };
    store.take(&cx, Take::new("b", rule, 10)).await.unwrap();
    assert_eq!(say(&server, "EXISTS shop:quota:b"), ":1\r\n");
    let Taken::Denied { retry_after } = store.take(&cx, Take::new("b", rule, 4)).await.unwrap() else {
        panic!("it was empty")
    };
    assert!(retry_after <= Duration::from_millis(200));
    tokio::time::sleep(retry_after).await;
    assert!(matches!(store.take(&cx, Take::new("b", rule, 4)).await.unwrap(), Taken::Granted { .. }));
    let begun = Instant::now();
    while say(&server, "EXISTS shop:quota:b") != ":0\r\n" {
        assert!(begun.elapsed() < Duration::from_secs(20), "a full bucket stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(store.take(&cx, Take::new("b", rule, 10)).await.unwrap(), Taken::Granted { remaining: 0 });
    // One that never gains is a budget, and stays.
    let budget = TokenBucket { capacity: 1, refill: 0, per: Duration::from_secs(1) };
    store.take(&cx, Take::new("budget", budget, 1)).await.unwrap();
    assert_eq!(say(&server, "PTTL shop:quota:budget"), ":-1\r\n");
    let now = store.info(&cx).await.unwrap().now;
    assert!(now.since(Timestamp::now()).max(Timestamp::now().since(now)) < Duration::from_secs(60), "{now}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_is_an_error_and_comes_back_with_what_it_kept() {
    let Some(mut server) = started() else { return };
    let store = RedisStore::builder(server.url()).timeout(Duration::from_millis(500)).open().await.unwrap();
    let cx = Context::new();
    assert_eq!(store.take(&cx, Take::new("b", slow(10), 4)).await.unwrap(), Taken::Granted { remaining: 6 });
    store.take(&cx, Take::settle("b", slow(10), 4, 2)).await.unwrap();
    server.kill().unwrap();
    let begun = Instant::now();
    let cut = store.take(&cx, Take::new("b", slow(10), 1)).await.unwrap_err();
    assert_eq!((cut.kind(), cut.retryable()), (ErrorKind::Unavailable, false), "{cut}: it may have arrived");
    for _ in 0..3 {
        let away = store.take(&cx, Take::new("b", slow(10), 1)).await.unwrap_err();
        assert_eq!((away.kind(), away.retryable()), (ErrorKind::Unavailable, true), "{away}: it was not sent");
        assert!(away.advice().is_some_and(|advice| advice.contains("connects again")), "{away}");
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "nobody waits long for a server that is not there");
    server.restart().unwrap();
    assert_eq!(store.take(&cx, Take::new("b", slow(10), 8)).await.unwrap(), Taken::Granted { remaining: 0 });
    // What was cached of the script is gone with the server's memory; it was loaded again.
    assert!(matches!(store.take(&cx, Take::new("b", slow(10), 1)).await.unwrap(), Taken::Denied { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_costs_the_timeout_and_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let begun = Instant::now();
    let error = RedisStore::builder(url).timeout(Duration::from_millis(200)).open().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::DeadlineExceeded), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_cannot_do_is_said_and_passwords_are_not() {
    let bad = RedisStore::open("http://app:secret@host").await.unwrap_err();
    assert_eq!(bad.kind(), ErrorKind::InvalidInput);
    assert!(!format!("{bad:?}").contains("secret"), "{bad:?}");
    let away = RedisStore::open("redis://app:secret@127.0.0.1:1").await.unwrap_err();
    assert_eq!(away.kind(), ErrorKind::Unavailable);
    assert!(!format!("{away:?}").contains("secret"), "{away:?}");
    assert!(!format!("{:?}", RedisStore::builder("redis://app:secret@host")).contains("secret"));

    let Some(server) = started() else { return };
    let with_password = server.url().replace("redis://", "redis://:secret@");
    let refused = RedisStore::open(with_password).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{refused}");
    assert!(!format!("{refused:?}").contains("secret"), "{refused:?}");

    let (store, cx) = (RedisStore::open(server.url()).await.unwrap(), Context::new());
    let large = store.take(&cx, Take::new("b", TokenBucket::per_minute(RedisStore::MOST + 1), 1)).await.unwrap_err();
    assert_eq!(large.kind(), ErrorKind::InvalidInput);
    assert!(large.advice().is_some_and(|advice| advice.contains("2000000000")), "{large}");
    say(&server, "SET selvedge:quota:odd something");
    say(&server, "LPUSH selvedge:quota:list something");
    for bucket in ["odd", "list"] {
        let damaged = store.take(&cx, Take::new(bucket, slow(1), 1)).await.unwrap_err();
        assert_eq!(damaged.kind(), ErrorKind::Damaged, "{damaged:?}");
    }
    let info = store.info(&cx).await.unwrap();
    assert!(info.backend.starts_with("Redis ") && info.location.contains("127.0.0.1"), "{info:?}");
    let asked = store.jobs(&cx, Default::default()).await.unwrap_err();
    assert_eq!(asked.kind(), ErrorKind::Unsupported);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_callers_share_one_connection() {
    let Some(server) = started() else { return };
    let store = RedisStore::open(server.url()).await.unwrap();
    let calls = (0..100).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut granted = 0;
            for _ in 0..20 {
                if let Taken::Granted { .. } =
                    store.take(&Context::new(), Take::new("b", slow(1_000), 1)).await.unwrap()
                {
                    granted += 1;
                }
            }
            granted
        })
    });
    let mut granted = 0;
    for call in calls.collect::<Vec<_>>() {
        granted += call.await.unwrap();
    }
    assert_eq!(granted, 1_000);
    let clients = say(&server, "CLIENT LIST");
    assert_eq!(
        clients.lines().filter(|line| line.contains("lib-name=redis-rs") || line.contains("cmd=evalsha")).count(),
        1,
        "{clients}"
    );
}
