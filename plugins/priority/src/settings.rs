//! What an operator sets, and the builder that takes it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use selvedge_core::{Clock, Error, ErrorKind, Result, SystemClock, scheduler::Class};

use crate::Priority;

/// One value for each class.
pub(crate) type PerClass<T> = [T; Class::ALL.len()];

/// The share of the places that is held back for P0 unless another is set.
const P0_SHARE: f64 = 0.30;
/// How long P1 and P2 wait before they are promoted, unless another time is set: those of SMG, the router of SGLang.
const PROMOTED: PerClass<Option<Duration>> = [None, Some(Duration::from_secs(30)), Some(Duration::from_secs(120))];
/// The longest pass while a P0 is live, unless another is set: 10 tokens a second, faster than most people read.
const STEP_BOUND: Duration = Duration::from_millis(100);

/// What a [`Priority`] was made with.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) concurrency: usize,
    pub(crate) queue: usize,
    shares: PerClass<f64>,
    pub(crate) queues: PerClass<Option<usize>>,
    pub(crate) timeouts: PerClass<Option<Duration>>,
    pub(crate) promote_after: PerClass<Option<Duration>>,
    pub(crate) step_bound: Duration,
    tenants: BTreeMap<Arc<str>, Class>,
    others: Class,
}

impl Settings {
    pub(crate) fn new(concurrency: usize, queue: usize) -> Self {
        Self {
            concurrency: concurrency.max(1),
            queue,
            shares: [P0_SHARE, 0.0, 0.0],
            queues: [None; 3],
            timeouts: [None; 3],
            promote_after: PROMOTED,
            step_bound: STEP_BOUND,
            tenants: BTreeMap::new(),
            others: Class::P0,
        }
    }

    /// Places held back for each class while it does not use them. One place is always left to all: otherwise a reservation
    /// on a machine with one place would shut everybody else out.
    pub(crate) fn reserved(&self) -> PerClass<usize> {
        let mut left = self.concurrency - 1;
        self.shares.map(|share| {
            let wanted = (share * self.concurrency as f64).ceil() as usize;
            let reserved = wanted.min(left);
            left -= reserved;
            reserved
        })
    }

    /// The class in which a tenant's request runs.
    pub(crate) fn class(&self, tenant: Option<&str>, asked: Class) -> Class {
        let most = tenant.and_then(|tenant| self.tenants.get(tenant)).unwrap_or(&self.others);
        asked.max(*most)
    }
}

/// Sets up a [`Priority`].
///
/// ```
/// use std::time::Duration;
/// use selvedge_core::scheduler::Class;
/// use selvedge_priority::Priority;
///
/// let scheduler = Priority::builder(8, 256)
///     .reserve(Class::P0, 0.25)
///     .queue(Class::P2, 128)
///     .timeout(Class::P0, Duration::from_secs(2))
///     .most_urgent("reports", Class::P2)
///     .step_bound(Duration::from_millis(40))
///     .build()?;
/// # Ok::<(), selvedge_core::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "it is no Scheduler until it is built"]
pub struct Builder {
    settings: Settings,
    clock: Arc<dyn Clock>,
}

impl Builder {
    pub(crate) fn new(concurrency: usize, queue: usize) -> Self {
        Self { settings: Settings::new(concurrency, queue), clock: Arc::new(SystemClock) }
    }

    /// Holds a share of the places back for a class, 0 to 1, rounded up to whole places. By default 0.30 for P0 and none for
    /// the others. Less urgent classes do not get a reserved place that is not used; one that is used is a place like any
    /// other, so it costs nothing while its class is busy. Nothing is held back from more urgent classes: a share for P2 has no
    /// effect. At least one place is left to all.
    pub fn reserve(mut self, class: Class, share: f64) -> Self {
        self.settings.shares[class as usize] = share;
        self
    }

    /// The most requests of a class that wait, within the bound for all. By default only the bound for all counts.
    pub fn queue(mut self, class: Class, bound: usize) -> Self {
        self.settings.queues[class as usize] = Some(bound);
        self
    }

