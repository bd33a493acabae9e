//! Topics: every message once and in order to every subscriber, and hints when there is work.

use std::time::Duration;

use selvedge_core::{
    Commit, Store,
    store::{Event, Maintain, Message, NewJob, Notice, Outcome, Retention, Start, StoreExt, Subscription, Watch},
};

use super::Bed;
use crate::suite::{Checked, cases, fits, needs, refused, same, soon};

const SECOND: Duration = Duration::from_secs(1);

cases! {
    messages_come_in_order: "A subscriber is given every message published from now on, in order, with growing cursors.",
    now_skips_what_was_published_before: "`Start::Now` begins with the first message after `watch` returned.",
    earliest_and_after_replay: "`Start::Earliest` replays all that is kept, `Start::After` all after a cursor, then what follows.",
    replay_survives_a_crash: "A subscriber goes on from its cursor after a crash, without gap or repetition.",
    subscribers_do_not_disturb_each_other: "Every subscriber of a topic is given every message; topics do not mix.",
    a_slow_subscriber_is_told_what_it_missed: "With a buffer, a subscriber that is further behind is told how many it missed, then given the newest.",
    a_refused_commit_publishes_nothing: "A message of a commit that failed is never seen.",
    a_subscription_waits_without_messages: "A subscription with nothing to tell waits; dropping a wait loses nothing.",
    a_new_job_wakes_a_watcher: "A watcher of a queue is woken when a job is enqueued.",
    a_released_job_wakes_a_watcher: "A watcher of a queue is woken when a job is given back.",
    a_new_event_wakes_a_watcher: "A watcher of the outbox is woken when an event is emitted.",
    the_end_of_an_event_wakes_a_watcher: "A watcher of the outbox is woken when an event ends and its aggregate's next may go out.",
    a_subscription_ends_with_its_store: "When the Store closes, its subscriptions end.",
    old_messages_are_dropped_after_their_retention: "`maintain` drops messages older than the retention, and no others.",
    many_publishers_lose_no_message: "With many publishers at once, a subscriber is given each message once, in the order of cursors.",
}

impl Bed {
    async fn follow(&self, topic: &str, from: Start, buffer: Option<usize>) -> anyhow::Result<Subscription> {
        Ok(self.store()?.watch(&self.cx, Watch::Topic { topic: topic.into(), from, buffer }).await?)
    }

    async fn say(&self, topic: &str, numbers: std::ops::Range<u8>) -> anyhow::Result<Vec<i64>> {
        let mut cursors = Vec::new();
        for n in numbers {
            cursors.push(self.store()?.publish(&self.cx, topic, vec![n]).await?);
        }
        Ok(cursors)
    }
}

async fn next(subscription: &mut Subscription) -> anyhow::Result<Notice> {
    let notice = soon("a notice", subscription.next()).await?;
    Ok(notice.ok_or_else(|| anyhow::anyhow!("the subscription ended"))??)
}

async fn message(subscription: &mut Subscription) -> anyhow::Result<Message> {
    match next(subscription).await? {
        Notice::Message(message) => Ok(message),
        other => anyhow::bail!("found {other:?}, expected a message"),
    }
}

async fn messages(subscription: &mut Subscription, count: usize) -> anyhow::Result<Vec<u8>> {
    let (mut all, mut last) = (Vec::new(), i64::MIN);
    for _ in 0..count {
        let message = message(subscription).await?;
        anyhow::ensure!(message.cursor > last, "cursor {} came after {last}", message.cursor);
        last = message.cursor;
        all.push(message.payload[0]);
    }
    Ok(all)
}

/// Whether nothing comes for a moment: enough for a notice that is wrongly under way.
async fn is_quiet(subscription: &mut Subscription) -> bool {
    tokio::time::timeout(Duration::from_millis(50), subscription.next()).await.is_err()
}

async fn messages_come_in_order(bed: &Bed) -> Checked {
    needs(bed.can.topics, "`topics`")?;
    let mut subscription = bed.follow("t", Start::Now, None).await?;
    let cursors = bed.say("t", 0..20).await?;
    let receipt = bed.commit(Commit::new().publish("t", vec![20]).publish("t", vec![21])).await?;
    fits!(receipt.outcomes[..], [Outcome::Published { cursor: one }, Outcome::Published { cursor: two }] if one < two);
    anyhow::ensure!(cursors.is_sorted_by(|a, b| a < b), "the cursors do not grow: {cursors:?}");
    same!(messages(&mut subscription, 22).await?, (0..22).collect::<Vec<_>>());
    let page = bed.store()?.messages(&bed.cx, "t", cursors[18], 100).await?;
    same!(page.items.iter().map(|m| m.payload[0]).collect::<Vec<_>>(), vec![19, 20, 21]);
    Ok(())
}

