//! A [`Scheduler`] for machines on which people and batch jobs share a model: people first, nothing idle, nobody forgotten.
//!
//! **Requests** wait for one of `concurrency` places. A share of them is reserved for P0 while it is not used; the queue has a
//! bound, and one request too many is turned away at once with the time after which a place is likely to be free. Within a class
//! tenants take turns by what their requests cost (deficit round robin: Shreedhar and Varghese, SIGCOMM 1995). Who waits too long is
//! promoted.
//!
//! **Passes** are planned one by one, as in Orca (Yu et al., OSDI 2022). While a P0 is live a pass keeps to a bound, for which
//! prompts are read in pieces as in Sarathi-Serve (Agrawal et al., OSDI 2024) and less urgent sequences are left out as far as
//! needed; they keep their caches. What a pass takes is predicted by a model that is learnt from those that were done. Drafts are as
//! long as they pay under the present load (TurboSpec: Liu et al., arXiv 2406.14066).
//!
//! The model of costs is that of one machine and one model: give each model that is served at the same time a `Priority` of its own.

mod admit;
mod cost;
mod draft;
mod fairness;
mod plan;
mod settings;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use event_listener::Event;
use futures_util::future::{Either, select};
use selvedge_core::{
    Clock, Context, Error, ErrorKind, Result, Scheduler, SystemClock, Timestamp,
    scheduler::{Class, Load, Permit, Plan, SchedulerCapabilities, Step, Work},
};

use crate::{
    admit::{Admission, Entry, Full, Grant, Request},
    cost::Tariff,
    fairness::Tenant,
    plan::Planner,
    settings::Settings,
};
pub use settings::Builder;

/// Reserved places, fair admission, and passes that keep to a bound. Clones share the places.
///
/// ```
/// use selvedge_core::{Context, Scheduler, scheduler::Work};
/// use selvedge_priority::Priority;
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let scheduler = Priority::new(1, 8);
/// let permit = scheduler.admit(&Context::new(), Work { prompt: 200, answer: 64 }).await?;
/// assert_eq!(scheduler.load().total().running, 1);
/// drop(permit);
/// assert_eq!(scheduler.load().total().running, 0);
/// # Ok::<(), selvedge_core::Error>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Priority {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct Shared {
    settings: Arc<Settings>,
    admission: Mutex<Waiters>,
    planner: Mutex<Planner>,
    /// The latest time that was told: a wall clock that is set back must not make anybody wait longer.
    latest: Mutex<Timestamp>,
}

#[derive(Debug)]
struct Waiters {
    admission: Admission,
    turns: HashMap<u64, Arc<Turn>>,
}

/// Where a request that waits learns what became of it.
#[derive(Debug, Default)]
struct Turn {
    outcome: OnceLock<Outcome>,
    event: Event,
}

#[derive(Debug)]
enum Outcome {
    Granted(Grant),
    /// It was turned away for one more urgent; when to come back.
    Shed(Duration),
}

impl Priority {
    /// At most `concurrency` requests at once (at least 1), and at most `queue` waiting; all else as [`Builder`] says by default.
    pub fn new(concurrency: usize, queue: usize) -> Self {
        Self::made(Settings::new(concurrency, queue), Arc::new(SystemClock))
    }

    /// The same, with more to set.
    pub fn builder(concurrency: usize, queue: usize) -> Builder {
        Builder::new(concurrency, queue)
    }

    fn made(settings: Settings, clock: Arc<dyn Clock>) -> Self {
        let settings = Arc::new(settings);
        let admission = Admission::new(settings.clone());
        let shared = Shared {
            admission: Mutex::new(Waiters { admission, turns: HashMap::new() }),
            planner: Mutex::new(Planner::new(settings.clone())),
            latest: Mutex::new(Timestamp::default()),
            settings,
        };
        Self { shared: Arc::new(shared), clock }
    }

    /// Tells time and waits by `clock`.
    #[must_use]
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    fn now(&self) -> Duration {
        self.shared.now(&*self.clock)
    }

    fn permit(&self, grant: Grant, tariff: Tariff) -> Permit {
        let (shared, clock) = (self.shared.clone(), self.clock.clone());
        Permit::new(grant.class, grant.waited, move |done| {
            let now = shared.now(&*clock);
            shared.waiters().leave(now, &grant, done.map(|work| tariff.cost(work)));
        })
    }

    /// The queue has no room.
    fn full(&self, class: Class, full: Full, after: Duration) -> Error {
        let settings = &self.shared.settings;
        match full {
            Full::Queue => busy(class, "too many requests are waiting", after)
                .with("limit", settings.queue)
                .advise("come back later, or raise the queue limit"),
            Full::Class => busy(class, "too many requests of this class are waiting", after)
                .with("limit", settings.queues[class as usize].unwrap_or(settings.queue))
                .advise("come back later, or raise the queue limit of the class"),
        }
    }
}

fn busy(class: Class, message: &'static str, after: Duration) -> Error {
    Error::new(ErrorKind::Busy, "scheduler.admit", message).with("class", class).retry_in(after)
}

