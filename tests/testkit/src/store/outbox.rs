//! The outbox: in order within an aggregate, at least once, under one id.

use std::{collections::BTreeMap, time::Duration};

use selvedge_core::{
    Commit, Store, TraceContext,
    store::{Backoff, Event, EventView, LeasedEvent, NewJob, Outcome, RelayRequest, Retry, StoreExt},
};

use super::Bed;
use crate::suite::{Checked, cases, fits, needs, race, refused, same};

const SECOND: Duration = Duration::from_secs(1);

cases! {
    events_of_an_aggregate_go_out_in_order: "Events of one aggregate go out in the order they were committed, one at a time.",
    relays_that_race_keep_the_order: "However many relays race, each aggregate's events go out in order and each event once.",
    a_failing_event_holds_up_its_own_aggregate_only: "An event that fails holds up its aggregate until its retry, and no other.",
    a_dead_event_holds_up_its_aggregate: "An event that failed for good stays, is listed as dead, and its aggregate waits.",
    a_dead_event_that_is_revived_goes_out_before_what_waited_behind_it: "A revived event is ready at once with its first attempt before it, and order holds; what is not dead or not known is left alone.",
    a_dead_event_that_is_dropped_lets_its_aggregate_go: "A dropped event is gone and the next of its aggregate may go; what is not dead or not known is left alone.",
    eager_takes_what_is_not_due: "An eager relay takes events before their retry is due, but not leased or dead ones.",
    a_known_id_is_not_added_again: "An event whose id waits already is not added again.",
    topics_are_taken_as_asked: "A relay takes the topics it asks for, and never passes over an older event of the same aggregate.",
    a_relay_that_crashed_before_sending_sends_again: "An event whose relay is gone comes again with the same id and the next attempt number.",
    a_relay_that_crashed_after_sending_sends_again: "An event that was sent but not completed comes again with the same id, even over a crash.",
    a_late_relay_cannot_complete: "A relay whose lease ran out cannot complete, fail or extend the event.",
    releasing_an_event_costs_no_attempt: "A released event waits for its delay and has the same attempt number again.",
    an_event_that_always_fails_is_never_given_up: "With `Retry::Backoff` an event is retried for as long as it takes, within its backoff's window.",
    effects_of_a_delivery_are_one_commit: "What a delivery writes becomes true together with the end of the event, or not at all.",
    an_event_brings_everything_along: "A leased event is the event that was emitted: id, aggregate, topic, bytes, trace.",
    only_a_job_keeps_a_checkpoint: "A checkpoint on an event is `InvalidInput`.",
}

impl Bed {
    pub(super) async fn relay(&self, limit: usize) -> anyhow::Result<Vec<LeasedEvent>> {
        Ok(self.store()?.relay(&self.cx, RelayRequest::new(limit)).await?)
    }

    pub(super) async fn relay_one(&self) -> anyhow::Result<LeasedEvent> {
        self.relay(1).await?.pop().ok_or_else(|| anyhow::anyhow!("no event could be relayed"))
    }

    pub(super) async fn outbox(&self, dead: bool) -> anyhow::Result<Vec<EventView>> {
        Ok(self.store()?.outbox(&self.cx, dead, None, 1000).await?.items)
    }
}

fn event(aggregate: &str, n: u8) -> Event {
    Event::new(aggregate, "t", vec![n])
}

fn said(events: &[LeasedEvent]) -> Vec<(String, u8)> {
    let mut said: Vec<_> = events.iter().map(|e| (e.event.aggregate.clone(), e.event.payload[0])).collect();
    said.sort();
    said
}

async fn events_of_an_aggregate_go_out_in_order(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    bed.commit(Commit::new().emit(event("a", 1)).emit(event("b", 1)).emit(event("a", 2))).await?;
    bed.commit(Commit::new().emit(event("a", 3))).await?;
    for round in 1..=3 {
        let events = bed.relay(10).await?;
        let expected = if round == 1 { vec![("a".into(), 1), ("b".into(), 1)] } else { vec![("a".into(), round)] };
        same!(said(&events), expected);
        same!(bed.relay(10).await?.len(), 0, "events relayed while their aggregate is under way");
        for event in events {
            bed.commit(Commit::new().complete(event.lease)).await?;
        }
    }
    same!(bed.outbox(false).await?.len(), 0, "events left");
    Ok(())
}

