use std::{
    collections::{HashMap, VecDeque},
    fmt,
    panic::AssertUnwindSafe,
    pin::pin,
    time::Duration,
};

use futures_util::{
    FutureExt, StreamExt,
    future::{Fuse, FusedFuture},
    stream::FuturesUnordered,
};

use super::{Engine, panic_text};
use crate::{
    BoxFuture, CancelToken, Commit, Context, Error, ErrorKind, Result, Store, Timestamp,
    store::{LeaseRequest, LeasedJob, Outcome, Receipt, Retry, Watch},
};

/// What a handler made of a job.
#[derive(Debug)]
pub enum JobOutcome {
    /// It is done. The engine commits these writes together with the end of the job: all of it, or none.
    Done(Commit),
    /// It is done and the handler has committed that itself, with `Commit::complete(job.lease)` in its own transaction.
    Committed,
    /// It is not time yet: try again later without counting this attempt.
    Snooze(Duration),
}

/// What works on jobs. Any `Fn(Context, LeasedJob) -> BoxFuture<Result<JobOutcome>>` is one.
pub trait JobHandler: Send + Sync {
    /// Works on one job. It may be called again for the same job after a crash or a lost lease.
    ///
    /// An error is a failed attempt: `retryable` errors and unknown ones are retried by the job's backoff, `InvalidInput`
    /// is dead at once.
    ///
    /// The context is cancelled when the lease is lost, somebody cancels the job, or the worker drains.
    fn handle(&self, cx: Context, job: LeasedJob) -> BoxFuture<'_, Result<JobOutcome>>;
}

impl<F> JobHandler for F
where
    F: Fn(Context, LeasedJob) -> BoxFuture<'static, Result<JobOutcome>> + Send + Sync,
{
    fn handle(&self, cx: Context, job: LeasedJob) -> BoxFuture<'_, Result<JobOutcome>> {
        self(cx, job)
    }
}

/// How a worker takes jobs.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// The queues it takes from, all alike.
    pub queues: Vec<String>,
    /// Jobs at once.
    pub concurrency: usize,
    /// Jobs leased ahead, so that a place that is free need not wait for the Store. They are given back, without counting an
    /// attempt, when they were not begun within a third of `hold`, and when the worker drains. Default: 0, for then no
    /// other worker waits for what this one has no place for.
    pub prefetch: usize,
    /// How long a lease lasts; it is extended at a third of that while the handler runs.
    pub hold: Duration,
    /// How long it waits for a hint before it looks again.
    pub poll: Duration,
    /// Who it is, for people who look.
    pub owner: String,
    /// How long running handlers may take to end once the worker is cancelled; then their jobs are given back.
    pub drain: Duration,
}

impl WorkerOptions {
    /// One queue, `concurrency` jobs at once, leases of 30 seconds.
    pub fn new(queue: impl Into<String>, concurrency: usize) -> Self {
        Self {
            queues: vec![queue.into()],
            concurrency: concurrency.max(1),
            prefetch: 0,
            hold: Duration::from_secs(30),
            poll: Duration::from_secs(1),
            owner: format!("pid:{}", std::process::id()),
            drain: Duration::from_secs(10),
        }
    }
}

/// After a job ends, a place within a queue's limits may be free: the Store is asked again, but not more often than this; less
/// and less often for as long as that finds nothing, for most queues have no limits, and whoever asks in vain keeps the Store
/// from what was enqueued meanwhile.
const SETTLE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(32));

/// Why the Store is asked for jobs.
#[derive(Clone, Copy, Default)]
struct Reason {
    /// It told that there may be some.
    hint: bool,
    /// A job has ended.
    end: bool,
}

/// How long after the end of a job the Store is asked again, when it was asked for this reason and gave jobs or none.
fn settle(last: Duration, reason: Reason, found: bool) -> Duration {
    match (reason, found) {
        // What it told of may be behind a limit.
        (Reason { hint: true, .. }, false) | (Reason { hint: false, end: true }, true) => SETTLE.0,
        (Reason { hint: false, end: true }, false) => (last * 2).min(SETTLE.1),
        _ => last,
    }
}

/// A job that is leased and not begun.
struct Waiting {
    job: LeasedJob,
    /// It is given back then.
    until: Timestamp,
}

