//! Allowances: what a call takes of them before it begins, and how that is settled however it ends.
//!
//! Nothing here needs a runtime: a call that is dropped leaves what it owes in the engine's ledger, and the next call with an
//! allowance, or the next tick of [`Engine::maintain`], settles it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use super::{Engine, quota::Purse};
use crate::{
    Commit, Context, Error, ErrorKind, Result, Store,
    allowance::{Allowance, Allowances, Left, Limit},
    idempotency::{Claim, ClaimRequest, Fingerprint, IdempotencyKey, Ticket},
    scheduler::Work,
    store::{Ask, Take, Taken, TokenBucket},
};

const OPERATION: &str = "engine.allowance";
/// The scope of the keys that places of concurrent requests are.
const SLOTS: &str = "allowance/slots";
/// When to come back for a place: when one is free is not known.
const SOON: Duration = Duration::from_secs(1);
/// The longest that settling holds up whoever does it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Requests are taken so many times a minute at the most.
const TIMES_A_MINUTE: u64 = 600;

/// What an engine keeps of allowances.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Requests in hand, by bucket.
    purses: Mutex<BTreeMap<String, Arc<Purse>>>,
    /// The places that this process holds or tries to get: no claim is wasted on them.
    slots: Mutex<BTreeSet<(Arc<str>, u32)>>,
    owed: Mutex<Owed>,
}

/// What is to be settled.
#[derive(Debug, Default)]
struct Owed {
    /// By bucket, so that there is never more of it than there are buckets.
    tokens: BTreeMap<String, (TokenBucket, i64)>,
    slots: Vec<Slot>,
}

/// A place among the concurrent requests.
#[derive(Debug)]
struct Slot {
    ticket: Ticket,
    _reserved: Reserved,
}

/// A place that no other call of this process tries to get.
#[derive(Debug)]
struct Reserved {
    // Not the ledger itself: what is owed lies in there.
    ledger: Weak<Ledger>,
    slot: (Arc<str>, u32),
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(ledger) = self.ledger.upgrade() {
            locked(&ledger.slots).remove(&self.slot);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    fn purse(&self, bucket: String, rule: TokenBucket) -> Arc<Purse> {
        let mut purses = locked(&self.purses);
        match purses.get(&bucket) {
            Some(purse) if purse.rule == rule => purse.clone(),
            _ => {
                let purse = Arc::new(Purse::new(bucket.clone(), rule, rule.refill / TIMES_A_MINUTE));
                purses.insert(bucket, purse.clone());
                purse
            }
        }
    }

    /// A place that was not tried and that no other call of this process has.
    fn reserve(self: &Arc<Self>, name: &Arc<str>, most: u32, tried: &BTreeSet<u32>) -> Option<Reserved> {
        let mut slots = locked(&self.slots);
        // Processes that begin at different places get in each other's way less.
        let begin = if most == 0 { 0 } else { fastrand::u32(..most) };
        let free = (begin..most)
            .chain(0..begin)
            .find(|number| !tried.contains(number) && !slots.contains(&(name.clone(), *number)))?;
        slots.insert((name.clone(), free));
        Some(Reserved { ledger: Arc::downgrade(self), slot: (name.clone(), free) })
    }

    fn owe(&self, bucket: String, rule: TokenBucket, by: i64) {
        let mut owed = locked(&self.owed);
        let known = owed.tokens.entry(bucket).or_insert((rule, 0));
        *known = (rule, known.1.saturating_add(by));
    }

    fn owe_slot(&self, slot: Slot) {
        locked(&self.owed).slots.push(slot);
    }

    fn next_slot(&self) -> Option<Slot> {
        locked(&self.owed).slots.pop()
    }

    fn next_tokens(&self) -> Option<(String, (TokenBucket, i64))> {
        locked(&self.owed).tokens.pop_first()
    }
}

/// What one call took. Dropping it leaves in the ledger what is owed by then.
#[derive(Debug)]
pub(super) struct Charge {
    ledger: Arc<Ledger>,
    tokens: Vec<(String, TokenBucket, u64)>,
    slots: Vec<Slot>,
    until: Option<Instant>,
    /// Tokens used so far.
    pub(super) used: u64,
}

impl Charge {
    /// The context in which the call goes on: it ends before another can get its place.
    pub(super) fn bound(&self, cx: &Context) -> Context {
        let cx = cx.clone();
        match self.until {
            Some(until) => cx.with_deadline(until),
            None => cx,
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        for (bucket, rule, estimate) in self.tokens.drain(..) {
            if let Ask::Settle(by @ (..=-1 | 1..)) = Take::settle("", rule, estimate, self.used).ask {
                self.ledger.owe(bucket, rule, by);
            }
        }
        self.slots.drain(..).for_each(|slot| self.ledger.owe_slot(slot));
    }
}

/// A place that is given back again if giving it back is not seen to its end: to do it twice does no harm.
struct Returning<'a> {
    ledger: &'a Ledger,
    slot: Option<Slot>,
}

impl Drop for Returning<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.ledger.owe_slot(slot);
        }
    }
}

