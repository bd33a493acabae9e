//! What an operator sets, seen from outside.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use selvedge_core::{Context, ErrorKind, Scheduler, scheduler::Class, scheduler::Work};
use selvedge_priority::{Builder, Priority};

fn of(class: Class) -> Context {
    Context::new().with_class(class)
}

fn one(builder: impl FnOnce(Builder) -> Builder) -> Priority {
    builder(Priority::builder(1, 2)).build().unwrap()
}

/// Asks in a task of its own, and returns once it waits.
async fn waiting(scheduler: &Priority, cx: Context) -> tokio::task::JoinHandle<selvedge_core::Result<Class>> {
    let before = scheduler.load().total().waiting;
    let task = {
        let scheduler = scheduler.clone();
        tokio::spawn(async move { Ok(scheduler.admit(&cx, Work::default()).await?.class()) })
    };
    while scheduler.load().total().waiting == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    task
}

#[tokio::test]
async fn who_waits_as_long_as_its_class_may_is_told_when_to_come_back() {
    let scheduler = one(|builder| builder.timeout(Class::P0, Duration::from_millis(20)));
    let running = scheduler.admit(&of(Class::P2), Work::default()).await.unwrap();
    let error = scheduler.admit(&of(Class::P0), Work::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::Busy, true));
    assert!(error.retry_after().is_some() && error.advice().is_some(), "{error}");
    let load = scheduler.load().of(Class::P0);
    assert_eq!((load.waiting, load.refused), (0, 1));
    let patient = waiting(&scheduler, of(Class::P1)).await;
    tokio::time::sleep(Duration::from_millis(40)).await;
    drop(running);
    assert_eq!(patient.await.unwrap().unwrap(), Class::P1, "the timeout is that of another class");
}

#[tokio::test]
async fn the_youngest_of_the_batch_makes_way_for_a_person() {
    let scheduler = one(|builder| builder);
    let running = scheduler.admit(&of(Class::P2), Work::default()).await.unwrap();
    let old = waiting(&scheduler, of(Class::P2)).await;
    let young = waiting(&scheduler, of(Class::P2)).await;
    let person = {
        let scheduler = scheduler.clone();
        tokio::spawn(async move { scheduler.admit(&Context::new(), Work::default()).await })
    };
    let error = young.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.retry_after().is_some() && error.advice().is_some(), "{error}");
    drop(running);
    drop(person.await.unwrap().unwrap());
    assert_eq!(old.await.unwrap().unwrap(), Class::P2);
    assert_eq!(scheduler.load().total().running, 0);
    assert_eq!(scheduler.load().total().refused, 1);
}

#[tokio::test]
async fn a_tenant_runs_no_more_urgently_than_it_may() {
    let scheduler = Priority::builder(4, 4)
        .most_urgent("reports", Class::P2)
        .most_urgent("shop", Class::P0)
        .most_urgent_of_others(Class::P1)
        .build()
        .unwrap();
    for (tenant, class) in
        [(Some("reports"), Class::P2), (Some("shop"), Class::P0), (Some("new"), Class::P1), (None, Class::P1)]
    {
        let cx = tenant.map_or_else(Context::new, |tenant| Context::new().with_tenant(tenant));
        let permit = scheduler.admit(&cx, Work::default()).await.unwrap();
        assert_eq!(permit.class(), class, "{tenant:?}");
    }
}

#[tokio::test]
async fn a_class_has_a_bound_of_its_own() {
    let scheduler = one(|builder| builder.queue(Class::P2, 1));
    let running = scheduler.admit(&of(Class::P2), Work::default()).await.unwrap();
    let first = waiting(&scheduler, of(Class::P2)).await;
    let error = scheduler.admit(&of(Class::P2), Work::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    let person = waiting(&scheduler, of(Class::P0)).await;
    drop(running);
    assert_eq!(person.await.unwrap().unwrap(), Class::P0);
    assert_eq!(first.await.unwrap().unwrap(), Class::P2);
}
