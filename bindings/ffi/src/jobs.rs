use std::{fmt, sync::Arc, time::Duration};

use selvedge::{
    BoxFuture, Commit, Context, Error, ErrorKind, Store, engine as core,
    store::{self, JobId, StoreExt, When},
};

use crate::{
    call::{Call, CancelHandle},
    engine::Engine,
    error::{EngineError, Outcome, millis},
    hosts::slow,
};

/// A job to enqueue.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct NewJob {
    /// The queue it waits in.
    pub queue: String,
    /// What the handler is given; 16 MiB at most.
    pub payload: Vec<u8>,
    /// Smaller runs first; 0 unless set.
    #[uniffi(default = 0)]
    pub priority: i16,
    /// While a job with this key is waiting or running in the queue, another is not added.
    #[uniffi(default = None)]
    pub unique: Option<String>,
    /// How long it waits before it may run, in ms.
    #[uniffi(default = 0)]
    pub delay_ms: u64,
    /// How often it may be started before it is a dead letter; without it, 25.
    #[uniffi(default = None)]
    pub max_attempts: Option<u32>,
}

impl NewJob {
    /// A job that may run at once.
    pub fn new(queue: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            queue: queue.into(),
            payload: payload.into(),
            priority: 0,
            unique: None,
            delay_ms: 0,
            max_attempts: None,
        }
    }

    fn into_core(self, cx: &Context) -> store::NewJob {
        let mut job = store::NewJob::new(self.queue, self.payload).priority(self.priority).trace(cx.trace());
        job.unique = self.unique;
        job.tenant = cx.tenant().map(Into::into);
        if self.delay_ms > 0 {
            job = job.when(When::After(Duration::from_millis(self.delay_ms)));
        }
        match self.max_attempts {
            Some(attempts) => job.max_attempts(attempts),
            None => job,
        }
    }
}

/// A job that is safely written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Record)]
pub struct EnqueuedJob {
    /// Its number.
    pub id: i64,
    /// A job with the same unique key was there already; this is its number, and nothing was added.
    pub duplicate: bool,
}

/// Where a job is in its life. A completed job is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum JobState {
    /// May run now, or when its time comes.
    Ready,
    /// Leased to a worker.
    Running,
    /// Failed for good.
    Dead,
    /// Cancelled before it ran.
    Cancelled,
}

/// A job as the app looks at it.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct JobView {
    /// Its number.
    pub id: i64,
    /// Its queue.
    pub queue: String,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Where it is in its life.
    pub state: JobState,
    /// How often it was started.
    pub attempt: u32,
    /// How often it may be started.
    pub max_attempts: u32,
    /// When it may run next, in ms since the Unix epoch.
    pub run_at_ms: i64,
    /// Why it failed last.
    pub last_error: Option<String>,
}

impl From<store::JobView> for JobView {
    fn from(job: store::JobView) -> Self {
        Self {
            id: job.id.0,
            queue: job.queue,
            payload: job.payload.into(),
            state: match job.state {
                store::JobState::Ready => JobState::Ready,
                store::JobState::Running => JobState::Running,
                store::JobState::Dead => JobState::Dead,
                store::JobState::Cancelled => JobState::Cancelled,
            },
            attempt: job.attempt,
            max_attempts: job.max_attempts,
            run_at_ms: job.run_at.as_micros() / 1000,
            last_error: job.last_error,
        }
    }
}

/// Which jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, uniffi::Record)]
pub struct JobFilter {
    /// Of this queue.
    #[uniffi(default = None)]
    pub queue: Option<String>,
    /// In this state.
    #[uniffi(default = None)]
    pub state: Option<JobState>,
    /// After this place: `next` of the page before.
    #[uniffi(default = None)]
    pub after: Option<i64>,
    /// The most rows; without it, 100.
    #[uniffi(default = None)]
    pub limit: Option<u32>,
}

/// One page of jobs, by number.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct JobPage {
    /// The jobs.
    pub items: Vec<JobView>,
    /// Pass it as `after` for the next page; `None` on the last.
    pub next: Option<i64>,
}

