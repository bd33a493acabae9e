//! What it costs to be shown what one was assigned before: from the Store on SQLite, targeting and all. Prints one JSON line.
#![allow(clippy::print_stdout, clippy::expect_used, missing_docs)]

use std::time::Instant;

use selvedge_core::{AnyStore, Context, Experiment, experiment::Assign};
use selvedge_experiments::Experiments;
use selvedge_sqlite::SqliteStore;
use serde_json::json;

const SUBJECTS: usize = 1_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let turns = if std::env::args().any(|argument| argument == "--quick") { 3 } else { 15 };
    let folder = tempfile::tempdir().expect("a folder");
    let store = AnyStore::new(SqliteStore::open(folder.path().join("assign.db")).expect("a Store"));
    let payload = json!({ "features": { "main_paywall": {
        "defaultValue": { "offering": "annual" },
        "rules": [{
            "key": "depth", "hashVersion": 2, "hashAttribute": "id", "fallbackAttribute": "deviceId",
            "condition": { "country": { "$in": ["DE", "FR"] } },
            "variations": [{ "offering": "annual" }, { "offering": "annual_half", "discount_pct": 50 }],
            "meta": [{ "key": "control" }, { "key": "half" }], "weights": [0.5, 0.5],
        }],
    } } });
    let experiments =
        Experiments::builder().store(store).bundled(payload.to_string()).build().expect("a configuration");
    let cx = Context::new();
    let request = |subject: usize| {
        Assign::new(format!("user-{subject}"), "main_paywall").on_device("phone").with_attribute("country", "DE")
    };
    let mut first = Vec::new();
    for subject in 0..SUBJECTS {
        let assigned = experiments.assign(&cx, request(subject)).await.expect("an assignment");
        assert!(assigned.enrolled);
        first.push(assigned.variation);
    }
    let mut times = Vec::new();
    for _ in 0..turns {
        let requests: Vec<_> = (0..SUBJECTS).map(request).collect();
        let started = Instant::now();
        for (request, first) in requests.into_iter().zip(&first) {
            let again = experiments.assign(&cx, request).await.expect("an assignment");
            assert_eq!(again.variation, *first);
        }
        times.push(started.elapsed().as_secs_f64() * 1e6 / SUBJECTS as f64);
    }
    times.sort_by(f64::total_cmp);
    println!("{}", json!({ "case": "an assignment that is kept", "unit": "µs", "value": times[times.len() / 2] }));
}
