//! Deficit round robin: tenants of one class take turns, and what counts is what their requests cost.
//!
//! Each tenant has an account. In each round it is paid the same quantum, and its oldest request is admitted once the account
//! covers what it costs, so that a tenant with long prompts is admitted less often than one with short questions, and both get
//! the same share of the machine. When a request has ended, what it did not use of its estimate is paid back. Whoever has nothing
//! waiting saves nothing up. Shreedhar and Varghese, "Efficient Fair Queuing using Deficit Round Robin", SIGCOMM 1995.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Who a request is done for; those without a tenant are one tenant.
pub(crate) type Tenant = Option<Arc<str>>;

/// What a request costs: microseconds of the machine, by the cost model.
pub(crate) type Cost = u64;

/// The most a request is taken to cost, so that sums stay far from the end of the numbers: eleven days.
pub(crate) const MOST: Cost = 1_000_000_000_000;

/// A request that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) ticket: u64,
    /// When it came.
    pub(crate) since: Duration,
    pub(crate) cost: Cost,
}

/// The requests of one class that wait.
#[derive(Debug, Default)]
pub(crate) struct RoundRobin {
    accounts: BTreeMap<Tenant, Account>,
    /// The tenants that have something waiting, in the order of their turns.
    ring: VecDeque<Tenant>,
    waiting: usize,
    /// What each tenant is paid in a round: a request of the usual size.
    quantum: Cost,
}

#[derive(Debug, Default)]
struct Account {
    queue: VecDeque<Waiting>,
    deficit: i64,
    /// Requests that run: their tenant is remembered until their true cost is known.
    running: usize,
}

impl RoundRobin {
    pub(crate) fn len(&self) -> usize {
        self.waiting
    }

    /// Adds a request at the end of its tenant's queue.
    pub(crate) fn push(&mut self, tenant: Tenant, request: Waiting) {
        self.quantum = if self.quantum == 0 { request.cost } else { (self.quantum * 15 + request.cost) / 16 }.max(1);
        let account = self.accounts.entry(tenant.clone()).or_default();
        if account.queue.is_empty() {
            self.ring.push_back(tenant);
        }
        account.queue.push_back(request);
        self.waiting += 1;
    }

    /// Admits the next request.
    pub(crate) fn pop(&mut self) -> Option<(Tenant, Waiting)> {
        self.skip_rounds();
        loop {
            let tenant = self.ring.front()?.clone();
            let account = self.accounts.get_mut(&tenant)?;
            let cost = signed(account.queue.front()?.cost);
            if account.deficit >= cost {
                return self.take(&tenant, 0);
            }
            account.deficit = account.deficit.saturating_add(signed(self.quantum));
            self.ring.rotate_left(1);
        }
    }

    /// Pays at once for the rounds in which nobody could be admitted, so that a long debt costs no time.
    fn skip_rounds(&mut self) {
        let quantum = signed(self.quantum.max(1));
        let needs = |account: &Account| {
            let lacks = account.queue.front().map(|head| signed(head.cost).saturating_sub(account.deficit));
            lacks.map(|lacks| if lacks <= 0 { 0 } else { (lacks - 1) / quantum + 1 })
        };
        let rounds = self.accounts.values().filter_map(needs).min().unwrap_or(0);
        if rounds > 1 {
            let pay = quantum.saturating_mul(rounds - 1);
            let paid = self.accounts.values_mut().filter(|account| !account.queue.is_empty());
            paid.for_each(|account| account.deficit = account.deficit.saturating_add(pay));
        }
    }

    /// When the request came that waits longest.
    pub(crate) fn oldest(&self) -> Option<Duration> {
        self.oldest_of().map(|(_, since)| since)
    }

    /// Admits the request that waits longest, whoever's turn it is; its tenant pays as always.
    pub(crate) fn pop_oldest(&mut self) -> Option<(Tenant, Waiting)> {
        let tenant = self.oldest_of()?.0.clone();
        self.take(&tenant, 0)
    }

    fn oldest_of(&self) -> Option<(&Tenant, Duration)> {
        let heads = self.ring.iter().filter_map(|tenant| {
            let head = self.accounts.get(tenant)?.queue.front()?;
            Some((tenant, head))
        });
        heads.min_by_key(|(_, head)| (head.since, head.ticket)).map(|(tenant, head)| (tenant, head.since))
    }

    /// Turns away the request that came last.
    pub(crate) fn drop_youngest(&mut self) -> Option<Waiting> {
        let last = self.accounts.iter().filter_map(|(tenant, account)| Some((account.queue.back()?.ticket, tenant)));
        let (ticket, tenant) = last.max_by_key(|(ticket, _)| *ticket)?;
        let tenant = tenant.clone();
        self.remove(&tenant, ticket)
    }

    /// Takes a request out that waits no longer.
    pub(crate) fn remove(&mut self, tenant: &Tenant, ticket: u64) -> Option<Waiting> {
        let account = self.accounts.get_mut(tenant)?;
        let index = account.queue.iter().position(|waiting| waiting.ticket == ticket)?;
        let removed = account.queue.remove(index)?;
        self.waiting -= 1;
        self.tidy(tenant);
        Some(removed)
    }

