//! Admission: a bound that holds, a queue that ends, and places that come back.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use selvedge_core::{
    CancelToken, Context, ErrorKind, Scheduler,
    scheduler::{Class, ClassLoad, Load, Work},
};

use super::{Bed, of, wait_in_line, waits};
use crate::suite::{Checked, cases, needs, race, refused, same, soon, until};

cases! {
    it_says_what_it_is: "A Scheduler names its plugin and the bounds it was made with, and begins with nothing running, waiting or refused.",
    no_more_run_than_its_concurrency: "However many ask at once, never more hold a permit than the concurrency, and each is admitted in the end.",
    one_more_than_the_queue_holds_is_busy: "A request beyond concurrency and queue is `Busy` at once, retryable, with `retry_after`.",
    without_a_queue_nobody_waits: "With a queue of 0 a request that finds no place is `Busy` at once.",
    a_dropped_permit_admits_the_next: "A permit that is dropped lets exactly one more in.",
    dropping_a_waiting_request_gives_up_its_place: "A request whose future is dropped waits no longer: its place in the queue is free, and its turn goes to the next.",
    a_permit_granted_to_nobody_comes_back: "However requests are dropped while permits come free, no place is lost.",
    a_cancelled_or_late_request_is_refused: "A context that is cancelled or past its deadline is refused although there is a place.",
    cancelling_ends_the_wait: "A waiting request that is cancelled ends with `Cancelled`, and its place is free.",
    a_deadline_ends_the_wait: "A waiting request whose deadline passes ends with `DeadlineExceeded`, and its place is free.",
    first_come_first_served: "Requests of one class are admitted in the order they came.",
    urgent_classes_go_first: "A more urgent class is admitted before a less urgent one that waits longer.",
    a_permit_has_a_class: "A permit has the class that was asked for, while no tenant is limited, and `load` counts it there.",
    a_reserved_place_is_had_at_once: "A place that less urgent requests have to wait for is had by a more urgent one at once.",
    load_counts: "`load` counts what runs, what waits and what was refused.",
    a_permit_knows_how_long_it_waited: "A permit says how long its request waited.",
}

async fn it_says_what_it_is(bed: &Bed) -> Checked {
    let scheduler = bed.open(3, 5)?;
    let can = scheduler.capabilities();
    anyhow::ensure!(!can.plugin.is_empty(), "the plugin has no name");
    same!((can.concurrency, can.queue), (3, 5));
    same!(scheduler.load(), Load::default());
    Ok(())
}

async fn no_more_run_than_its_concurrency(bed: &Bed) -> Checked {
    for concurrency in [1, 3] {
        const REQUESTS: usize = 100;
        let scheduler = bed.open(concurrency, REQUESTS)?;
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let requests = race(REQUESTS, |number| {
            let (scheduler, running, most) = (scheduler.clone(), running.clone(), most.clone());
            let cx = of([Class::P0, Class::P1, Class::P2][number % 3]);
            async move {
                let permit = scheduler.admit(&cx, Work::default()).await?;
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                for _ in 0..number % 7 {
                    tokio::task::yield_now().await;
                }
                running.fetch_sub(1, Ordering::SeqCst);
                drop(permit);
                Ok(())
            }
        });
        soon("the last permit", requests).await??;
        let most = most.load(Ordering::SeqCst);
        anyhow::ensure!(most <= concurrency, "{most} ran at once, with a concurrency of {concurrency}");
        same!(scheduler.load(), Load::default(), "what is left");
    }
    Ok(())
}

async fn one_more_than_the_queue_holds_is_busy(bed: &Bed) -> Checked {
    let scheduler = bed.open(1, 2)?;
    let running = scheduler.admit(&Context::new(), Work::default()).await?;
    let waiting = [wait_in_line(&scheduler, Context::new()).await?, wait_in_line(&scheduler, Context::new()).await?];
    let error = match soon("the refusal", scheduler.admit(&Context::new(), Work::default())).await? {
        Ok(_) => anyhow::bail!("a third request was let in behind a queue of two"),
        Err(error) => error,
    };
    same!((error.kind(), error.retryable()), (ErrorKind::Busy, true));
    anyhow::ensure!(error.retry_after().is_some_and(|after| !after.is_zero()), "no `retry_after`: {error}");
    drop(running);
    for waiting in waiting {
        soon("a permit", waiting).await???;
    }
    Ok(())
}

