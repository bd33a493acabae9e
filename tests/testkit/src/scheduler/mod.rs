//! The Scheduler suite.

mod admit;
mod plan;

use std::sync::Arc;

use selvedge_core::{
    AnyScheduler, Context, Result, Scheduler,
    scheduler::{Class, Permit, SchedulerCapabilities, Work},
};

use crate::suite::{Checked, Suite, until};

/// Every rule of the Scheduler, checked on Schedulers that `open` makes: with places for so many requests at once, and so
/// many that wait.
///
/// ```no_run
/// # use selvedge_core::AnyScheduler;
/// # fn my_scheduler(concurrency: usize, queue: usize) -> selvedge_core::Result<AnyScheduler> { unreachable!() }
/// fn main() -> std::process::ExitCode {
///     selvedge_testkit::scheduler_suite(my_scheduler).run()
/// }
/// ```
pub fn scheduler_suite<O>(open: O) -> Suite
where
    O: Fn(usize, usize) -> Result<AnyScheduler> + Send + Sync + 'static,
{
    let open: Open = Arc::new(open);
    let cases = [admit::cases(), plan::cases()].into_iter().flatten().collect();
    Suite::new(cases, move || {
        let open = open.clone();
        async move { Ok(Bed { open }) }
    })
}

type Open = Arc<dyn Fn(usize, usize) -> Result<AnyScheduler> + Send + Sync>;

/// What a case works with.
pub(crate) struct Bed {
    open: Open,
}

impl Bed {
    fn open(&self, concurrency: usize, queue: usize) -> anyhow::Result<AnyScheduler> {
        Ok((self.open)(concurrency, queue)?)
    }

    fn can(&self) -> anyhow::Result<SchedulerCapabilities> {
        Ok(self.open(1, 1)?.capabilities())
    }
}

type Waiting = tokio::task::JoinHandle<Result<Permit>>;

/// Asks for a place in a task of its own, and returns once it waits.
async fn wait_in_line(scheduler: &AnyScheduler, cx: Context) -> anyhow::Result<Waiting> {
    let before = scheduler.load().total().waiting;
    let task = {
        let scheduler = scheduler.clone();
        tokio::spawn(async move { scheduler.admit(&cx, Work::default()).await })
    };
    waits(scheduler, before + 1).await?;
    Ok(task)
}

/// Until so many wait.
async fn waits(scheduler: &AnyScheduler, count: usize) -> Checked {
    until(&format!("{count} requests wait"), || scheduler.load().total().waiting == count).await
}

fn of(class: Class) -> Context {
    Context::new().with_class(class)
}