impl Shared {
    fn now(&self, clock: &dyn Clock) -> Duration {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        *latest = clock.now().max(*latest);
        latest.since(Timestamp::default())
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn planner(&self) -> MutexGuard<'_, Planner> {
        self.planner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiters {
    /// A place comes back and goes to who is next, who then need not race for it.
    fn leave(&mut self, now: Duration, grant: &Grant, spent: Option<fairness::Cost>) {
        for grant in self.admission.leave(now, grant, spent) {
            self.tell(grant.ticket, Outcome::Granted(grant));
        }
    }

    fn tell(&mut self, ticket: u64, outcome: Outcome) {
        if let Some(turn) = self.turns.remove(&ticket) {
            // It is told once, because it was taken out of the map.
            let _ = turn.outcome.set(outcome);
            turn.event.notify(1);
        }
    }
}

/// A request that waits. If its future is dropped it waits no longer; a place that it was just given is handed on.
struct Waiter<'a> {
    scheduler: &'a Priority,
    class: Class,
    tenant: Tenant,
    ticket: u64,
    turn: Arc<Turn>,
    taken: bool,
}

impl Waiter<'_> {
    async fn outcome(&self) -> &Outcome {
        loop {
            let listener = self.turn.event.listen();
            if let Some(outcome) = self.turn.outcome.get() {
                return outcome;
            }
            listener.await;
        }
    }

    /// The outcome, or `None` when it waited as long as its class may.
    async fn in_time(&self) -> Option<&Outcome> {
        let Some(longest) = self.scheduler.shared.settings.timeouts[self.class as usize] else {
            return Some(self.outcome().await);
        };
        match select(std::pin::pin!(self.outcome()), self.scheduler.clock.sleep(longest)).await {
            Either::Left((outcome, _)) => Some(outcome),
            Either::Right(_) => None,
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let now = self.scheduler.now();
        let mut waiters = self.scheduler.shared.waiters();
        match self.turn.outcome.get() {
            // Nothing was done in it.
            Some(Outcome::Granted(grant)) => waiters.leave(now, grant, Some(0)),
            Some(Outcome::Shed(_)) => (),
            None => {
                waiters.turns.remove(&self.ticket);
                waiters.admission.withdraw(self.class, &self.tenant, self.ticket);
            }
        }
    }
}

impl Scheduler for Priority {
    fn capabilities(&self) -> SchedulerCapabilities {
        SchedulerCapabilities {
            plugin: "priority",
            classes: true,
            preemption: true,
            concurrency: self.shared.settings.concurrency,
            queue: self.shared.settings.queue,
        }
    }

    fn load(&self) -> Load {
        self.shared.waiters().admission.load()
    }

    fn plan(&self, step: &Step) -> Plan {
        let now = self.now();
        self.shared.planner().plan(now, step)
    }

    async fn admit(&self, cx: &Context, work: Work) -> Result<Permit> {
        cx.check("scheduler.admit")?;
        let class = self.shared.settings.class(cx.tenant(), cx.class());
        let tenant = cx.tenant().map(Arc::from);
        let tariff = self.shared.planner().model().latest().tariff(self.shared.settings.concurrency);
        let now = self.now();
        let mut waiter = {
            let mut waiters = self.shared.waiters();
            let request = Request { class, tenant, cost: tariff.cost(work) };
            let tenant = request.tenant.clone();
            match waiters.admission.enter(now, request) {
                Entry::Granted(grant) => {
                    drop(waiters);
                    return Ok(self.permit(grant, tariff));
                }
                Entry::Full(full) => return Err(self.full(class, full, waiters.admission.retry_after(class))),
                Entry::Waits { ticket, instead_of } => {
                    if let Some(gone) = instead_of {
                        // Only a less urgent one is ever turned away: P2 gives the longer time, which suits P1 as well.
                        let after = waiters.admission.retry_after(Class::P2);
                        waiters.tell(gone, Outcome::Shed(after));
                    }
                    let turn = Arc::new(Turn::default());
                    waiters.turns.insert(ticket, turn.clone());
                    Waiter { scheduler: self, class, tenant, ticket, turn, taken: false }
                }
            }
        };
        let outcome = cx.bound(&*self.clock, "scheduler.admit", waiter.in_time()).await?;
        match outcome {
            Some(Outcome::Granted(grant)) => {
                let grant = grant.clone();
                waiter.taken = true;
                Ok(self.permit(grant, tariff))
            }
            Some(Outcome::Shed(after)) => Err(busy(class, "more urgent requests fill the queue", *after)
                .with("limit", self.shared.settings.queue)
                .advise("come back later, or raise the queue limit")),
            None => {
                drop(waiter);
                let mut waiters = self.shared.waiters();
                waiters.admission.timed_out(class);
                let after = waiters.admission.retry_after(class);
                let longest = self.shared.settings.timeouts[class as usize].unwrap_or_default();
                Err(busy(class, "the request waited as long as its class may", after)
                    .with("timeout", format_args!("{longest:?}"))
                    .advise("come back later, or raise the timeout of the class"))
            }
        }
    }
}