async fn without_a_queue_nobody_waits(bed: &Bed) -> Checked {
    let scheduler = bed.open(1, 0)?;
    let running = scheduler.admit(&Context::new(), Work::default()).await?;
    refused!(soon("the refusal", scheduler.admit(&Context::new(), Work::default())).await?, Busy);
    drop(running);
    soon("a permit", scheduler.admit(&Context::new(), Work::default())).await??;
    Ok(())
}

async fn a_dropped_permit_admits_the_next(bed: &Bed) -> Checked {
    let scheduler = bed.open(2, 8)?;
    let one = scheduler.admit(&Context::new(), Work::default()).await?;
    let two = scheduler.admit(&Context::new(), Work::default()).await?;
    let next = wait_in_line(&scheduler, Context::new()).await?;
    let after = wait_in_line(&scheduler, Context::new()).await?;
    drop(one);
    let next = soon("the next permit", next).await???;
    same!(counts(&scheduler), (2, 1, 0), "after one permit came back");
    drop(two);
    let after = soon("the permit after it", after).await???;
    drop((next, after));
    same!(scheduler.load(), Load::default());
    Ok(())
}

async fn dropping_a_waiting_request_gives_up_its_place(bed: &Bed) -> Checked {
    let scheduler = bed.open(1, 2)?;
    let running = scheduler.admit(&Context::new(), Work::default()).await?;
    let gone = wait_in_line(&scheduler, Context::new()).await?;
    let next = wait_in_line(&scheduler, Context::new()).await?;
    gone.abort();
    waits(&scheduler, 1).await?;
    let last = wait_in_line(&scheduler, Context::new()).await?;
    drop(running);
    drop(soon("the permit of the next", next).await???);
    drop(soon("the permit of the last", last).await???);
    same!(scheduler.load(), Load::default());
    Ok(())
}

async fn a_permit_granted_to_nobody_comes_back(bed: &Bed) -> Checked {
    const ROUNDS: usize = 200;
    let scheduler = bed.open(1, 4)?;
    for round in 0..ROUNDS {
        let running = scheduler.admit(&Context::new(), Work::default()).await?;
        let waiting = wait_in_line(&scheduler, Context::new()).await?;
        // The permit comes free and the request goes away at one moment, in either order.
        let release = tokio::spawn(async move { drop(running) });
        if round.is_multiple_of(2) {
            tokio::task::yield_now().await;
        }
        waiting.abort();
        release.await?;
        drop(waiting.await);
        let free = soon("the place", scheduler.admit(&Context::new(), Work::default())).await?;
        drop(free.map_err(|error| anyhow::anyhow!("in round {round} the place was lost: {error}"))?);
    }
    same!(scheduler.load(), Load::default());
    Ok(())
}

async fn a_cancelled_or_late_request_is_refused(bed: &Bed) -> Checked {
    let scheduler = bed.open(1, 1)?;
    let cancelled = Context::new();
    cancelled.cancel().cancel();
    refused!(scheduler.admit(&cancelled, Work::default()).await, Cancelled);
    let late = Context::new().with_deadline(std::time::Instant::now());
    refused!(scheduler.admit(&late, Work::default()).await, DeadlineExceeded);
    same!(counts(&scheduler), (0, 0, 0));
    Ok(())
}

async fn cancelling_ends_the_wait(bed: &Bed) -> Checked {
    let scheduler = bed.open(1, 1)?;
    let running = scheduler.admit(&Context::new(), Work::default()).await?;
    let cancel = CancelToken::new();
    let waiting = wait_in_line(&scheduler, Context::new().with_cancel(cancel.child())).await?;
    cancel.cancel();
    refused!(soon("the end of the wait", waiting).await??, Cancelled);
    waits(&scheduler, 0).await?;
    let next = wait_in_line(&scheduler, Context::new()).await?;
    drop(running);
    soon("the permit of the next", next).await???;
    Ok(())
}

async fn a_deadline_ends_the_wait(bed: &Bed) -> Checked {
    let scheduler = bed.open(1, 1)?;
    let running = scheduler.admit(&Context::new(), Work::default()).await?;
    let cx = Context::new().with_timeout(Duration::from_millis(30));
    refused!(soon("the end of the wait", scheduler.admit(&cx, Work::default())).await?, DeadlineExceeded);
    waits(&scheduler, 0).await?;
    drop(running);
    soon("a permit", scheduler.admit(&Context::new(), Work::default())).await??;
    Ok(())
}

