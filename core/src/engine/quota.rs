use std::{sync::Arc, time::Duration};

use futures_util::lock::Mutex;

use super::Engine;
use crate::{
    Context, Result, Store, Timestamp,
    store::{Take, Taken, TokenBucket},
};

impl Engine {
    /// A share of a bucket for this process: it takes `chunk` tokens at a time and hands them out without asking the Store for
    /// each. See [`Quota`] for what is guaranteed.
    ///
    /// A good chunk is what the process spends within some 100 ms. 0 and 1 ask the Store each time.
    pub fn quota(&self, bucket: impl Into<String>, rule: TokenBucket, chunk: u64) -> Quota {
        Quota(Arc::new(Shared { engine: self.clone(), purse: Purse::new(bucket.into(), rule, chunk) }))
    }
}

/// A process's share of a bucket that many processes take from: [`Engine::quota`]. Clones share it.
///
/// The bound, over all processes together:
/// - since the bucket was first used, no more than `capacity + refill × span / per` tokens are spent: what is spent was
///   granted by the Store first;
/// - over any span of time, at most as much again as was in hand when it began, fewer than `chunk` tokens a process, and never
///   more than one `refill`.
///
/// A process has fewer than `chunk` tokens in hand. They go unused if it ends, and expire when they were not spent within
/// `per`: what was gained long ago must not be spent in one burst now. (Those of a bucket without refill do not.) When a whole chunk is not granted, it takes just what is
/// missing, so that the last tokens of a bucket can be spent.
///
/// ```
/// use selvedge_core::{Context, Engine, Result, store::TokenBucket};
///
/// async fn serve(engine: Engine) -> Result<()> {
///     let quota = engine.quota("tenant/acme/requests", TokenBucket::per_minute(6_000), 10);
///     quota.take(&Context::new(), 1).await?; // `RateLimited` says when to come back
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Quota(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    engine: Engine,
    purse: Purse,
}

impl Quota {
    /// Spends `amount` tokens.
    ///
    /// # Errors
    /// `RateLimited` with `retry_after`; `InvalidInput` when the bucket never holds so many; those of [`Store::take`].
    ///
    /// # Cancellation safety
    /// When it is dropped, tokens that the Store granted may be lost; more than the bound are never spent.
    pub async fn take(&self, cx: &Context, amount: u64) -> Result<()> {
        let Shared { engine, purse } = &*self.0;
        purse.take(engine, cx, amount).await?.granted(&purse.bucket).map(drop)
    }
}

/// A bucket and what this process has in hand of it.
#[derive(Debug)]
pub(super) struct Purse {
    bucket: String,
    pub(super) rule: TokenBucket,
    chunk: u64,
    /// Held while the Store is asked: callers that come at once share one chunk.
    hand: Mutex<Hand>,
}

impl Purse {
    pub(super) fn new(bucket: String, rule: TokenBucket, chunk: u64) -> Self {
        Self { bucket, rule, chunk, hand: Mutex::default() }
    }

    /// Spends `amount` tokens. What is said to remain is what this process knows of.
    pub(super) async fn take(&self, engine: &Engine, cx: &Context, amount: u64) -> Result<Taken> {
        let Self { bucket, rule, chunk, hand } = self;
        let mut hand = hand.lock().await;
        // The time before the Store is asked: tokens are never taken for younger than they are.
        let now = engine.clock().now();
        let Some(missing) = hand.spend(now, life(rule), amount) else { return Ok(hand.granted()) };
        let mut answer = Taken::Never;
        for ask in asks(missing, *chunk) {
            answer = engine.quotas()?.take(cx, Take::new(bucket, *rule, ask)).await?;
            if let Taken::Granted { remaining } = answer {
                hand.gain(now, ask, amount);
                hand.left = remaining;
                return Ok(hand.granted());
            }
        }
        Ok(answer)
    }
}

/// How long tokens may stay in hand. A bucket that gains nothing is a budget, and a budget does not expire.
fn life(rule: &TokenBucket) -> Duration {
    if rule.refill == 0 { Duration::MAX } else { rule.per }
}

/// What to ask the Store for until it grants something: a chunk, then just what is missing.
fn asks(missing: u64, chunk: u64) -> impl Iterator<Item = u64> {
    (chunk > missing).then_some(chunk).into_iter().chain([missing])
}

/// Tokens that were granted and not spent. Pure: it asks nobody.
#[derive(Debug, Default)]
struct Hand {
    tokens: u64,
    /// When the Store was asked for them.
    since: Timestamp,
    /// What was left in the bucket then.
    left: u64,
}

