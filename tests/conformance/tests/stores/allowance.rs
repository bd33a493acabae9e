//! What tenants and keys may use of a model, over several processes that share a Store.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use selvedge::{
    Context, Engine, Error, ErrorKind, Store,
    allowance::{Allowance, Allowances, Limit},
    inference::{Chunk, Generate, Generation},
    priority::Priority,
    store::{Maintain, Take, Taken, TokenBucket},
};
use selvedge_core::AnyStore;
use selvedge_testkit::ToyModel;

use super::Place;

/// Ten tokens.
const PROMPT: &str = "abcdefghij";

fn engine(store: AnyStore) -> Engine {
    selvedge::builder().store(store).scheduler(Priority::new(64, 64)).model(ToyModel::new(1_000)).build()
}

fn under(name: &str, allowance: Allowance) -> (Context, Allowances) {
    let allowances = Allowances::new([(name, allowance)]);
    (Context::new().with_allowances(allowances.clone()), allowances)
}

async fn ask(engine: &Engine, cx: &Context, max_tokens: usize) -> Result<Generation, Error> {
    engine.chat(cx, None, Generate::text(PROMPT).max_tokens(max_tokens)).await
}

/// The limit that an error names.
fn limit(error: &Error) -> (&str, &str) {
    assert_eq!(error.kind(), ErrorKind::RateLimited, "{error}");
    let named = |wanted: &str| error.context().iter().find(|(name, _)| *name == wanted).map_or("", |(_, value)| value);
    (named("limit"), named("of"))
}

/// Looks into a bucket of tokens, and allows for what it gained.
struct Bucket<'a> {
    engine: &'a Engine,
    name: &'a str,
    most: u64,
    begun: Instant,
}

impl<'a> Bucket<'a> {
    fn new(engine: &'a Engine, name: &'a str, most: u64) -> Self {
        Self { engine, name, most, begun: Instant::now() }
    }

