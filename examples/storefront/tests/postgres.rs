//! The whole story with the server on a real PostgreSQL.
#![allow(clippy::expect_used, clippy::unwrap_used, missing_docs)]

use std::{path::PathBuf, process::Command};

use selvedge_testkit::postgres::Cluster;
use serde_json::Value;

/// The model that `cargo xtask setup` fetches, or the one that `SELVEDGE_MODEL` names.
fn model() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || {
        let home = || set("HOME").expect("HOME or SELVEDGE_CACHE is set").join(".cache");
        set("SELVEDGE_CACHE").unwrap_or_else(|| set("XDG_CACHE_HOME").unwrap_or_else(home).join("selvedge"))
    };
    let path = set("SELVEDGE_MODEL").unwrap_or_else(|| cache().join("models/SmolLM2-135M-Instruct.Q4_1.gguf"));
    assert!(path.is_file(), "there is no model at {}: run `cargo xtask setup`, or set SELVEDGE_MODEL", path.display());
    path
}

#[test]
fn every_order_is_charged_once_and_every_event_kept_once_with_the_server_on_postgres() {
    let cluster = match Cluster::start() {
        Ok(cluster) => cluster,
        Err(error) if std::env::var_os("CI").is_some() => panic!("{error:#}"),
        Err(error) => return println!("skipped: {error:#}"),
    };
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("counts.json");
    // Twice in one database: what the first left there does not count in the second.
    for seed in ["7", "8"] {
        let told = Command::new(env!("CARGO_BIN_EXE_storefront"))
            .args(["--store", &cluster.url(), "--orders", "12", "--drop-rate", "0.3", "--seed", seed])
            .arg("--json")
            .arg(&json)
            .arg("--model")
            .arg(model())
            .output()
            .expect("it starts");
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        let counts: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        let number = |name: &str| counts[name].as_u64().unwrap_or_else(|| panic!("no {name} in {counts}"));
        assert_eq!((number("intents"), number("effects"), number("traced")), (12, 12, 12), "{counts}");
        assert!(number("drops") > 0 && number("repeats") > 0, "the link was too good to show anything: {counts}");
        let experiment = &counts["experiment"];
        let number = |name: &str| experiment[name].as_u64().unwrap_or_else(|| panic!("no {name} in {experiment}"));
        let (shoppers, exit_offers) = (number("shoppers"), number("exit_offers"));
        assert_eq!((shoppers, number("impressions")), (200, 200 + exit_offers), "{experiment}");
        assert!(exit_offers > 0 && number("purchases") > 0, "nobody was made an offer, or bought: {experiment}");
        assert!(number("events") > number("impressions") + exit_offers + number("purchases"), "{experiment}");
        assert_eq!(number("kept"), number("events"), "{experiment}");
        for variation in ["control", "exit-offer"] {
            let cents = experiment["revenue_per_user"][variation].as_f64();
            assert!(cents.is_some_and(|cents| cents > 0.0), "{variation}: {experiment}");
        }
    }
}
