//! Intents: written down once, answered once.

use std::time::Duration;

use selvedge_core::{
    Commit, Intent, TraceContext,
    idempotency::Answer,
    intent::IntentState,
    store::{IntentFilter, Maintain, Outcome, RelayRequest, Retention, Retry, Store, StoreExt},
};

use super::Bed;
use crate::suite::{Checked, cases, needs, refused, same};

const SECOND: Duration = Duration::from_secs(1);

cases! {
    an_intent_is_kept_as_it_was_submitted: "An intent comes back with every field, pending, also after a crash.",
    submitting_twice_adds_one: "Submitting the same intent again changes nothing and says so.",
    an_answered_intent_is_not_sent_again: "Submitting an intent again that was answered adds no event: it has gone out already.",
    another_payload_under_a_known_id_is_a_conflict: "An intent whose id is known with another payload is a `Conflict`, and nothing of its commit is visible.",
    an_answer_is_kept: "An answer makes an intent done (2xx) or refused, with the moment; the first answer stays.",
    an_unknown_intent_cannot_be_answered: "Answering an intent that is not there is `NotFound`.",
    attempts_are_counted: "An intent shows how often its event was sent and why it failed last, also once it is answered.",
    intents_are_listed_by_state: "Intents are listed in the order they were submitted, all or of one state.",
    answered_intents_are_dropped_after_their_retention: "`maintain` drops intents answered longer ago than the retention, and never a pending one.",
}

fn intent(n: u8) -> Intent {
    Intent::new("orders.create", format!("{{\"n\":{n}}}"))
}

async fn an_intent_is_kept_as_it_was_submitted(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    let full = intent(1).business_key("cart-17").aggregate("cart/17").trace(TraceContext::start());
    let now = bed.now().await?;
    bed.commit(Commit::new().submit(full.clone())).await?;
    if bed.can.durable {
        bed.crash().await?;
    }
    let view = bed.store()?.intent(&bed.cx, full.id).await?;
    let view = view.ok_or_else(|| anyhow::anyhow!("the intent is gone"))?;
    same!((&view.intent, view.state, view.answer, view.attempts), (&full, IntentState::Pending, None, 0));
    anyhow::ensure!(view.submitted_at >= now && view.answered_at.is_none(), "moments out of order");
    same!(bed.store()?.intent(&bed.cx, uuid::Uuid::now_v7()).await?, None, "an unknown intent");
    Ok(())
}

async fn submitting_twice_adds_one(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    let one = intent(1);
    let submit = || Commit::new().submit(one.clone()).emit(one.event());
    same!(bed.commit(submit()).await?.outcomes[0], Outcome::Submitted { duplicate: false });
    same!(bed.commit(submit()).await?.outcomes[0], Outcome::Submitted { duplicate: true });
    same!(bed.store()?.intents(&bed.cx, IntentFilter::default()).await?.items.len(), 1, "intents");
    same!(bed.outbox(false).await?.len(), 1, "events");
    Ok(())
}

async fn an_answered_intent_is_not_sent_again(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    let one = intent(1);
    let submit = || Commit::new().submit(one.clone()).emit(one.event());
    bed.commit(submit()).await?;
    let sent = bed.store()?.relay(&bed.cx, RelayRequest::new(1)).await?;
    same!(sent.len(), 1, "events to send");
    let answer = Answer { status: 202, headers: Vec::new(), body: "{}".into() };
    bed.commit(Commit::new().answer(one.id, answer).complete(sent[0].lease)).await?;
    same!(bed.commit(submit()).await?.outcomes[0], Outcome::Submitted { duplicate: true });
    same!(bed.outbox(false).await?.len(), 0, "events");
    Ok(())
}

async fn another_payload_under_a_known_id_is_a_conflict(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    let one = intent(1);
    bed.commit(Commit::new().submit(one.clone())).await?;
    let other = Intent { payload: "{\"n\":2}".into(), ..one.clone() };
    refused!(bed.try_commit(Commit::new().emit(intent(3).event()).submit(other)).await, Conflict);
    let kept = bed.store()?.intent(&bed.cx, one.id).await?;
    same!(kept.map(|view| view.intent), Some(one));
    same!(bed.outbox(false).await?.len(), 0, "events of the refused commit");
    Ok(())
}

