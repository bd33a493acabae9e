//! Admission as a state machine: it is told what happens and when, and answers who gets a place.
//!
//! Nothing here waits, locks or looks at a clock: [`Priority`](crate::Priority) does, so a simulation of a day takes a second
//! and is the same each time.

use std::{sync::Arc, time::Duration};

use selvedge_core::scheduler::{Class, ClassLoad, Load};

use crate::{
    fairness::{Cost, RoundRobin, Tenant, Waiting},
    settings::Settings,
};

/// While others wait who were not promoted, one place in so many goes to who was: a promotion must end, and a crowd of promoted
/// requests must not shut out a person.
const PROMOTED_ONE_IN: u32 = 4;
/// How long a place is supposed to be held before any came back.
const HELD: Duration = Duration::from_secs(1);

/// Who runs, who waits and who is next.
#[derive(Debug)]
pub(crate) struct Admission {
    settings: Arc<Settings>,
    reserved: [usize; Class::ALL.len()],
    load: Load,
    waiting: [RoundRobin; Class::ALL.len()],
    /// How long places are held, smoothed.
    held: Duration,
    /// Places that went to requests that were not promoted since one went to one that was.
    since_promoted: u32,
    next: u64,
}

/// A request that asks for a place.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Its class, as limited by its tenant.
    pub(crate) class: Class,
    pub(crate) tenant: Tenant,
    /// What it is likely to cost.
    pub(crate) cost: Cost,
}

/// A place that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) ticket: u64,
    pub(crate) class: Class,
    pub(crate) waited: Duration,
    since: Duration,
    /// What its tenant was charged; nothing when nobody had to wait.
    charged: Option<(Tenant, Cost)>,
}

/// What became of a request that came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It has a place.
    Granted(Grant),
    /// It waits; another that was less urgent may have been turned away for it.
    Waits { ticket: u64, instead_of: Option<u64> },
    /// It was turned away.
    Full(Full),
}

/// Why a request was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// As many wait as may.
    Queue,
    /// As many of its class wait as may.
    Class,
}

