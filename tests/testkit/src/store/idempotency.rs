//! Idempotency keys: one effect for one key, however often and however concurrently it arrives.

use std::time::Duration;

use selvedge_core::{
    Commit, Store,
    idempotency::{Answer, Claim, ClaimRequest, Fingerprint, IdempotencyKey, RecoveryPoint, Ticket},
    store::{Event, StickyAssignment, StoreExt},
};

use super::Bed;
use crate::suite::{Checked, cases, fits, needs, race, refused, same};

const SECOND: Duration = Duration::from_secs(1);

cases! {
    a_new_key_is_fresh: "The first claim of a key is fresh, attempt 1, without a recovery point.",
    a_held_key_is_in_flight: "While a claim holds, others are told when it runs out at the latest.",
    a_settled_key_answers: "A settled key answers with exactly what was settled, also after a crash.",
    another_payload_is_a_mismatch: "A key that was used for another payload is a mismatch, in flight, done or abandoned.",
    an_expired_claim_can_be_taken_over: "A claim that ran out is taken over as the next attempt, with the recovery point of the last.",
    a_crash_does_not_block_a_key: "A key that was in flight at a crash can be taken over once its claim ran out.",
    an_abandoned_key_is_a_new_try: "An abandoned key is free at once, as the next attempt, and keeps its recovery point.",
    a_stale_ticket_can_do_nothing: "A claim that was taken over can neither settle, advance nor abandon, and nothing of its commit is visible.",
    a_ticket_settles_once: "A ticket that settled or abandoned its key is used up.",
    a_key_settles_with_its_effects: "The answer and the effects of a handler are one commit.",
    scopes_are_separate: "The same key in two scopes is two keys.",
    a_key_is_forgotten_after_its_retention: "A settled key answers until its retention is over and is dropped by `maintain` after that, not before.",
    of_many_claims_at_once_one_is_fresh: "Of 50 claims of one key at one moment exactly one is fresh; all others are in flight.",
    of_many_takeovers_at_once_one_is_fresh: "Of 50 claims of one expired key at one moment exactly one is fresh.",
}

fn request(key: &str, payload: &str) -> anyhow::Result<ClaimRequest> {
    Ok(ClaimRequest::new(IdempotencyKey::new("acme/orders", key)?, Fingerprint::of("orders", payload.as_bytes())))
}

fn answer(body: &str) -> Answer {
    Answer { status: 201, headers: vec![("location".into(), "/orders/1".into())], body: body.to_string().into() }
}

fn effect(subject: &str) -> StickyAssignment {
    StickyAssignment { subject: subject.into(), experiment: "e".into(), variation: "v".into(), version: 1 }
}

impl Bed {
    async fn claim(&self, request: ClaimRequest) -> anyhow::Result<Claim> {
        Ok(self.store()?.claim(&self.cx, request).await?)
    }

    pub(super) async fn fresh(&self, key: &str) -> anyhow::Result<Ticket> {
        match self.claim(request(key, "1")?).await? {
            Claim::Fresh(ticket) => Ok(ticket),
            other => anyhow::bail!("found {other:?}, expected a fresh claim of {key:?}"),
        }
    }
}

async fn a_new_key_is_fresh(bed: &Bed) -> Checked {
    needs(bed.can.idempotency, "`idempotency`")?;
    let ticket = bed.fresh("k").await?;
    same!((ticket.key, ticket.attempt, ticket.point), (request("k", "1")?.key, 1, None));
    Ok(())
}

async fn a_held_key_is_in_flight(bed: &Bed) -> Checked {
    needs(bed.can.idempotency, "`idempotency`")?;
    bed.fresh("k").await?;
    bed.pass(SECOND * 10)?;
    same!(bed.claim(request("k", "1")?).await?, Claim::InFlight { retry_after: SECOND * 20 });
    Ok(())
}