/// Depth and age of a queue.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct QueueStats {
    /// The queue.
    pub queue: String,
    /// May run now.
    pub ready: u64,
    /// Will run later.
    pub scheduled: u64,
    /// Leased.
    pub running: u64,
    /// Dead letters.
    pub dead: u64,
    /// How long the oldest job that may run has been waiting, in ms.
    pub oldest_ms: u64,
}

/// A job to work on.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct LeasedJob {
    /// Its number.
    pub id: i64,
    /// Its queue.
    pub queue: String,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Which attempt this is, counted from 1.
    pub attempt: u32,
    /// How many attempts it has.
    pub max_attempts: u32,
    /// The trace it belongs to, as a W3C `traceparent`.
    pub traceparent: Option<String>,
}

/// What a handler made of a job.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum JobOutcome {
    /// It is done.
    Done,
    /// It is not time yet: try again later without counting this attempt.
    Snooze {
        /// How much later, in ms.
        delay_ms: u64,
    },
}

/// Works on jobs.
#[uniffi::export(with_foreign)]
#[async_trait::async_trait]
pub trait JobHandler: Send + Sync {
    /// Works on one job. It may be called again for the same job after a crash.
    ///
    /// # Errors
    /// A failed attempt: the job is retried by its backoff; `InvalidInput` makes it a dead letter at once.
    async fn handle(&self, job: LeasedJob) -> Result<JobOutcome, EngineError>;
}

/// How jobs are worked on.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct WorkOptions {
    /// The queues, all alike.
    pub queues: Vec<String>,
    /// Jobs at once.
    #[uniffi(default = 1)]
    pub concurrency: u32,
    /// The longest a job may take, in ms; then its attempt counts as failed.
    #[uniffi(default = 600000)]
    pub timeout_ms: u64,
}

impl WorkOptions {
    /// One job of this queue at a time, ten minutes each at most.
    pub fn queue(queue: impl Into<String>) -> Self {
        Self { queues: vec![queue.into()], concurrency: 1, timeout_ms: 600_000 }
    }
}

#[uniffi::export]
impl Engine {
    /// Writes jobs down, all or none.
    ///
    /// # Errors
    /// `InvalidInput`, `TooLarge`, `StorageFull`.
    pub async fn enqueue(
        &self,
        jobs: Vec<NewJob>,
        call: Call,
        cancel: Option<Arc<CancelHandle>>,
    ) -> Outcome<Vec<EnqueuedJob>> {
        self.run("engine.enqueue", call, cancel, |running, cx| async move {
            let jobs: Vec<_> = jobs.into_iter().map(|job| job.into_core(&cx)).collect();
            let receipt = running.engine.store()?.commit(&cx, Commit::new().enqueue(jobs)).await?;
            Ok(receipt.jobs().map(|job| EnqueuedJob { id: job.id.0, duplicate: job.duplicate }).collect())
        })
        .await
    }

    /// One page of jobs.
    ///
    /// # Errors
    /// Those of the Store.
    #[uniffi::method(default(cancel = None))]
    pub async fn jobs(&self, filter: JobFilter, cancel: Option<Arc<CancelHandle>>) -> Outcome<JobPage> {
        self.run("engine.jobs", Call::default(), cancel, |running, cx| async move {
            let filter = store::JobFilter {
                queue: filter.queue,
                tenant: None,
                state: filter.state.map(|state| match state {
                    JobState::Ready => store::JobState::Ready,
                    JobState::Running => store::JobState::Running,
                    JobState::Dead => store::JobState::Dead,
                    JobState::Cancelled => store::JobState::Cancelled,
                }),
                after: filter.after.map(JobId),
                limit: filter.limit.unwrap_or(100) as usize,
            };
            let page = running.engine.store()?.jobs(&cx, filter).await?;
            Ok(JobPage { items: page.items.into_iter().map(Into::into).collect(), next: page.next })
        })
        .await
    }