async fn relays_that_race_keep_the_order(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    const EACH: u8 = 10;
    for n in 0..EACH {
        let commit = (0..6).fold(Commit::new(), |commit, aggregate| commit.emit(event(&format!("a{aggregate}"), n)));
        bed.commit(commit).await?;
    }
    let sent = std::sync::Arc::new(std::sync::Mutex::new(BTreeMap::<String, Vec<u8>>::new()));
    let store = bed.store()?;
    let relays = race(4, |_| {
        let (store, cx, sent) = (store.clone(), bed.cx.clone(), sent.clone());
        async move {
            let ends = tokio::time::Instant::now() + crate::suite::WAIT;
            while tokio::time::Instant::now() < ends {
                let events = store.relay(&cx, RelayRequest::new(2)).await?;
                for event in &events {
                    let mut sent = sent.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    sent.entry(event.event.aggregate.clone()).or_default().push(event.event.payload[0]);
                }
                for event in &events {
                    store.commit(&cx, Commit::new().complete(event.lease)).await?;
                }
                if events.is_empty() && store.outbox(&cx, false, None, 1).await?.items.is_empty() {
                    return Ok(());
                }
            }
            anyhow::bail!("events were left")
        }
    });
    relays.await?;
    for (aggregate, sent) in sent.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
        same!(*sent, (0..EACH).collect::<Vec<_>>(), "what aggregate {aggregate} sent");
    }
    Ok(())
}

async fn a_failing_event_holds_up_its_own_aggregate_only(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    bed.commit(Commit::new().emit(event("a", 1)).emit(event("a", 2)).emit(event("b", 1))).await?;
    for leased in bed.relay(10).await? {
        let receipt = match &*leased.event.aggregate {
            "a" => bed.commit(Commit::new().fail(leased.lease, "offline", Retry::After(SECOND * 60))).await?,
            _ => bed.commit(Commit::new().complete(leased.lease).emit(event("b", 2))).await?,
        };
        fits!(receipt.outcomes[0], Outcome::Failed { retry_at: Some(_) } | Outcome::Done);
    }
    same!(said(&bed.relay(10).await?), vec![("b".into(), 2)]);
    let waiting = bed.outbox(false).await?;
    same!((waiting[0].attempts, waiting[0].last_error.as_deref(), waiting[0].dead), (1, Some("offline"), false));
    bed.pass(SECOND * 60)?;
    let events = bed.relay(10).await?;
    fits!(events.iter().find(|event| event.event.aggregate == "a"), Some(e) if e.attempt == 2 && e.event.payload[0] == 1);
    Ok(())
}

async fn a_dead_event_holds_up_its_aggregate(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    bed.commit(Commit::new().emit(event("a", 1)).emit(event("a", 2)).emit(event("b", 1))).await?;
    let events = bed.relay(10).await?;
    let first = events.iter().find(|event| event.event.aggregate == "a");
    let first = first.ok_or_else(|| anyhow::anyhow!("the first event did not come"))?;
    let receipt = bed.commit(Commit::new().fail(first.lease, "refused", Retry::Never)).await?;
    same!(receipt.outcomes, vec![Outcome::Failed { retry_at: None }]);
    bed.pass(SECOND * 86_400)?;
    let request = RelayRequest::new(10).eager();
    same!(said(&bed.store()?.relay(&bed.cx, request).await?), vec![("b".into(), 1)]);
    let dead = bed.outbox(true).await?;
    same!(dead.len(), 1);
    same!((dead[0].event.id, dead[0].dead, dead[0].last_error.as_deref()), (first.event.id, true, Some("refused")));
    same!(bed.outbox(false).await?.len(), 3, "events that have not gone out");
    Ok(())
}

impl Bed {
    /// Two events of an aggregate, of which the first is dead.
    async fn one_dead_event(&self) -> anyhow::Result<[Event; 2]> {
        let both = [event("a", 1), event("a", 2)];
        self.commit(both.iter().cloned().fold(Commit::new(), Commit::emit)).await?;
        for attempt in 1..=2 {
            let leased = self.relay_one().await?;
            same!((leased.event.id, leased.attempt), (both[0].id, attempt));
            let retry = if attempt == 1 { Retry::After(Duration::ZERO) } else { Retry::Never };
            self.commit(Commit::new().fail(leased.lease, "refused", retry)).await?;
        }
        same!(self.relay(10).await?.len(), 0, "events relayed past a dead one");
        Ok(both)
    }
}