async fn a_settled_key_answers(bed: &Bed) -> Checked {
    needs(bed.can.idempotency, "`idempotency`")?;
    let ticket = bed.fresh("k").await?;
    let kept = Answer { body: vec![0, 0xff, b'x'].into(), ..answer("") };
    bed.commit(Commit::new().settle(ticket, kept.clone())).await?;
    if bed.can.durable {
        bed.crash().await?;
    }
    same!(bed.claim(request("k", "1")?).await?, Claim::Done(kept.clone()));
    bed.pass(SECOND * 86_400 * 6)?;
    bed.maintain().await?;
    same!(bed.claim(request("k", "1")?).await?, Claim::Done(kept), "six days later");
    Ok(())
}

async fn another_payload_is_a_mismatch(bed: &Bed) -> Checked {
    needs(bed.can.idempotency, "`idempotency`")?;
    let ticket = bed.fresh("k").await?;
    same!(bed.claim(request("k", "2")?).await?, Claim::Mismatch, "in flight");
    bed.commit(Commit::new().abandon(ticket)).await?;
    same!(bed.claim(request("k", "2")?).await?, Claim::Mismatch, "abandoned");
    let ticket = bed.fresh("k").await?;
    bed.commit(Commit::new().settle(ticket, answer("done"))).await?;
    same!(bed.claim(request("k", "2")?).await?, Claim::Mismatch, "done");
    same!(bed.claim(request("k", "1")?).await?, Claim::Done(answer("done")), "a mismatch must change nothing");
    Ok(())
}

async fn an_expired_claim_can_be_taken_over(bed: &Bed) -> Checked {
    needs(bed.can.idempotency, "`idempotency`")?;
    let first = bed.fresh("k").await?;
    let point = |name: &str| RecoveryPoint { name: name.into(), data: vec![0, 1, 0xff].into() };
    bed.commit(Commit::new().advance(first.clone(), point("charged"))).await?;
    bed.commit(Commit::new().advance(first.clone(), point("mailed"))).await?;
    bed.pass(SECOND * 30)?;
    let second = bed.fresh("k").await?;
    same!((second.attempt, &second.point), (2, &Some(point("mailed"))));
    anyhow::ensure!(second.token != first.token, "both claims have one token");
    bed.commit(Commit::new().settle(second, answer("by the second"))).await?;
    same!(bed.claim(request("k", "1")?).await?, Claim::Done(answer("by the second")));
    Ok(())
}

async fn a_crash_does_not_block_a_key(bed: &Bed) -> Checked {
    needs(bed.can.idempotency && bed.can.durable, "`idempotency` and `durable`")?;
    bed.fresh("k").await?;
    bed.crash().await?;
    fits!(bed.claim(request("k", "1")?).await?, Claim::InFlight { .. });
    bed.pass(SECOND * 31)?;
    same!(bed.fresh("k").await?.attempt, 2);
    Ok(())
}

async fn an_abandoned_key_is_a_new_try(bed: &Bed) -> Checked {
    needs(bed.can.idempotency, "`idempotency`")?;
    let ticket = bed.fresh("k").await?;
    let point = RecoveryPoint { name: "one".into(), data: "x".into() };
    bed.commit(Commit::new().advance(ticket.clone(), point.clone()).abandon(ticket)).await?;
    let ticket = bed.fresh("k").await?;
    same!((ticket.attempt, ticket.point), (2, Some(point)));
    Ok(())
}

async fn a_stale_ticket_can_do_nothing(bed: &Bed) -> Checked {
    needs(bed.can.idempotency, "`idempotency`")?;
    let stale = bed.fresh("k").await?;
    bed.pass(SECOND * 31)?;
    let held = bed.fresh("k").await?;
    let late = RecoveryPoint { name: "late".into(), data: "".into() };
    for commit in [
        Commit::new().settle(stale.clone(), answer("late")),
        Commit::new().advance(stale.clone(), late.clone()),
        Commit::new().abandon(stale.clone()),
    ] {
        let effects = if bed.can.facts { Commit::new().assign(effect("late")) } else { Commit::new() };
        refused!(bed.try_commit(effects.and(commit)).await, LeaseLost);
    }
    if bed.can.facts {
        same!(bed.store()?.assignment(&bed.cx, "late", "e").await?, None, "an effect of a stale ticket");
    }
    fits!(bed.claim(request("k", "1")?).await?, Claim::InFlight { .. });
    bed.commit(Commit::new().settle(held, answer("in time"))).await?;
    same!(bed.claim(request("k", "1")?).await?, Claim::Done(answer("in time")));
    Ok(())
}