async fn now_skips_what_was_published_before(bed: &Bed) -> Checked {
    needs(bed.can.topics, "`topics`")?;
    bed.say("t", 0..5).await?;
    let mut subscription = bed.follow("t", Start::Now, None).await?;
    bed.say("t", 5..7).await?;
    same!(messages(&mut subscription, 2).await?, vec![5, 6]);
    Ok(())
}

async fn earliest_and_after_replay(bed: &Bed) -> Checked {
    needs(bed.can.topics, "`topics`")?;
    let cursors = bed.say("t", 0..5).await?;
    let mut earliest = bed.follow("t", Start::Earliest, None).await?;
    let mut after = bed.follow("t", Start::After(cursors[2]), None).await?;
    bed.say("t", 5..7).await?;
    same!(messages(&mut earliest, 7).await?, (0..7).collect::<Vec<_>>());
    same!(messages(&mut after, 4).await?, (3..7).collect::<Vec<_>>());
    Ok(())
}

async fn replay_survives_a_crash(bed: &Bed) -> Checked {
    needs(bed.can.topics && bed.can.durable, "`topics` and `durable`")?;
    bed.say("t", 0..5).await?;
    let mut subscription = bed.follow("t", Start::Earliest, None).await?;
    message(&mut subscription).await?;
    let cursor = message(&mut subscription).await?.cursor;
    drop(subscription);
    bed.crash().await?;
    bed.say("t", 5..6).await?;
    let mut subscription = bed.follow("t", Start::After(cursor), None).await?;
    same!(messages(&mut subscription, 4).await?, vec![2, 3, 4, 5]);
    Ok(())
}

async fn subscribers_do_not_disturb_each_other(bed: &Bed) -> Checked {
    needs(bed.can.topics, "`topics`")?;
    let mut one = bed.follow("t", Start::Now, None).await?;
    let mut two = bed.follow("t", Start::Now, None).await?;
    let mut other = bed.follow("other", Start::Now, None).await?;
    bed.say("t", 0..3).await?;
    bed.say("other", 9..10).await?;
    same!(messages(&mut one, 3).await?, vec![0, 1, 2]);
    drop(one);
    bed.say("t", 3..4).await?;
    same!(messages(&mut two, 4).await?, vec![0, 1, 2, 3]);
    same!(messages(&mut other, 1).await?, vec![9]);
    anyhow::ensure!(is_quiet(&mut other).await, "a message of another topic came");
    Ok(())
}

async fn a_slow_subscriber_is_told_what_it_missed(bed: &Bed) -> Checked {
    needs(bed.can.topics, "`topics`")?;
    bed.say("t", 0..10).await?;
    let mut subscription = bed.follow("t", Start::Earliest, Some(3)).await?;
    same!(next(&mut subscription).await?, Notice::Lagged(7));
    same!(messages(&mut subscription, 3).await?, vec![7, 8, 9]);
    bed.say("t", 10..12).await?;
    same!(messages(&mut subscription, 2).await?, vec![10, 11], "within the buffer");
    Ok(())
}

async fn a_refused_commit_publishes_nothing(bed: &Bed) -> Checked {
    needs(bed.can.topics && bed.can.jobs, "`topics` and `jobs`")?;
    let mut subscription = bed.follow("t", Start::Now, None).await?;
    let bad = Commit::new().publish("t", vec![1]).cancel(selvedge_core::store::JobId(i64::MAX));
    refused!(bed.try_commit(bad).await, NotFound);
    bed.say("t", 2..3).await?;
    same!(messages(&mut subscription, 1).await?, vec![2]);
    Ok(())
}

async fn a_subscription_waits_without_messages(bed: &Bed) -> Checked {
    needs(bed.can.topics, "`topics`")?;
    let mut subscription = bed.follow("t", Start::Now, None).await?;
    anyhow::ensure!(is_quiet(&mut subscription).await, "a notice came although nothing was published");
    bed.say("t", 0..2).await?;
    same!(messages(&mut subscription, 2).await?, vec![0, 1]);
    Ok(())
}

