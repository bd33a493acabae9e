//! What is delivered at least once takes effect once.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use selvedge::{
    Commit, Context, Engine, Error, ErrorKind, Store,
    engine::{Inbox, Received},
    store::{JobFilter, NewJob, StoreExt},
};

use super::Place;

async fn effects(engine: &Engine) -> usize {
    engine.store().unwrap().jobs(&Context::new(), JobFilter::default()).await.unwrap().items.len()
}

fn effect() -> Commit {
    Commit::new().enqueue([NewJob::new("invoices", "{}")])
}

/// Delivers it again until the broker would be told that it arrived.
async fn deliver(engine: &Engine, inbox: &Inbox, id: &str) -> Received {
    let begun = Instant::now();
    loop {
        match engine.receive(&Context::new(), inbox, id, async || Ok(effect())).await {
            Ok(received) => return received,
            // On a busy machine a delivery may take longer than it is held: then it comes again, too.
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::Busy | ErrorKind::LeaseLost | ErrorKind::DeadlineExceeded),
                "{error}"
            ),
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "it is never received");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_deliveries_at_once_are_one_effect() {
    for place in Place::all() {
        let inbox = Inbox::new("billing");
        // Two processes of one consumer.
        let engines = [place.engine().await.0, place.engine().await.0];
        let deliveries = (0..50).map(|number| {
            let (engine, inbox) = (engines[number % 2].clone(), inbox.clone());
            tokio::spawn(async move { deliver(&engine, &inbox, "event-1").await })
        });
        let mut now = 0;
        for delivery in deliveries.collect::<Vec<_>>() {
            now += usize::from(delivery.await.unwrap() == Received::Now);
        }
        assert_eq!((now, effects(&engines[0]).await), (1, 1));
        assert_eq!(deliver(&engines[0], &inbox, "event-2").await, Received::Now, "another message is another effect");
        let other = Inbox::new("shipping");
        assert_eq!(deliver(&engines[0], &other, "event-1").await, Received::Now, "another consumer receives it too");
        assert_eq!(effects(&engines[0]).await, 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_fails_or_panics_leaves_nothing_and_is_called_again_at_once() {
    for place in Place::all() {
        let (engine, _) = place.engine().await;
        let (cx, inbox, calls) = (Context::new(), Inbox::new("billing"), AtomicUsize::new(0));
        let away = || Error::new(ErrorKind::Unavailable, "test", "the bank is away");
        let failed = engine.receive(&cx, &inbox, "1", async || {
            calls.fetch_add(1, Ordering::Relaxed);
            Err(away())
        });
        assert_eq!(failed.await.unwrap_err().message(), "the bank is away");
        let panicked = tokio::spawn({
            let (engine, inbox) = (engine.clone(), inbox.clone());
            async move {
                engine
                    .receive(&Context::new(), &inbox, "1", async || -> selvedge::Result<Commit> { panic!("a bug") })
                    .await
            }
        });
        assert!(panicked.await.unwrap_err().is_panic());
        // A commit that is refused as a whole: the effect is not there, and neither is the mark.
        let bad = engine.receive(&cx, &inbox, "1", async || Ok(effect().enqueue([NewJob::new("", "")]))).await;
        assert_eq!(bad.unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(effects(&engine).await, 0);

        let received = engine.receive(&cx, &inbox, "1", async || Ok(effect())).await.unwrap();
        assert_eq!((received, effects(&engine).await), (Received::Now, 1), "it is free at once each time");
        let again = engine.receive(&cx, &inbox, "1", async || {
            calls.fetch_add(1, Ordering::Relaxed);
            Ok(effect())
        });
        assert_eq!(again.await.unwrap(), Received::Before);
        assert_eq!((calls.into_inner(), effects(&engine).await), (1, 1), "the handler is not called for what is known");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_crashes_in_the_middle_receives_it_once() {
    for place in Place::all() {
        let (engine, _) = place.engine().await;
        let (cx, inbox) = (Context::new(), Inbox::new("billing").hold(Duration::from_secs(2)));
        // Between the claim and the commit: whoever crashes there never comes back.
        let lost = tokio::time::timeout(
            Duration::from_millis(100),
            engine.receive(&cx, &inbox, "1", async || std::future::pending::<selvedge::Result<Commit>>().await),
        );
        assert!(lost.await.is_err());
        let busy = engine.receive(&cx, &inbox, "1", async || Ok(effect())).await.unwrap_err();
        assert!(busy.retry_after().is_some_and(|wait| wait <= Duration::from_secs(2)), "{busy:?}");
        assert_eq!(deliver(&engine, &inbox, "1").await, Received::Now);
        // After the commit, before the broker was told.
        assert_eq!(deliver(&engine, &inbox, "1").await, Received::Before);
        assert_eq!(effects(&engine).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_was_too_slow_cannot_commit_after_another() {
    for place in Place::all() {
        let store = place.open().await;
        let (engine, _) = place.engine().await;
        let (cx, inbox) = (Context::new(), Inbox::new("billing").hold(Duration::from_millis(300)));
        let claimed = store.claim(&cx, inbox.claim("1").unwrap()).await.unwrap();
        let selvedge::idempotency::Claim::Fresh(ticket) = claimed else { panic!("{claimed:?}") };
        assert_eq!(deliver(&engine, &inbox, "1").await, Received::Now);
        let late = store.commit(&cx, effect().and(inbox.mark(ticket))).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::LeaseLost);
        assert_eq!(effects(&engine).await, 1);

        let slow = engine.receive(&cx, &inbox, "2", async || {
            tokio::time::sleep(Duration::from_secs(5)).await;
            Ok(effect())
        });
        assert_eq!(slow.await.unwrap_err().kind(), ErrorKind::DeadlineExceeded, "the hold bounds the handler");
        assert_eq!(effects(&engine).await, 1);
    }
}