async fn a_dead_event_that_is_revived_goes_out_before_what_waited_behind_it(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    let [first, second] = bed.one_dead_event().await?;
    let receipt = bed.commit(Commit::new().revive_event(second.id).revive_event(uuid::Uuid::now_v7())).await?;
    same!(receipt.outcomes, vec![Outcome::Revived(false); 2], "of one that is not dead and one that nobody knows");
    let now = bed.now().await?;
    same!(bed.commit(Commit::new().revive_event(first.id)).await?.outcomes, vec![Outcome::Revived(true)]);
    same!(bed.outbox(true).await?.len(), 0, "dead events");
    let view = &bed.outbox(false).await?[0];
    same!((view.event.id, view.attempts, view.dead), (first.id, 0, false));
    anyhow::ensure!(view.run_at >= now, "it is due at {}, before it was revived at {now}", view.run_at);
    same!(bed.commit(Commit::new().revive_event(first.id)).await?.outcomes, vec![Outcome::Revived(false)]);
    for (event, attempt) in [(first, 1), (second, 1)] {
        let leased = bed.relay(10).await?;
        same!(leased.iter().map(|it| (&it.event, it.attempt)).collect::<Vec<_>>(), vec![(&event, attempt)]);
        bed.commit(Commit::new().complete(leased[0].lease)).await?;
    }
    Ok(())
}

async fn a_dead_event_that_is_dropped_lets_its_aggregate_go(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    let [first, second] = bed.one_dead_event().await?;
    let receipt = bed.commit(Commit::new().drop_event(second.id).drop_event(uuid::Uuid::now_v7())).await?;
    same!(receipt.outcomes, vec![Outcome::Dropped(false); 2], "of one that is not dead and one that nobody knows");
    let receipt = bed.commit(Commit::new().drop_event(first.id).emit(event("a", 3)).drop_event(first.id)).await?;
    same!(receipt.outcomes, vec![Outcome::Dropped(true), Outcome::Done, Outcome::Dropped(false)]);
    same!(bed.outbox(false).await?.len(), 2, "events that have not gone out");
    // Its id is free again; it comes last now.
    bed.commit(Commit::new().emit(first.clone())).await?;
    for payload in [2, 3, 1] {
        let leased = bed.relay(10).await?;
        same!(said(&leased), vec![("a".into(), payload)]);
        bed.commit(Commit::new().complete(leased[0].lease)).await?;
    }
    same!(bed.outbox(false).await?.len(), 0, "events left");
    Ok(())
}

async fn eager_takes_what_is_not_due(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    bed.commit(Commit::new().emit(event("a", 1)).emit(event("b", 1))).await?;
    let events = bed.relay(10).await?;
    bed.commit(Commit::new().fail(events[0].lease, "offline", Retry::After(SECOND * 3600))).await?;
    same!(bed.relay(10).await?.len(), 0, "events relayed before they are due");
    let eager = bed.store()?.relay(&bed.cx, RelayRequest::new(10).eager()).await?;
    same!(eager.iter().map(|event| event.event.id).collect::<Vec<_>>(), vec![events[0].event.id]);
    Ok(())
}

async fn a_known_id_is_not_added_again(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    let first = event("a", 1);
    let again = Event { payload: vec![2].into(), aggregate: "b".into(), ..first.clone() };
    bed.commit(Commit::new().emit(first.clone()).emit(again.clone())).await?;
    bed.commit(Commit::new().emit(again)).await?;
    let kept = bed.outbox(false).await?;
    same!(kept.iter().map(|view| view.event.clone()).collect::<Vec<_>>(), vec![first]);
    Ok(())
}

async fn topics_are_taken_as_asked(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    let event = |aggregate, topic| Event::new(aggregate, topic, "");
    bed.commit(Commit::new().emit(event("a", "x")).emit(event("a", "y")).emit(event("b", "y")).emit(event("c", "z")))
        .await?;
    let y = bed.store()?.relay(&bed.cx, RelayRequest::new(10).topic("y")).await?;
    same!(y.iter().map(|e| &*e.event.aggregate).collect::<Vec<_>>(), vec!["b"]);
    let mut xz = bed.store()?.relay(&bed.cx, RelayRequest::new(10).topic("x").topic("z")).await?;
    xz.sort_by(|one, two| one.event.topic.cmp(&two.event.topic));
    same!(xz.iter().map(|e| &*e.event.topic).collect::<Vec<_>>(), vec!["x", "z"]);
    bed.commit(Commit::new().complete(xz[0].lease)).await?;
    let y = bed.store()?.relay(&bed.cx, RelayRequest::new(10).topic("y")).await?;
    same!(y.iter().map(|e| &*e.event.aggregate).collect::<Vec<_>>(), vec!["a"]);
    Ok(())
}

async fn a_relay_that_crashed_before_sending_sends_again(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    bed.commit(Commit::new().emit(event("a", 1)).emit(event("a", 2))).await?;
    let first = bed.relay_one().await?;
    bed.pass(SECOND * 31)?;
    same!(bed.maintain().await?.rescued, 1);
    let again = bed.relay_one().await?;
    same!((again.event, again.attempt), (first.event.clone(), 2));
    bed.pass(SECOND * 31)?;
    let again = bed.relay_one().await?;
    same!((again.event, again.attempt), (first.event, 3), "without `maintain`");
    Ok(())
}

