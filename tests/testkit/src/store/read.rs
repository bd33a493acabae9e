//! Reading: whole pages, and a Store that says what it is and what it cannot do.

use std::{fmt::Debug, future::Future};

use selvedge_core::{
    Commit, Error, Intent, Result, Store,
    idempotency::{ClaimRequest, Fingerprint, IdempotencyKey},
    store::{
        Event, Fact, IntentFilter, JobFilter, JobId, JobState, LeaseRequest, Maintain, NewJob, Page, RelayRequest,
        Retention, Retry, Start, StickyAssignment, StoreExt, Take, TokenBucket, Watch,
    },
};

use super::Bed;
use crate::suite::{Checked, cases, needs, refused, same};

cases! {
    pages_of_jobs_have_no_gaps_and_no_doubles: "Walking through pages of jobs gives each job of the filter once, in order, whatever the page size.",
    pages_of_the_outbox_have_no_gaps_and_no_doubles: "Walking through pages of the outbox gives each event once, in order of commit.",
    pages_of_intents_have_no_gaps_and_no_doubles: "Walking through pages of intents gives each intent of the filter once, in order of submission.",
    pages_of_messages_have_no_gaps_and_no_doubles: "Walking through pages of a topic gives each message once, in order.",
    pages_of_facts_have_no_gaps_and_no_doubles: "Walking through pages of facts gives each fact of the filter once, in order of recording.",
    a_job_that_is_not_there_is_nothing: "Reading what is not there gives nothing, and no error.",
    dead_jobs_are_dropped_after_their_retention: "`maintain` drops dead and cancelled jobs past their retention, no others, and no more than its batch.",
    the_load_is_sampled: "`maintain` takes a sample of the jobs ever enqueued about every 10 seconds and keeps a day of them.",
    it_says_what_it_is: "`Info` names the plugin, its backend, place, durability and clock.",
    what_it_cannot_do_is_unsupported: "An operation that the capabilities deny is `Unsupported`, and nothing pretends to have worked.",
}

/// Walks through all pages of a query.
async fn walk<T, F>(limit: usize, read: impl Fn(Option<i64>, usize) -> F) -> anyhow::Result<Vec<T>>
where
    F: Future<Output = anyhow::Result<Page<T>>>,
{
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = read(after, limit).await?;
        anyhow::ensure!(page.items.len() <= limit, "a page of {} rows, asked for {limit}", page.items.len());
        all.extend(page.items);
        let Some(next) = page.next else { return Ok(all) };
        anyhow::ensure!(after.is_none_or(|after| next > after), "a page goes on from {next} after {after:?}");
        after = Some(next);
    }
}

/// Walks through a query by pages of several sizes; every walk must give `expected`.
async fn all_walks<T: Debug + PartialEq, F>(expected: &[T], read: impl Fn(Option<i64>, usize) -> F) -> Checked
where
    F: Future<Output = anyhow::Result<Page<T>>>,
{
    for limit in [1, 2, expected.len().max(1), 1000] {
        same!(walk(limit, &read).await?, expected, "by pages of {limit}");
    }
    Ok(())
}

fn only<T, U>(page: Page<T>, part: impl Fn(T) -> U) -> Page<U> {
    Page { items: page.items.into_iter().map(part).collect(), next: page.next }
}

