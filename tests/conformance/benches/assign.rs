//! What it costs to be shown what one was assigned before, targeting and all: from memory, and read from the Store on SQLite
//! each time. Prints a JSON line for each.
#![allow(clippy::print_stdout, clippy::expect_used, missing_docs)]

use std::time::Instant;

use selvedge_core::{AnyStore, Context, Experiment, experiment::Assign};
use selvedge_experiments::Experiments;
use selvedge_sqlite::SqliteStore;
use serde_json::json;

const SUBJECTS: usize = 1_000;

/// The cases: how many subjects are remembered.
const CASES: [(&str, usize); 2] =
    [("an assignment that is kept, in memory", SUBJECTS), ("an assignment that is kept, from SQLite", 0)];

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
    let cx = Context::new();
    let request = |subject: usize| {
        Assign::new(format!("user-{subject}"), "main_paywall").on_device("phone").with_attribute("country", "DE")
    };
    let mut first: Vec<String> = Vec::new();
    for (case, remembered) in CASES {
        let builder = Experiments::builder().store(store.clone()).bundled(payload.to_string());
        let experiments = builder.remembered_subjects(remembered).build().expect("a configuration");
        // Whoever is remembered was read once before.
        for subject in 0..2 * SUBJECTS {
            let assigned = experiments.assign(&cx, request(subject % SUBJECTS)).await.expect("an assignment");
            assert!(assigned.enrolled);
            if first.len() < SUBJECTS {
                first.push(assigned.variation);
            }
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
        println!("{}", json!({ "case": case, "unit": "µs", "value": times[times.len() / 2] }));
    }
}