impl Hand {
    /// Spends `amount` from what is in hand, or says how many are missing.
    fn spend(&mut self, now: Timestamp, life: Duration, amount: u64) -> Option<u64> {
        // A clock that stepped back says nothing about their age.
        if now < self.since || now.since(self.since) >= life {
            self.tokens = 0;
        }
        match self.tokens.checked_sub(amount) {
            Some(left) => {
                self.tokens = left;
                None
            }
            None => Some(amount - self.tokens),
        }
    }

    /// Puts `granted` tokens to those in hand and spends `amount`. The older ones go first, so that what is left is new.
    fn gain(&mut self, now: Timestamp, granted: u64, amount: u64) {
        (self.tokens, self.since) = ((self.tokens + granted).saturating_sub(amount), now);
    }

    fn granted(&self) -> Taken {
        Taken::Granted { remaining: self.left.saturating_add(self.tokens) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::{Ask, Bucket};

    /// What [`Quota::take`] does, with the bucket's rule in place of a Store.
    fn take(
        hand: &mut Hand,
        bucket: &mut Option<Bucket>,
        rule: TokenBucket,
        now: Timestamp,
        amount: u64,
        chunk: u64,
    ) -> bool {
        let mut ask = |amount| {
            let (next, taken) = rule.apply(*bucket, now, Ask::Spend(amount));
            *bucket = Some(next);
            matches!(taken, Taken::Granted { .. })
        };
        let Some(missing) = hand.spend(now, life(&rule), amount) else { return true };
        for ask_for in asks(missing, chunk) {
            if ask(ask_for) {
                hand.gain(now, ask_for, amount);
                return true;
            }
        }
        false
    }

    proptest! {
        #[test]
        fn many_processes_spend_no_more_than_the_bound_and_hold_less_than_a_chunk_each(
            capacity in 0u64..100, refill in 0u64..100, per_ms in 1u64..5_000, chunk in 0u64..40, processes in 1usize..5,
            steps in proptest::collection::vec((0i64..500_000, 0u64..12, 0usize..5), 1..200),
        ) {
            let rule = TokenBucket { capacity, refill, per: Duration::from_millis(per_ms) };
            let mut hands: Vec<Hand> = (0..processes).map(|_| Hand::default()).collect();
            let (mut bucket, mut now) = (None, Timestamp(1_000_000_000));
            let gained = |span: Duration| refill as f64 * span.as_micros() as f64 / (per_ms as f64 * 1000.0);
            let mut spent: Vec<(Timestamp, u64, u64)> = Vec::new();
            let mut first = None;
            for (step, amount, process) in steps {
                now = now + Duration::from_micros(step as u64);
                let begin = *first.get_or_insert(now);
                let in_hand: u64 = hands.iter().map(|hand| hand.tokens).sum();
                let took = take(&mut hands[process % processes], &mut bucket, rule, now, amount, chunk);
                spent.push((now, if took { amount } else { 0 }, in_hand));
                prop_assert!(hands.iter().all(|hand| hand.tokens < chunk.max(1)), "{hands:?}");
                let total: u64 = spent.iter().map(|(_, amount, _)| amount).sum();
                let bound = capacity as f64 + gained(now.since(begin));
                prop_assert!(total as f64 <= bound + 1e-6, "{total} > {bound} since the first use");
            }
            // Every span that begins with a call, by both of its bounds.
            for (index, (begin, _, in_hand)) in spent.iter().enumerate() {
                let mut total = 0;
                for (at, amount, _) in &spent[index..] {
                    total += amount;
                    let own = capacity as f64 + gained(at.since(*begin));
                    prop_assert!(total as f64 <= own + *in_hand as f64 + 1e-6, "{total} > {own} + {in_hand}");
                    prop_assert!(total as f64 <= own + refill as f64 + 1e-6, "{total} > {own} + {refill}");
                }
            }
        }

        #[test]
        fn what_was_not_spent_in_time_is_gone(tokens in 1u64..100, age_ms in 0i64..3_000, back in any::<bool>()) {
            let life = Duration::from_secs(1);
            let since = Timestamp(1_000_000_000);
            let mut hand = Hand { tokens, since, left: 0 };
            let now = if back && age_ms > 0 { Timestamp(since.0 - age_ms * 1000) } else { Timestamp(since.0 + age_ms * 1000) };
            let spent = hand.spend(now, life, tokens).is_none();
            prop_assert_eq!(spent, now >= since && age_ms < 1_000);
        }
    }
}