async fn pages_of_jobs_have_no_gaps_and_no_doubles(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let queue = |n: usize| if n.is_multiple_of(3) { "a" } else { "b" };
    let tenant = |n: usize| if n.is_multiple_of(2) { "even" } else { "odd" };
    let ids = bed.enqueue((0..13).map(|n| NewJob::new(queue(n), "").tenant(tenant(n)))).await?;
    bed.lease("a", 2).await?;
    let picks = |pick: fn(usize) -> bool| (0..13).filter(|n| pick(*n)).map(|n| ids[n]).collect::<Vec<_>>();
    let filter = JobFilter::default;
    for (filter, expected) in [
        (filter(), ids.clone()),
        (JobFilter { queue: Some("a".into()), ..filter() }, picks(|n| n.is_multiple_of(3))),
        (JobFilter { tenant: Some("odd".into()), ..filter() }, picks(|n| !n.is_multiple_of(2))),
        (JobFilter { state: Some(JobState::Running), ..filter() }, vec![ids[0], ids[3]]),
        (JobFilter { state: Some(JobState::Dead), ..filter() }, vec![]),
        (
            JobFilter {
                queue: Some("b".into()),
                state: Some(JobState::Ready),
                tenant: Some("even".into()),
                ..filter()
            },
            picks(|n| n.is_multiple_of(2) && !n.is_multiple_of(3)),
        ),
    ] {
        let read = |after: Option<i64>, limit| {
            let filter = JobFilter { after: after.map(JobId), limit, ..filter.clone() };
            async move { Ok(only(bed.store()?.jobs(&bed.cx, filter).await?, |job| job.id)) }
        };
        all_walks(&expected, read).await?;
    }
    Ok(())
}

async fn pages_of_the_outbox_have_no_gaps_and_no_doubles(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    let events: Vec<_> = (0..7).map(|n| Event::new(format!("a{n}"), "t", vec![n])).collect();
    bed.commit(events.iter().cloned().fold(Commit::new(), Commit::emit)).await?;
    let ids: Vec<_> = events.iter().map(|event| event.id).collect();
    let mut dead = Vec::new();
    for event in bed.relay(7).await?.into_iter().filter(|event| event.event.payload[0] % 2 == 0) {
        dead.push(event.event.id);
        bed.commit(Commit::new().fail(event.lease, "x", Retry::Never)).await?;
    }
    dead.sort_by_key(|id| ids.iter().position(|known| known == id));
    for (is_dead, expected) in [(false, &ids), (true, &dead)] {
        let read = |after, limit| async move {
            Ok(only(bed.store()?.outbox(&bed.cx, is_dead, after, limit).await?, |view| view.event.id))
        };
        all_walks(expected, read).await?;
    }
    Ok(())
}

async fn pages_of_intents_have_no_gaps_and_no_doubles(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    let intents: Vec<_> = (0..7).map(|n| Intent::new("op", format!("{n}"))).collect();
    bed.commit(intents.iter().cloned().fold(Commit::new(), Commit::submit)).await?;
    let ids: Vec<_> = intents.iter().map(|intent| intent.id).collect();
    let answer = selvedge_core::idempotency::Answer::json(200, "");
    bed.commit(Commit::new().answer(ids[1], answer.clone()).answer(ids[5], answer)).await?;
    let pending = [0, 2, 3, 4, 6].map(|n: usize| ids[n]).to_vec();
    for (state, expected) in [(None, ids), (Some(selvedge_core::intent::IntentState::Pending), pending)] {
        let read = |after, limit| async move {
            let page = bed.store()?.intents(&bed.cx, IntentFilter { state, after, limit }).await?;
            Ok(only(page, |view| view.intent.id))
        };
        all_walks(&expected, read).await?;
    }
    Ok(())
}

async fn pages_of_messages_have_no_gaps_and_no_doubles(bed: &Bed) -> Checked {
    needs(bed.can.topics, "`topics`")?;
    let all: Vec<_> = (0..9).collect();
    for n in &all {
        bed.commit(Commit::new().publish("t", vec![*n]).publish("other", "")).await?;
    }
    let read = |after: Option<i64>, limit| async move {
        let page = bed.store()?.messages(&bed.cx, "t", after.unwrap_or(0), limit).await?;
        Ok(only(page, |message| message.payload[0]))
    };
    all_walks(&all, read).await
}

