//! Quotas: no more than the rule allows, and a promise when there is more.

use std::time::Duration;

use selvedge_core::{
    Store,
    store::{Take, Taken, TokenBucket},
};

use super::Bed;
use crate::suite::{Checked, cases, fits, needs, race, same};

const SECOND: Duration = Duration::from_secs(1);

cases! {
    a_bucket_begins_full: "A new bucket grants its capacity, and then no more.",
    a_bucket_is_never_overdrawn: "However many take at once, no more than the capacity is granted at one moment.",
    coming_back_when_told_is_enough: "Whoever is denied and comes back after `retry_after` is granted, if nobody else took any.",
    a_denial_takes_nothing: "A denied request leaves the bucket as it was.",
    what_a_bucket_never_holds_is_never_granted: "A request beyond the capacity is `Never`, and takes nothing.",
    a_bucket_gains_no_more_than_its_capacity: "A bucket that rested for long holds its capacity.",
    buckets_are_separate: "Taking from one bucket leaves others alone.",
    a_changed_rule_applies_at_once: "A new rule for a known bucket counts from the next request on.",
    what_was_not_used_is_given_back_up_to_the_capacity: "Settling below the estimate gives the rest back, never more than the capacity.",
    what_was_used_beyond_the_estimate_is_a_debt: "Settling above the estimate is never refused; the debt is gained back before anything is granted.",
    settling_a_bucket_nobody_used: "A bucket that nobody used is full when it is settled.",
    estimates_settled_at_once_lose_nothing: "However many take and settle at once, what is left is the capacity less what was used.",
    a_debt_survives_a_crash: "A debt is still there after a crash.",
    a_bucket_survives_a_crash: "What was taken before a crash is still taken after it.",
}

impl Bed {
    async fn take(&self, bucket: &str, rule: TokenBucket, amount: u64) -> anyhow::Result<Taken> {
        Ok(self.store()?.take(&self.cx, Take::new(bucket, rule, amount)).await?)
    }

    async fn settle(&self, bucket: &str, rule: TokenBucket, estimate: u64, used: u64) -> anyhow::Result<Taken> {
        Ok(self.store()?.take(&self.cx, Take::settle(bucket, rule, estimate, used)).await?)
    }
}

fn rule(capacity: u64) -> TokenBucket {
    TokenBucket { capacity, refill: 10, per: SECOND }
}

/// Gains so little that a race on a clock that cannot be stopped is not changed by it.
fn slow(capacity: u64) -> TokenBucket {
    TokenBucket { capacity, refill: 1, per: SECOND * 86_400 }
}

async fn a_bucket_begins_full(bed: &Bed) -> Checked {
    needs(bed.can.quotas, "`quotas`")?;
    same!(bed.take("b", slow(5), 4).await?, Taken::Granted { remaining: 1 });
    same!(bed.take("b", slow(5), 1).await?, Taken::Granted { remaining: 0 });
    fits!(bed.take("b", slow(5), 1).await?, Taken::Denied { .. });
    Ok(())
}

async fn a_bucket_is_never_overdrawn(bed: &Bed) -> Checked {
    needs(bed.can.quotas, "`quotas`")?;
    let store = bed.store()?;
    let granted = race(30, |taker| {
        let (store, cx) = (store.clone(), bed.cx.clone());
        async move {
            let (amount, mut granted) = (1 + taker as u64 % 3, 0);
            for _ in 0..10 {
                let taken = store.take(&cx, Take::new("b", slow(100), amount)).await?;
                granted += if matches!(taken, Taken::Granted { .. }) { amount } else { 0 };
            }
            Ok(granted)
        }
    });
    let granted: u64 = granted.await?.into_iter().sum();
    same!(granted, 100, "tokens granted");
    Ok(())
}

async fn coming_back_when_told_is_enough(bed: &Bed) -> Checked {
    needs(bed.can.quotas, "`quotas`")?;
    bed.take("b", rule(20), 20).await?;
    for amount in [1, 7, 20] {
        let Taken::Denied { retry_after } = bed.take("b", rule(20), amount).await? else {
            anyhow::bail!("{amount} tokens were granted from an empty bucket");
        };
        bed.pass(retry_after - Duration::from_micros(1))?;
        fits!(bed.take("b", rule(20), amount).await?, Taken::Denied { .. });
        bed.pass(Duration::from_micros(1))?;
        same!(bed.take("b", rule(20), amount).await?, Taken::Granted { remaining: 0 });
    }
    Ok(())
}

async fn a_denial_takes_nothing(bed: &Bed) -> Checked {
    needs(bed.can.quotas, "`quotas`")?;
    bed.take("b", slow(10), 5).await?;
    for _ in 0..5 {
        fits!(bed.take("b", slow(10), 6).await?, Taken::Denied { .. });
    }
    same!(bed.take("b", slow(10), 5).await?, Taken::Granted { remaining: 0 });
    Ok(())
}

async fn what_a_bucket_never_holds_is_never_granted(bed: &Bed) -> Checked {
    needs(bed.can.quotas, "`quotas`")?;
    same!(bed.take("b", slow(10), 11).await?, Taken::Never);
    same!(bed.take("b", slow(10), u64::MAX).await?, Taken::Never);
    same!(bed.take("b", slow(10), 10).await?, Taken::Granted { remaining: 0 });
    let no_refill = TokenBucket { capacity: 1, refill: 0, per: SECOND };
    same!(bed.take("once", no_refill, 1).await?, Taken::Granted { remaining: 0 });
    same!(bed.take("once", no_refill, 1).await?, Taken::Never, "a bucket that gains nothing");
    Ok(())
}

