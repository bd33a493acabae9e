//! Jobs enqueued and worked off in waves, for somebody who reads in the server's log what each claim touched.

use selvedge_core::{Commit, Context, Store, store::LeaseRequest};

use crate::{Options, QUEUE, fill, report};

/// Jobs that wait at once.
const WAVE: usize = 8_000;

pub(crate) async fn measure(options: &Options) {
    let (store, cx) = (options.open().await, Context::new());
    let (jobs, batch) = (options.value("--jobs", 80_000), options.value("--batch", 100));
    let mut done = 0;
    while done < jobs {
        fill(&store, WAVE.min(jobs - done), batch).await;
        loop {
            let leased = store.lease(&cx, LeaseRequest::new(QUEUE, batch)).await.expect("leases");
            if leased.is_empty() {
                break;
            }
            done += leased.len();
            let commit = Commit::new().complete_many(leased.iter().map(|job| job.lease));
            let receipt = store.commit(&cx, commit).await.expect("completes");
            assert_eq!(receipt.lost().count(), 0, "no lease is lost here");
        }
    }
    report("jobs", "jobs", done as f64);
}
