//! A [`Scheduler`] for servers: bounded admission with permits.
//!
//! At most `concurrency` requests run at once and at most `queue` wait; one more is turned away at once with the time after
//! which a place is likely to be free, because a queue without a bound only moves the failure to the caller's timeout.
//! A more urgent class is admitted first, and within a class whoever came first. Steps are planned first come, first served.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use event_listener::Event;
use selvedge_core::{
    Clock, Context, Error, ErrorKind, Result, Scheduler, SystemClock,
    scheduler::{Class, ClassLoad, Load, Permit, Plan, SchedulerCapabilities, Step, Work},
};

/// Bounded admission. Clones share the places.
///
/// ```
/// use selvedge_core::{Context, Scheduler, scheduler::Work};
/// use selvedge_priority::Priority;
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let scheduler = Priority::new(1, 8);
/// let permit = scheduler.admit(&Context::new(), Work::default()).await?;
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
    concurrency: usize,
    queue: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    load: Load,
    next_ticket: u64,
    /// Who waits, by class and then by arrival.
    waiting: BTreeMap<Class, VecDeque<Waiter>>,
    /// A smoothed time a permit is held, to tell callers when to come back.
    held: Duration,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    turn: Arc<Turn>,
}

/// Where a waiter learns that a place is his.
#[derive(Debug, Default)]
struct Turn {
    granted: std::sync::atomic::AtomicBool,
    event: Event,
}

impl Priority {
    /// At most `concurrency` requests at once (at least 1), and at most `queue` waiting.
    pub fn new(concurrency: usize, queue: usize) -> Self {
        let state =
            State { load: Load::default(), next_ticket: 0, waiting: BTreeMap::new(), held: Duration::from_secs(1) };
        let shared = Shared { concurrency: concurrency.max(1), queue, state: Mutex::new(state) };
        Self { shared: Arc::new(shared), clock: Arc::new(SystemClock) }
    }

    /// Waits for deadlines by `clock`.
    #[must_use]
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    fn permit(&self, class: Class, asked: Instant) -> Permit {
        let shared = self.shared.clone();
        let granted = Instant::now();
        Permit::new(class, granted - asked, move |_| {
            let mut state = shared.state();
            state.held = state.held.mul_f64(0.8) + granted.elapsed().mul_f64(0.2);
            state.hand_on(class);
        })
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place is likely to be free once everybody in front has been served.
    fn busy(&self, state: &State) -> Error {
        let rounds = (state.load.total().waiting + 1).div_ceil(self.concurrency) as u32;
        let after = (state.held * rounds).max(Duration::from_millis(10));
        Error::new(ErrorKind::Busy, "scheduler.admit", "too many requests are waiting")
            .with("waiting", state.load.total().waiting)
            .with("limit", self.queue)
            .retry_in(after)
            .advise("come back later, or raise the queue limit")
    }
}

impl State {
    /// Gives a free place to the most urgent waiter, who then need not race for it.
    fn hand_on(&mut self, from: Class) {
        self.of(from).running -= 1;
        match self.waiting.iter_mut().find_map(|(class, queue)| Some((*class, queue.pop_front()?))) {
            Some((class, waiter)) => {
                self.of(class).waiting -= 1;
                self.of(class).running += 1;
                waiter.turn.granted.store(true, std::sync::atomic::Ordering::Release);
                waiter.turn.event.notify(1);
            }
            None => {}
        }
    }

    fn of(&mut self, class: Class) -> &mut ClassLoad {
        &mut self.load.classes[class as usize]
    }
}

/// A place in the queue. If its future is dropped, the place goes, or, if it was just granted, is handed on.
struct Place<'a> {
    shared: &'a Shared,
    class: Class,
    ticket: u64,
    turn: Arc<Turn>,
    taken: bool,
}

impl Place<'_> {
    async fn granted(&self) {
        loop {
            let listener = self.turn.event.listen();
            if self.turn.granted.load(std::sync::atomic::Ordering::Acquire) {
                return;
            }
            listener.await;
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let mut state = self.shared.state();
        if self.turn.granted.load(std::sync::atomic::Ordering::Acquire) {
            state.hand_on(self.class);
        } else if let Some(queue) = state.waiting.get_mut(&self.class) {
            queue.retain(|waiter| waiter.ticket != self.ticket);
            state.of(self.class).waiting -= 1;
        }
    }
}

impl Scheduler for Priority {
    fn capabilities(&self) -> SchedulerCapabilities {
        SchedulerCapabilities {
            plugin: "priority",
            classes: true,
            preemption: false,
            concurrency: self.shared.concurrency,
            queue: self.shared.queue,
        }
    }

    fn load(&self) -> Load {
        self.shared.state().load
    }

    fn plan(&self, step: &Step) -> Plan {
        Plan::in_order(step)
    }

    async fn admit(&self, cx: &Context, _: Work) -> Result<Permit> {
        cx.check("scheduler.admit")?;
        let asked = Instant::now();
        let mut place = {
            let mut state = self.shared.state();
            if state.load.total().running < self.shared.concurrency {
                state.of(cx.class()).running += 1;
                drop(state);
                return Ok(self.permit(cx.class(), asked));
            }
            if state.load.total().waiting >= self.shared.queue {
                state.of(cx.class()).refused += 1;
                return Err(self.shared.busy(&state));
            }
            let (ticket, turn) = (state.next_ticket, Arc::new(Turn::default()));
            state.next_ticket += 1;
            state.of(cx.class()).waiting += 1;
            state.waiting.entry(cx.class()).or_default().push_back(Waiter { ticket, turn: turn.clone() });
            Place { shared: &self.shared, class: cx.class(), ticket, turn, taken: false }
        };
        cx.bound(&*self.clock, "scheduler.admit", place.granted()).await?;
        place.taken = true;
        drop(place);
        Ok(self.permit(cx.class(), asked))
    }
}