async fn a_ticket_settles_once(bed: &Bed) -> Checked {
    needs(bed.can.idempotency, "`idempotency`")?;
    let ticket = bed.fresh("k").await?;
    bed.commit(Commit::new().settle(ticket.clone(), answer("one"))).await?;
    refused!(bed.try_commit(Commit::new().settle(ticket, answer("two"))).await, LeaseLost);
    same!(bed.claim(request("k", "1")?).await?, Claim::Done(answer("one")));
    let ticket = bed.fresh("other").await?;
    bed.commit(Commit::new().abandon(ticket.clone())).await?;
    refused!(bed.try_commit(Commit::new().settle(ticket, answer("late"))).await, LeaseLost);
    Ok(())
}

async fn a_key_settles_with_its_effects(bed: &Bed) -> Checked {
    needs(bed.can.idempotency && bed.can.outbox, "`idempotency` and `outbox`")?;
    let ticket = bed.fresh("k").await?;
    let order = || Event::new("order/1", "order.created", "{}");
    bed.commit(Commit::new().emit(order()).settle(ticket.clone(), answer("done"))).await?;
    refused!(bed.try_commit(Commit::new().emit(order()).settle(ticket, answer("again"))).await, LeaseLost);
    same!(bed.outbox(false).await?.len(), 1, "effects");
    Ok(())
}

async fn scopes_are_separate(bed: &Bed) -> Checked {
    needs(bed.can.idempotency, "`idempotency`")?;
    let ticket = bed.fresh("k").await?;
    bed.commit(Commit::new().settle(ticket, answer("of acme"))).await?;
    let other = ClaimRequest { key: IdempotencyKey::new("other/orders", "k")?, ..request("k", "1")? };
    fits!(bed.claim(other).await?, Claim::Fresh(_));
    Ok(())
}

async fn a_key_is_forgotten_after_its_retention(bed: &Bed) -> Checked {
    needs(bed.can.idempotency, "`idempotency`")?;
    let claim = |key| anyhow::Ok(request(key, "1")?.retention(SECOND * 3600));
    for key in ["done", "held"] {
        let Claim::Fresh(ticket) = bed.claim(claim(key)?).await? else { anyhow::bail!("{key:?} is not fresh") };
        if key == "done" {
            bed.commit(Commit::new().settle(ticket, answer("x"))).await?;
        }
    }
    bed.pass(SECOND * 3599)?;
    same!(bed.maintain().await?.keys, 0, "dropped too early");
    fits!(bed.claim(claim("done")?).await?, Claim::Done(_));
    bed.pass(SECOND)?;
    same!(bed.maintain().await?.keys, 2);
    same!(bed.fresh("done").await?.attempt, 1);
    Ok(())
}

async fn of_many_claims_at_once_one_is_fresh(bed: &Bed) -> Checked {
    needs(bed.can.idempotency, "`idempotency`")?;
    one_is_fresh(bed).await
}

async fn of_many_takeovers_at_once_one_is_fresh(bed: &Bed) -> Checked {
    needs(bed.can.idempotency, "`idempotency`")?;
    bed.fresh("k").await?;
    bed.pass(SECOND * 31)?;
    one_is_fresh(bed).await
}

async fn one_is_fresh(bed: &Bed) -> Checked {
    let (store, request) = (bed.store()?, request("k", "1")?);
    let claims = race(50, |_| {
        let (store, cx, request) = (store.clone(), bed.cx.clone(), request.clone());
        async move { Ok(store.claim(&cx, request).await?) }
    });
    let claims = claims.await?;
    same!(claims.iter().filter(|claim| matches!(claim, Claim::Fresh(_))).count(), 1, "fresh claims");
    same!(claims.iter().filter(|claim| matches!(claim, Claim::InFlight { .. })).count(), 49, "claims in flight");
    Ok(())
}
