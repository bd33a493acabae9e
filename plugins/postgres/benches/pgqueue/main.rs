//! The queue on PostgreSQL, driven as an application does. Prints a JSON line for each case.
//!
//! `pgqueue --url URL --case CASE`; the database is this program's own, and empty. `cargo xtask bench queue` runs it beside
//! its peers.
#![allow(missing_docs, clippy::expect_used)]

mod enqueue;
mod held;
mod latency;
mod load;
mod proxy;
mod replay;
mod worker;

use std::{str::FromStr, time::Duration};

use selvedge_core::{
    Commit, Context, Store,
    store::{JobRef, NewJob},
};
use selvedge_postgres::PostgresStore;

const QUEUE: &str = "bench";
/// As many jobs in one commit as River and pg-boss insert at once.
const BATCH: usize = 5_000;

/// What the command line asks for.
struct Options(Vec<String>);

impl Options {
    fn text(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|argument| argument == name)?;
        self.0.get(at + 1).map(String::as_str)
    }

    fn value<T: FromStr>(&self, name: &str, otherwise: T) -> T {
        self.text(name).map_or(Some(otherwise), |text| text.parse().ok()).expect("a number")
    }

    fn seconds(&self) -> Duration {
        Duration::from_secs(self.value("--seconds", 10))
    }

    async fn open(&self) -> PostgresStore {
        PostgresStore::builder(self.text("--url").expect("--url")).open().await.expect("opens")
    }
}

#[tokio::main]
async fn main() {
    let options = Options(std::env::args().collect());
    match options.text("--case").expect("--case") {
        "burn-down" => load::burn_down(&options).await,
        "continuous" => load::continuous(&options).await,
        "latency" => latency::measure(&options).await,
        "enqueue" => enqueue::measure(&options).await,
        "held" => held::measure(&options).await,
        "replay" => replay::measure(&options).await,
        other => panic!("no case {other}"),
    }
}

/// Enqueues empty jobs, a batch a commit.
async fn fill(store: &PostgresStore, jobs: usize, batch: usize) {
    let mut left = jobs;
    while left > 0 {
        let count = left.min(batch);
        let commit = Commit::new().enqueue((0..count).map(|_| NewJob::new(QUEUE, "{}")));
        let receipt = store.commit(&Context::new(), commit).await.expect("enqueues");
        assert_eq!(receipt.jobs().filter(|job: &JobRef| !job.duplicate).count(), count);
        left -= count;
    }
}

fn report(case: &str, unit: &str, value: f64) {
    println!(r#"{{"case":"{case}","unit":"{unit}","value":{value:.3}}}"#);
}