impl Admission {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        Self {
            reserved: settings.reserved(),
            settings,
            load: Load::default(),
            waiting: Default::default(),
            held: HELD,
            since_promoted: 0,
            next: 0,
        }
    }

    pub(crate) fn load(&self) -> Load {
        self.load
    }

    /// A request came.
    pub(crate) fn enter(&mut self, now: Duration, request: Request) -> Entry {
        let class = request.class;
        let ticket = self.next;
        self.next += 1;
        // Who is more urgent and waits would have this place already: it could have any that this one can have.
        if self.places(class) > 0 {
            self.of(class).running += 1;
            let grant = Grant { ticket, class, waited: Duration::ZERO, since: now, charged: None };
            return Entry::Granted(grant);
        }
        let mine = &self.waiting[class as usize];
        if self.settings.queues[class as usize].is_some_and(|bound| mine.len() >= bound) {
            self.of(class).refused += 1;
            return Entry::Full(Full::Class);
        }
        let mut instead_of = None;
        if self.load.total().waiting >= self.settings.queue {
            instead_of = self.shed(class);
            if instead_of.is_none() {
                self.of(class).refused += 1;
                return Entry::Full(Full::Queue);
            }
        }
        self.of(class).waiting += 1;
        self.waiting[class as usize].push(request.tenant, Waiting { ticket, since: now, cost: request.cost });
        Entry::Waits { ticket, instead_of }
    }

    /// Turns the youngest of the least urgent away for someone more urgent: a queue full of batch jobs must not refuse a person.
    fn shed(&mut self, class: Class) -> Option<u64> {
        let victim = Class::ALL.into_iter().rev().find(|other| self.load.of(*other).waiting > 0)?;
        if victim <= class {
            return None;
        }
        let youngest = self.waiting[victim as usize].drop_youngest()?;
        self.of(victim).waiting -= 1;
        self.of(victim).refused += 1;
        Some(youngest.ticket)
    }

    /// A request waits no longer: it was dropped, cancelled, or is too late.
    pub(crate) fn withdraw(&mut self, class: Class, tenant: &Tenant, ticket: u64) {
        if self.waiting[class as usize].remove(tenant, ticket).is_some() {
            self.of(class).waiting -= 1;
        }
    }

    /// A request that waited was turned away for the time it took.
    pub(crate) fn timed_out(&mut self, class: Class) {
        self.of(class).refused += 1;
    }

    /// A place comes back, with what was done in it if that is known. Those who get one now.
    pub(crate) fn leave(&mut self, now: Duration, grant: &Grant, spent: Option<Cost>) -> Vec<Grant> {
        self.of(grant.class).running -= 1;
        if let Some((tenant, charged)) = &grant.charged {
            self.waiting[grant.class as usize].settle(tenant, *charged, spent.unwrap_or(*charged));
        }
        // A place that nobody used says nothing of how long places are held.
        if spent != Some(0) {
            self.held = self.held.mul_f64(0.8) + now.saturating_sub(grant.since).mul_f64(0.2);
        }
        std::iter::from_fn(|| self.next_grant(now)).collect()
    }

    /// Places that a request of this class can have: a place that is reserved for someone more urgent and not used is none.
    fn places(&self, class: Class) -> usize {
        let held_back: usize = Class::ALL
            .into_iter()
            .take_while(|urgent| *urgent < class)
            .map(|urgent| self.reserved[urgent as usize].saturating_sub(self.load.of(urgent).running))
            .sum();
        self.settings.concurrency.saturating_sub(self.load.total().running + held_back)
    }

    fn next_grant(&mut self, now: Duration) -> Option<Grant> {
        let can = |class: &Class| self.load.of(*class).waiting > 0 && self.places(*class) > 0;
        let urgent = Class::ALL.into_iter().find(can)?;
        let promoted = Class::ALL.into_iter().filter(can).filter_map(|class| Some((self.promoted(class, now)?, class)));
        let (class, taken) = match promoted.min() {
            Some((_, class)) if class == urgent || self.since_promoted + 1 >= PROMOTED_ONE_IN => {
                self.since_promoted = 0;
                (class, self.waiting[class as usize].pop_oldest()?)
            }
            _ => {
                self.since_promoted = self.since_promoted.saturating_add(1);
                (urgent, self.waiting[urgent as usize].pop()?)
            }
        };
        let (tenant, Waiting { ticket, since, cost }) = taken;
        self.of(class).waiting -= 1;
        self.of(class).running += 1;
        let waited = now.saturating_sub(since);
        Some(Grant { ticket, class, waited, since: now, charged: Some((tenant, cost)) })
    }

    /// Since when the request that waits longest in a class has been promoted.
    fn promoted(&self, class: Class, now: Duration) -> Option<Duration> {
        let due = self.waiting[class as usize].oldest()? + self.settings.promote_after[class as usize]?;
        (due <= now).then_some(due)
    }

    /// When a place is likely to be free for one more of this class: once all who are before it have had their turn, in the places
    /// that its class can have when the reserved ones are used by those they are for.
    pub(crate) fn retry_after(&self, class: Class) -> Duration {
        let before: usize = Class::ALL
            .into_iter()
            .take_while(|urgent| *urgent <= class)
            .map(|urgent| self.load.of(urgent).waiting)
            .sum();
        let held_back: usize = self.reserved[..class as usize].iter().sum();
        let places = (self.settings.concurrency - held_back).max(1);
        self.held.mul_f64((before + 1) as f64 / places as f64).max(Duration::from_millis(10))
    }

    fn of(&mut self, class: Class) -> &mut ClassLoad {
        &mut self.load.classes[class as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn request(class: Class) -> Request {
        Request { class, tenant: None, cost: 1000 }
    }

    fn admission(concurrency: usize, queue: usize) -> Admission {
        Admission::new(Arc::new(Settings::new(concurrency, queue)))
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn granted(entry: Entry) -> Grant {
        match entry {
            Entry::Granted(grant) => grant,
            other => panic!("{other:?}"),
        }
    }

    fn waits(entry: Entry) -> u64 {
        match entry {
            Entry::Waits { ticket, .. } => ticket,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_reserved_place_waits_for_a_person_and_a_used_one_goes_to_all() {
        let mut admission = admission(4, 8);
        let grants: Vec<_> = (0..2).map(|_| granted(admission.enter(at(0), request(Class::P2)))).collect();
        let waiting = waits(admission.enter(at(0), request(Class::P2)));
        let persons: Vec<_> = (0..2).map(|_| granted(admission.enter(at(1), request(Class::P0)))).collect();
        waits(admission.enter(at(1), request(Class::P0)));
        // The first who leaves makes room for the person who waits, not for the batch.
        let next = admission.leave(at(2), &grants[0], None);
        assert_eq!(next.iter().map(|grant| grant.class).collect::<Vec<_>>(), [Class::P0]);
        // Now three persons run: the reservation is used, and the place of one more than that is for all.
        let next = admission.leave(at(3), &persons[0], None);
        assert_eq!(next.iter().map(|grant| grant.ticket).collect::<Vec<_>>(), [waiting]);
        assert_eq!(next[0].waited, at(3));
        // Two persons run and two of the batch: when a person leaves, its place is held back again.
        waits(admission.enter(at(3), request(Class::P2)));
        assert_eq!(admission.leave(at(4), &persons[1], None), []);
    }

    #[test]
    fn one_place_is_for_all() {
        granted(admission(1, 0).enter(at(0), request(Class::P2)));
    }

    #[test]
    fn a_queue_full_of_batch_jobs_lets_a_person_in() {
        let mut admission = admission(1, 2);
        let running = granted(admission.enter(at(0), request(Class::P2)));
        waits(admission.enter(at(0), request(Class::P2)));
        let youngest = waits(admission.enter(at(0), request(Class::P2)));
        assert_eq!(admission.enter(at(0), request(Class::P2)), Entry::Full(Full::Queue));
        let Entry::Waits { ticket, instead_of } = admission.enter(at(0), request(Class::P0)) else { panic!() };
        assert_eq!(instead_of, Some(youngest));
        assert_eq!((admission.load().of(Class::P2).waiting, admission.load().of(Class::P2).refused), (1, 2));
        assert_eq!(admission.leave(at(1), &running, None)[0].ticket, ticket);
    }

    #[test]
    fn a_class_has_its_own_bound() {
        let mut settings = Settings::new(1, 8);
        settings.queues[Class::P2 as usize] = Some(1);
        let mut admission = Admission::new(Arc::new(settings));
        granted(admission.enter(at(0), request(Class::P2)));
        waits(admission.enter(at(0), request(Class::P2)));
        assert_eq!(admission.enter(at(0), request(Class::P2)), Entry::Full(Full::Class));
        waits(admission.enter(at(0), request(Class::P1)));
    }

    #[test]
    fn who_waits_too_long_is_promoted_but_a_crowd_does_not_shut_out_a_person() {
        let mut admission = admission(1, 100);
        let mut running = granted(admission.enter(at(0), request(Class::P0)));
        let old: Vec<_> = (0..20).map(|_| waits(admission.enter(at(0), request(Class::P2)))).collect();
        let mut order = Vec::new();
        for second in 110..150 {
            waits(admission.enter(at(second), request(Class::P0)));
            running = admission.leave(at(second), &running, None).remove(0);
            order.push((second, running.ticket, running.class));
        }
        assert!(order.iter().all(|(second, _, class)| *second >= 120 || *class == Class::P0), "{order:?}");
        let promoted: Vec<_> =
            order.iter().filter(|(.., class)| *class == Class::P2).map(|(_, ticket, _)| *ticket).collect();
        assert_eq!(promoted, old[..promoted.len()], "the oldest first");
        assert!((7..=8).contains(&promoted.len()), "{order:?}");
    }

    #[test]
    fn the_time_to_come_back_grows_with_who_is_before() {
        let mut admission = admission(2, 100);
        let one = granted(admission.enter(at(0), request(Class::P0)));
        admission.leave(at(10), &one, None);
        let short = admission.retry_after(Class::P0);
        granted(admission.enter(at(10), request(Class::P0)));
        granted(admission.enter(at(10), request(Class::P0)));
        for _ in 0..10 {
            waits(admission.enter(at(10), request(Class::P1)));
        }
        assert_eq!(admission.retry_after(Class::P0), short, "P1 is not before P0");
        let long = admission.retry_after(Class::P2);
        assert!(long >= short * 11, "{long:?} after {short:?}");
    }

    proptest! {
        /// Whatever happens: no more run than may, each has one place, the load is right, nobody waits for a place that he could
        /// have, and a person finds each reserved place that is not used.
        #[test]
        fn it_keeps_its_books(
            concurrency in 1usize..7, queue in 0usize..9,
            moves in proptest::collection::vec((0u8..8, 0usize..3, 0u8..3, 0u64..40, any::<prop::sample::Index>()), 0..150),
        ) {
            let mut admission = admission(concurrency, queue);
            let reserved = admission.reserved[0];
            let (mut running, mut waiting) = (Vec::<Grant>::new(), BTreeMap::<u64, Request>::new());
            let mut now = Duration::ZERO;
            for (what, class, who, later, which) in moves {
                now += Duration::from_secs(later);
                match what {
                    0..=4 => {
                        let request = Request { class: Class::ALL[class], tenant: Some(who.to_string().into()), cost: later };
                        let held = admission.load().of(Class::P0).running;
                        let entry = admission.enter(now, request.clone());
                        if request.class == Class::P0 && held < reserved {
                            prop_assert!(std::matches!(&entry, Entry::Granted(_)), "a reserved place was not free");
                        }
                        match entry {
                            Entry::Granted(grant) => running.push(grant),
                            Entry::Waits { ticket, instead_of } => {
                                waiting.insert(ticket, request);
                                if let Some(gone) = instead_of {
                                    prop_assert!(waiting.remove(&gone).is_some());
                                }
                            }
                            Entry::Full(_) => prop_assert!(waiting.len() >= queue),
                        }
                    }
                    5 if !waiting.is_empty() => {
                        let ticket = *waiting.keys().nth(which.index(waiting.len())).unwrap();
                        let request = waiting.remove(&ticket).unwrap();
                        admission.withdraw(request.class, &request.tenant, ticket);
                    }
                    _ if !running.is_empty() => {
                        let grant = running.swap_remove(which.index(running.len()));
                        for grant in admission.leave(now, &grant, (what == 6).then_some(later)) {
                            prop_assert!(waiting.remove(&grant.ticket).is_some(), "a place went to nobody");
                            running.push(grant);
                        }
                    }
                    _ => (),
                }
                let load = admission.load();
                prop_assert!(running.len() <= concurrency && waiting.len() <= queue);
                for class in Class::ALL {
                    prop_assert_eq!(load.of(class).running, running.iter().filter(|grant| grant.class == class).count());
                    prop_assert_eq!(load.of(class).waiting, waiting.values().filter(|request| request.class == class).count());
                    prop_assert!(load.of(class).waiting == 0 || admission.places(class) == 0, "{class} waits for nothing");
                }
            }
        }
    }
}