impl Engine {
    /// Leases jobs and gives them to `handler`, until `cx` is cancelled; then it takes no more, waits for the running ones
    /// and gives back what did not begin or did not end in time, without counting the attempt.
    ///
    /// # Errors
    /// Those of the Store that do not pass by themselves.
    pub async fn work(&self, cx: &Context, options: &WorkerOptions, handler: &dyn JobHandler) -> Result<()> {
        let mut hints = self.store()?.watch(cx, Watch::Jobs(options.queues.clone())).await?;
        let drain = CancelToken::new();
        let mut running = FuturesUnordered::new();
        let mut waiting = VecDeque::new();
        let (mut ask, mut asked) = (true, 0);
        let mut leasing = pin!(Fuse::terminated());
        let mut timer = self.clock().sleep(options.poll).fuse();
        let (mut settling, mut pause) = (false, SETTLE.0);
        let (mut reason, mut asked_for) = (Reason::default(), Reason::default());
        let mut cancelled = pin!(cx.cancel().cancelled().fuse());
        loop {
            self.give_back_late(&mut waiting).await;
            while running.len() < options.concurrency
                && let Some(Waiting { job, .. }) = waiting.pop_front()
            {
                running.push(self.run(&drain, options, handler, job));
            }
            let room = (options.concurrency + options.prefetch).saturating_sub(running.len() + waiting.len());
            // A few at a time would cost as much as many.
            if ask && room > options.prefetch / 2 && leasing.is_terminated() {
                (ask, asked) = (false, room);
                asked_for = std::mem::take(&mut reason);
                // It sees what has ended so far.
                settling = false;
                timer = self.clock().sleep(options.poll).fuse();
                leasing.set(self.lease_ahead(cx, options, room).fuse());
            }
            futures_util::select_biased! {
                () = cancelled => break,
                leased = leasing => match leased {
                    // There may be more at once, and a hint that came meanwhile tells of what this lease did not see.
                    Ok(jobs) => {
                        ask |= jobs.len() == asked;
                        pause = settle(pause, asked_for, !jobs.is_empty());
                        waiting.extend(jobs);
                    }
                    Err(error) if passes(&error) => tracing::warn!(%error, "the worker goes on after an error"),
                    Err(error) => {
                        self.give_back(waiting).await;
                        return Err(error);
                    }
                },
                () = running.select_next_some() => {
                    while running.next().now_or_never().flatten().is_some() {}
                    if !settling && !ask {
                        settling = true;
                        timer = self.clock().sleep(pause).fuse();
                    }
                }
                hint = hints.next().fuse() => match hint {
                    Some(_) => (ask, reason.hint) = (true, true),
                    None => return Err(Error::new(ErrorKind::Closed, "engine.work", "the Store was closed")),
                },
                () = timer => {
                    reason.end |= settling;
                    (ask, settling) = (true, false);
                    timer = self.clock().sleep(options.poll).fuse();
                }
            }
        }
        // What is being leased at this moment would otherwise be nobody's until its lease runs out.
        if !leasing.is_terminated()
            && let Some(Ok(jobs)) = crate::clock::within(&**self.clock(), options.drain, leasing).await
        {
            waiting.extend(jobs);
        }
        self.give_back(waiting).await;
        let rest = async { while running.next().await.is_some() {} };
        if crate::clock::within(&**self.clock(), options.drain, rest).await.is_none() {
            drain.cancel();
            while running.next().await.is_some() {}
        }
        Ok(())
    }

    async fn lease_ahead(&self, cx: &Context, options: &WorkerOptions, limit: usize) -> Result<Vec<Waiting>> {
        let request =
            LeaseRequest { queues: options.queues.clone(), limit, hold: options.hold, owner: options.owner.clone() };
        // Begun before the lease, so that it ends before.
        let until = self.clock().now() + options.hold / 3;
        // A worker that is told to stop in the middle of this still has to give back what it gets.
        let jobs = self.store()?.lease(&cx.clone().with_cancel(CancelToken::new()), request).await?;
        Ok(jobs.into_iter().map(|job| Waiting { job, until }).collect())
    }

    /// Gives back what has waited for so long that its lease could run out before a heartbeat.
    async fn give_back_late(&self, waiting: &mut VecDeque<Waiting>) {
        // They are in the order in which they were leased.
        if waiting.front().is_some_and(|first| first.until <= self.clock().now()) {
            let now = self.clock().now();
            let late = waiting.iter().take_while(|job| job.until <= now).count();
            self.give_back(waiting.drain(..late).collect()).await;
        }
    }

    /// All at once; one after the other if one of them is lost.
    async fn give_back(&self, waiting: VecDeque<Waiting>) {
        if waiting.is_empty() {
            return;
        }
        let release = |commit: Commit, job: &Waiting| commit.release(job.job.lease, Duration::ZERO);
        if self.store_commit(&Context::new(), waiting.iter().fold(Commit::new(), release)).await.is_ok() {
            return;
        }
        for job in waiting {
            if let Err(error) = self.store_commit(&Context::new(), release(Commit::new(), &job)).await {
                tracing::warn!(job = %job.job.id, %error, "a job that was not begun waits for its lease to run out");
            }
        }
    }

