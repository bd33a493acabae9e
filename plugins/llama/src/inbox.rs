//! The way from callers to the worker: jobs, and the wish that a pass be cut short for one.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use selvedge_core::scheduler::Class;

use crate::sequence::Job;

/// Jobs that wait for the worker to take them.
#[derive(Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
    /// Raised while a pass runs that is to end early.
    pub(crate) cut: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Nobody can send any more.
    closed: bool,
    /// The worker has ended.
    gone: bool,
    /// The least urgent class that the pass under way is cut short for.
    yields_to: Option<Class>,
    /// From then on it is not.
    yields_until: Option<Instant>,
}

impl Inbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands in a job. It comes back when the worker has ended.
    #[allow(clippy::result_large_err, reason = "a job comes back whole, and only when the worker has ended")]
    pub(crate) fn send(&self, job: Job) -> Result<(), Job> {
        let mut state = self.state();
        if state.gone {
            return Err(job);
        }
        let late = state.yields_until.is_some_and(|until| Instant::now() >= until);
        if !late && state.yields_to.is_some_and(|class| job.cx.class() <= class) {
            self.cut.store(true, Ordering::Relaxed);
        }
        state.jobs.push_back(job);
        self.changed.notify_one();
        Ok(())
    }

    /// Ends the worker, and the pass under way.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.cut.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// What has come. Waits for something to come, if `wait` says how long at the most. `None` once it is closed.
    pub(crate) fn take(&self, wait: Option<Duration>) -> Option<VecDeque<Job>> {
        let mut state = self.state();
        if let Some(wait) = wait {
            let nothing = |state: &mut State| state.jobs.is_empty() && !state.closed;
            let waited = self.changed.wait_timeout_while(state, wait, nothing);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        (!state.closed).then(|| std::mem::take(&mut state.jobs))
    }

    /// A pass begins that may be cut short for this class or a more urgent one, for so long. False when such a job has come already.
    pub(crate) fn begin(&self, yields_to: Option<Class>, yields_for: Option<Duration>) -> bool {
        let mut state = self.state();
        let urgent = |class| state.jobs.iter().any(|job| job.cx.class() <= class);
        if state.closed || yields_to.is_some_and(urgent) {
            return false;
        }
        state.yields_to = yields_to;
        state.yields_until = yields_for.and_then(|time| Instant::now().checked_add(time));
        self.cut.store(false, Ordering::Relaxed);
        true
    }

    /// The pass has ended.
    pub(crate) fn end(&self) {
        self.state().yields_to = None;
    }

    /// Nothing is taken any more. What is left comes back.
    pub(crate) fn gone(&self) -> VecDeque<Job> {
        let mut state = self.state();
        state.gone = true;
        std::mem::take(&mut state.jobs)
    }
}