/// Lets requests wait behind one that runs, and returns the order in which they were admitted.
async fn admitted(bed: &Bed, classes: &[Class]) -> anyhow::Result<Vec<usize>> {
    let scheduler = bed.open(1, classes.len())?;
    let running = scheduler.admit(&Context::new(), Work::default()).await?;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for (number, class) in classes.iter().enumerate() {
        let waiting = wait_in_line(&scheduler, of(*class)).await?;
        let order = order.clone();
        tasks.push(tokio::spawn(async move {
            let permit = waiting.await??;
            order.lock().unwrap_or_else(PoisonError::into_inner).push(number);
            drop(permit);
            anyhow::Ok(())
        }));
    }
    drop(running);
    for task in tasks {
        soon("a permit", task).await???;
    }
    let order = order.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(order)
}

async fn first_come_first_served(bed: &Bed) -> Checked {
    same!(admitted(bed, &[Class::P1; 8]).await?, (0..8).collect::<Vec<_>>());
    Ok(())
}

async fn urgent_classes_go_first(bed: &Bed) -> Checked {
    needs(bed.can()?.classes, "`classes`")?;
    let classes = [Class::P2, Class::P1, Class::P0, Class::P2, Class::P0, Class::P1];
    same!(admitted(bed, &classes).await?, vec![2, 4, 1, 5, 0, 3]);
    Ok(())
}

async fn a_permit_has_a_class(bed: &Bed) -> Checked {
    let scheduler = bed.open(8, 1)?;
    for class in Class::ALL {
        let permit = soon("a permit", scheduler.admit(&of(class), Work::default())).await??;
        same!(permit.class(), class);
        same!(scheduler.load().of(class).running, 1, "what runs as {class}");
        drop(permit);
        same!(scheduler.load().of(class).running, 0, "what runs as {class}");
    }
    Ok(())
}

async fn a_reserved_place_is_had_at_once(bed: &Bed) -> Checked {
    const PLACES: usize = 10;
    needs(bed.can()?.classes, "`classes`")?;
    let scheduler = bed.open(PLACES, PLACES)?;
    // More of them than there are places: what they are not given is held back.
    let mut asked = Vec::new();
    for _ in 0..PLACES {
        let scheduler = scheduler.clone();
        asked.push(tokio::spawn(async move { scheduler.admit(&of(Class::P2), Work::default()).await }));
    }
    until("each runs or waits", || scheduler.load().total().running + scheduler.load().total().waiting == PLACES)
        .await?;
    let reserved = PLACES - scheduler.load().total().running;
    needs(reserved > 0, "a reservation")?;
    let mut urgent = Vec::new();
    for number in 1..=reserved {
        let cx = of(Class::P0);
        let what = format!("place {number} of {reserved}");
        urgent.push(soon(&what, scheduler.admit(&cx, Work::default())).await??);
    }
    same!(scheduler.load().total().running, PLACES);
    drop(urgent);
    same!(scheduler.load().of(Class::P2).waiting, reserved, "the places are held back again");
    asked.into_iter().for_each(|asked| asked.abort());
    Ok(())
}

/// What runs, waits and was refused, of all classes.
fn counts(scheduler: &selvedge_core::AnyScheduler) -> (usize, usize, u64) {
    let ClassLoad { running, waiting, refused } = scheduler.load().total();
    (running, waiting, refused)
}

async fn load_counts(bed: &Bed) -> Checked {
    let scheduler = bed.open(2, 1)?;
    let one = scheduler.admit(&Context::new(), Work { prompt: 100, answer: 10 }).await?;
    same!(counts(&scheduler), (1, 0, 0));
    let two = scheduler.admit(&Context::new(), Work::default()).await?;
    let three = wait_in_line(&scheduler, Context::new()).await?;
    same!(counts(&scheduler), (2, 1, 0));
    for refused in 1..=2 {
        refused!(soon("the refusal", scheduler.admit(&Context::new(), Work::default())).await?, Busy);
        same!(counts(&scheduler), (2, 1, refused));
    }
    drop(one);
    let three = soon("a permit", three).await???;
    same!(counts(&scheduler), (2, 0, 2));
    drop((two, three));
    same!(counts(&scheduler), (0, 0, 2));
    Ok(())
}

async fn a_permit_knows_how_long_it_waited(bed: &Bed) -> Checked {
    let scheduler = bed.open(1, 1)?;
    let running = scheduler.admit(&Context::new(), Work::default()).await?;
    let asked = std::time::Instant::now();
    let waiting = wait_in_line(&scheduler, Context::new()).await?;
    let waits = std::time::Instant::now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let least = waits.elapsed();
    drop(running);
    let waited = soon("a permit", waiting).await???.waited();
    let most = asked.elapsed();
    anyhow::ensure!((least..=most).contains(&waited), "waited {waited:?}, expected {least:?} to {most:?}");
    Ok(())
}