    /// Runs one job to its end and keeps what became of it. Nothing here fails the worker.
    async fn run(&self, drain: &CancelToken, options: &WorkerOptions, handler: &dyn JobHandler, job: LeasedJob) {
        let cancel = CancelToken::new();
        let mut cx = Context::new().with_cancel(cancel.clone());
        if let Some(trace) = job.trace {
            cx = cx.with_trace(trace.child());
        }
        if let Some(tenant) = &job.tenant {
            cx = cx.with_tenant(tenant.as_str());
        }
        let (id, lease) = (job.id, job.lease);
        let work = AssertUnwindSafe(handler.handle(cx.clone(), job)).catch_unwind();
        let heartbeat = self.heartbeat(options, lease, &cancel);
        let ended = {
            let work = std::pin::pin!(work);
            let heartbeat = std::pin::pin!(heartbeat);
            let both = futures_util::future::select(work, heartbeat);
            match drain.until_cancelled(both).await {
                Some(futures_util::future::Either::Left((ended, _))) => Some(ended),
                // The lease is lost: the handler is dropped, somebody else has the job.
                Some(futures_util::future::Either::Right(_)) => return,
                None => None,
            }
        };
        let commit = match ended {
            None => Commit::new().release(lease, Duration::ZERO),
            Some(Ok(Ok(JobOutcome::Done(effects)))) => effects.complete(lease),
            Some(Ok(Ok(JobOutcome::Committed))) => return,
            Some(Ok(Ok(JobOutcome::Snooze(delay)))) => Commit::new().release(lease, delay),
            Some(Ok(Err(error))) => failed(lease, &error),
            Some(Err(panic)) => {
                Commit::new().fail(lease, format!("the handler panicked: {}", panic_text(&*panic)), Retry::Backoff)
            }
        };
        if let Err(error) = self.store_commit(&cx, commit).await {
            if error.kind() == ErrorKind::LeaseLost {
                tracing::info!(job = %id, %error, "the result of a job was dropped");
            } else {
                // The effects were refused: count it as a failed attempt, so that a bad commit does not spin for ever.
                tracing::warn!(job = %id, %error, "the result of a job could not be kept");
                if let Err(error) = self.store_commit(&cx, failed(lease, &error)).await {
                    tracing::warn!(job = %id, %error, "a job waits for its lease to run out");
                }
            }
        }
    }

    async fn store_commit(&self, cx: &Context, commit: Commit) -> Result<Receipt> {
        // A handler's context may be cancelled; what became of its job must be kept all the same.
        let cx = cx.clone().with_cancel(CancelToken::new());
        self.store()?.commit(&cx, commit).await
    }

    /// Extends a lease until it is lost. Asks the handler to stop when somebody cancels the job.
    async fn heartbeat(&self, options: &WorkerOptions, lease: crate::store::Lease, cancel: &CancelToken) {
        let cx = Context::new();
        loop {
            self.clock().sleep(options.hold / 3).await;
            match self.store_commit(&cx, Commit::new().extend(lease, options.hold)).await {
                Ok(receipt) => {
                    if receipt
                        .outcomes
                        .iter()
                        .any(|outcome| matches!(outcome, Outcome::Extended { cancelled: true, .. }))
                    {
                        cancel.cancel();
                    }
                }
                Err(error) if error.kind() == ErrorKind::LeaseLost => {
                    cancel.cancel();
                    return;
                }
                Err(error) => tracing::warn!(%error, "a lease could not be extended; trying again"),
            }
        }
    }
}

/// Whether a lease may go well a little later, whatever became of this one: what nobody received runs out by itself.
fn passes(error: &Error) -> bool {
    error.retryable() || matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Busy | ErrorKind::DeadlineExceeded)
}

fn failed(lease: crate::store::Lease, error: &Error) -> Commit {
    let retry = match (error.kind(), error.retry_after()) {
        (ErrorKind::InvalidInput, _) => Retry::Never,
        (_, Some(delay)) => Retry::After(delay),
        _ => Retry::Backoff,
    };
    Commit::new().fail(lease, error.to_string(), retry)
}

/// A handler for each queue.
impl JobHandler for HashMap<String, Box<dyn JobHandler>> {
    fn handle(&self, cx: Context, job: LeasedJob) -> BoxFuture<'_, Result<JobOutcome>> {
        match self.get(&job.queue) {
            Some(handler) => handler.handle(cx, job),
            None => Box::pin(async move {
                Err(Error::new(ErrorKind::NotFound, "engine.work", "no handler for this queue")
                    .with("queue", job.queue))
            }),
        }
    }
}

impl fmt::Debug for dyn JobHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JobHandler")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_after_the_end_of_a_job_becomes_rare_while_it_finds_nothing() {
        let (hint, end) = (Reason { hint: true, end: false }, Reason { hint: false, end: true });
        let both = Reason { hint: true, end: true };
        let rare = (0..10).fold(SETTLE.0, |last, _| settle(last, end, false));
        assert_eq!(rare, SETTLE.1);
        assert_eq!(settle(rare, end, true), SETTLE.0, "a place was free");
        for reason in [hint, both] {
            assert_eq!(settle(rare, reason, true), rare, "what was told of was there");
            assert_eq!(settle(rare, reason, false), SETTLE.0, "what was told of may wait for a place");
        }
        assert_eq!(settle(rare, Reason::default(), false), rare);
    }
}
