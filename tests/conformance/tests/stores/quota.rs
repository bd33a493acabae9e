//! A quota that several processes take from in chunks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use selvedge::{Context, ErrorKind, store::TokenBucket};

use super::Place;

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_take_in_chunks_stay_within_the_bound() {
    const PROCESSES: usize = 3;
    const CHUNK: u64 = 10;
    let rule = TokenBucket { capacity: 200, refill: 200, per: Duration::from_secs(1) };
    for place in Place::all() {
        let mut engines = Vec::new();
        for _ in 0..PROCESSES {
            engines.push(place.engine().await);
        }
        let (begun, denied) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        // Eight tasks of each process want one token after the other, more than the bucket has, until it ran dry: on a slow
        // disk that takes longer.
        let wanted = move |denied: &AtomicU64| match begun.elapsed().as_millis() {
            0..1_500 => true,
            1_500..60_000 => denied.load(Ordering::Relaxed) == 0,
            _ => false,
        };
        let tasks = (0..PROCESSES).flat_map(|process| {
            let quota = engines[process].0.quota("acme", rule, CHUNK);
            let denied = &denied;
            (0..8).map(move |_| {
                let (quota, denied) = (quota.clone(), denied.clone());
                tokio::spawn(async move {
                    let mut spent = 0u64;
                    while wanted(&denied) {
                        match quota.take(&Context::new(), 1).await {
                            Ok(()) => spent += 1,
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::RateLimited);
                                denied.fetch_add(1, Ordering::Relaxed);
                                let wait = error.retry_after().expect("it says when to come back");
                                tokio::time::sleep(wait.max(Duration::from_millis(5))).await;
                            }
                        }
                    }
                    spent
                })
            })
        });
        let mut spent = 0u64;
        for task in tasks.collect::<Vec<_>>() {
            spent += task.await.unwrap();
        }
        let denied = denied.load(Ordering::Relaxed);
        let span = begun.elapsed();
        let gained = rule.refill as f64 * span.as_secs_f64();
        let bound = rule.capacity as f64 + gained;
        assert!(spent as f64 <= bound, "{spent} tokens were spent in {span:?}; {bound} are allowed");
        assert!(denied > 0, "the bucket never ran dry: the bound was not tried");
        // The whole burst and most of what was gained could be spent: chunks do not lose it.
        let least = rule.capacity as f64 + gained * 0.5;
        assert!(spent as f64 >= least, "only {spent} tokens were spent in {span:?}");
        let calls: u64 = engines.iter().map(|(_, metrics)| metrics.snapshot()["store.take"].calls).sum();
        println!("{spent} tokens, {denied} refusals, {calls} calls to the Store");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_tokens_are_taken_one_by_one_and_what_is_refused_says_when() {
    let rule = TokenBucket { capacity: 25, refill: 1, per: Duration::from_secs(3_600) };
    for place in Place::all() {
        let (cx, one, two) = (Context::new(), place.engine().await, place.engine().await);
        let (first, second) = (one.0.quota("acme", rule, 10), two.0.quota("acme", rule, 10));
        first.take(&cx, 1).await.unwrap();
        second.take(&cx, 1).await.unwrap();
        let (mut spent, mut asked) = ([1, 1], false);
        for (index, quota) in [(0, &first), (1, &second)] {
            loop {
                match quota.take(&cx, 1).await {
                    Ok(()) => spent[index] += 1,
                    Err(error) => {
                        let wait = error.retry_after().expect("it says when to come back");
                        assert_eq!(error.kind(), ErrorKind::RateLimited);
                        assert!(wait > Duration::from_secs(3_000) && wait <= Duration::from_secs(3_600), "{wait:?}");
                        asked = true;
                        break;
                    }
                }
            }
        }
        // Two chunks of ten, and the five that make no chunk.
        assert_eq!((spent, asked), ([15, 10], true));
        let never = first.take(&cx, 26).await.unwrap_err();
        assert_eq!((never.kind(), never.retry_after()), (ErrorKind::InvalidInput, None));
        let calls = one.1.snapshot()["store.take"].calls;
        assert_eq!(
            calls, 14,
            "a chunk; five times a refused chunk and a token; two refusals; and what is never granted"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_loses_less_than_a_chunk() {
    let rule = TokenBucket { capacity: 30, refill: 0, per: Duration::from_secs(1) };
    for place in Place::all() {
        let cx = Context::new();
        place.engine().await.0.quota("acme", rule, 10).take(&cx, 1).await.unwrap();
        let (engine, _) = place.engine().await;
        let quota = engine.quota("acme", rule, 10);
        let mut spent = 0;
        while quota.take(&cx, 1).await.is_ok() {
            spent += 1;
        }
        assert_eq!(spent, 20, "the other one ended with nine in hand");
    }
}