async fn pages_of_facts_have_no_gaps_and_no_doubles(bed: &Bed) -> Checked {
    needs(bed.can.facts, "`facts`")?;
    let facts: Vec<_> = (0..9).map(|n| Fact::new(if n % 3 == 0 { "a" } else { "b" }, "s", "")).collect();
    bed.commit(facts.iter().cloned().fold(Commit::new(), Commit::record)).await?;
    let ids = |name: Option<&str>| {
        let of_name = facts.iter().filter(move |fact| name.is_none_or(|name| fact.name == name));
        of_name.map(|fact| fact.id).collect::<Vec<_>>()
    };
    for name in [None, Some("a"), Some("b"), Some("c")] {
        let read = |after: Option<i64>, limit| async move {
            Ok(only(bed.store()?.facts(&bed.cx, name, after.unwrap_or(0), limit).await?, |view| view.fact.id))
        };
        all_walks(&ids(name), read).await?;
    }
    Ok(())
}

async fn a_job_that_is_not_there_is_nothing(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    same!(bed.store()?.job(&bed.cx, JobId(i64::MAX)).await?, None);
    same!(bed.store()?.jobs(&bed.cx, JobFilter::default()).await?, Page::default());
    same!(bed.lease("never used", 5).await?.len(), 0);
    let none = LeaseRequest { queues: Vec::new(), ..LeaseRequest::new("", 5) };
    bed.enqueue([NewJob::new("q", "")]).await?;
    same!(bed.store()?.lease(&bed.cx, none).await?.len(), 0, "jobs of no queue");
    same!(bed.lease("q", 0).await?.len(), 0, "at most no jobs");
    Ok(())
}

async fn dead_jobs_are_dropped_after_their_retention(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let second = std::time::Duration::from_secs(1);
    let ids = bed.enqueue((0..5).map(|_| NewJob::new("q", ""))).await?;
    for job in bed.lease("q", 3).await? {
        bed.commit(Commit::new().fail(job.lease, "x", Retry::Never)).await?;
    }
    bed.pass(second * 50)?;
    bed.commit(Commit::new().cancel(ids[3])).await?;
    let retention = Retention { dead: second * 100, ..Retention::default() };
    let maintain = async |batch| anyhow::Ok(bed.store()?.maintain(&bed.cx, Maintain { retention, batch }).await?.jobs);
    bed.pass(second * 49)?;
    same!(maintain(1000).await?, 0, "dropped too early");
    bed.pass(second)?;
    same!(maintain(2).await?, 2, "dropped in one batch");
    same!(maintain(2).await?, 1, "dropped in the next batch");
    bed.pass(second * 50)?;
    same!(maintain(2).await?, 1, "cancelled jobs dropped");
    let left = bed.store()?.jobs(&bed.cx, JobFilter::default()).await?.items;
    same!(left.iter().map(|job| job.id).collect::<Vec<_>>(), vec![ids[4]]);
    Ok(())
}

async fn the_load_is_sampled(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let second = std::time::Duration::from_secs(1);
    let load = async || anyhow::Ok(bed.store()?.load(&bed.cx).await?);
    same!(load().await?.samples, vec![], "before any tick of housekeeping");
    let begun = bed.now().await?;
    bed.enqueue((0..5).map(|_| NewJob::new("q", ""))).await?;
    bed.maintain().await?;
    bed.pass(second * 9)?;
    bed.maintain().await?;
    same!(load().await?.samples.len(), 1, "a second sample within ten seconds");
    bed.pass(second)?;
    // Those that are gone count as well.
    let jobs = bed.lease("q", 5).await?;
    bed.commit(Commit::new().complete_many(jobs.iter().map(|job| job.lease))).await?;
    bed.maintain().await?;
    bed.pass(second * 10)?;
    bed.enqueue((0..50).map(|_| NewJob::new("q", ""))).await?;
    bed.maintain().await?;
    let history = load().await?;
    same!(history.samples.len(), 3);
    anyhow::ensure!(history.samples.iter().all(|sample| (begun..=history.now).contains(&sample.at)), "{history:?}");
    anyhow::ensure!(history.samples.is_sorted_by(|one, two| one.at < two.at), "not oldest first: {history:?}");
    let counts: Vec<_> = history.samples.iter().map(|sample| sample.enqueued).collect();
    same!(counts[0], counts[1], "no job came in between");
    // An upper bound: numbers that were given out and not used may be in it.
    anyhow::ensure!(counts[0] >= 5 && (50..=150).contains(&(counts[2] - counts[1])), "{counts:?}");

    bed.pass(second * 86_379)?;
    bed.maintain().await?;
    same!(load().await?.samples.len(), 4, "a day is kept");
    bed.pass(second * 11)?;
    bed.maintain().await?;
    same!(load().await?.samples.len(), 3, "and no more");
    Ok(())
}