async fn a_relay_that_crashed_after_sending_sends_again(bed: &Bed) -> Checked {
    needs(bed.can.outbox && bed.can.durable, "`outbox` and `durable`")?;
    bed.commit(Commit::new().emit(event("a", 1)).emit(event("a", 2))).await?;
    let first = bed.relay_one().await?;
    bed.crash().await?;
    same!(bed.relay(10).await?.len(), 0, "events relayed while the crashed relay's lease holds");
    bed.pass(SECOND * 31)?;
    let again = bed.relay_one().await?;
    same!((again.event, again.attempt), (first.event, 2));
    bed.commit(Commit::new().complete(again.lease)).await?;
    bed.crash().await?;
    same!(said(&bed.relay(10).await?), vec![("a".into(), 2)], "a completed event came back, or its successor is lost");
    Ok(())
}

async fn a_late_relay_cannot_complete(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    bed.commit(Commit::new().emit(event("a", 1))).await?;
    let late = bed.relay_one().await?.lease;
    bed.pass(SECOND * 31)?;
    let held = bed.relay_one().await?.lease;
    refused!(bed.try_commit(Commit::new().emit(event("b", 1)).complete(late)).await, LeaseLost);
    refused!(bed.try_commit(Commit::new().fail(late, "x", Retry::Never)).await, LeaseLost);
    refused!(bed.try_commit(Commit::new().extend(late, SECOND)).await, LeaseLost);
    same!(bed.commit(Commit::new().complete_many([late, held])).await?.lost().collect::<Vec<_>>(), vec![late]);
    same!(bed.outbox(false).await?.len(), 0);
    Ok(())
}

async fn releasing_an_event_costs_no_attempt(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    bed.commit(Commit::new().emit(event("a", 1))).await?;
    let leased = bed.relay_one().await?;
    bed.commit(Commit::new().release(leased.lease, SECOND * 10)).await?;
    same!(bed.relay(1).await?.len(), 0, "events relayed before their delay");
    bed.pass(SECOND * 10)?;
    same!(bed.relay_one().await?.attempt, 1);
    Ok(())
}

async fn an_event_that_always_fails_is_never_given_up(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    let backoff = Backoff::new(SECOND, SECOND * 8);
    bed.commit(Commit::new().emit(Event { backoff, ..event("a", 1) })).await?;
    for attempt in 1..=40 {
        let (leased, now) = (bed.relay_one().await?, bed.now().await?);
        same!(leased.attempt, attempt);
        let receipt = bed.commit(Commit::new().fail(leased.lease, "offline", Retry::Backoff)).await?;
        let [Outcome::Failed { retry_at: Some(retry_at) }] = receipt.outcomes[..] else {
            anyhow::bail!("found {receipt:?} after attempt {attempt}, expected a retry");
        };
        let window = now + backoff.delay(attempt, 0.0)..=now + backoff.delay(attempt, 1.0);
        anyhow::ensure!(window.contains(&retry_at), "retry {attempt} at {retry_at}, expected within {window:?}");
        bed.pass(SECOND * 8)?;
    }
    Ok(())
}

async fn effects_of_a_delivery_are_one_commit(bed: &Bed) -> Checked {
    needs(bed.can.outbox && bed.can.jobs, "`outbox` and `jobs`")?;
    bed.commit(Commit::new().emit(event("a", 1))).await?;
    let lease = bed.relay_one().await?.lease;
    bed.commit(Commit::new().enqueue([NewJob::new("q", "")]).complete(lease)).await?;
    refused!(bed.try_commit(Commit::new().enqueue([NewJob::new("q", "")]).complete(lease)).await, LeaseLost);
    same!(bed.lease("q", 10).await?.len(), 1, "effects");
    Ok(())
}

async fn an_event_brings_everything_along(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    let emitted = Event {
        trace: Some(TraceContext::start()),
        backoff: Backoff::new(SECOND * 3, SECOND * 5),
        ..Event::new("order/42 ü", "order.created", vec![0, 0xff, 0xfe])
    };
    let now = bed.now().await?;
    bed.commit(Commit::new().emit(emitted.clone())).await?;
    let leased = bed.relay_one().await?;
    same!((leased.event, leased.attempt), (emitted, 1));
    anyhow::ensure!(leased.emitted_at >= now && leased.leased_until > leased.emitted_at, "moments out of order");
    Ok(())
}

async fn only_a_job_keeps_a_checkpoint(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    bed.commit(Commit::new().emit(event("a", 1))).await?;
    let lease = bed.relay_one().await?.lease;
    refused!(bed.try_commit(Commit::new().checkpoint(lease, "x")).await, InvalidInput);
    Ok(())
}
