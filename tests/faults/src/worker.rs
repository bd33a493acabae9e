//! A worker process.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use deadpool_postgres::Pool;
use selvedge::{
    BoxFuture, Clock, Commit, Context, Error, ErrorKind, Timestamp, TokioClock,
    engine::{JobHandler, JobOutcome, WorkerOptions},
    postgres::{
        PostgresStore,
        tokio_postgres::{self, NoTls, types::Type},
    },
    store::LeasedJob,
};
use tokio::time::sleep;

use crate::task::{Ends, QUEUE, TOPIC, Task};

/// Leases are short, so that what a killed worker held is soon worked on again, and a freeze soon outlasts one.
pub(crate) const HOLD: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The database.
    #[arg(long)]
    url: String,
    /// By how many hours the engine's clock is wrong.
    #[arg(long, allow_hyphen_values = true)]
    skew: Option<i64>,
    /// Each job takes ten times as long, so that a freeze meets it in the middle.
    #[arg(long)]
    slow: bool,
}

/// A clock that is wrong by some hours.
#[derive(Debug)]
struct Wrong(i64);

impl Clock for Wrong {
    fn now(&self) -> Timestamp {
        Timestamp(TokioClock.now().0 + self.0 * 3_600_000_000)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        TokioClock.sleep(duration)
    }
}

/// Works until it is killed. It prints `clock MICROSECONDS`, `ready`, `holding JOB`, `stale JOB` and `ended WHY`.
pub(crate) async fn run(options: Options) -> Result<()> {
    crate::child::end_with_parent();
    let clock = Arc::new(Wrong(options.skew.unwrap_or(0)));
    println!("clock {}", clock.now().as_micros());
    let store = open(&options.url).await?;
    println!("ready");
    let engine = selvedge::builder().store(store.clone()).clock(clock).build();
    let handler = Handler { store, pool: pool(&options.url, 4)?, pace: if options.slow { 10 } else { 1 } };
    let options = WorkerOptions { hold: HOLD, poll: Duration::from_millis(200), ..WorkerOptions::new(QUEUE, 8) };
    loop {
        match engine.work(&Context::new(), &options, &handler).await {
            Ok(()) => return Ok(()),
            Err(error) => println!("ended {}: {error}", error.kind()),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Opens the Store once the server can be reached; a process that starts while it is down waits for it.
pub(crate) async fn open(url: &str) -> selvedge::Result<PostgresStore> {
    loop {
        let store = PostgresStore::builder(url).connections(4).poll(Duration::from_millis(100)).open().await;
        match store {
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Busy) => {
                sleep(Duration::from_millis(50)).await;
            }
            store => return store,
        }
    }
}

/// Connections of the application's own.
pub(crate) fn pool(url: &str, most: usize) -> Result<Pool> {
    let manager = deadpool_postgres::Manager::new(url.parse()?, NoTls);
    Ok(Pool::builder(manager).max_size(most).build()?)
}

struct Handler {
    store: PostgresStore,
    pool: Pool,
    pace: u32,
}

impl JobHandler for Handler {
    fn handle(&self, _: Context, job: LeasedJob) -> BoxFuture<'_, selvedge::Result<JobOutcome>> {
        Box::pin(async move {
            let task: Task = serde_json::from_slice(&job.payload)
                .map_err(|error| Error::new(ErrorKind::InvalidInput, "worker", "no task").caused_by(error))?;
            println!("holding {}", job.id);
            // Now and then it takes longer than the lease, which the engine must then extend.
            let long = fastrand::u16(..400) == 0;
            let usual = Duration::from_millis(fastrand::u64(1..30)) * self.pace;
            sleep(if long { HOLD.mul_f64(1.5) } else { usual }).await;
            match task.ends {
                Ends::ByRow => {
                    // It does not stop when its lease is lost, as blocking work would not: the Store must refuse it.
                    let ended = tokio::spawn(end_by_row(self.store.clone(), self.pool.clone(), job, task));
                    ended.await.unwrap_or_else(|error| Err(unavailable("the task ended").caused_by(error)))
                }
                Ends::ByCommit => {
                    let next = Task::after(job.id.0).job().map_err(|error| unavailable("no job").caused_by(error))?;
                    let message = format!("{} {}", job.id, task.key);
                    Ok(JobOutcome::Done(Commit::new().publish(TOPIC, message).enqueue([next])))
                }
            }
        })
    }
}

/// The effect and the end of the job, in one transaction of the application's own.
async fn end_by_row(store: PostgresStore, pool: Pool, job: LeasedJob, task: Task) -> selvedge::Result<JobOutcome> {
    let mut client = pool.get().await.map_err(|error| unavailable("no connection").caused_by(error))?;
    let tx = client.transaction().await.map_err(refused)?;
    let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
        [(&job.id.0, Type::INT8), (&task.key, Type::TEXT), (&task.body, Type::TEXT)];
    tx.execute_typed("INSERT INTO effect (job, key, body) VALUES ($1, $2, $3)", &values).await.map_err(refused)?;
    match store.apply(&tx, &Commit::new().complete(job.lease)).await {
        Ok(applied) => {
            tx.commit().await.map_err(refused)?;
            applied.committed();
            Ok(JobOutcome::Committed)
        }
        Err(error) => {
            if error.kind() == ErrorKind::LeaseLost {
                println!("stale {}", job.id);
            }
            Err(error)
        }
    }
}

fn unavailable(message: &str) -> Error {
    Error::new(ErrorKind::Unavailable, "worker", message)
}

fn refused(error: tokio_postgres::Error) -> Error {
    unavailable("the application's own transaction failed").retry(false).caused_by(error)
}
