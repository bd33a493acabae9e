//! The Scheduler suite on this plugin.

use std::process::ExitCode;

use selvedge_core::AnyScheduler;
use selvedge_priority::Priority;
use selvedge_testkit::scheduler_suite;

fn main() -> ExitCode {
    scheduler_suite(|concurrency, queue| Ok(AnyScheduler::new(Priority::new(concurrency, queue)))).run()
}
