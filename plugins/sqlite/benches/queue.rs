//! The queue: jobs a second, enqueued, and leased and completed, in batches. Prints a JSON line for each case.
//!
//! "batch 1" is what a real application does: many callers at once, each committing one job. "batch 1, one caller" waits for
//! each commit before the next. Larger batches are one caller's.
#![allow(missing_docs, clippy::expect_used)]

use std::{path::PathBuf, time::Instant};

use selvedge_core::{
    Commit, Context, Store,
    store::{LeaseRequest, NewJob},
};
use selvedge_sqlite::{Durability, SqliteStore};

const PAYLOAD: &[u8] = br#"{"to":"ada@example.org","template":"welcome","locale":"en"}"#;
const CALLERS: usize = 64;

struct Options {
    quick: bool,
    /// The one case to run.
    only: Option<String>,
    durability: Durability,
    folder: PathBuf,
}

impl Options {
    fn read() -> Self {
        let arguments: Vec<String> = std::env::args().collect();
        let value = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1)).cloned();
        Self {
            quick: arguments.iter().any(|a| a == "--quick"),
            only: value("--only"),
            durability: if value("--durability").as_deref() == Some("fast") {
                Durability::Fast
            } else {
                Durability::Durable
            },
            folder: value("--dir").map_or_else(std::env::temp_dir, PathBuf::from),
        }
    }
}

fn jobs(count: usize) -> impl Iterator<Item = NewJob> {
    (0..count).map(|_| NewJob::new("bench", PAYLOAD))
}

async fn enqueue(store: &SqliteStore, total: usize, batch: usize) {
    let cx = Context::new();
    for _ in 0..total / batch {
        store.commit(&cx, Commit::new().enqueue(jobs(batch))).await.expect("enqueues");
    }
}

/// Leases and completes until nothing is left; how many it did.
async fn drain(store: &SqliteStore, batch: usize) -> usize {
    let (cx, mut done) = (Context::new(), 0);
    loop {
        let leased = store.lease(&cx, LeaseRequest::new("bench", batch)).await.expect("leases");
        if leased.is_empty() {
            return done;
        }
        done += leased.len();
        let commit = Commit::new().complete_many(leased.iter().map(|job| job.lease));
        let receipt = store.commit(&cx, commit).await.expect("completes");
        assert_eq!(receipt.lost().count(), 0, "no lease is lost here");
    }
}

/// Runs `callers` copies of the work at once; jobs a second.
async fn rate<F: Future<Output = usize> + Send + 'static>(callers: usize, work: impl Fn() -> F) -> f64 {
    let started = Instant::now();
    let tasks: Vec<_> = (0..callers).map(|_| tokio::spawn(work())).collect();
    let mut done = 0;
    for task in tasks {
        done += task.await.expect("a caller ends");
    }
    done as f64 / started.elapsed().as_secs_f64()
}

#[tokio::main]
async fn main() {
    let options = Options::read();
    let folder = tempfile::tempdir_in(&options.folder).expect("a folder");
    let scale = if options.quick { 1 } else { 16 };
    let cases =
        [("1", 1, CALLERS, 4_096), ("1, one caller", 1, 1, 512), ("100", 100, 1, 10_000), ("1000", 1_000, 1, 20_000)];
    for (name, batch, callers, total) in cases {
        if options.only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        let total = total * scale;
        let path = folder.path().join(format!("{batch}-{callers}.db"));
        let store = SqliteStore::builder(path).durability(options.durability).open().expect("opens");
        let each = total / callers;
        let enqueued = rate(callers, || {
            let store = store.clone();
            async move {
                enqueue(&store, each, batch).await;
                each
            }
        });
        report("enqueue", name, enqueued.await);
        let drained = rate(callers, || {
            let store = store.clone();
            async move { drain(&store, batch).await }
        });
        report("lease+complete", name, drained.await);
    }
}

fn report(what: &str, name: &str, value: f64) {
    println!(r#"{{"case":"{what} batch {name}","unit":"jobs/s","value":{value:.1}}}"#);
}
