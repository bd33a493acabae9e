//! A worker as an application has it: an Engine that leases jobs and gives them to a handler.

use std::{future::ready, sync::Arc, time::Duration};

use selvedge_core::{
    BoxFuture, CancelToken, Clock, Commit, Context, Engine, Result, Timestamp,
    engine::{JobOutcome, WorkerOptions},
    store::LeasedJob,
};
use selvedge_postgres::PostgresStore;
use tokio::task::JoinHandle;

use crate::QUEUE;

/// Waits by tokio's timer, as the facade's engine does.
#[derive(Debug)]
struct TokioClock;

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(async move { tokio::time::sleep(duration).await })
    }
}

/// A worker that runs until it is stopped.
pub(crate) struct Worker {
    stop: CancelToken,
    task: JoinHandle<Result<()>>,
}

impl Worker {
    /// Starts one; `seen` is called with each job, and that is all the job does.
    pub(crate) fn start(
        store: PostgresStore,
        concurrency: usize,
        seen: impl Fn(&LeasedJob) + Clone + Send + Sync + 'static,
    ) -> Self {
        let stop = CancelToken::new();
        let cx = Context::new().with_cancel(stop.clone());
        let task = tokio::spawn(async move {
            let engine = Engine::builder().clock(Arc::new(TokioClock)).store(store).build();
            let handler = move |_: Context, job: LeasedJob| -> BoxFuture<'static, Result<JobOutcome>> {
                seen(&job);
                Box::pin(ready(Ok(JobOutcome::Done(Commit::new()))))
            };
            // As many again wait in the process for a place.
            let options = WorkerOptions { prefetch: concurrency, ..WorkerOptions::new(QUEUE, concurrency) };
            engine.work(&cx, &options, &handler).await
        });
        Self { stop, task }
    }

    /// Takes no more jobs and waits until what was done is committed.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("the worker ends").expect("the worker works");
    }
}