    async fn holds(&self, tokens: u64) {
        let bucket = format!("allowance/{}/tokens", self.name);
        let look = Take::settle(bucket, TokenBucket::per_minute(self.most), 0, 0);
        let Taken::Granted { remaining } = self.engine.quotas().unwrap().take(&Context::new(), look).await.unwrap()
        else {
            panic!("settling is never refused")
        };
        let gained = self.begun.elapsed().as_secs_f64() * self.most as f64 / 60.0 + 1.0;
        let most = tokens + gained as u64;
        assert!((tokens..=most).contains(&remaining), "{remaining} are left; {tokens} to {most} should be");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_estimate_is_taken_at_the_start_and_settled_at_the_end_however_it_comes() {
    for place in Place::all() {
        let engine = engine(place.open().await);
        let (cx, allowances) = under("acme", Allowance::new().tokens_per_minute(1_000));
        let bucket = Bucket::new(&engine, "acme", 1_000);
        // Read to its end: settled when the stream ends.
        let whole = ask(&engine, &cx, 40).await.unwrap();
        bucket.holds(1_000 - 50).await;
        let left = allowances.standing().tokens.unwrap();
        assert_eq!((left.limit, left.remaining), (1_000, 950));
        assert!(left.reset > Duration::from_secs(2) && left.reset <= Duration::from_secs(3), "{left:?}");
        let usage = whole.collect().await.unwrap().usage;
        let used = (usage.prompt_tokens + usage.completion_tokens) as u64;
        bucket.holds(1_000 - used).await;
        // Dropped in the middle: settled by what was seen, with the next call or tick.
        let bucket = Bucket::new(&engine, "other", 1_000);
        let (cx, _) = under("other", Allowance::new().tokens_per_minute(1_000));
        let mut cut = ask(&engine, &cx, 500).await.unwrap();
        let mut seen = 0;
        while seen < 3 {
            if let Some(Ok(Chunk::Tokens { symbols, .. })) = cut.next().await {
                seen += symbols.len() as u64;
            }
        }
        drop(cut);
        bucket.holds(1_000 - 510).await;
        engine.maintain(&Context::new(), Maintain::default()).await.unwrap();
        bucket.holds(1_000 - 10 - seen).await;
        // Cancelled by its caller.
        let cancelled = cx.clone().with_cancel(Default::default());
        let mut stopped = ask(&engine, &cancelled, 500).await.unwrap();
        cancelled.cancel().cancel();
        while stopped.next().await.is_some() {}
        bucket.holds(1_000 - 20 - seen).await;
        // Never begun: nothing was used.
        let failed = engine.chat(&cx, None, Generate::text(PROMPT).max_tokens(500).stop("")).await;
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::InvalidInput);
        bucket.holds(1_000 - 20 - seen).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_scheduler_turns_away_costs_no_tokens_and_keeps_no_place() {
    for place in Place::all() {
        let store = place.open().await;
        let engine =
            selvedge::builder().store(store).scheduler(Priority::new(1, 0)).model(ToyModel::new(1_000)).build();
        let (cx, _) = under("acme", Allowance::new().tokens_per_minute(1_000).concurrent(2));
        let bucket = Bucket::new(&engine, "acme", 1_000);
        let first = ask(&engine, &cx, 40).await.unwrap();
        for _ in 0..5 {
            // Busy, and not refused for want of a place.
            assert_eq!(ask(&engine, &cx, 40).await.unwrap_err().kind(), ErrorKind::Busy);
        }
        bucket.holds(1_000 - 50).await;
        drop(first);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_estimate_is_a_debt_and_a_prompt_that_never_fits_is_said() {
    for place in Place::all() {
        let engine = engine(place.open().await);
        let (cx, allowances) = under("acme", Allowance::new().tokens_per_minute(20));
        // Ten to read and sixty to answer: estimated at all there is.
        ask(&engine, &cx, 60).await.unwrap().collect().await.unwrap();
        let refused = ask(&engine, &cx, 1).await.unwrap_err();
        assert_eq!(limit(&refused), ("tokens_per_minute", "acme"));
        // Fifty are owed and eleven wanted, at twenty a minute.
        let wait = refused.retry_after().unwrap();
        assert!(wait > Duration::from_secs(170) && wait <= Duration::from_secs(183), "{wait:?}");
        let standing = allowances.standing();
        assert_eq!((standing.refused, standing.tokens.unwrap().remaining), (Some(Limit::Tokens), 0));
        let (cx, _) = under("small", Allowance::new().tokens_per_minute(9));
        let never = ask(&engine, &cx, 1).await.unwrap_err();
        assert_eq!((never.kind(), never.retryable()), (ErrorKind::InvalidInput, false));
        assert!(never.advice().unwrap().contains("shorter prompt"), "{never}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_and_several_allowances_hold_together() {
    for place in Place::all() {
        let (one, two) = (engine(place.open().await), engine(place.open().await));
        let tenant = ("tenant", Allowance::new().requests_per_minute(5).tokens_per_minute(1_000));
        let keys = [("a", Allowance::new().requests_per_minute(3)), ("b", Allowance::new().tokens_per_minute(100))];
        let [a, b] = keys.map(|key| Context::new().with_allowances(Allowances::new([key, tenant])));
        for engine in [&one, &two, &one] {
            ask(engine, &a, 5).await.unwrap().collect().await.unwrap();
        }
        assert_eq!(limit(&ask(&two, &a, 5).await.unwrap_err()), ("requests_per_minute", "a"));
        // The tenant has two left, whichever key asks.
        for _ in 0..2 {
            ask(&two, &b, 5).await.unwrap().collect().await.unwrap();
        }
        let refused = ask(&one, &b, 5).await.unwrap_err();
        assert_eq!(limit(&refused), ("requests_per_minute", "tenant"));
        assert!(refused.retry_after().is_some_and(|wait| wait <= Duration::from_secs(12)), "{refused:?}");
        // What the key's bucket gave is given back when the tenant's refuses.
        let bucket = Bucket::new(&one, "key", 100);
        let both = [("key", Allowance::new().tokens_per_minute(100)), ("full", Allowance::new().tokens_per_minute(30))];
        let cx = Context::new().with_allowances(Allowances::new(both));
        ask(&one, &cx, 20).await.unwrap().collect().await.unwrap();
        bucket.holds(70).await;
        assert_eq!(limit(&ask(&one, &cx, 20).await.unwrap_err()), ("tokens_per_minute", "full"));
        bucket.holds(70).await;
        // Embeddings count too: the texts' tokens.
        let (cx, _) = under("vectors", Allowance::new().tokens_per_minute(100));
        let bucket = Bucket::new(&one, "vectors", 100);
        one.embed(&cx, None, vec![PROMPT.into(), PROMPT.into()]).await.unwrap();
        bucket.holds(80).await;
        let many = vec![PROMPT.to_owned(); 9];
        assert_eq!(limit(&one.embed(&cx, None, many).await.unwrap_err()), ("tokens_per_minute", "vectors"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn places_hold_over_processes_and_come_back() {
    for place in Place::all() {
        let (one, two) = (engine(place.open().await), engine(place.open().await));
        let (cx, allowances) = under("größe/1", Allowance::new().concurrent(3));
        let first = ask(&one, &cx, 5).await.unwrap();
        let second = ask(&two, &cx, 5).await.unwrap();
        let third = ask(&one, &cx, 5).await.unwrap();
        for engine in [&one, &two] {
            let refused = ask(engine, &cx, 5).await.unwrap_err();
            assert_eq!(limit(&refused).0, "concurrent");
            assert_eq!(refused.retry_after(), Some(Duration::from_secs(1)));
            assert_eq!(allowances.standing().refused, Some(Limit::Concurrent));
        }
        // One that is read to its end is free for everybody at once.
        first.collect().await.unwrap();
        let fourth = ask(&two, &cx, 5).await.unwrap();
        // One that is dropped is free for the next call of its process, and for others with its next tick.
        drop(third);
        assert!(ask(&two, &cx, 5).await.is_err());
        one.maintain(&Context::new(), Maintain::default()).await.unwrap();
        let fifth = ask(&two, &cx, 5).await.unwrap();
        drop((second, fourth, fifth));
        let again =
            [ask(&two, &cx, 5).await.unwrap(), ask(&two, &cx, 5).await.unwrap(), ask(&one, &cx, 5).await.unwrap()];
        assert!(ask(&one, &cx, 5).await.is_err());
        drop(again);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_place_of_a_process_that_crashed_runs_out_and_no_answer_outlives_its_place() {
    for place in Place::all() {
        let hold = Duration::from_millis(1_500);
        let (cx, _) = under("acme", Allowance::new().concurrent(1).hold(hold));
        let begun = Instant::now();
        let lost = ask(&engine(place.open().await), &cx, 900).await.unwrap();
        // A crash: it is never dropped.
        let lost = Box::leak(Box::new(lost));
        let other = engine(place.open().await);
        loop {
            match ask(&other, &cx, 5).await {
                Ok(_) => break,
                Err(error) => assert_eq!(limit(&error), ("concurrent", "acme")),
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "the place never runs out");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(begun.elapsed() >= hold, "{:?}", begun.elapsed());
        // Whoever had it, if it was only slow, is stopped by then.
        let stopped = lost.next().await.unwrap().unwrap_err();
        assert_eq!(stopped.kind(), ErrorKind::DeadlineExceeded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_with_callers_that_hang_up_the_limits_hold_and_nothing_is_lost() {
    const MOST: usize = 4;
    const ANSWER: usize = 200;
    for place in Place::all() {
        let engines = [engine(place.open().await), engine(place.open().await)];
        let allowance = Allowance::new().tokens_per_minute(1_000_000).concurrent(MOST as u32);
        let bucket = Bucket::new(&engines[0], "acme", 1_000_000);
        let (running, highest) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let callers = (0..16).map(|caller| {
            let (engine, running, highest) = (engines[caller % 2].clone(), running.clone(), highest.clone());
            tokio::spawn(async move {
                let (cx, _) = under("acme", allowance);
                let (mut used, mut done) = (0u64, 0);
                let begun = Instant::now();
                while done < 6 {
                    assert!(begun.elapsed() < Duration::from_secs(60), "it never gets a place");
                    let mut answer = match ask(&engine, &cx, ANSWER).await {
                        Ok(answer) => answer,
                        Err(error) => {
                            assert_eq!(limit(&error).0, "concurrent");
                            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..20))).await;
                            // What others dropped is given back with a tick, as on a server.
                            engine.maintain(&Context::new(), Maintain::default()).await.unwrap();
                            continue;
                        }
                    };
                    highest.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    used += 10;
                    // Every other answer is read to its end.
                    let most = if done % 2 == 0 { usize::MAX } else { done };
                    let mut pieces = 0;
                    while pieces < most {
                        match answer.next().await {
                            Some(Ok(Chunk::Tokens { symbols, .. })) => {
                                used += symbols.len() as u64;
                                pieces += 1;
                                // With its end it gives the place back.
                                if pieces == ANSWER.min(most) {
                                    running.fetch_sub(1, Ordering::SeqCst);
                                }
                            }
                            Some(Ok(Chunk::End { .. })) => break,
                            other => panic!("{other:?}"),
                        }
                        tokio::task::yield_now().await;
                    }
                    drop(answer);
                    done += 1;
                }
                used
            })
        });
        let mut used = 0;
        for caller in callers.collect::<Vec<_>>() {
            used += caller.await.unwrap();
        }
        assert!((2..=MOST).contains(&highest.load(Ordering::SeqCst)), "{highest:?} ran at a time");
        for engine in &engines {
            engine.maintain(&Context::new(), Maintain::default()).await.unwrap();
        }
        bucket.holds(1_000_000u64.saturating_sub(used).min(1_000_000)).await;
    }
}