impl Engine {
    /// Takes what a call needs of the allowances it stands under; `None` when there are none.
    ///
    /// # Cancellation safety
    /// What the Store was asked for in the moment of the drop may stay taken: an estimate until it is gained back, a place
    /// until its claim runs out. All else is settled later.
    pub(super) async fn charge(&self, cx: &Context, work: Work) -> Result<Option<Charge>> {
        let Some(allowances) = cx.allowances().filter(|allowances| !allowances.is_empty()) else { return Ok(None) };
        allowances.begin();
        self.settle().await;
        let ledger = self.0.ledger.clone();
        let mut charge = Charge { ledger, tokens: Vec::new(), slots: Vec::new(), until: None, used: 0 };
        match self.take_all(cx, allowances, work, &mut charge).await {
            Ok(()) => Ok(Some(charge)),
            Err(error) => {
                drop(charge);
                self.settle().await;
                Err(error)
            }
        }
    }

    async fn take_all(&self, cx: &Context, allowances: &Allowances, work: Work, charge: &mut Charge) -> Result<()> {
        for (name, allowance) in allowances.iter() {
            let Some(most) = allowance.requests_per_minute else { continue };
            let rule = TokenBucket::per_minute(most);
            let purse = self.0.ledger.purse(format!("allowance/{name}/requests"), rule);
            let taken = purse.take(self, cx, 1).await?;
            grant(allowances, Limit::Requests, name, rule, taken)?;
        }
        for (name, allowance) in allowances.iter() {
            let Some(most) = allowance.concurrent else { continue };
            // The time before the Store is asked: the call ends before the claim does.
            let until = Instant::now().checked_add(allowance.hold);
            charge.until = [charge.until, until].into_iter().flatten().min();
            match self.slot(cx, name, most, allowance.hold).await? {
                Some(slot) => charge.slots.push(slot),
                None => {
                    allowances.refuse(Limit::Concurrent);
                    return Err(refused(Limit::Concurrent, name, most.into())
                        .retry_in(SOON)
                        .advise("wait until one of the running requests has ended"));
                }
            }
        }
        for (name, allowance) in allowances.iter() {
            let Some(most) = allowance.tokens_per_minute else { continue };
            let rule = TokenBucket::per_minute(most);
            let Some(estimate) = Allowance::estimate(most, work.prompt, work.answer) else {
                allowances.refuse(Limit::Tokens);
                allowances.note(Limit::Tokens, Left::none(rule, Duration::ZERO));
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    OPERATION,
                    "the prompt is more than the limit ever allows",
                )
                .with("limit", Limit::Tokens)
                .with("of", name)
                .with("most", most)
                .with("prompt_tokens", work.prompt)
                .advise("send a shorter prompt, or raise the limit"));
            };
            let bucket = format!("allowance/{name}/tokens");
            let taken = self.quotas()?.take(cx, Take::new(bucket.clone(), rule, estimate)).await?;
            grant(allowances, Limit::Tokens, name, rule, taken)?;
            charge.tokens.push((bucket, rule, estimate));
        }
        Ok(())
    }

    /// Claims a place. In the worst case that is a claim for each that other processes hold.
    async fn slot(&self, cx: &Context, name: &Arc<str>, most: u32, hold: Duration) -> Result<Option<Slot>> {
        let mut tried = BTreeSet::new();
        while let Some(reserved) = self.0.ledger.reserve(name, most, &tried) {
            let number = reserved.slot.1;
            let key = IdempotencyKey::new(SLOTS, format!("{}/{number}", name.escape_default()))?;
            let request = ClaimRequest::new(key, Fingerprint::of(SLOTS, b"")).hold(hold).retention(hold);
            if let Claim::Fresh(ticket) = self.store()?.claim(cx, request).await? {
                return Ok(Some(Slot { ticket, _reserved: reserved }));
            }
            tried.insert(number);
        }
        Ok(None)
    }

    /// Settles what calls that have ended owe. Whoever cancelled is not asked: it goes by a time of its own.
    ///
    /// # Cancellation safety
    /// A place that was not given back yet is owed again; of tokens what was being settled counts as settled, since settling
    /// twice would give back twice.
    pub(super) async fn settle(&self) {
        let ledger = &*self.0.ledger;
        let cx = &Context::new().with_timeout(PATIENCE);
        while let Some(slot) = ledger.next_slot() {
            let mut returning = Returning { ledger, slot: Some(slot) };
            let Some(ticket) = returning.slot.as_ref().map(|slot| slot.ticket.clone()) else { continue };
            let abandon = async { self.store()?.commit(cx, Commit::new().abandon(ticket)).await.map(drop) };
            match cx.bound(&**self.clock(), OPERATION, abandon).await.and_then(|done| done) {
                Ok(()) => drop(returning.slot.take()),
                // It has run out: somebody else may have it.
                Err(error) if error.kind() == ErrorKind::LeaseLost => drop(returning.slot.take()),
                Err(error) => {
                    tracing::warn!(%error, "the place of a request will be given back later");
                    return;
                }
            }
        }
        while let Some((bucket, (rule, by))) = ledger.next_tokens() {
            let take = Take { bucket: bucket.clone(), rule, ask: Ask::Settle(by) };
            let settle = async { self.quotas()?.take(cx, take).await.map(drop) };
            if let Err(error) = cx.bound(&**self.clock(), OPERATION, settle).await.and_then(|done| done) {
                tracing::warn!(%error, bucket, by, retryable = error.retryable(), "a quota could not be settled");
                if error.retryable() {
                    ledger.owe(bucket, rule, by);
                }
                return;
            }
        }
    }
}

fn grant(allowances: &Allowances, limit: Limit, name: &str, rule: TokenBucket, taken: Taken) -> Result<()> {
    let refused = |reset| {
        allowances.refuse(limit);
        allowances.note(limit, Left::none(rule, reset));
        refused(limit, name, rule.capacity)
    };
    match taken {
        Taken::Granted { remaining } => {
            allowances.note(limit, Left::of(rule, remaining));
            Ok(())
        }
        Taken::Denied { retry_after } => {
            Err(refused(retry_after).retry_in(retry_after).advise("wait as long as it says, or raise the limit"))
        }
        Taken::Never => Err(refused(Duration::ZERO).retry(false).advise("raise the limit: it allows none")),
    }
}

fn refused(limit: Limit, name: &str, most: u64) -> Error {
    Error::new(ErrorKind::RateLimited, OPERATION, "a limit is reached")
        .with("limit", limit)
        .with("of", name)
        .with("most", most)
}