async fn an_answer_is_kept(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    let (done, refused) = (intent(1), intent(2));
    bed.commit(Commit::new().submit(done.clone()).submit(refused.clone())).await?;
    let yes = Answer { body: vec![0xff, 0].into(), ..Answer::json(201, "") };
    bed.commit(Commit::new().answer(done.id, yes.clone()).answer(refused.id, Answer::json(422, "{}"))).await?;
    bed.commit(Commit::new().answer(done.id, Answer::json(422, "late"))).await?;
    let view = |id| async move {
        let view = bed.store()?.intent(&bed.cx, id).await?;
        view.ok_or_else(|| anyhow::anyhow!("the intent is gone"))
    };
    let (done, refused) = (view(done.id).await?, view(refused.id).await?);
    same!((done.state, done.answer, done.answered_at.is_some()), (IntentState::Done, Some(yes), true));
    same!((refused.state, refused.answer), (IntentState::Refused, Some(Answer::json(422, "{}"))));
    Ok(())
}

async fn an_unknown_intent_cannot_be_answered(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    let answer = Commit::new().answer(uuid::Uuid::now_v7(), Answer::json(200, ""));
    refused!(bed.try_commit(Commit::new().submit(intent(1)).and(answer)).await, NotFound);
    same!(
        bed.store()?.intents(&bed.cx, IntentFilter::default()).await?.items.len(),
        0,
        "intents of the refused commit"
    );
    Ok(())
}

async fn attempts_are_counted(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    let one = intent(1);
    bed.commit(Commit::new().submit(one.clone()).emit(one.event())).await?;
    let lease = bed.relay_one().await?.lease;
    bed.commit(Commit::new().fail(lease, "offline", Retry::After(Duration::ZERO))).await?;
    let lease = bed.relay_one().await?.lease;
    bed.commit(Commit::new().answer(one.id, Answer::json(200, "")).complete(lease)).await?;
    let view = bed.store()?.intent(&bed.cx, one.id).await?;
    let view = view.ok_or_else(|| anyhow::anyhow!("the intent is gone"))?;
    same!((view.attempts, view.last_error.as_deref(), view.state), (2, Some("offline"), IntentState::Done));
    Ok(())
}

async fn intents_are_listed_by_state(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    let all: Vec<_> = (0..9).map(intent).collect();
    bed.commit(all.iter().cloned().fold(Commit::new(), Commit::submit)).await?;
    for (index, intent) in all.iter().enumerate().filter(|(index, _)| index % 3 != 0) {
        let status = if index % 3 == 1 { 200 } else { 404 };
        bed.commit(Commit::new().answer(intent.id, Answer::json(status, ""))).await?;
    }
    for (state, picks) in [
        (None, vec![0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (Some(IntentState::Pending), vec![0, 3, 6]),
        (Some(IntentState::Done), vec![1, 4, 7]),
        (Some(IntentState::Refused), vec![2, 5, 8]),
    ] {
        let page = bed.store()?.intents(&bed.cx, IntentFilter { state, ..IntentFilter::default() }).await?;
        let found: Vec<_> = page.items.iter().map(|view| view.intent.id).collect();
        same!(found, picks.iter().map(|pick| all[*pick].id).collect::<Vec<_>>(), "intents in state {state:?}");
    }
    Ok(())
}

async fn answered_intents_are_dropped_after_their_retention(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    let (pending, answered) = (intent(1), intent(2));
    bed.commit(Commit::new().submit(pending.clone()).submit(answered.clone())).await?;
    bed.commit(Commit::new().answer(answered.id, Answer::json(200, ""))).await?;
    let retention = Retention { intents: SECOND * 100, ..Retention::default() };
    let maintain = Maintain { retention, ..Maintain::default() };
    bed.pass(SECOND * 99)?;
    same!(bed.store()?.maintain(&bed.cx, maintain).await?.intents, 0, "dropped too early");
    bed.pass(SECOND)?;
    same!(bed.store()?.maintain(&bed.cx, maintain).await?.intents, 1);
    let left = bed.store()?.intents(&bed.cx, IntentFilter::default()).await?.items;
    same!(left.iter().map(|view| view.intent.id).collect::<Vec<_>>(), vec![pending.id]);
    Ok(())
}