    /// The longest a request of a class waits; then it ends as `Busy` with `retry_after`. By default as long as its deadline
    /// allows.
    pub fn timeout(mut self, class: Class, longest: Duration) -> Self {
        self.settings.timeouts[class as usize] = Some(longest);
        self
    }

    /// After how long a request that waits, or a sequence that does not advance, is promoted, so that it does not starve. By
    /// default 30 s for P1 and 120 s for P2. P0 cannot be promoted.
    pub fn promote_after(mut self, class: Class, wait: Duration) -> Self {
        self.settings.promote_after[class as usize] = Some(wait).filter(|_| class != Class::P0);
        self
    }

    /// The most urgent class in which a tenant's requests run: one that asks for more runs in this one.
    pub fn most_urgent(mut self, tenant: impl Into<Arc<str>>, class: Class) -> Self {
        self.settings.tenants.insert(tenant.into(), class);
        self
    }

    /// The same for requests without a tenant, and for those of tenants that were not named. By default P0.
    pub fn most_urgent_of_others(mut self, class: Class) -> Self {
        self.settings.others = class;
        self
    }

    /// The longest a forward pass may take while a P0 answers, by default 100 ms: the time between two of its tokens.
    pub fn step_bound(mut self, longest: Duration) -> Self {
        self.settings.step_bound = longest;
        self
    }

    /// Tells time and waits by `clock`.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The Scheduler.
    ///
    /// # Errors
    /// `InvalidInput` when a share is not between 0 and 1, or the bound of a pass is zero.
    pub fn build(self) -> Result<Priority> {
        let invalid = |message| Error::new(ErrorKind::InvalidInput, "priority.build", message);
        for (class, share) in Class::ALL.into_iter().zip(self.settings.shares) {
            if !(0.0..=1.0).contains(&share) {
                return Err(invalid("a reserved share is a part of the places")
                    .with("class", class)
                    .with("share", share)
                    .advise("give a number from 0 to 1, such as 0.3"));
            }
        }
        if self.settings.step_bound.is_zero() {
            return Err(invalid("no pass takes no time")
                .with("step_bound", "0")
                .advise("give the longest time between two tokens that a person should see, such as 50 ms"));
        }
        Ok(Priority::made(self.settings, self.clock))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserved(concurrency: usize, shares: PerClass<f64>) -> PerClass<usize> {
        Settings { shares, ..Settings::new(concurrency, 0) }.reserved()
    }

    #[test]
    fn shares_are_rounded_up_but_leave_a_place_to_all() {
        assert_eq!(reserved(10, [0.3, 0.0, 0.0]), [3, 0, 0]);
        assert_eq!(reserved(8, [0.3, 0.0, 0.0]), [3, 0, 0]);
        assert_eq!(reserved(2, [0.3, 0.0, 0.0]), [1, 0, 0]);
        assert_eq!(reserved(1, [0.3, 0.0, 0.0]), [0, 0, 0]);
        assert_eq!(reserved(4, [1.0, 0.5, 0.0]), [3, 0, 0]);
        assert_eq!(reserved(8, [0.25, 0.25, 0.0]), [2, 2, 0]);
    }

    #[test]
    fn a_tenant_runs_no_more_urgently_than_it_may() {
        let mut settings = Settings::new(1, 1);
        settings.tenants.insert("batch".into(), Class::P2);
        settings.others = Class::P1;
        assert_eq!(settings.class(Some("batch"), Class::P0), Class::P2);
        assert_eq!(settings.class(Some("shop"), Class::P0), Class::P1);
        assert_eq!(settings.class(None, Class::P2), Class::P2);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for share in [-0.1, 1.1, f64::NAN] {
            let error = Builder::new(1, 1).reserve(Class::P0, share).build().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.advice().is_some());
        }
        assert!(Builder::new(1, 1).step_bound(Duration::ZERO).build().is_err());
    }
}