async fn it_says_what_it_is(bed: &Bed) -> Checked {
    let info = bed.store()?.info(&bed.cx).await?;
    same!(info.plugin, bed.can.plugin);
    for (what, text) in [("backend", &info.backend), ("location", &info.location), ("durability", &info.durability)] {
        anyhow::ensure!(!text.is_empty(), "`{what}` is empty");
    }
    anyhow::ensure!(info.now.0 > 0, "its clock shows {}", info.now);
    Ok(())
}

async fn what_it_cannot_do_is_unsupported(bed: &Bed) -> Checked {
    let (store, cx, can) = (bed.store()?, &bed.cx, &bed.can);
    let mut denied: Vec<(&str, Result<(), Error>)> = Vec::new();
    if !can.jobs {
        denied.push(("enqueue", bed.try_commit(Commit::new().enqueue([NewJob::new("q", "")])).await.map(drop)));
        denied.push(("lease", store.lease(cx, LeaseRequest::new("q", 1)).await.map(drop)));
        denied.push(("watch of jobs", store.watch(cx, Watch::Jobs(vec!["q".into()])).await.map(drop)));
        denied.push(("read of jobs", store.jobs(cx, JobFilter::default()).await.map(drop)));
    }
    if !can.outbox {
        denied.push(("emit", bed.try_commit(Commit::new().emit(Event::new("a", "t", ""))).await.map(drop)));
        denied.push(("submit", bed.try_commit(Commit::new().submit(Intent::new("op", "{}"))).await.map(drop)));
        denied.push(("relay", store.relay(cx, RelayRequest::new(1)).await.map(drop)));
        denied.push(("watch of the outbox", store.watch(cx, Watch::Outbox).await.map(drop)));
    }
    if !can.topics {
        let watch = Watch::Topic { topic: "t".into(), from: Start::Now, buffer: None };
        denied.push(("publish", bed.try_commit(Commit::new().publish("t", "")).await.map(drop)));
        denied.push(("watch of a topic", store.watch(cx, watch).await.map(drop)));
    }
    if !can.idempotency {
        let request = ClaimRequest::new(IdempotencyKey::new("s", "k")?, Fingerprint::of("op", b""));
        denied.push(("claim", store.claim(cx, request).await.map(drop)));
    }
    if !can.quotas {
        denied.push(("take", store.take(cx, Take::new("b", TokenBucket::per_minute(1), 1)).await.map(drop)));
    }
    if !can.facts {
        let sticky =
            StickyAssignment { subject: "s".into(), experiment: "e".into(), variation: "v".into(), version: 1 };
        denied.push(("assign", bed.try_commit(Commit::new().assign(sticky)).await.map(drop)));
        denied.push(("record", bed.try_commit(Commit::new().record(Fact::new("n", "s", "{}"))).await.map(drop)));
    }
    if denied.is_empty() {
        return needs(false, "a capability that the plugin lacks: it says it can do everything");
    }
    for (what, result) in denied {
        anyhow::ensure!(result.is_err(), "{what} worked although the capabilities deny it");
        refused!(result, Unsupported);
    }
    Ok(())
}