    /// Admits one of a tenant's requests.
    fn take(&mut self, tenant: &Tenant, index: usize) -> Option<(Tenant, Waiting)> {
        let account = self.accounts.get_mut(tenant)?;
        let request = account.queue.remove(index)?;
        account.deficit = account.deficit.saturating_sub(signed(request.cost));
        account.running += 1;
        self.waiting -= 1;
        self.tidy(tenant);
        Some((tenant.clone(), request))
    }

    /// A request ended that had waited: what it cost beside what was paid for it.
    pub(crate) fn settle(&mut self, tenant: &Tenant, paid: Cost, spent: Cost) {
        let Some(account) = self.accounts.get_mut(tenant) else { return };
        account.running = account.running.saturating_sub(1);
        account.deficit = account.deficit.saturating_add(signed(paid) - signed(spent));
        self.tidy(tenant);
    }

    /// A tenant with nothing waiting has no turn and saves nothing up; one with nothing running either is forgotten.
    fn tidy(&mut self, tenant: &Tenant) {
        let Some(account) = self.accounts.get_mut(tenant) else { return };
        if !account.queue.is_empty() {
            return;
        }
        account.deficit = account.deficit.min(0);
        if account.running == 0 {
            self.accounts.remove(tenant);
        }
        self.ring.retain(|turn| turn != tenant);
    }
}

fn signed(cost: Cost) -> i64 {
    i64::try_from(cost.min(MOST)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn waiting(ticket: u64, cost: Cost) -> Waiting {
        Waiting { ticket, since: Duration::from_millis(ticket), cost }
    }

    fn tenant(name: &str) -> Tenant {
        Some(name.into())
    }

    #[test]
    fn a_tenant_with_dear_requests_is_admitted_less_often() {
        let mut robin = RoundRobin::default();
        for ticket in 0..200 {
            robin.push(tenant("dear"), waiting(ticket * 2, 900));
            robin.push(tenant("cheap"), waiting(ticket * 2 + 1, 100));
        }
        let mut spent = BTreeMap::new();
        for _ in 0..150 {
            let (tenant, request) = robin.pop().unwrap();
            *spent.entry(tenant).or_insert(0) += request.cost;
        }
        let (dear, cheap) = (spent[&tenant("dear")], spent[&tenant("cheap")]);
        assert!(dear.abs_diff(cheap) <= 1_800, "{dear} and {cheap}");
    }

    #[test]
    fn what_was_not_used_is_paid_back() {
        let mut robin = RoundRobin::default();
        for ticket in 0..300 {
            robin.push(tenant("careful"), waiting(ticket * 2, 1000));
            robin.push(tenant("exact"), waiting(ticket * 2 + 1, 100));
        }
        // Both use 100, one asks for ten times as much.
        let mut admitted = BTreeMap::new();
        for _ in 0..300 {
            let (tenant, request) = robin.pop().unwrap();
            robin.settle(&tenant, request.cost, 100);
            *admitted.entry(tenant).or_insert(0_i32) += 1;
        }
        let (careful, exact) = (admitted[&tenant("careful")], admitted[&tenant("exact")]);
        assert!(careful.abs_diff(exact) <= 30, "{careful} and {exact}");
    }

    #[test]
    fn a_long_debt_costs_no_time() {
        let mut robin = RoundRobin::default();
        robin.push(None, waiting(0, 1));
        robin.push(None, waiting(1, MOST));
        robin.pop().unwrap();
        assert_eq!(robin.pop().unwrap().1.ticket, 1);
        robin.settle(&None, 0, MOST);
        robin.push(None, waiting(2, 1));
        assert_eq!(robin.pop().unwrap().1.ticket, 2);
    }

    proptest! {
        /// However requests come and go: each leaves once, those of one tenant in their order, and nothing is left behind.
        #[test]
        fn each_request_leaves_once(moves in proptest::collection::vec((0u8..6, 0u8..4, 0u64..100_000), 0..200)) {
            let mut robin = RoundRobin::default();
            let mut inside = BTreeMap::<Tenant, VecDeque<u64>>::new();
            let mut running = Vec::new();
            for (ticket, (what, who, cost)) in (0u64..).zip(moves) {
                let who = tenant(&who.to_string());
                match what {
                    0..=2 => {
                        robin.push(who.clone(), waiting(ticket, cost));
                        inside.entry(who).or_default().push_back(ticket);
                    }
                    3 => {
                        let popped = robin.pop();
                        prop_assert_eq!(popped.is_some(), inside.values().any(|queue| !queue.is_empty()));
                        if let Some((tenant, request)) = popped {
                            prop_assert_eq!(inside.get_mut(&tenant).and_then(VecDeque::pop_front), Some(request.ticket));
                            running.push((tenant, request.cost));
                        }
                    }
                    4 => {
                        let mine = inside.entry(who.clone()).or_default();
                        if let Some(ticket) = mine.pop_back() {
                            prop_assert!(robin.remove(&who, ticket).is_some());
                        }
                    }
                    _ => if let Some((tenant, paid)) = running.pop() {
                        robin.settle(&tenant, paid, cost);
                    },
                }
                prop_assert_eq!(robin.len(), inside.values().map(VecDeque::len).sum::<usize>());
            }
            while robin.pop().is_some_and(|(tenant, request)| { running.push((tenant, request.cost)); true }) {}
            for (tenant, paid) in running {
                robin.settle(&tenant, paid, paid);
            }
            prop_assert!(robin.accounts.is_empty() && robin.ring.is_empty());
        }
    }
}