    /// Depth and age of every queue.
    ///
    /// # Errors
    /// Those of the Store.
    #[uniffi::method(default(cancel = None))]
    pub async fn queues(&self, cancel: Option<Arc<CancelHandle>>) -> Outcome<Vec<QueueStats>> {
        self.run("engine.queues", Call::default(), cancel, |running, cx| async move {
            let queues = running.engine.store()?.queues(&cx).await?;
            Ok(queues
                .into_iter()
                .map(|queue| QueueStats {
                    queue: queue.queue,
                    ready: queue.ready,
                    scheduled: queue.scheduled,
                    running: queue.running,
                    dead: queue.dead,
                    oldest_ms: millis(queue.oldest),
                })
                .collect())
        })
        .await
    }

    /// Cancels a job: one that waits never runs, one that runs is asked to stop.
    ///
    /// # Errors
    /// Those of the Store. A job that is gone is no error.
    #[uniffi::method(default(cancel = None))]
    pub async fn cancel_job(&self, id: i64, cancel: Option<Arc<CancelHandle>>) -> Outcome<()> {
        self.run("engine.cancel_job", Call::default(), cancel, |running, cx| async move {
            running.engine.store()?.commit(&cx, Commit::new().cancel(JobId(id))).await?;
            Ok(())
        })
        .await
    }

    /// Makes a dead or cancelled job ready again, with all of its attempts.
    ///
    /// # Errors
    /// Those of the Store. A job that is gone is no error.
    #[uniffi::method(default(cancel = None))]
    pub async fn revive_job(&self, id: i64, cancel: Option<Arc<CancelHandle>>) -> Outcome<()> {
        self.run("engine.revive_job", Call::default(), cancel, |running, cx| async move {
            running.engine.store()?.commit(&cx, Commit::new().revive(JobId(id))).await?;
            Ok(())
        })
        .await
    }

    /// Gives jobs to `handler` until `cancel` is used: then it takes no more, waits for those that run and returns. A job
    /// whose handler does not end in time is given back.
    ///
    /// # Errors
    /// `Cancelled` when the engine is suspended or closed, `InvalidInput`, and those of the Store.
    pub async fn work(
        &self,
        handler: Arc<dyn JobHandler>,
        options: WorkOptions,
        cancel: Option<Arc<CancelHandle>>,
    ) -> Outcome<()> {
        self.run("engine.work", Call::default(), None, |running, cx| async move {
            // The worker ends by itself when `cancel` is used, in order: running jobs first.
            let cx = CancelHandle::replace(cx, cancel.as_deref());
            if options.queues.is_empty() {
                return Err(Error::new(ErrorKind::InvalidInput, "engine.work", "no queue to take jobs from")
                    .advise("name at least one queue")
                    .into());
            }
            let worker = core::WorkerOptions {
                queues: options.queues,
                ..core::WorkerOptions::new("", options.concurrency.max(1) as usize)
            };
            let handler = Hosted { inner: handler, limit: Duration::from_millis(options.timeout_ms.max(1)) };
            let work = running.engine.work(&cx, &worker, &handler);
            running.suspended().until_cancelled(work).await.unwrap_or_else(|| Err(Error::cancelled("engine.work")))?;
            Ok(())
        })
        .await
    }
}

/// The app's handler, as the engine sees it.
struct Hosted {
    inner: Arc<dyn JobHandler>,
    limit: Duration,
}

impl fmt::Debug for Hosted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hosted")
    }
}

impl core::JobHandler for Hosted {
    fn handle(&self, cx: Context, job: store::LeasedJob) -> BoxFuture<'_, selvedge::Result<core::JobOutcome>> {
        let job = LeasedJob {
            id: job.id.0,
            queue: job.queue,
            payload: job.payload.into(),
            attempt: job.attempt,
            max_attempts: job.max_attempts,
            traceparent: cx.trace().map(|trace| trace.to_string()),
        };
        Box::pin(async move {
            let limited = tokio::time::timeout(self.limit, self.inner.handle(job));
            let outcome = cx
                .cancel()
                .until_cancelled(limited)
                .await
                .ok_or_else(|| Error::cancelled("job.handle"))?
                .map_err(|_| slow("job.handle", self.limit))?
                .map_err(|error| error.into_core("job.handle"))?;
            Ok(match outcome {
                JobOutcome::Done => core::JobOutcome::Done(Commit::new()),
                JobOutcome::Snooze { delay_ms } => core::JobOutcome::Snooze(Duration::from_millis(delay_ms)),
            })
        })
    }
}