async fn a_bucket_gains_no_more_than_its_capacity(bed: &Bed) -> Checked {
    needs(bed.can.quotas, "`quotas`")?;
    bed.take("b", rule(20), 20).await?;
    bed.pass(SECOND * 86_400 * 400)?;
    same!(bed.take("b", rule(20), 1).await?, Taken::Granted { remaining: 19 });
    bed.step_back(SECOND * 3600)?;
    same!(bed.take("b", rule(20), 1).await?, Taken::Granted { remaining: 18 }, "after the clock stepped back");
    Ok(())
}

async fn buckets_are_separate(bed: &Bed) -> Checked {
    needs(bed.can.quotas, "`quotas`")?;
    bed.take("one", slow(5), 5).await?;
    same!(bed.take("two", slow(5), 5).await?, Taken::Granted { remaining: 0 });
    Ok(())
}

async fn a_changed_rule_applies_at_once(bed: &Bed) -> Checked {
    needs(bed.can.quotas, "`quotas`")?;
    bed.take("b", slow(10), 2).await?;
    same!(bed.take("b", slow(5), 1).await?, Taken::Granted { remaining: 4 }, "a smaller capacity");
    Ok(())
}

async fn what_was_not_used_is_given_back_up_to_the_capacity(bed: &Bed) -> Checked {
    needs(bed.can.quotas, "`quotas`")?;
    bed.take("b", slow(100), 80).await?;
    same!(bed.settle("b", slow(100), 80, 30).await?, Taken::Granted { remaining: 70 });
    same!(bed.settle("b", slow(100), 30, 30).await?, Taken::Granted { remaining: 70 }, "an estimate that was right");
    same!(bed.take("b", slow(100), 70).await?, Taken::Granted { remaining: 0 });
    same!(bed.settle("b", slow(100), 1_000, 0).await?, Taken::Granted { remaining: 100 }, "more than it holds");
    fits!(bed.take("b", slow(100), 101).await?, Taken::Never);
    same!(bed.take("b", slow(100), 100).await?, Taken::Granted { remaining: 0 });
    Ok(())
}

async fn what_was_used_beyond_the_estimate_is_a_debt(bed: &Bed) -> Checked {
    needs(bed.can.quotas, "`quotas`")?;
    bed.take("b", rule(20), 15).await?;
    same!(bed.settle("b", rule(20), 15, 18).await?, Taken::Granted { remaining: 2 }, "there was enough left");
    same!(bed.settle("b", rule(20), 5, 17).await?, Taken::Granted { remaining: 0 });
    // Ten are owed, and ten are gained in a second.
    let Taken::Denied { retry_after } = bed.take("b", rule(20), 1).await? else {
        anyhow::bail!("a token was granted although ten are owed");
    };
    if bed.home.takes_clock() {
        same!(retry_after, SECOND + SECOND / 10);
        bed.pass(retry_after - Duration::from_micros(1))?;
        fits!(bed.take("b", rule(20), 1).await?, Taken::Denied { .. });
        bed.pass(Duration::from_micros(1))?;
        same!(bed.take("b", rule(20), 1).await?, Taken::Granted { remaining: 0 });
    }
    Ok(())
}

async fn settling_a_bucket_nobody_used(bed: &Bed) -> Checked {
    needs(bed.can.quotas, "`quotas`")?;
    same!(bed.settle("less", slow(10), 5, 1).await?, Taken::Granted { remaining: 10 });
    same!(bed.settle("more", slow(10), 1, 5).await?, Taken::Granted { remaining: 6 });
    same!(bed.take("more", slow(10), 6).await?, Taken::Granted { remaining: 0 });
    Ok(())
}

async fn estimates_settled_at_once_lose_nothing(bed: &Bed) -> Checked {
    needs(bed.can.quotas, "`quotas`")?;
    let store = bed.store()?;
    let used = race(20, |caller| {
        let (store, cx) = (store.clone(), bed.cx.clone());
        async move {
            let mut used = 0;
            for round in 0..10 {
                let estimate = 10 + caller as u64 % 3;
                if let Taken::Granted { .. } = store.take(&cx, Take::new("b", slow(1_000), estimate)).await? {
                    let spent = (caller as u64 + round) % 6;
                    store.take(&cx, Take::settle("b", slow(1_000), estimate, spent)).await?;
                    used += spent;
                }
            }
            Ok(used)
        }
    });
    let used: u64 = used.await?.into_iter().sum();
    same!(bed.settle("b", slow(1_000), 0, 0).await?, Taken::Granted { remaining: 1_000 - used }, "{used} were used");
    Ok(())
}

async fn a_debt_survives_a_crash(bed: &Bed) -> Checked {
    needs(bed.can.quotas && bed.can.durable, "`quotas` and `durable`")?;
    bed.take("b", slow(5), 5).await?;
    bed.settle("b", slow(5), 5, 50).await?;
    bed.crash().await?;
    // 45 are owed: giving them back leaves none.
    same!(bed.settle("b", slow(5), 45, 0).await?, Taken::Granted { remaining: 0 });
    same!(bed.settle("b", slow(5), 1, 0).await?, Taken::Granted { remaining: 1 });
    Ok(())
}

async fn a_bucket_survives_a_crash(bed: &Bed) -> Checked {
    needs(bed.can.quotas && bed.can.durable, "`quotas` and `durable`")?;
    bed.take("b", slow(5), 5).await?;
    bed.crash().await?;
    fits!(bed.take("b", slow(5), 1).await?, Taken::Denied { .. });
    Ok(())
}