async fn a_new_job_wakes_a_watcher(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    let mut hints = bed.store()?.watch(&bed.cx, Watch::Jobs(vec!["other".into(), "q".into()])).await?;
    bed.enqueue([NewJob::new("q", "")]).await?;
    same!(next(&mut hints).await?, Notice::Work);
    Ok(())
}

async fn a_released_job_wakes_a_watcher(bed: &Bed) -> Checked {
    needs(bed.can.jobs, "`jobs`")?;
    bed.enqueue([NewJob::new("q", "")]).await?;
    let lease = bed.lease_one("q").await?.lease;
    let mut hints = bed.store()?.watch(&bed.cx, Watch::Jobs(vec!["q".into()])).await?;
    bed.commit(Commit::new().release(lease, Duration::ZERO)).await?;
    same!(next(&mut hints).await?, Notice::Work);
    Ok(())
}

async fn a_new_event_wakes_a_watcher(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    let mut hints = bed.store()?.watch(&bed.cx, Watch::Outbox).await?;
    bed.commit(Commit::new().emit(Event::new("a", "t", ""))).await?;
    same!(next(&mut hints).await?, Notice::Work);
    Ok(())
}

async fn the_end_of_an_event_wakes_a_watcher(bed: &Bed) -> Checked {
    needs(bed.can.outbox, "`outbox`")?;
    bed.commit(Commit::new().emit(Event::new("a", "t", "1")).emit(Event::new("a", "t", "2"))).await?;
    let lease = bed.relay_one().await?.lease;
    let mut hints = bed.store()?.watch(&bed.cx, Watch::Outbox).await?;
    bed.commit(Commit::new().complete(lease)).await?;
    same!(next(&mut hints).await?, Notice::Work);
    Ok(())
}

async fn a_subscription_ends_with_its_store(bed: &Bed) -> Checked {
    needs(bed.can.topics && bed.can.jobs, "`topics` and `jobs`")?;
    let mut topic = bed.follow("t", Start::Now, None).await?;
    let mut hints = bed.store()?.watch(&bed.cx, Watch::Jobs(vec!["q".into()])).await?;
    bed.crash().await?;
    for (what, subscription) in [("a topic", &mut topic), ("a queue", &mut hints)] {
        while soon(&format!("the end of a watch of {what}"), subscription.next()).await?.is_some() {}
    }
    Ok(())
}

async fn old_messages_are_dropped_after_their_retention(bed: &Bed) -> Checked {
    needs(bed.can.topics, "`topics`")?;
    bed.say("t", 0..3).await?;
    bed.pass(SECOND * 60)?;
    let newer = bed.say("t", 3..5).await?;
    bed.pass(SECOND * 40)?;
    let retention = Retention { messages: SECOND * 100, ..Retention::default() };
    let maintain = Maintain { retention, ..Maintain::default() };
    same!(bed.store()?.maintain(&bed.cx, maintain).await?.messages, 3);
    same!(bed.store()?.maintain(&bed.cx, maintain).await?.messages, 0, "dropped too early");
    let page = bed.store()?.messages(&bed.cx, "t", 0, 100).await?;
    same!(page.items.iter().map(|m| m.cursor).collect::<Vec<_>>(), newer);
    let mut subscription = bed.follow("t", Start::Earliest, None).await?;
    same!(messages(&mut subscription, 2).await?, vec![3, 4]);
    bed.pass(SECOND * 100)?;
    same!(bed.store()?.maintain(&bed.cx, maintain).await?.messages, 2);
    let later = bed.say("t", 5..6).await?;
    anyhow::ensure!(later[0] > newer[1], "a cursor was used again");
    same!(messages(&mut subscription, 1).await?, vec![5]);
    Ok(())
}

async fn many_publishers_lose_no_message(bed: &Bed) -> Checked {
    needs(bed.can.topics, "`topics`")?;
    let mut subscription = bed.follow("t", Start::Now, None).await?;
    let store = bed.store()?;
    let published = crate::suite::race(8, |publisher| {
        let (store, cx) = (store.clone(), bed.cx.clone());
        async move {
            for n in 0..25 {
                store.publish(&cx, "t", vec![publisher as u8 * 25 + n]).await?;
            }
            Ok(())
        }
    });
    let (published, given) = tokio::join!(published, messages(&mut subscription, 200));
    published?;
    let mut given = given?;
    given.sort_unstable();
    same!(given, (0..200).collect::<Vec<u8>>());
    Ok(())
}
